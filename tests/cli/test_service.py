"""`exo install-service`: what is planned for a machine, and how it is done, in a tree that is not its own."""

import os
import stat
import subprocess
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result

from exo.cli import service
from exo.cli.service import FILES, Machine, Remove, Run, Write, carry_out, installation, removal, why_not
from exo.errors import BadRequest, NotFound, NotReady

PC = Machine(Path("/opt/exo/bin"), (Path("/opt/exo/bin/python"), Path("/usr")), has_npu=False, systemd=252)
BOARD = msgspec.structs.replace(PC, has_npu=True, systemd=257)


def files(machine: Machine, user: str | None = None) -> dict[str, str]:
    return {str(step.path): step.text for step in installation(machine, user) if isinstance(step, Write)}


def commands(machine: Machine) -> list[str]:
    return [" ".join(step.command) for step in installation(machine) if isinstance(step, Run)]


def lines(text: str, key: str) -> list[str]:
    return [line.removeprefix(f"{key}=") for line in text.splitlines() if line.startswith(f"{key}=")]


# The plan


def test_a_machine_without_an_npu_gets_the_node_alone() -> None:
    assert set(files(PC)) == {
        "/etc/systemd/system/exo-rkllm.service",
        "/etc/sysusers.d/exo.conf",
        "/etc/tmpfiles.d/exo.conf",
    }
    assert commands(PC) == [
        "systemd-sysusers exo.conf",
        "systemd-tmpfiles --create exo.conf",
        "systemctl daemon-reload",
        "systemctl enable exo-rkllm.service",
        "systemctl restart exo-rkllm.service",
    ]


def test_a_board_gets_both_and_the_groups_of_its_npu() -> None:
    assert set(files(BOARD)) == {str(path) for path in FILES}
    assert (
        files(BOARD)["/etc/systemd/system/exo-rkllm.service.d/10-npu.conf"].count("RKLLM_SERVER_HOST=") == 1
    )
    assert "m rkllama render" in files(BOARD)["/etc/sysusers.d/rkllama.conf"]
    assert "udevadm control --reload" in commands(BOARD)
    assert commands(BOARD)[-1] == "systemctl restart rkllama.service exo-rkllm.service"


@pytest.mark.parametrize(("release", "there"), [(252, False), (253, False), (254, True), (257, True)])
def test_what_an_older_systemd_does_not_know_it_is_not_given(release: int, there: bool) -> None:
    told = files(msgspec.structs.replace(BOARD, systemd=release))
    assert any("RestartSteps=" in text for text in told.values()) is there


def test_files_are_written_before_anything_is_run() -> None:
    kinds = [type(step) for step in installation(BOARD)]
    assert kinds == sorted(kinds, key=lambda kind: kind is Run)


def test_units_run_the_programs_of_the_exo_that_installs_them() -> None:
    board = msgspec.structs.replace(BOARD, programs=Path("/srv/llm/bin"))
    node, npu = (files(board)[f"/etc/systemd/system/{name}.service"] for name in ("exo-rkllm", "rkllama"))
    assert lines(node, "ExecStart") == ["/srv/llm/bin/exo serve --disable-tui"]
    assert lines(npu, "ExecStart") == ["/srv/llm/bin/rkllama serve"]


def test_each_has_a_user_of_its_own_or_the_one_that_is_named() -> None:
    def users(user: str | None) -> list[str]:
        told = files(BOARD, user)
        return [
            user
            for name in ("exo-rkllm", "rkllama")
            for user in lines(told[f"/etc/systemd/system/{name}.service"], "User")
        ]

    assert users(None) == ["exo", "rkllama"]
    assert users("alice") == ["alice", "alice"]
    made = [line for name in ("exo", "rkllama") for line in entries(files(BOARD, "alice"), name)]
    assert [line.split()[:3] for line in made] == [
        ["u", "alice", "-"],
        ["g", "render", "-"],
        ["g", "video", "-"],
        ["m", "alice", "render"],
        ["m", "alice", "video"],
    ]


def entries(told: dict[str, str], name: str) -> list[str]:
    return [line for line in told[f"/etc/sysusers.d/{name}.conf"].splitlines() if not line.startswith("#")]


@pytest.mark.parametrize("user", ["root", "", "Alice Smith", "a\nExecStart=/bin/sh", "-x", "a" * 32])
def test_a_user_that_cannot_be_one_is_refused(user: str) -> None:
    with pytest.raises(BadRequest, match="--user"):
        installation(PC, user)


@pytest.mark.parametrize(
    "part", ["/home/alice/exo/bin/python", "/root/.local/python", "/tmp/exo/bin/python", "/run/user/1/exo"]
)
def test_programs_that_a_service_does_not_see_are_refused_with_what_to_do(part: str) -> None:
    why = why_not(msgspec.structs.replace(PC, parts=(Path("/usr"), Path(part))))
    assert why is not None
    assert part in why
    assert "sudo /opt/exo/bin/exo install-service" in why
    # Taking away does not run them.
    assert why_not(msgspec.structs.replace(PC, parts=(Path(part),)), uninstall=True) is None


def test_a_path_that_a_unit_would_read_otherwise_is_refused() -> None:
    assert "/opt/my exo/bin" in str(why_not(msgspec.structs.replace(PC, programs=Path("/opt/my exo/bin"))))
    assert why_not(PC) is None


def test_removal_takes_away_what_is_there_and_stops_it_first() -> None:
    there = {step.path for step in installation(BOARD) if isinstance(step, Write)}
    steps = removal(msgspec.structs.replace(BOARD, installed=frozenset(there)))
    assert steps[0] == Run(("systemctl", "disable", "--now", "rkllama.service", "exo-rkllm.service"))
    assert {step.path for step in steps if isinstance(step, Remove)} == there
    assert steps[-1] == Run(("systemctl", "daemon-reload"))
    node_only = {step.path for step in installation(PC) if isinstance(step, Write)}
    steps = removal(msgspec.structs.replace(PC, installed=frozenset(node_only)))
    assert steps[0] == Run(("systemctl", "disable", "--now", "exo-rkllm.service"))
    with pytest.raises(NotFound, match="no service of exo is installed"):
        removal(PC)


# Carried out


def test_systemd_s_own_tools_make_the_users_and_enable_the_units(tmp_path: Path) -> None:
    """In a tree of its own, as they can."""
    (tmp_path / "etc").mkdir()
    ran: list[tuple[str, ...]] = []

    def run(step: Run) -> None:
        ran.append(step.command)
        if step.command[0] in ("systemd-sysusers", "systemd-tmpfiles") or step.command[1] == "enable":
            program, *rest = step.command
            command = [program, f"--root={tmp_path}", *rest]
            done = subprocess.run(command, check=False, capture_output=True, text=True)
            assert done.returncode == 0, done
            assert "onflict" not in done.stderr, done

    steps = installation(BOARD)
    for _ in range(2):  # it may be done again
        carry_out(steps, tmp_path, run)
    accounts = (tmp_path / "etc/passwd").read_text()
    homes = {line.split(":")[0]: line.split(":")[5] for line in accounts.splitlines()}
    assert (homes["exo"], homes["rkllama"]) == ("/var/lib/exo", "/var/lib/rkllama")
    groups = {line.split(":")[0]: line.split(":")[3] for line in (tmp_path / "etc/group").read_text().split()}
    assert (groups["render"], groups["video"]) == ("rkllama", "rkllama")
    wanted = tmp_path / "etc/systemd/system/multi-user.target.wants"
    assert {link.name for link in wanted.iterdir()} == {"exo-rkllm.service", "rkllama.service"}
    assert stat.S_IMODE((tmp_path / "etc/exo").stat().st_mode) == 0o755
    for path in FILES:
        assert stat.S_IMODE((tmp_path / path.relative_to("/")).stat().st_mode) == 0o644
    assert ("systemctl", "restart", "rkllama.service", "exo-rkllm.service") in ran
    installed = msgspec.structs.replace(BOARD, installed=frozenset(FILES))
    units = tmp_path / "etc/systemd/system"
    (units / "rkllama.service.d" / "override.conf").write_text("[Service]\n")
    carry_out(removal(installed), tmp_path, ran.append)  # type: ignore[arg-type]
    assert not [path for path in FILES if (tmp_path / path.relative_to("/")).exists()]
    # Nothing is left of it, and everything of what the owner has put there.
    left = {str(path.relative_to(units)) for path in units.rglob("*") if "wants" not in str(path)}
    assert left == {"rkllama.service.d", "rkllama.service.d/override.conf"}
    assert (tmp_path / "etc/sysusers.d").is_dir()


def test_the_first_step_that_fails_ends_it_with_what_it_said(tmp_path: Path) -> None:
    after = Write(Path("/etc/after"), "")
    with pytest.raises(NotReady, match=r"sh -c 'echo no such unit >&2; exit 3' failed: no such unit"):
        carry_out([Run(("sh", "-c", "echo no such unit >&2; exit 3")), after], tmp_path)
    with pytest.raises(NotReady, match=r"run no-such-program: No such file"):
        carry_out([Run(("no-such-program",)), after], tmp_path)
    (tmp_path / "etc").write_text("")
    with pytest.raises(NotReady, match=r"write /etc/after: "):
        carry_out([after], tmp_path)


# The command


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.setattr(service, "look", lambda: PC)
    return PC


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(service.install_service, arguments)


def test_a_dry_run_shows_every_file_and_command(machine: Machine) -> None:
    shown = invoke("--dry-run")
    assert (shown.exit_code, shown.stderr) == (0, "")
    headings = [line for line in shown.output.splitlines() if line and not line.startswith("    ")]
    assert headings == [
        "write /etc/systemd/system/exo-rkllm.service",
        "write /etc/sysusers.d/exo.conf",
        "write /etc/tmpfiles.d/exo.conf",
        *(f"run {command}" for command in commands(machine)),
    ]
    assert "    ExecStart=/opt/exo/bin/exo serve --disable-tui" in shown.output.splitlines()


def test_it_is_told_how_the_service_is_spoken_to() -> None:
    told = service.done(PC)
    assert told.startswith("exo-rkllm.service runs. ")
    assert "runuser -u exo -- env HOME=/var/lib/exo EXO_HOME=/var/lib/exo /opt/exo/bin/exo pull MODEL" in told
    assert service.done(BOARD, "llm").startswith("rkllama.service and exo-rkllm.service run. ")
    assert "runuser -u llm " in service.done(BOARD, "llm")


def test_without_root_the_command_to_run_is_told(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    refused = invoke("--user", "alice")
    assert isinstance(refused.exception, NotReady)
    assert refused.exception.message == (
        "only root may change services: sudo /opt/exo/bin/exo install-service --user alice"
    )


def test_a_machine_without_systemd_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "look", lambda: msgspec.structs.replace(PC, systemd=None))
    refused = invoke()
    assert isinstance(refused.exception, NotReady)
    assert "does not run systemd" in refused.exception.message
    tried = invoke("--dry-run")
    assert tried.exit_code == 0
    assert tried.stdout.startswith("write /etc/systemd/system/exo-rkllm.service\n")
    assert "Here it could not be done: this machine does not run systemd" in tried.stderr


def test_a_user_is_not_for_uninstalling(machine: Machine) -> None:
    assert "--user is for installing" in invoke("--uninstall", "--user", "exo").output


def test_this_machine_is_looked_at() -> None:
    here = service.look()
    assert (here.programs / "exo").is_file()
    assert (here.programs / "rkllama").is_file()
    assert here.systemd is None or here.systemd > 200
