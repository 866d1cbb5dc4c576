"""The vendor's log lines, as users have reported them, and what we make of them."""

import pytest

from exo.errors import ContextLengthExceeded, EngineFailed, ExoError, NotReady
from rkllama.vendor.diagnosis import COMPLAINTS, ContextTooLarge, Facts, explain, facts

RUNTIME = "I rkllm: rkllm-runtime version: 1.2.3, rknpu driver version: 0.9.6, platform: RK3588"
MODEL = (
    "I rkllm: rkllm-toolkit version: 1.1.4, max_context_limit: 4096, npu_core_num: 3, "
    "target_platform: RK3576, model_dtype: W8A8"
)

CASES: list[tuple[str, type[ExoError], list[str]]] = [
    ("E rkllm: invalid rkllm model!", EngineFailed, ["damaged", "1.2.3"]),
    ("E RKNN: invalid rknn llm model magic", EngineFailed, ["damaged"]),
    ("E rkllm: Invalid magic characters", EngineFailed, ["damaged"]),
    ("E rkllm: The model version is too old", EngineFailed, ["1.1.4", "1.2.3", "Convert"]),
    ("E rkllm: target_platform does not match", EngineFailed, ["RK3576", "RK3588"]),
    (
        "E rkllm: max_context[8192] must be less than the model's max_context_limit[4096]",
        ContextTooLarge,
        ["8192", "num_ctx to 4096"],
    ),
    (
        "E rkllm: prompt of 310 tokens after 0 in the cache exceeds max_context_len[128]",
        ContextLengthExceeded,
        ["310 tokens long", "holds 128"],
    ),
    (
        "E rkllm: rknpu driver version is too low, please upgrade to 0.9.7",
        NotReady,
        ["0.9.6", "0.9.7 or later", "kernel"],
    ),
    ("E rkllm: rknpu driver version is too low", NotReady, ["a later one or later"]),
    ("E rkllm: matmul(w8a8) run failed", EngineFailed, ["matmul(w8a8)", "0.9.6"]),
    ("E rkllm: failed to malloc npu memory", NotReady, ["out of memory", "num_ctx"]),
    ("E rkllm: failed to open rknpu module, please insmod rknpu", NotReady, ["rknpu driver"]),
    ("E rkllm: Tokenizer is unavailable", EngineFailed, ["tokenizer", "1.2.3"]),
]


@pytest.mark.parametrize(("line", "kind", "words"), CASES, ids=[line for line, *_ in CASES])
def test_each_line_is_explained(line: str, kind: type[ExoError], words: list[str]) -> None:
    error = explain([RUNTIME, MODEL, line, "E rkllm: rkllm init failed"])
    assert type(error) is kind
    for word in words:
        assert word in error.message


def test_every_complaint_is_tried_above() -> None:
    tried = {complaint for complaint in COMPLAINTS for line, *_ in CASES if complaint.pattern.search(line)}
    assert len(tried) == len(COMPLAINTS)


def test_without_facts_it_still_speaks() -> None:
    error = explain(["target_platform does not match"])
    assert error is not None
    assert "(unknown)" in error.message


def test_the_cause_outdoes_what_follows_from_it() -> None:
    lines = ["E invalid rkllm model!", "E The model version is too old", "E failed to malloc npu memory"]
    for order in (lines, lines[::-1]):
        error = explain(order)
        assert error is not None
        assert "run out of memory" in error.message


def test_the_parameter_at_fault_is_named() -> None:
    error = explain(["max_context[8192] must be less than the model's max_context_limit[4096]"])
    assert error is not None
    assert error.param == "num_ctx"


def test_a_log_without_complaint() -> None:
    assert explain([RUNTIME, MODEL, "I rkllm: system_prompt: {not a format}"]) is None
    assert explain([]) is None


def test_braces_in_a_log_are_no_format() -> None:
    error = explain(["rkllm-runtime version: {0.__class__}", "invalid rkllm model!"])
    assert error is not None
    assert "{0.__class__}" in error.message


def test_facts() -> None:
    assert facts([RUNTIME, MODEL]) == Facts(
        runtime="1.2.3",
        driver="0.9.6",
        platform="RK3588",
        toolkit="1.1.4",
        target_platform="RK3576",
        model_dtype="W8A8",
        max_context_limit=4096,
        npu_core_num=3,
    )
    assert facts(["hello"]) == Facts()
    assert facts(["max_context_limit: many"]) == Facts()


def test_a_context_too_large_says_what_the_limit_is() -> None:
    error = explain(["max_context[8192] must be less than the model's max_context_limit[4096]"])
    assert isinstance(error, ContextTooLarge)
    assert error.limit == 4096
