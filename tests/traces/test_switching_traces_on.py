"""The one switch, and what it costs to leave it alone."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.node import Node, environment, text, write_script

WITHOUT_THE_EXTRA = """
import sys
for name in {missing}:
    sys.modules[name] = None  # as if it were not installed
from {program} import main
sys.argv[1:] = {arguments}
main()
"""


def ended(home: Path, program: str, missing: tuple[str, ...], *arguments: str, **env: str) -> str:
    """What the program says when it ends by itself, as it has to, and not well."""
    script = WITHOUT_THE_EXTRA.format(missing=missing, program=program, arguments=list(arguments))
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment(home, env),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


HERE = ("--host", "127.0.0.1", "--port", "0", "--traces", "http://127.0.0.1:4318")
SDK = ("opentelemetry.sdk", "opentelemetry.exporter")


@pytest.mark.parametrize("missing", [("opentelemetry",), SDK])
def test_without_its_packages_the_remedy_is_said(tmp_path: Path, missing: tuple[str, ...]) -> None:
    said = ended(tmp_path, "exo.main", missing, *HERE)
    assert "--traces" in said
    assert "pip install 'exo-rkllama[traces]'" in said


def test_without_its_packages_the_npu_server_says_the_remedy(tmp_path: Path, build: Path) -> None:
    library = str(build / "1.3.0" / "librkllmrt.so")
    arguments = (*HERE, "--models", str(tmp_path), "--target_platform", "rk3588")
    said = ended(tmp_path, "rkllama.main", SDK, *arguments, RKLLM_LIB_PATH=library)
    assert "pip install 'exo-rkllama[traces]'" in said


@pytest.mark.parametrize("url", ["localhost:4318", "ftp://collector", "http://", "http://a:x", "yes"])
def test_what_is_no_url_is_refused(tmp_path: Path, url: str) -> None:
    said = ended(tmp_path, "exo.main", (), *HERE[:-1], url)
    assert url in said
    assert "http://localhost:4318" in said


@pytest.mark.parametrize(
    ("sampler", "argument", "named"),
    [
        ("sometimes", "1", ("OTEL_TRACES_SAMPLER", "sometimes", "parentbased_traceidratio")),
        ("traceidratio", "7", ("OTEL_TRACES_SAMPLER_ARG", "7", "from 0 to 1")),
        ("parentbased_traceidratio", "half", ("OTEL_TRACES_SAMPLER_ARG", "half", "from 0 to 1")),
    ],
)
def test_a_sampler_that_is_none_is_refused(
    tmp_path: Path, sampler: str, argument: str, named: tuple[str, ...]
) -> None:
    said = ended(
        tmp_path, "exo.main", (), *HERE, OTEL_TRACES_SAMPLER=sampler, OTEL_TRACES_SAMPLER_ARG=argument
    )
    assert all(part in said for part in named), said


def test_the_variable_switches_it_on_and_the_standards_own_do_not(tmp_path: Path) -> None:
    write_script(tmp_path, "hello", [text("Hello")])
    on = Node(tmp_path, env={"EXO_TRACES": "http://127.0.0.1:9", "OTEL_BSP_SCHEDULE_DELAY": "600000"})
    try:
        assert "http://127.0.0.1:9" in on.line("traces are sent to")
        on.stop()
    finally:
        on.kill()
    off = Node(tmp_path, env={"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"})
    try:
        off.assert_serves()
        assert "traces" not in off.log
        off.stop()
    finally:
        off.kill()


WHOLE_NODE = """
import asyncio, sys
from exo.assembly import local_node
from exo.chat import ChatRequest
from exo.cli.options import local_settings
from exo.http import remote
from exo.cluster import dispatch
from rkllama import engine

async def ask():
    async with local_node(local_settings()) as node:
        async for delta in node.respond(ChatRequest(model="exo-demo", prompt="1, 2,")):
            pass

asyncio.run(ask())
print([name for name in sys.modules if name.partition(".")[0] == "opentelemetry"])
"""


def test_nothing_of_it_is_imported_where_it_is_off(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WHOLE_NODE],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.splitlines()[-1:] == ["[]"], done.stderr
