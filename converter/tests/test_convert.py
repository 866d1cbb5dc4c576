"""Whole conversions with the stand-in toolkit: what is called, what is left, and what is taken up again."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import BUNDLED, HERE, ROOT, Bench
from tests.e2e.node import eventually

from rkllm_convert import card
from rkllm_convert.convert import convert
from rkllm_convert.errors import BadInput, NotReady, Refused, ToolkitFailed

FILE = "demo-rk3588-w8a8-normal-opt-0-hybrid-0-npu3-ctx2048-tk1.2.3.rkllm"
BESIDE = ["Modelfile", "card.json", "chat_template.jinja", "generation_config.json"]
TOKENIZER = ["tokenizer.json", "tokenizer_config.json"]


def listed(name: str = "demo", *files: str) -> list[str]:
    return sorted(f"{name}/{each}" for each in (*BESIDE, *TOKENIZER, *(files or (FILE,))))


def test_a_folder_becomes_a_model_that_says_what_it_is(bench: Bench) -> None:
    folder = convert(bench.conversion(), bench.say)
    assert folder == bench.out / "demo"
    assert bench.left() == listed()
    described = card.checked(folder)
    assert {
        name: described[name] for name in ("name", "file", "toolkit", "platform", "dtype", "context")
    } == {
        "name": "demo",
        "file": FILE,
        "toolkit": "1.2.3",
        "platform": "rk3588",
        "dtype": "w8a8",
        "context": 2048,
    }
    assert described["thinking"] == "on request"
    assert [each.done for each in bench.progress if each.doing == "Optimizing model"] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("bench", ["1.1.4", "1.2.3", "1.3.0"], indirect=True)
def test_each_release_is_given_exactly_its_own_parameters(bench: Bench) -> None:
    convert(bench.conversion(hybrid_rate=0.25, npu_cores=2), bench.say)
    (load, loaded), (build, built), (export, exported) = bench.calls()
    assert (load, build, export) == ("load_huggingface", "build", "export_rkllm")
    assert exported["export_path"].endswith("/model.rkllm")
    context = {} if bench.release == "1.1.4" else {"max_context": 2048}
    assert built == {
        "do_quantization": True,
        "optimization_level": 0,
        "quantized_dtype": "w8a8",
        "quantized_algorithm": "normal",
        "num_npu_core": 2,
        "extra_qparams": None,
        "dataset": None,
        "hybrid_rate": 0.25,
        "target_platform": "rk3588",
        **context,
    }
    expected: dict[str, object] = {"model": str(BUNDLED), "model_lora": None, "device": "cpu"}
    if bench.release != "1.1.4":
        expected |= {
            "dtype": "float32",
            "custom_config": None,
            "load_weight": True,
        }  # the last two by default
    assert loaded == expected
    described = card.read(bench.out / "demo")
    assert (described["hybrid_rate"], described["npu_cores"]) == (0.25, 2)
    assert "hybrid-0.25-npu2" in described["file"]


def test_paths_may_be_relative(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(BUNDLED, tmp_path / "here" / "model")
    (tmp_path / "here" / "data.json").write_text('[{"input": "a", "target": "b"}]')
    monkeypatch.chdir(tmp_path / "here")
    wanted = bench.conversion("model", dataset="data.json")
    python = os.path.relpath(sys.executable)
    folder = convert(replace(wanted, out=Path("out"), python=python), bench.say)
    assert folder == tmp_path / "here" / "out" / "demo"
    assert card.checked(folder)["calibration"]["rows"] == 1


def test_a_second_run_finds_it_done(bench: Bench) -> None:
    convert(bench.conversion(), bench.say)
    before = bench.calls()
    convert(bench.conversion(), bench.say)
    assert bench.calls() == before
    assert "is there already" in bench.said[-1]
    assert bench.left() == listed()


def test_what_is_there_is_not_replaced_unasked(bench: Bench) -> None:
    convert(bench.conversion(), bench.say)
    with pytest.raises(Refused, match=r"holds another model.*--name, or --replace"):
        convert(bench.conversion(max_context=1024), bench.say)
    assert card.checked(bench.out / "demo")["context"] == 2048
    assert [path.name for path in bench.out.iterdir()] == ["demo"]
    convert(bench.conversion(max_context=1024, replace=True), bench.say)
    assert card.checked(bench.out / "demo")["context"] == 1024
    assert bench.left() == listed("demo", FILE.replace("ctx2048", "ctx1024"))


FAULTS = [
    (
        "load_huggingface:returns:Catch exception: 'x' is no tokenizer, it does not exist",
        "tokenizer_unusable",
    ),
    ("load_huggingface:returns:something nobody has seen", "toolkit_failed"),
    ("load_huggingface:none", "toolkit_failed"),
    ("load_huggingface:exits", "toolkit_failed"),
    ("build:returns:Catch exception when optimizing model: 'mlp.down_proj'", "model_changed"),
    ("build:returns:The quantized_dtype = 'w4a16' is not supported in 'rk3588'!", "dtype_not_supported"),
    ("build:raises:CUDA out of memory. Tried to allocate 2.00 GiB", "out_of_gpu_memory"),
    (
        "build:raises:Model type `new`: Transformers does not recognize this architecture",
        "model_not_supported",
    ),
    ("build:killed", "out_of_memory"),
    ("build:segfault", "toolkit_failed"),
    ("export_rkllm:returns:Catch exception when converting model", "toolkit_failed"),
    ("export_rkllm:raises:[Errno 28] No space left on device", "disk_full"),
    ("export_rkllm:full", "disk_full"),
    ("export_rkllm:half", "cut_short"),
    ("export_rkllm:nothing", "nothing_written"),
    ("export_rkllm:none", "toolkit_failed"),
]


@pytest.mark.parametrize(("fault", "code"), FAULTS)
def test_a_failure_has_a_name_and_leaves_nothing_under_the_models_name(
    bench: Bench, fault: str, code: str
) -> None:
    bench.fault(fault)
    with pytest.raises(ToolkitFailed) as caught:
        convert(bench.conversion(), bench.say)
    assert caught.value.code == code, caught.value.message
    assert not (bench.out / "demo").exists()
    assert not [name for name in bench.left() if name.endswith(".rkllm")]
    method = fault.partition(":")[0]
    assert method in caught.value.message
    bench.healthy()
    convert(bench.conversion(), bench.say)
    assert bench.left() == listed()


def test_the_toolkits_words_are_passed_on_where_no_name_is_known(bench: Bench) -> None:
    bench.fault("build:returns:something nobody has seen")
    with pytest.raises(
        ToolkitFailed, match=r"build returned -1: ERROR: something nobody has seen\. Its log: "
    ):
        convert(bench.conversion(), bench.say)
    log = bench.out / ".demo.partial" / "toolkit.log"
    assert "something nobody has seen" in log.read_text()


def test_a_file_that_was_made_is_not_made_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The end fails after hours of work: the next run begins there."""

    def fails(*arguments: object) -> None:
        raise OSError("power is gone")

    with monkeypatch.context() as patch:
        patch.setattr(card, "write", fails)
        with pytest.raises(OSError, match="power is gone"):
            convert(bench.conversion(), bench.say)
    assert not (bench.out / "demo").exists()
    before = bench.calls()
    convert(bench.conversion(), bench.say)
    assert bench.calls() == before
    assert bench.left() == listed()


def test_a_file_that_has_changed_since_is_made_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(card, "write", lambda *arguments: (_ for _ in ()).throw(OSError))
        with pytest.raises(OSError):  # noqa: PT011 # ours
            convert(bench.conversion(), bench.say)
    made = bench.out / ".demo.partial" / "export" / "model.rkllm"
    content = made.read_bytes()
    made.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    before = len(bench.calls())
    convert(bench.conversion(), bench.say)
    assert len(bench.calls()) == before + 3
    card.checked(bench.out / "demo")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_killed_while_it_works_it_leaves_no_model_and_no_process(
    bench: Bench, number: signal.Signals
) -> None:
    bench.fault("export_rkllm:hangs")
    log = bench.out / ".demo.partial" / "toolkit.log"
    command = [sys.executable, "-m", "rkllm_convert", str(BUNDLED), "-p", "rk3588", "--name", "demo"]
    running = subprocess.Popen(
        [*command, "-o", str(bench.out)],
        env={**os.environ, "PYTHONPATH": f"{os.environ['PYTHONPATH']}:{HERE.parent / 'src'}"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        eventually(lambda: (log.is_file() and b"hanging" in log.read_bytes()) or running.poll() is not None)
        children = processes("--ppid", str(running.pid))
        assert len(children) == 1
    finally:
        running.send_signal(number)
        running.wait()
    eventually(lambda: not processes("-p", children[0]))
    assert not (bench.out / "demo").exists()
    bench.healthy()
    convert(bench.conversion(), bench.say)
    assert bench.left() == listed()


def processes(*which: str) -> list[str]:
    """Those that live: one that has ended and waits for whoever began it does not."""
    shown = subprocess.run(["ps", "-o", "pid=,stat=", *which], stdout=subprocess.PIPE, text=True, check=False)
    return [pid for pid, state in map(str.split, shown.stdout.splitlines()) if state[0] != "Z"]


def test_two_at_once_keep_out_of_each_others_way(bench: Bench) -> None:
    import fcntl

    hidden = bench.out / ".demo.partial"
    hidden.mkdir(parents=True)
    handle = os.open(hidden, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        with pytest.raises(NotReady, match="another conversion is at work"):
            convert(bench.conversion(), bench.say)
    finally:
        os.close(handle)


def test_a_context_that_the_toolkit_changes_is_the_one_that_is_named(bench: Bench) -> None:
    bench.fault("build:context:1024")
    folder = convert(bench.conversion(), bench.say)
    described = card.checked(folder)
    assert described["context"] == 1024
    assert "-ctx1024-" in described["file"]
    assert "NUM_CTX=1024" in (folder / "Modelfile").read_text()
    assert any("context of 1024 tokens, not 2048" in line for line in bench.said)


def test_a_loras_file_lies_beside_the_models(bench: Bench, tmp_path: Path) -> None:
    lora = tmp_path / "lora"
    lora.mkdir()
    with pytest.raises(BadInput, match=r"adapter_config\.json is not in it"):
        convert(bench.conversion(lora=str(lora)), bench.say)
    (lora / "adapter_config.json").write_text("{}")
    folder = convert(bench.conversion(lora=str(lora)), bench.say)
    assert bench.calls()[0][1]["model_lora"] == str(lora)
    described = card.checked(folder)
    assert described["lora"] == [FILE.replace(".rkllm", "-lora0.rkllm")]
    assert (folder / described["lora"][0]).read_bytes() == b"an adapter"


def test_a_dataset_is_passed_on_and_told_of_in_the_card(bench: Bench, tmp_path: Path) -> None:
    data = tmp_path / "data.json"
    data.write_text(json.dumps([{"input": "Hello", "target": "Good day"}] * 3))
    folder = convert(bench.conversion(dataset=str(data)), bench.say)
    assert bench.calls()[1][1]["dataset"].endswith("/calibration.json")
    assert card.read(folder)["calibration"]["rows"] == 3
    assert not (folder / "calibration.json").exists()


def test_a_gguf_file_is_loaded_as_one(bench: Bench, tmp_path: Path) -> None:
    from ggufs import write_gguf

    shutil.copytree(BUNDLED, tmp_path / "around")
    path = tmp_path / "around" / "Tiny-1B-f16.gguf"
    write_gguf(path, file_type=1, template="{{ messages[0].content }}")
    folder = convert(bench.conversion(path, name=None), bench.say)
    assert folder.name == "Tiny-1B"
    assert bench.calls()[0] == ("load_gguf", {"model": str(path)})
    assert (folder / "chat_template.jinja").read_text() == "{{ messages[0].content }}"


def test_the_state_is_in_the_folder_of_models_and_nowhere_else(bench: Bench) -> None:
    before = sorted(path for path in BUNDLED.iterdir())
    convert(bench.conversion(), bench.say)
    assert sorted(path for path in BUNDLED.iterdir()) == before
    assert [path.name for path in bench.out.iterdir()] == ["demo"]
    assert ROOT.joinpath("demo").is_dir()
