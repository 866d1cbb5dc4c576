"""Files that a runtime refuses and faults on request, each with the vendor's words in its log."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from demo.rkllm_container import Label
from tests.standin.conftest import ROOT
from tests.standin.test_runs import in_child, in_thread
from tests.standin.vendor import ERROR, FINISH, Handle, Library

Load = Callable[[str], Library]
FileFor = Callable[..., Path]
Captured = pytest.CaptureFixture[str]
SUM = "What is 145 + 278?"


def refused(library: Library, file: Path, capfd: Captured, **settings: Any) -> str:
    capfd.readouterr()
    with pytest.raises(OSError, match="rkllm_init"):
        library.start(file, **settings)
    out, err = capfd.readouterr()
    return out + err


def test_a_good_file_is_announced(release: str, load: Load, file_for: FileFor, capfd: Captured) -> None:
    load(release).start(file_for(release, context=1024), max_context_len=1024).close()
    assert capfd.readouterr().out.splitlines() == [
        f"I rkllm: rkllm-runtime version: {release}, rknpu driver version: 0.9.8, platform: RK3588",
        f"I rkllm: loading rkllm model from {file_for(release, context=1024)}",
        f"I rkllm: rkllm-toolkit version: {release}, max_context_limit: 1024, npu_core_num: 3, "
        "target_platform: RK3588, model_dtype: W8A8",
    ]


@pytest.mark.parametrize("made_for", ["1.1.4", "1.2.0", "1.2.3", "1.3.0"])
def test_only_files_of_its_own_generation(
    release: str, made_for: str, load: Load, file_for: FileFor, capfd: Captured
) -> None:
    if made_for[:3] == release[:3]:
        load(release).start(file_for(made_for)).close()
    elif made_for < release:
        assert "The model version is too old" in refused(load(release), file_for(made_for), capfd)
    else:
        words = "invalid rkllm model!" if release >= "1.2.1" else "invalid rknn llm model magic"
        assert words in refused(load(release), file_for(made_for), capfd)


def test_damaged_files(release: str, load: Load, file_for: FileFor, capfd: Captured, tmp_path: Path) -> None:
    library, whole, file = load(release), file_for(release).read_bytes(), tmp_path / "bad.rkllm"
    words = "invalid rkllm model!" if release >= "1.2.1" else "invalid rknn llm model magic"
    changed = bytearray(whole)
    changed[100] ^= 1
    for content in (b"", b"GGUF" + whole[4:], whole[:20], whole[:200], whole[:-1], whole + b"\0", changed):
        file.write_bytes(content)
        log = refused(library, file, capfd)
        assert words in log or (not content and "failed to open" in log), log
    assert "failed to open" in refused(library, tmp_path / "none.rkllm", capfd)


def test_the_wrong_board_and_too_long_a_context(
    load: Load, file_for: FileFor, capfd: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = load("1.2.3")
    assert "target_platform does not match" in refused(library, file_for(platform="rk3576"), capfd)
    log = refused(library, file_for(context=512), capfd, max_context_len=1024)
    assert "max_context[1024] must be less than the model's max_context_limit[512]" in log
    monkeypatch.setenv("STANDIN_PLATFORM", "rk3576")
    library.start(file_for(platform="rk3576")).close()
    assert "target_platform does not match" in refused(library, file_for(), capfd)


@pytest.mark.parametrize("wrong", [{"release": "1.2"}, {"platform": "rk1"}, {"max_context": 100}])
def test_the_exporter_refuses_nonsense(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"release|platform|max_context"):
        Label(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("bad-magic", "invalid rkllm model!"),
        ("npu-oom", "failed to malloc npu memory"),
        ("old-driver", "rknpu driver version is too low, please upgrade to 0.9.7"),
        ("no-driver", "failed to open rknpu module"),
        ("init-fail", "rkllm init failed"),
        ("crash-decode", "STANDIN_FAULT=crash-decode is not understood"),
        ("nonsense", "STANDIN_FAULT=nonsense is not understood"),
    ],
)
def test_faults_of_init(
    fault: str, words: str, load: Load, file_for: FileFor, capfd: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STANDIN_FAULT", fault)
    assert words in refused(load("1.2.3"), file_for(), capfd)


@pytest.mark.parametrize(
    ("fault", "tokens"),
    [("crash-init", -1), ("crash-prefill", 0), ("crash-decode:3", 3), ("crash-decode:0", 0)],
)
def test_crashes(fault: str, tokens: int, build: Path, file_for: FileFor) -> None:
    program = """
        print("made", flush=True)
        handle.on_event = lambda event: print("token", flush=True) or 0
        handle.run("Hello")
    """
    died = in_child(program, build, file_for(), {"STANDIN_FAULT": fault})
    assert died.returncode == -signal.SIGSEGV
    assert died.stdout.count("token\n") == max(0, tokens)
    assert ("made" in died.stdout) == (tokens >= 0)


def test_a_hanging_init_never_returns(build: Path, file_for: FileFor) -> None:
    source = f"""
from pathlib import Path
from tests.standin.vendor import Library
library = Library("1.2.3", Path({str(build / "1.2.3/librkllmrt.so")!r}))
print("loading", flush=True)
library.start(Path({str(file_for())!r}))
print("loaded", flush=True)
"""
    child = subprocess.Popen(
        [sys.executable, "-c", source],
        env={"STANDIN_FAULT": "hang-init"},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "loading\n"
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(0.3)
    finally:
        child.kill()
        assert child.communicate()[0] == ""


@pytest.mark.parametrize(("fault", "tokens"), [("hang-prefill", 0), ("hang-decode:2", 2)])
def test_hangs_heed_no_abort(fault: str, tokens: int, build: Path, file_for: FileFor) -> None:
    program = f"""
        import sys, threading
        from pathlib import Path
        from tests.standin.vendor import Library
        library = Library("1.2.3", Path({str(build / "1.2.3/librkllmrt.so")!r}))
        handle = library.start(Path({str(file_for())!r}))
        handle.run("Hello", asynchronous=True)
        while len(handle.tokens()) < {tokens}: threading.Event().wait(0.01)
        print(len(handle.tokens()), library.lib.rkllm_abort(handle.pointer), file=sys.stderr)
        threading.Event().wait(0.2)
        print(len(handle.events), library.lib.rkllm_is_running(handle.pointer), file=sys.stderr)
        sys.stderr.close()
        threading.Event().wait()
    """
    source = "\n".join(line.strip() for line in program.splitlines())
    # An abort that comes before the hang is heeded, and shows nothing of it: then it is tried again.
    for _ in range(10):
        said = _said_by(source, fault)
        if said[1].startswith(f"{tokens} "):
            break
    assert said == [f"{tokens} 0\n", f"{tokens} 0\n"]


def _said_by(source: str, fault: str) -> list[str]:
    """The first two lines of a child that runs `source`."""
    child = subprocess.Popen(
        [sys.executable, "-c", source],
        env={"STANDIN_FAULT": fault},
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert child.stderr is not None
        said = [child.stderr.readline() for _ in range(2)]
        assert child.poll() is None
    finally:
        child.kill()
        child.communicate()
    return said


def test_corrupt_ids_never_end_by_themselves(
    load: Load, file_for: FileFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    with load("1.2.3").start(file_for()) as handle:
        healthy = handle.ask(SUM)
    monkeypatch.setenv("STANDIN_FAULT", "corrupt-ids:4")
    with load("1.2.3").start(file_for(), max_new_tokens=60) as handle:
        assert handle.ask(SUM) == healthy[:4] + [151935] * 56
        assert handle.text().endswith("[PAD151935][PAD151935]")


def test_without_a_tokenizer_only_tokens_can_be_run(
    load: Load, file_for: FileFor, capfd: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STANDIN_FAULT", "no-tokenizer")
    with load("1.2.3").start(file_for()) as handle:
        assert handle.run(SUM) == -1
        assert [event.state for event in handle.events] == [ERROR]
        assert handle.ask([20, 21])
    assert capfd.readouterr().err == "E rkllm: Tokenizer is unavailable\n"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("STANDIN_PLATFORM", "a-board-with-a-long-name"),
        ("STANDIN_FAULT_ONCE", "/" + "x" * 1024),
        ("STANDIN_FAULT", "crash-decode:99999999999"),
        ("STANDIN_FAULT", "crash-decode:-1"),
        ("STANDIN_SEED", "1.5"),
        ("STANDIN_TOKEN_MS", "nan"),
        ("STANDIN_PACE", "378/inf"),
        ("STANDIN_FALT", "crash-decode:3"),
    ],
)
def test_a_wish_that_is_not_understood_whole_is_refused(
    name: str, value: str, load: Load, file_for: FileFor, capfd: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    assert f"standin: {name}={value} is not understood" in refused(load("1.2.3"), file_for(), capfd)


def test_a_failing_matmul_is_an_error(
    load: Load, file_for: FileFor, capfd: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STANDIN_FAULT", "matmul-failed:2")
    with load("1.3.0").start(file_for("1.3.0")) as handle:
        assert handle.run(SUM) == -1
        assert len(handle.tokens()) == 2
        assert handle.events[-1].state == ERROR
    assert "matmul(w8a8) run failed" in capfd.readouterr().err


def test_a_slow_abort_goes_on_for_a_while(
    load: Load, file_for: FileFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STANDIN_FAULT", "slow-abort:150")
    monkeypatch.setenv("STANDIN_TOKEN_MS", "10")
    for most in (1000, 3):  # still busy when it takes effect; at the end long before
        with load("1.2.3").start(file_for(), max_new_tokens=most) as handle:
            thread = in_thread(lambda handle=handle: handle.run(SUM))  # type: ignore[misc]
            abort(handle)
            began = time.monotonic()
            thread.join(10)
            assert 0.14 < time.monotonic() - began < 5
            assert handle.events[-1].state == FINISH


def abort(handle: Handle) -> None:
    while handle.lib.rkllm_abort(handle.pointer):
        time.sleep(0.001)


def test_a_fault_can_be_used_up(
    load: Load, file_for: FileFor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = tmp_path / "once"
    once.touch()
    monkeypatch.setenv("STANDIN_FAULT", "matmul-failed:1")
    monkeypatch.setenv("STANDIN_FAULT_ONCE", str(once))
    with load("1.2.3").start(file_for()) as handle:
        assert handle.run(SUM) == -1
        assert not once.exists()
        assert handle.run(SUM) == 0
