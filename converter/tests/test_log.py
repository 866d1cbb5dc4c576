"""Lines of the toolkit's log, as its users have reported them."""

import pytest

from rkllm_convert.log import PROBLEMS, Progress, Reader, named

LINES = [
    (
        "ERROR: Catch exception when converting model: Not enough free space to write 156797952 bytes",
        "disk_full",
    ),
    ("OSError: [Errno 28] No space left on device", "disk_full"),
    ("torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate 64.00 MiB", "out_of_gpu_memory"),
    (
        "RuntimeError: [enforce fail at alloc_cpu.cpp:83] DefaultCPUAllocator: can't allocate memory",
        "out_of_memory",
    ),
    ("Killed", "out_of_memory"),
    ("ERROR: The quantized_dtype = 'w4a16' is not supported in 'rk3588'!", "dtype_not_supported"),
    ("ERROR: Catch exception when optimizing model: 'mlp.down_proj'", "model_changed"),
    (
        "Internal: src/sentencepiece_processor.cc(1101) [model_proto->ParseFromArray(serialized.data()]",
        "tokenizer_unusable",
    ),
    ("json.decoder.JSONDecodeError: Expecting value: line 1 column 1 (char 0)", "dataset_unusable"),
    (
        "ValueError: model type `qwen3` but Transformers does not recognize this architecture.",
        "model_not_supported",
    ),
    ("ModuleNotFoundError: No module named 'einops'", "library_missing"),
    ("safetensors_rust.SafetensorError: Error while deserializing header: HeaderTooLarge", "weights_damaged"),
    ("AssertionError: Torch not compiled with CUDA enabled", "no_gpu"),
]


@pytest.mark.parametrize(("line", "code"), LINES)
def test_an_error_has_a_name_and_a_remedy(line: str, code: str) -> None:
    reader = Reader()
    reader.feed(line)
    problem = reader.problem()
    assert problem
    assert problem.code == code
    assert problem.remedy.endswith(".")


def test_every_name_is_shown_by_a_line_and_there_once() -> None:
    codes = [problem.code for problem in PROBLEMS]
    assert sorted(codes) == sorted({code for _, code in LINES})


@pytest.mark.parametrize(
    "line",
    [
        "WARNING: Cuda device not available! switch to cpu device!",
        "WARNING: The bos token has two ids: 151646 and 151643, please ensure they are consistent!",
        "INFO: Setting token_id of bos to 151646",
        "The argument `trust_remote_code` is to be used with Auto classes. It has no effect here.",
        "Generating train split: 21 examples [00:00, 2604.93 examples/s]",
        "Special tokens have been added in the vocabulary, make sure their embeddings are trained.",
        "Optimizing model: 100%|########| 28/28 [00:26<00:00,  1.07it/s]",
    ],
)
def test_what_is_no_error_has_no_name(line: str) -> None:
    reader = Reader()
    reader.feed(line)
    assert (named(line), reader.errors) == (None, [])


@pytest.mark.parametrize(
    ("line", "progress"),
    [
        (
            "Optimizing model:  88%|█████████ | 28/32 [1:04:19<09:28, 142.23s/it]",
            Progress("Optimizing model", 28, 32),
        ),
        (
            "Building model: 100%|##########| 371/371 [00:05<00:00, 69.25it/s]",
            Progress("Building model", 371, 371),
        ),
        ("[=========>                  ] 300/597 (50%)", Progress("Exporting model", 300, 597)),
    ],
)
def test_progress_is_read_of_both_kinds_of_bars(line: str, progress: Progress) -> None:
    assert Reader().feed(line) == progress


def test_the_context_that_it_was_made_for_is_read() -> None:
    reader = Reader()
    reader.feed("INFO: Setting max_context_limit to 4096")
    assert reader.context == 4096


def test_an_error_that_nobody_knows_is_kept_as_it_is() -> None:
    reader = Reader()
    for number in range(50):
        reader.feed(f"ERROR: nobody knows {number}")
    assert reader.problem() is None
    assert len(reader.errors) == 20
    assert reader.errors[-1] == "ERROR: nobody knows 49"
