"""The `rkllama` command as it is typed, on boards that are trees of files, with the stand-in runtime."""

import gc
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import exo
from rkllama.board.facts import Board
from rkllama.board.measure import measure, prompt
from rkllama.board.tune import STATE
from rkllama.cli import app
from tests.rkllama.board import trees

Run = Callable[..., Result]
QWEN = "Qwen2.5-1.5B-Instruct"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return trees.write(tmp_path / "board", trees.rk3588())


@pytest.fixture
def run(root: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Runs the command on `root`, in an environment of its own. Unexpected failures are raised."""
    for name in ("RKLLM_LIB_PATH", "RKLLM_RELEASE", "LD_LIBRARY_PATH"):
        monkeypatch.delenv(name, raising=False)
    home.mkdir()

    def run_one(*arguments: str, env: dict[str, str] | None = None) -> Result:
        environment = {"HOME": str(home), **(env or {})}
        result = CliRunner().invoke(app, arguments, obj=root, env=environment, catch_exceptions=False)
        assert "Traceback" not in result.output
        return result

    yield run_one
    # asyncio's transports of processes are unmade by the collector, and warn where a loop is gone.
    gc.collect()


def library(build: Path, release: str, **standin: str) -> dict[str, str]:
    return {"RKLLM_LIB_PATH": str(build / release / "librkllmrt.so"), **standin}


def installed(home: Path, source: Path, folder: str = QWEN, name: str = "model.rkllm") -> Path:
    """A model where rkllama keeps them."""
    file = home / "RKLLAMA" / "models" / folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.symlink_to(source)
    return file


def bad(result: Result) -> list[str]:
    """The lines of findings that are not fine."""
    return [line for line in result.stdout.splitlines() if line.startswith(("note", "SLOW", "BROKEN"))]


# The group


def test_help_and_version(run: Run) -> None:
    shown = run("--help")
    assert shown.exit_code == 0
    for command in ("tune", "doctor"):
        assert command in shown.output
    assert exo.__version__ in run("--version").output


def test_an_unknown_command_is_named(run: Run) -> None:
    result = run("tuen")
    assert result.exit_code == 2
    assert "tuen" in result.output


# rkllama tune


def test_tune_prints_each_change_and_reverts_them(run: Run, root: Path) -> None:
    governor = root / trees.DDR.lstrip("/") / "governor"
    governor.write_text("dmc_ondemand\n")
    dry = run("tune", "--dry-run")
    assert (dry.exit_code, dry.output) == (0, "would change DDR governor: dmc_ondemand -> performance\n")
    assert governor.read_text() == "dmc_ondemand\n"
    assert not (root / STATE.lstrip("/")).exists()

    tuned = run("tune")
    assert (tuned.exit_code, tuned.output) == (0, "DDR governor: dmc_ondemand -> performance\n")
    assert governor.read_text() == "performance\n"
    assert run("tune").output == "Nothing to change: every governor is performance.\n"

    dry = run("tune", "--revert", "--dry-run")
    assert dry.output == "would change dmc governor: performance -> dmc_ondemand\n"
    assert governor.read_text() == "performance\n"
    assert run("tune", "--revert").output == "dmc governor: performance -> dmc_ondemand\n"
    assert governor.read_text() == "dmc_ondemand\n"

    again = run("tune", "--revert")
    assert again.exit_code == 1
    assert "Nothing to revert" in again.output


def test_tune_tells_what_it_leaves_alone(run: Run, root: Path) -> None:
    trees.write(root, trees.rk3588("ondemand") | {f"{trees.DDR}/available_governors": "dmc_ondemand"})
    result = run("tune")
    assert result.exit_code == 0
    assert "DDR governor: left at ondemand, as this kernel has no performance for it" in result.output
    assert "NPU governor: ondemand -> performance" in result.output


def test_tune_tells_what_failed_and_what_stays(run: Run, root: Path) -> None:
    trees.write(root, trees.rk3588("ondemand"))
    run("tune")
    policy = root / trees.CPUS.lstrip("/") / "policy0" / "scaling_governor"
    policy.unlink()
    result = run("tune", "--revert")
    assert result.exit_code == 1
    assert "FAILED policy0 governor" in result.output
    assert "1 of 5 changes failed; 4 were made and stay." in result.output


def test_tune_where_there_is_nothing_to_tune(home: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["tune", "--dry-run"], obj=trees.write(tmp_path / "pc", trees.pc()))
    assert result.exit_code == 1
    for part in ("Error: ", "no clocks", "CPU clocks", "NPU clock", "DDR clock"):
        assert part in result.output


# rkllama doctor


def test_doctor_without_a_model_looks_at_all_of_them(
    run: Run, home: Path, build: Path, file_for: Callable[..., Path]
) -> None:
    installed(home, file_for(), name="qwen-w8a8-opt-1.rkllm")
    installed(home, file_for(), folder="Other", name="other.rkllm")
    result = run("doctor", env=library(build, "1.2.3"))
    assert result.exit_code == 0
    assert "ok      Board: Radxa ROCK 5B (rk3588)" in result.output
    assert "librkllmrt.so, release 1.2.1-1.2.3" in result.output
    assert "ok      Model other.rkllm: 2.5 MB\n" in result.output
    (slow,) = bad(result)
    assert slow.startswith("SLOW    Model qwen-w8a8-opt-1.rkllm: by its name")
    assert "\n          Convert it again as w8a8" in result.output
    assert result.output.splitlines()[-1] == "1 slow"


def test_doctor_without_a_library_is_broken(run: Run) -> None:
    result = run("doctor", env={"RKLLM_LIB_PATH": "/nowhere/librkllmrt.so"})
    assert result.exit_code == 1
    assert "BROKEN  Library: RKLLM_LIB_PATH is /nowhere/librkllmrt.so" in result.output


def test_doctor_of_a_library_that_is_none(run: Run, tmp_path: Path) -> None:
    (tmp_path / "librkllmrt.so").write_text("no library")
    result = run("doctor", env={"RKLLM_LIB_PATH": str(tmp_path)})
    assert result.exit_code == 1
    assert "cannot be loaded" in result.output


def test_doctor_survives_a_library_that_does_not(run: Run, compiled: Callable[[str], Path]) -> None:
    path = compiled("__attribute__((constructor)) void die(void) { __builtin_trap(); }")
    result = run("doctor", env={"RKLLM_LIB_PATH": str(path)})
    assert result.exit_code == 1
    assert "ended the process that loaded it (SIG" in result.output


def test_doctor_measures_a_model_at_the_vendors_pace(
    run: Run, home: Path, build: Path, file_for: Callable[..., Path]
) -> None:
    installed(home, file_for("1.3.0"), folder="Qwen2-0.5B")
    environment = library(build, "1.3.0", STANDIN_PACE="rk3588:Qwen2-0.5B")
    result = run("doctor", "Qwen2-0.5B", "--json", env=environment)
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    (model,) = said["evidence"]["models"]
    assert model["loaded"]
    assert model["facts"]["target_platform"] == "RK3588"
    assert not model["speed"]["by_clock"]
    assert model["speed"]["prefill_tokens"] > 100
    assert model["speed"]["decode_tokens_per_second"] == pytest.approx(41.58, rel=0.2)
    assert said["evidence"]["working"]["platform"] == "rk3588"
    assert said["evidence"]["library"]["release"] == "1.3.0"
    decode = said["findings"][-1]
    assert (decode["level"], decode["subject"]) == ("ok", "Decode")
    assert "of 41.6 for Qwen2-0.5B (vendor's benchmark of release 1.3.0)" in decode["says"]


def test_doctor_finds_a_model_slow_and_says_why(
    run: Run, root: Path, home: Path, build: Path, file_for: Callable[..., Path]
) -> None:
    trees.write(root, trees.slow_memory())
    file = installed(home, file_for("1.2.3", dtype="w8a8_g128"), folder="Qwen2-0.5B")
    result = run("doctor", str(file), env=library(build, "1.2.3", STANDIN_PACE="146/20"))
    assert result.exit_code == 0, result.output
    assert [line.split(":")[0] for line in bad(result)] == [
        "SLOW    DDR clock",
        "SLOW    Model model.rkllm",
        "SLOW    Decode",
    ]
    assert "% of 41.6 for Qwen2-0.5B" in result.output
    (cause,) = [line for line in result.output.splitlines() if "Likeliest" in line]
    assert "DDR clock: 528 of 2112 MHz" in cause
    assert "group-quantised (w8a8_g128)" in cause
    assert result.output.splitlines()[-1] == "3 slow"


@pytest.mark.parametrize("release", ["1.1.4", "1.2.0"])
def test_doctor_takes_the_clock_where_the_runtime_tells_nothing(
    run: Run, home: Path, build: Path, file_for: Callable[..., Path], release: str
) -> None:
    file = installed(home, file_for(release))
    result = run("doctor", str(file), "--json", env=library(build, release, STANDIN_PACE="50/80"))
    said = json.loads(result.stdout)
    (model,) = said["evidence"]["models"]
    assert model["error"] is None
    assert model["speed"]["by_clock"]
    assert model["speed"]["prefill_tokens_per_second"] is None
    assert model["speed"]["decode_tokens_per_second"] == pytest.approx(80, rel=0.2)
    assert "tokens/s by the clock" in said["findings"][-1]["says"]


@pytest.mark.parametrize(
    ("fault", "parts"),
    [
        ("old-driver", ["driver", "too old"]),
        ("npu-oom", ["run out of memory"]),
        ("crash-decode:5", ["SIGSEGV"]),
        ("matmul-failed:3", ["matmul(w8a8)"]),
        ("corrupt-ids:3", ["corrupt"]),
    ],
)
def test_doctor_tells_what_a_sick_runtime_has(
    run: Run, build: Path, file_for: Callable[..., Path], fault: str, parts: list[str]
) -> None:
    result = run("doctor", str(file_for()), env=library(build, "1.2.3", STANDIN_FAULT=fault))
    assert result.exit_code == 1
    (broken,) = [line for line in bad(result) if line.startswith("BROKEN  Model")]
    for part in parts:
        assert part in broken


async def test_what_hangs_is_given_up(
    build: Path, file_for: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STANDIN_FAULT", "hang-decode:3")
    runtime = build / "1.2.3" / "librkllmrt.so"
    model, working = await measure(file_for(), runtime, Board, seconds=3.0)
    assert model.error == "it did not answer within 3 s"
    assert (model.loaded, model.speed, working) == (True, None, None)
    gc.collect()


def test_doctor_of_a_model_for_another_chip(run: Run, build: Path, file_for: Callable[..., Path]) -> None:
    result = run("doctor", str(file_for(platform="rk3576")), env=library(build, "1.2.3"))
    assert result.exit_code == 1
    assert "another chip" in result.output


def test_doctor_takes_the_release_that_its_owner_names(
    run: Run, build: Path, file_for: Callable[..., Path]
) -> None:
    environment = library(build, "1.2.3", RKLLM_RELEASE="1.2.2")
    assert run("doctor", str(file_for()), env=environment).exit_code == 0
    result = run("doctor", env=environment | {"RKLLM_RELEASE": "7"})
    assert result.exit_code == 1
    assert "BROKEN  Library: RKLLM_RELEASE is 7" in result.output


@pytest.mark.parametrize(
    ("typed", "parts"),
    [
        ("Qwen2.5-1.5B-Instrukt", ["Qwen2.5-1.5B-Instrukt", f"Did you mean {QWEN}?"]),
        ("/nowhere/a.rkllm", ["/nowhere/a.rkllm", "RKLLAMA/models"]),
        ("..", ["no model file .."]),
        ("Empty", ["no .rkllm file", "Empty"]),
        ("Two", ["several", "a.rkllm", "b.rkllm"]),
    ],
)
def test_doctor_of_no_model(
    run: Run, home: Path, file_for: Callable[..., Path], typed: str, parts: list[str]
) -> None:
    installed(home, file_for())
    for name in ("a.rkllm", "b.rkllm"):
        installed(home, file_for(), folder="Two", name=name)
    (home / "RKLLAMA" / "models" / "Empty").mkdir()
    result = run("doctor", typed)
    assert result.exit_code == 1
    assert result.output.startswith("Error: ")
    for part in parts:
        assert part in result.output


def test_no_two_prompts_begin_alike() -> None:
    """Else the runtime would keep what they have in common, and prefill less than it says."""
    prompts = [prompt(number) for number in range(3)]
    assert len({text[:5] for text in prompts}) == 3
    assert {len(text.split()) for text in prompts} == {len(prompts[0].split())}
