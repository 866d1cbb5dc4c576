"""Findings about the machine: each where its cause is there, and none where it is not."""

from typing import Any

import msgspec
import pytest

from exo.doctor.evidence import Clock, Engine, Evidence, Package, RunningNode, Unread
from exo.doctor.examine import examine
from exo.doctor.finding import Finding, Level
from tests.doctor.healthy import GB, HEALTHY, MODEL, NODE, PEER, bad, ill, instead, part, says


def test_a_healthy_machine_has_nothing_wrong_and_says_what_was_looked_at() -> None:
    assert bad(HEALTHY) == []
    said = {finding.subject: finding.says for finding in examine(HEALTHY)}
    assert said["Python"] == "3.11.2, 64 bit, in the virtual environment /opt/exo"
    assert said["Engines"] == "llamacpp (gguf), tinygrad (safetensors)"
    assert said["Engine mlx"] == "not installed; no model here needs it"
    assert said["Disk"] == "/home/anna/.cache/exo: 50.0 GB of 100.0 GB free"
    assert said["Memory"] == "8.0 GB, 6.0 GB of it free; all models together get 6.0 GB"
    assert said["Clock"] == "2026-09-21 14:13 UTC, kept by the network"


def test_nothing_is_said_of_what_was_not_looked_at() -> None:
    assert examine(Evidence()) == ()


def test_a_probe_that_failed_is_a_finding_of_its_own() -> None:
    evidence = instead(clock=None, unread=(Unread("Clock", "nothing came within 2 s"),))
    says(evidence, "note", "Clock", "could not be looked at: nothing came within 2 s")


def test_the_worst_comes_first() -> None:
    evidence = instead(
        clock=Clock(0.0),
        memory=part("memory", free=GB // 2, swap_free=GB),
        shelf=None,
    )
    levels = [finding.level for finding in examine(evidence)]
    assert levels == sorted(levels, key=("broken", "slow", "note", "ok").index)
    assert levels[0] == "broken"


@pytest.mark.parametrize(
    ("where", "changed", "level", "subject", "parts"),
    [
        ("software", {"python": (3, 10, 9)}, "broken", "Python", ["3.10.9 is too old", "3.11"]),
        ("software", {"bits": 32}, "broken", "Python", ["32 bits"]),
        ("software", {"lost": ("/a", "/b", "/c", "/d")}, "broken", "exo", ["/c and others", "pip install"]),
        ("software", {"installed": None}, "note", "exo", ["without a record"]),
        ("software", {"installed": "0.0.1"}, "note", "exo", ["0.0.1 what is installed"]),
        (
            "software",
            {"packages": (Package("aiohttp", ">=3.14,<4", None),)},
            "broken",
            "Packages",
            ["aiohttp is not installed", "pip install 'aiohttp>=3.14,<4'"],
        ),
        (
            "software",
            {"packages": (Package("aiohttp", ">=3.14,<4", "3.9.1"),)},
            "note",
            "Packages",
            ["aiohttp is 3.9.1", "made for >=3.14,<4"],
        ),
        ("storage", {"problem": "Read-only file system"}, "broken", "Disk", ["Read-only", "EXO_HOME"]),
        ("storage", {"free": 0}, "broken", "Disk", ["no room", "exo rm"]),
        ("storage", {"free_files": 0}, "broken", "Disk", ["no room for one more file"]),
        ("storage", {"free": GB}, "note", "Disk", ["1.0 GB of 100.0 GB free"]),
        ("storage", {"free_files": 9}, "note", "Disk", ["only 9 more files"]),
        ("storage", {"kind": "SD card"}, "note", "Disk", ["SD card", "SSD"]),
        ("memory", {"total": 0, "budget": 0, "usable": 0}, "note", "Memory", ["cannot be told"]),
        ("memory", {"budget": 9 * GB}, "note", "Memory", ["9.0 GB", "exo --memory 6000MB"]),
        ("memory", {"free": GB // 2}, "note", "Memory", ["0.5 GB of it free", "unload"]),
        ("memory", {"swap_free": GB}, "note", "Swap", ["1.0 GB are swapped out"]),
        ("memory", {"total": 16 * GB}, "note", "Memory limit", ["8.0 GB of the machine's 16.0 GB"]),
        ("memory", {"cores": 2}, "note", "CPU limit", ["2 of 8 CPUs"]),
        ("memory", {"killed": ("python3",)}, "note", "Killed", ["python3", "--memory"]),
        ("security", {"root": True}, "note", "User", ["root"]),
        ("security", {"readable": ("/token",)}, "note", "Secrets", ["chmod 600 /token"]),
        ("security", {"shown": ("sh (pid 9)",)}, "note", "Secrets", ["sh (pid 9)", "mode 600"]),
        ("surroundings", {"unknown": ("sets EXO_TYPO",)}, "broken", "Environment", ["EXO_TYPO"]),
        (
            "surroundings",
            {"faults": ("x.toml:3: typo is no key",)},
            "broken",
            "Configuration",
            ["x.toml:3", "--check"],
        ),
        ("surroundings", {"encoding": "ISO-8859-1"}, "note", "Locale", ["ISO-8859-1", "C.UTF-8"]),
        ("surroundings", {"open_files": 256}, "note", "Open files", ["256", "LimitNOFILE"]),
    ],
)
def test_a_cause_is_found(
    where: str, changed: dict[str, Any], level: Level, subject: str, parts: list[str]
) -> None:
    says(ill(where, **changed), level, subject, *parts)


def test_a_limit_of_open_files_that_is_none_is_fine() -> None:
    assert bad(ill("surroundings", open_files=None)) == []


def test_swap_and_little_free_memory_together_are_slow() -> None:
    evidence = ill("memory", free=GB // 2, swap_free=GB)
    assert {finding.subject: finding.level for finding in bad(evidence)} == {"Swap": "slow", "Memory": "note"}


@pytest.mark.parametrize(
    ("clock", "level", "parts"),
    [
        (Clock(0.0, True), "broken", ["1970-01-01", "timedatectl"]),
        (Clock(1_790_000_000.0, False), "note", ["not kept by the network"]),
    ],
)
def test_a_clock_that_is_wrong(clock: Clock, level: Level, parts: list[str]) -> None:
    says(instead(clock=clock), level, "Clock", *parts)


def test_a_clock_of_which_nothing_is_told_is_fine() -> None:
    assert bad(instead(clock=Clock(1_790_000_000.0, None))) == []


# Engines


def engines(**problems: str) -> tuple[Engine, ...]:
    """All three, with these problems."""
    formats = {"llamacpp": ("gguf",), "mlx": ("safetensors",), "tinygrad": ("safetensors",)}
    return tuple(
        Engine(name=name, there=True, formats=each, problem=problems.get(name))
        for name, each in formats.items()
    )


def test_without_llamacpp_not_even_the_bundled_model_answers() -> None:
    evidence = instead(engines=engines(llamacpp="libgomp.so.1 is missing; apt install libgomp1"), shelf=None)
    says(evidence, "broken", "Engine llamacpp", "libgomp.so.1 is missing", "apt install libgomp1")


def test_an_engine_that_is_installed_and_cannot_run_is_worth_a_note() -> None:
    says(instead(engines=engines(mlx="glibc is too old")), "note", "Engine mlx", "installed, but cannot run")


def test_an_engine_that_models_here_need_has_to_run() -> None:
    model = msgspec.structs.replace(MODEL, format="safetensors")
    shelf = part("shelf", models=(model,))
    one = instead(engines=engines(mlx="no MLX"), shelf=shelf)
    assert [finding.level for finding in bad(one)] == ["note"]
    none = instead(engines=engines(mlx="no MLX", tinygrad="no tinygrad; pip install it"), shelf=shelf)
    assert [(each.level, each.subject) for each in bad(none)] == [
        ("broken", "Engine mlx"),
        ("broken", "Engine tinygrad"),
    ]


# Secrets


def open_machine(node: RunningNode | None, *, key: bool = False, secret: bool = False) -> Evidence:
    security = part("security", key=key, secret=secret)
    return instead(node=node, security=security)


def test_an_open_node_is_told_of_its_key_and_its_secret() -> None:
    found = {finding.subject: finding for finding in bad(open_machine(NODE))}
    assert set(found) == {"API key", "Cluster"}
    assert {finding.level for finding in found.values()} == {"note"}
    assert "192.168.1.2:52415" in found["API key"].says
    assert "EXO_API_KEY" in str(found["API key"].remedy)
    assert "exo cluster init" in str(found["Cluster"].remedy)


def test_a_node_that_would_be_open_is_told_so_before_it_starts() -> None:
    assert {finding.subject for finding in bad(open_machine(None))} == {"API key", "Cluster"}


def test_a_node_for_this_machine_alone_needs_no_key() -> None:
    assert bad(open_machine(msgspec.structs.replace(NODE, addresses=("127.0.0.1",), peers=()))) == []


def test_certificates_do_in_place_of_a_secret() -> None:
    assert bad(ill("security", secret=False, certificates=True)) == []


def test_problems_of_credentials_keep_their_remedy() -> None:
    problem = "/c/key.pem can be read by other users of this machine; run chmod 600 /c/key.pem"
    says(
        ill("security", credentials=(problem,)), "note", "Cluster", "can be read", "run chmod 600 /c/key.pem"
    )
    missing = "/c/key.pem is missing; run exo cluster join again"
    says(ill("security", credentials=(missing,)), "broken", "Cluster", "is missing", "join again")


# The environment


def test_a_proxy_that_takes_this_machines_own_requests() -> None:
    says(ill("surroundings", proxies={"http_proxy": "http://p:3128"}), "note", "Proxy", "http://p:3128")


@pytest.mark.parametrize("past", [("localhost", "192.168.1.3"), ("localhost", ".168.1.3"), ("*",)])
def test_a_proxy_that_lets_the_nodes_be_is_fine(past: tuple[str, ...]) -> None:
    assert bad(ill("surroundings", proxies={"http_proxy": "http://p"}, past_proxy=past)) == []


def test_a_proxy_that_takes_requests_for_peers() -> None:
    evidence = ill("surroundings", proxies={"http_proxy": "http://p"}, past_proxy=("127.0.0.1",))
    says(evidence, "note", "Proxy", "192.168.1.3", "no_proxy")
    assert PEER.url.startswith("http://192.168.1.3")


# The board


def test_what_rkllama_doctor_finds_is_there_under_its_name() -> None:
    slow = Finding("slow", "DDR clock", "528 of 2112 MHz", "sudo rkllama tune")
    assert bad(instead(board=(Finding("ok", "Board", "Radxa"), slow))) == [slow]


def test_what_both_doctors_look_at_is_said_once() -> None:
    theirs = Finding("ok", "Memory", "8.0 GB, 6.0 GB of it free")
    memories = [each for each in examine(instead(board=(theirs,))) if each.subject == "Memory"]
    assert [each.says for each in memories] != [theirs.says]
    assert len(memories) == 1
