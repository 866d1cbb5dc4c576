"""What keeps a machine from converting."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import Bench

from rkllm_convert import doctor, toolkit
from rkllm_convert.errors import NotReady
from rkllm_convert.machine import machine
from rkllm_convert.request import Machine
from rkllm_convert.toolkit import Installed

LIBRARIES = {"torch": "2.6.0", "transformers": "4.55.0", "datasets": "4.1.1"}
GOOD = Installed(python=(3, 10), toolkit="1.2.3", libraries=LIBRARIES)
MACHINE = Machine(python=(3, 10), toolkit="1.2.3", memory=64 * 10**9, disk=10**12)


def broken(installed: Installed | None, facts: Machine = MACHINE, error: str = "") -> list[str]:
    return [
        f"{each.subject}: {each.says}"
        for each in doctor.examine(installed, facts, error)
        if each.level == "broken"
    ]


def test_a_machine_that_can_has_nothing_broken() -> None:
    assert broken(GOOD) == []


@pytest.mark.parametrize(
    ("installed", "facts", "says"),
    [
        (GOOD, replace(MACHINE, machine="aarch64"), "Machine: Linux on aarch64"),
        (replace(GOOD, toolkit=None), MACHINE, "Toolkit: it is not installed in this Python 3.10"),
        (replace(GOOD, toolkit="2.0.0"), MACHINE, "Toolkit: 2.0.0 is not known"),
        (
            replace(GOOD, toolkit="1.1.4", python=(3, 12)),
            MACHINE,
            "is made for Python 3.8, 3.10, and this is 3.12",
        ),
        (
            replace(GOOD, error="ImportError: libGL.so.1"),
            MACHINE,
            "cannot be imported: ImportError: libGL.so.1",
        ),
        (GOOD, replace(MACHINE, lacks=("build(max_context)",)), "does not take build(max_context)"),
        (replace(GOOD, libraries={"torch": "2.6.0", "datasets": "1"}), MACHINE, "transformers is not there"),
        (replace(GOOD, libraries={}), MACHINE, "torch, transformers, datasets are not there"),
        (None, MACHINE, "Python: no such file"),
    ],
)
def test_what_is_broken_is_named(installed: Installed | None, facts: Machine, says: str) -> None:
    found = broken(installed, facts, "no such file")
    assert len(found) == 1
    assert says in found[0]


def test_little_memory_and_disk_and_no_gpu_are_notes() -> None:
    facts = replace(MACHINE, memory=10**9, disk=10**9)
    levels = {each.subject: each.level for each in doctor.examine(GOOD, facts)}
    assert (levels["Memory"], levels["Disk"], levels["GPU"]) == ("note", "note", "note")


@pytest.mark.parametrize("bench", ["1.1.4", "1.2.3", "1.3.0"], indirect=True)
def test_the_installed_toolkit_is_asked_what_it_takes(bench: Bench) -> None:
    found = toolkit.inspect(sys.executable)
    assert (found.toolkit, found.python) == (bench.release, sys.version_info[:2])
    assert toolkit.differences(found) == []
    assert found.signatures["load_gguf"] == ["model"]
    facts = machine(found, bench.out)
    assert facts.toolkit == bench.release
    assert facts.disk
    assert facts.memory


def test_a_toolkit_that_cannot_be_imported_is_not_taken_for_one_that_can(bench: Bench) -> None:
    (bench.folder / "toolkit" / "rkllm" / "api.py").write_text("raise OSError('libGL.so.1')\n")
    assert toolkit.inspect(sys.executable).error == "OSError: libGL.so.1"


def test_a_python_that_is_not_there_is_told_of(tmp_path: Path) -> None:
    with pytest.raises(NotReady, match=r"cannot be run: No such file.*--python"):
        toolkit.inspect(str(tmp_path / "python"))
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\necho out of order\nexit 7\n")
    script.chmod(0o755)
    with pytest.raises(NotReady, match="ended with status 7: out of order"):
        toolkit.inspect(str(script))
