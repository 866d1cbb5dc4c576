"""The `exo` command, as it is typed."""

import contextlib
import json
import os
import pty
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

import exo

from .conftest import Start
from .node import HANG, PATIENCE, Node, environment, text, wait, write_script

# The same program, except that nobody else's node on the usual port is taken for one of the test's own.
_ALONE = "import os; os.environ['EXO_PORT'] = '{port}'; import exo.main; exo.main.main()"


def command(*arguments: str, local_port: int | None = None) -> list[str]:
    if local_port is None:
        return [sys.executable, "-m", "exo.main", *arguments]
    return [sys.executable, "-c", _ALONE.format(port=local_port), *arguments]


def run(
    home: Path,
    *arguments: str,
    env: Mapping[str, str] | None = None,
    stdin: str = "",
    local_port: int | None = None,
) -> subprocess.CompletedProcess[str]:
    ended = subprocess.run(
        command(*arguments, local_port=local_port),
        env=environment(home, env),
        capture_output=True,
        check=False,
        text=True,
        timeout=PATIENCE / 3,
        input=stdin,
    )
    assert "Traceback" not in ended.stderr + ended.stdout, ended.stderr
    return ended


def fails(ended: subprocess.CompletedProcess[str], *names: str) -> None:
    """It ended with one clear error, which has all of `names` in it."""
    assert ended.returncode != 0
    errors = [line for line in ended.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1, ended.stderr
    error = ended.stderr[ended.stderr.index("Error: ") :]
    assert all(name in error for name in names), error


@pytest.fixture
def free_port() -> Iterator[int]:
    """A port on which nobody listens: bound, and so not given to anybody else."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield int(bound.getsockname()[1])


# What is there


@pytest.mark.parametrize(
    "program", [[sys.executable, "-m", "exo.main"], [str(Path(sys.executable).parent / "exo")]]
)
def test_version(home: Path, program: list[str]) -> None:
    ended = subprocess.run(
        [*program, "--version"], env=environment(home), capture_output=True, check=True, text=True
    )
    assert ended.stderr == ""
    assert exo.__version__ in ended.stdout


@pytest.mark.parametrize(
    "arguments", [["--help"], ["-h"], ["serve", "--help"], ["run", "--help"], ["ps", "-h"]]
)
def test_help(home: Path, arguments: list[str]) -> None:
    ended = run(home, *arguments)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "Usage: exo" in ended.stdout


def test_list(home: Path) -> None:
    write_script(home, "hello", [text("Hello")])
    ended = run(home, "list")
    assert (ended.returncode, ended.stderr) == (0, "")
    head, *rows = [line.split() for line in ended.stdout.splitlines()]
    assert head[:2] == ["MODEL", "FORMAT"]
    assert {("exo-demo", "gguf"), ("hello", "script")} == {(row[0], row[1]) for row in rows}
    cards = json.loads(run(home, "list", "--json").stdout)
    assert {card["id"] for card in cards} == {"exo-demo", "hello"}


def test_ps(node: Node, home: Path) -> None:
    node.assert_serves()
    ended = run(home, "ps", "--url", node.url)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ["hello", "ready"] in [line.split()[:2] for line in ended.stdout.splitlines()]
    shown = json.loads(run(home, "ps", "--json", env={"EXO_URL": node.url}).stdout)
    assert "hello" in {resident["model"] for resident in shown["me"]["loaded"]}


def test_ps_without_a_node(home: Path, free_port: int) -> None:
    for ended in (
        run(home, "ps", local_port=free_port),
        run(home, "ps", "--url", f"http://127.0.0.1:{free_port}"),
    ):
        fails(ended, f"http://127.0.0.1:{free_port}")
        assert "Connect call" not in ended.stderr, "these are Python's words, not a user's"


@pytest.mark.parametrize("url", ["127.0.0.1:52415", "nonsense", "ftp://host", "http://no-such-host.invalid"])
def test_ps_with_a_bad_url(home: Path, url: str) -> None:
    fails(run(home, "ps", "--url", url), url)


def test_key_is_sent(start: Start, home: Path) -> None:
    key = {"EXO_API_KEY": "s3cret"}
    node = start(env=key, scripts={"hello": [text("Hello")]})
    assert "Hello" in run(home, "run", "hello", "hi", "--url", node.url, env=key).stdout
    fails(run(home, "run", "hello", "hi", "--url", node.url), "key")
    fails(run(home, "ps", "--url", node.url), "key")


# exo run


def test_run_asks_a_node(node: Node, home: Path) -> None:
    ended = run(
        home, "run", "exo-demo", "What is 2 + 2?", "--no-think", "--temperature", "0", "--url", node.url
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    whole = node.chat("exo-demo", "What is 2 + 2?", temperature=0, enable_thinking=False)
    assert ended.stdout == whole.json()["choices"][0]["message"]["content"] + "\n"


def test_run_finds_the_node_of_this_machine(node: Node, home: Path) -> None:
    ended = run(home, "run", "hello", "hi", local_port=node.port)
    assert (ended.returncode, ended.stdout) == (0, "Hello, wörld!\n")


def test_run_without_a_node(home: Path, free_port: int) -> None:
    ended = run(home, "run", "exo-demo", "What is 2 + 2?", local_port=free_port)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert any(character.isdigit() for character in ended.stdout)


def test_run_with_the_question_on_stdin(node: Node, home: Path) -> None:
    ended = run(home, "run", "hello", "--url", node.url, stdin="hi there\n")
    assert (ended.returncode, ended.stdout) == (0, "Hello, wörld!\n")
    assert run(home, "run", "hello", "--url", node.url, stdin="").returncode == 0


@pytest.mark.parametrize("alone", [True, False], ids=["here", "on a node"])
def test_run_of_an_unknown_model(node: Node, home: Path, free_port: int, alone: bool) -> None:
    fails(
        run(home, "run", "exo-dmo", "hi", local_port=free_port if alone else node.port), "exo-dmo", "exo-demo"
    )


def test_run_of_a_model_that_breaks(node: Node, home: Path) -> None:
    for model in ("broken", "breaks-midway"):
        fails(run(home, "run", model, "hi", "--url", node.url), "the wheel came off")


class Terminal:
    """`exo` on a terminal of its own, where Ctrl-C is a signal."""

    # Makes the slave its controlling terminal, which only a process itself can do.
    _ATTACH = (
        "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
        "os.execv(sys.argv[1], sys.argv[1:])"
    )

    def __init__(self, home: Path, *arguments: str) -> None:
        self.shown = ""
        self._master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-c", self._ATTACH, *command(*arguments)],
            env={**environment(home), "TERM": "dumb"},
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)

    def until(self, part: str) -> None:
        """Reads until `part` is shown; later calls look only behind it."""
        while part not in self.shown:
            assert select.select([self._master], [], [], PATIENCE)[0], (
                f"{part!r} was not shown: {self.shown!r}"
            )
            try:
                data = os.read(self._master, 4096)
            except OSError:  # Linux' end of file
                data = b""
            assert data, f"it ended and had not shown {part!r}: {self.shown!r}"
            self.shown += data.decode(errors="replace")
        self.shown = self.shown.partition(part)[2]

    def type(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def interrupt_at_prompt(self) -> int:
        """Ctrl-C until it has ended: CPython's `input` misses one that comes between prompt and read."""
        for _ in range(30):
            self.type(CTRL_C)
            with contextlib.suppress(subprocess.TimeoutExpired):
                return self.process.wait(1)
        raise AssertionError(f"Ctrl-C does not end it: {self.shown!r}")

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)


CTRL_C, CTRL_D = "\x03", "\x04"


def test_ctrl_c_stops_an_answer_and_not_the_chat(start: Start, home: Path) -> None:
    node = start(scripts={"ticks": [text("tick "), wait(0.02)] * 5000, "hangs": [text("started"), HANG]})
    for model, sign in (("ticks", "tick tick"), ("hangs", "started")):
        terminal = Terminal(home, "run", model, "--url", node.url)
        try:
            for _ in range(2):
                terminal.until(">>> ")
                terminal.type("hi\n")
                terminal.until(sign)
                terminal.type(CTRL_C)
                terminal.until("(stopped)")
            terminal.until(">>> ")
            assert (node.running(), node.waiting()) == (0, 0)
            terminal.type(CTRL_D)
            assert terminal.process.wait(PATIENCE) == 0
        finally:
            terminal.close()


def test_a_chat_remembers_what_was_said_and_survives_a_failure(node: Node, home: Path) -> None:
    """The scripted engine counts a prompt's words: its access record tells how much history was sent."""
    terminal = Terminal(home, "run", "hello", "--url", node.url)
    try:
        for words in ("one", "two words"):
            terminal.until(">>> ")
            terminal.type(words + "\n")
            terminal.until("rld!")
        terminal.until(">>> ")
        terminal.type(CTRL_D)
        assert terminal.process.wait(PATIENCE) == 0
    finally:
        terminal.close()
    terminal = Terminal(home, "run", "broken", "--url", node.url)
    try:
        for _ in range(2):
            terminal.until(">>> ")
            terminal.type("hi\n")
            terminal.until("the wheel came off")
        terminal.until(">>> ")
        assert terminal.interrupt_at_prompt() == 0
    finally:
        terminal.close()


def test_ctrl_c_ends_a_single_question(start: Start, home: Path) -> None:
    node = start(scripts={"hangs": [text("started"), HANG]})
    terminal = Terminal(home, "run", "hangs", "hi", "--url", node.url)
    try:
        terminal.until("started")
        terminal.type(CTRL_C)
        assert terminal.process.wait(PATIENCE) == 130
    finally:
        terminal.close()
    assert "Traceback" not in terminal.shown


# exo serve, when it cannot


def test_port_taken(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ended = run(home, "--host", "127.0.0.1", "--port", port)
    fails(ended, port, "in use", "port")
    assert len(ended.stderr.splitlines()) == 1


@pytest.mark.parametrize("subcommand", ["serve", "list", "ps", "run"])
def test_unknown_variable(home: Path, subcommand: str) -> None:
    arguments = ["run", "exo-demo", "hi"] if subcommand == "run" else [subcommand]
    if subcommand == "serve":
        arguments = ["serve", "--port", "0"]
    fails(run(home, *arguments, env={"EXO_HOEM": "/tmp"}), "EXO_HOEM", "EXO_HOME")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--node-port", "5678"], ["--node-port is retired", "--chatgpt-api-port"]),
        (["--node-port=5678"], ["--node-port is retired", "--chatgpt-api-port"]),
        (["serve", "--broadcast-port", "2"], ["--broadcast-port is retired", "--cluster-port"]),
        (["--tailnet-name", "mine"], ["--tailnet-name is retired", "needs no key"]),
        (["--discovery-module", "mdns"], ["--discovery-module", "mdns", "tailscale"]),
        (["--discovery-module", "manual"], ["manual", "--discovery-config-path", "--peer"]),
        (["--discovery-config-path", "/nowhere"], ["--discovery-config-path", "/nowhere"]),
        (["--host", "127.0.0.1", "--discovery-module", "udp"], ["127.0.0.1", "cannot reach"]),
        (["--host", "127.0.0.1", "--peer", "board"], ["127.0.0.1", "cannot reach"]),
        (["--run-model", "exo-demo"], ["--run-model is retired", "exo run MODEL"]),
        (["--dtype", "int3"], ["int3", "float32"]),
        (["--split", "exo-demo"], ["exo-demo", "MODEL=node1:0-13,node2:14-27"]),
        (["--split", "exo-demo=a:0-2,b:4-5"], ["b:4-5", "must begin with 3"]),
        (["--node-id", "b", "--split", "exo-demo=a:0-2,b:3-5"], ["first layers are a's", "this node is b"]),
        (["--inference-engine", "warp"], ["warp", "no such engine", "llamacpp"]),
        (["--chatgpt-api-prot", "1"], ["--chatgpt-api-prot", "--chatgpt-api-port"]),
        (["--port", "70000"], ["--port", "70000", "65535"]),
        (["--port", "http"], ["--port", "http"]),
        (["--memory", "much"], ["much", "--memory"]),
        (["--memory", "0GB"], ["0GB", "--memory"]),
        (["--memory", "infGB"], ["infGB", "--memory"]),
        (["--default-temp", "3"], ["--default-temp"]),
        (["--timeout", "0"], ["--timeout"]),
        (["--default-temp", "nan"], ["--default-temp"]),
        (["--timeout", "nan"], ["--timeout"]),
        (["--timeout-for", "m=nan"], ["--chatgpt-api-response-timeout-for", "nan", "-7b=1800"]),
        (["--chatgpt-api-response-timeout-for", "60"], ["-timeout-for", "'60' is not MODEL=", "-7b=1800"]),
        (["--timeout-for", "m=1", "--timeout-for", "m=2"], ["--timeout-for", "m is given twice"]),
        (["--max-generate-tokens-for", "m=0"], ["--max-generate-tokens-for", "m=0", "-7b=4096"]),
        (["--max-generate-tokens-for", "m=few"], ["--max-generate-tokens-for", "'few'", "-7b=4096"]),
        (["--max-generate-tokens-for", "=9"], ["--max-generate-tokens-for", "'=9'", "-7b=4096"]),
        (["--max-generate-tokens", str(2**31)], ["--max-generate-tokens", "2147483647"]),
        (["--models-seed-dir", "/nowhere"], ["--models-seed-dir", "/nowhere"]),
        (["--preload", "exo-dmo"], ["exo-dmo", "exo-demo"]),
        (["--upstream", "localhost:8080"], ["--upstream", "localhost:8080", "http://HOST:PORT"]),
        (["--upstream", "http://:8080"], ["--upstream", "http://HOST:PORT"]),
        (["--upstream", "http://host:99999"], ["--upstream", "http://HOST:PORT"]),
        (["--upstream", "http://k@host"], ["--upstream", "EXO_UPSTREAM_KEY"]),
        (["--upstream", "http://host/v1/models"], ["--upstream", "http://host/v1/models", "before /v1"]),
        (["--port", "52416", "--upstream", "http://localhost:52416"], ["52416", "this node itself"]),
        (["srve"], ["srve"]),
        (["run"], ["MODEL"]),
        (["serve", "now"], ["now"]),
    ],
    ids=" ".join,
)  # fmt: skip
def test_what_is_typed_wrong(home: Path, arguments: list[str], named: list[str]) -> None:
    # Where one of them is taken after all, no port that somebody needs is, and nobody is looked for.
    serve = arguments[0].startswith("--")
    safe = ["--port", "0"] if serve and "--port" not in arguments else []
    safe += ["--host", "127.0.0.1"] if serve and "--discovery-module" not in arguments else []
    fails(run(home, *(safe if "--host" not in arguments else safe[:2]), *arguments), *named)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RKLLM_SERVER_PORT", "http"),
        ("RKLLM_SERVER_PORT", "0"),
        ("RKLLM_SERVER_PORT", "65536"),
        ("RKLLM_SERVER_HOST", "http://board"),
        ("RKLLM_SERVER_HOST", "board:8080"),
        ("EXO_UPSTREAM_KEY", "a line\n"),
    ],
)
def test_what_the_environment_says_wrong_of_other_servers(home: Path, name: str, value: str) -> None:
    fails(run(home, "serve", "--port", "0", env={name: value}), name, *value.split())


def test_flags_and_names_of_the_first_release_still_work(start: Start) -> None:
    node = start(
        "--disable-tui", "--chatgpt-api-response-timeout", "10", "--node-id", "me", "--default-temp", "0",
        "--max-generate-tokens", "2", "--system-prompt", "three little words",
        scripts={"hello": [text("Hello"), text(", "), text("world")]}, env={"DEBUG": "1"},
    )  # fmt: skip
    assert node.me()["id"] == "me"
    reply = node.chat("hello", max_tokens=100).json()
    assert reply["choices"][0]["finish_reason"] == "length"
    assert reply["usage"]["prompt_tokens"] == 4
    node.signal(signal.SIGINT)
    assert node.exit_code() == 0


def test_a_seed_folder_is_looked_through_too(start: Start, tmp_path: Path) -> None:
    write_script(tmp_path / "seed", "seeded", [text("Hello")])
    node = start("--models-seed-dir", str(tmp_path / "seed" / "models"))
    assert node.chat("seeded").status == 200
