"""`exo bench`, as it is typed, at a node and at servers that are none."""

import json
import threading
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest

from exo.benchmark.results import PROMPTS, WARM_UP
from exo.cards import ModelCard
from exo.nodes import Cluster, Device, Node
from tests.e2e import conftest
from tests.e2e.conftest import Start
from tests.e2e.node import PATIENCE, fail, text, write_script
from tests.e2e.test_cli import CTRL_C, Terminal, fails, run

home = conftest.home
start = conftest.start

HELLO: list[object] = [text(word) for word in ("Hello", ", ", "there", "!")]


class Foreign:
    """A server of OpenAI's dialect that is no node: it answers in three pieces, and knows nothing else.

    `more` is what stands beside its finish, `hangs` the prompt that it never answers, once it has said so.
    """

    def __init__(self) -> None:
        self.models = ["foreign"]
        self.pages: dict[str, bytes] = {}
        self.lists = True
        self.more: Mapping[str, Any] = {}
        self.hangs = ""
        self.keys: set[str | None] = set()
        self.asked: list[dict[str, Any]] = []
        self.hung = threading.Event()
        self._over = threading.Event()
        foreign = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, format: str, *args: object) -> None:
                """Says nothing."""

            def do_GET(self) -> None:
                pages = dict(foreign.pages)
                if foreign.lists:
                    pages["/v1/models"] = json.dumps({"data": [{"id": id} for id in foreign.models]}).encode()
                self.send_response(200 if self.path in pages else 404)
                self.end_headers()
                self.wfile.write(pages.get(self.path, b"<p>no such page</p>"))

            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                foreign.asked.append(asked)
                foreign.keys.add(self.headers["Authorization"])
                self.send_response(200)
                self.end_headers()
                if asked["messages"][0]["content"] == foreign.hangs:
                    foreign.hung.set()
                    foreign._over.wait(PATIENCE)
                    return
                for piece in ("a", "b", "c"):
                    self._send({"choices": [{"index": 0, "delta": {"content": piece}}]})
                self._send({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], **foreign.more})
                self.wfile.write(b"data: [DONE]\n\n")

            def _send(self, chunk: object) -> None:
                self.wfile.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self) -> None:
        self._over.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def foreign() -> Iterator[Foreign]:
    server = Foreign()
    try:
        yield server
    finally:
        server.close()


@pytest.fixture
def bench(home: Path) -> Callable[..., Any]:
    def run_it(url: str, *arguments: str, env: Mapping[str, str] | None = None) -> Any:
        return run(home, "bench", "--url", url, *arguments, env=env)

    return run_it


Bench = Callable[..., Any]


def cells(shown: str, head: str) -> list[str]:
    """A column of the first table, by its head."""
    heads, *rows = shown.splitlines()[1:8]
    at = heads.index(head)
    return [row[at:].partition("  ")[0] for row in rows]


# At a node


def test_a_model_is_measured(start: Start, bench: Bench) -> None:
    node = start(scripts={"hello": HELLO})
    ended = bench(node.url, "hello", "--runs", "2")
    assert (ended.returncode, ended.stderr) == (0, "")
    title, head, *_ = ended.stdout.splitlines()
    assert title == f"hello at {node.url}"
    assert cells(ended.stdout, "PROMPT") == [*PROMPTS, "median of all"]
    assert cells(ended.stdout, "TOKENS") == ["4"] * 6
    assert "PREFILL" not in head, "the scripted engine tells no timings"
    assert "RK35" not in ended.stdout, "this machine is none that anything is known of"
    assert node.metric("exo_requests_total", model="hello") == 1 + 2 * len(PROMPTS)


def test_timings_of_the_server_are_shown(start: Start, bench: Bench) -> None:
    ended = bench(start().url, "exo-demo", "--runs", "1", "--max-tokens", "8")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert all(float(cell) > 0 for cell in cells(ended.stdout, "DECODE/S"))
    assert all(0 < int(cell) <= 8 for cell in cells(ended.stdout, "TOKENS"))


def test_the_only_model_needs_no_name(start: Start, bench: Bench) -> None:
    ended = bench(start().url, "--runs", "1", "--max-tokens", "4")
    assert ended.stdout.startswith("exo-demo at ")


def test_the_default_model_needs_no_name(start: Start, bench: Bench) -> None:
    node = start("--default-model", "hello", scripts={"hello": HELLO})
    assert bench(node.url, "--runs", "1").stdout.startswith("hello at ")


def test_one_of_several_models_has_to_be_named(start: Start, bench: Bench) -> None:
    node = start(scripts={"hello": HELLO})
    fails(bench(node.url), "name a MODEL", "exo-demo", "hello")


def test_an_unknown_model_is_told_which_there_are(start: Start, bench: Bench) -> None:
    node = start(scripts={"hello": HELLO})
    ended = bench(node.url, "hello", "helo")
    fails(ended, "'helo'", "exo-demo", "hello")
    assert node.metric("exo_requests_total", model="hello") == 0, (
        "it is found out before anything is measured"
    )


def test_a_prompt_that_fails_leaves_the_others_measured(start: Start, home: Path, bench: Bench) -> None:
    write_script(home, "narrow", HELLO, context=11)  # the third prompt has eleven words
    ended = bench(start().url, "narrow", "--runs", "2", "--json", str(home / "out.json"))
    assert ended.returncode == 1
    assert cells(ended.stdout, "TTFT")[2] == "failed"
    assert f'narrow: "{PROMPTS[2]}" failed: the prompt is 11 tokens long' in ended.stderr
    (model,) = json.loads((home / "out.json").read_bytes())["models"]
    assert [bool(each["error"]) for each in model["prompts"]] == [False, False, True, False, False]
    assert [len(each["runs"]) for each in model["prompts"]] == [2, 2, 0, 2, 2]


def test_a_model_that_fails_leaves_the_others_measured(start: Start, bench: Bench) -> None:
    node = start(scripts={"broken": [fail("the wheel came off")], "hello": HELLO})
    ended = bench(node.url, "broken", "hello", "--runs", "1")
    assert ended.returncode == 1
    assert "broken: the warm-up failed: the wheel came off" in ended.stderr
    assert f"hello at {node.url}" in ended.stdout


def test_a_model_that_says_nothing_is_a_failure(start: Start, bench: Bench) -> None:
    ended = bench(start(scripts={"mute": []}).url, "mute", "--runs", "1")
    assert ended.returncode == 1
    assert "the answer is empty" in ended.stderr


def test_no_node_is_told_with_the_remedy(bench: Bench) -> None:
    fails(bench("http://127.0.0.1:1", "hello"), "127.0.0.1:1", "--url")


# At other servers


def test_pieces_are_counted_where_there_is_no_usage(foreign: Foreign, bench: Bench) -> None:
    ended = bench(foreign.url, "--runs", "1")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert cells(ended.stdout, "TOKENS") == ["3*"] * 6
    assert "* the server sends no usage" in ended.stdout


def test_usage_and_timings_of_llama_cpp_are_understood(foreign: Foreign, bench: Bench) -> None:
    usage = {"prompt_tokens": 20, "completion_tokens": 6, "total_tokens": 26}
    timings = {"prompt_n": 20, "prompt_ms": 200.0, "predicted_n": 6, "predicted_ms": 1500.0}
    foreign.more = {"usage": usage, "timings": timings}
    ended = bench(foreign.url, "foreign", "--runs", "1")
    assert cells(ended.stdout, "TOKENS") == ["6"] * 6
    assert cells(ended.stdout, "PREFILL/S") == ["100"] * 6
    assert cells(ended.stdout, "DECODE/S") == ["4.00"] * 6
    assert "*" not in ended.stdout


def test_what_is_asked_is_the_same_each_time(foreign: Foreign, bench: Bench) -> None:
    bench(foreign.url + "/v1/", "foreign", "--runs", "2", "--max-tokens", "99", env={"EXO_API_KEY": "s3cret"})
    assert [each["messages"][0]["content"] for each in foreign.asked] == [WARM_UP, *PROMPTS, *PROMPTS]
    assert {(each["temperature"], each["max_tokens"]) for each in foreign.asked[1:]} == {(0.0, 99)}
    assert foreign.keys == {"Bearer s3cret"}


def test_a_server_without_a_list_is_asked_for_what_was_named(foreign: Foreign, bench: Bench) -> None:
    foreign.lists = False
    assert bench(foreign.url, "foreign", "--runs", "1").returncode == 0
    fails(bench(foreign.url))


def test_a_server_that_has_a_page_for_everything_is_no_node(foreign: Foreign, bench: Bench) -> None:
    foreign.pages = dict.fromkeys(("/v1/cluster", "/v1/route/explain"), b"<html>Welcome \xff</html>")
    assert bench(foreign.url, "--runs", "1").returncode == 0


def test_what_is_known_of_a_board_stands_below_the_table(foreign: Foreign, bench: Bench) -> None:
    """A board as it says of itself; there is none to try it with."""
    model = "Qwen2.5-1.5B-Instruct"
    card = ModelCard(id=model, format="rkllm", context=4096, bytes=1_690_000_000, memory=2 * 10**9)
    device = Device(name="board", cores=8, memory=8 * 10**9, kind="rockchip", chip="RK3588")
    board = Node(id="board", url="", version="0", device=device, cards=(card,), loaded=(), waiting=0)
    foreign.models = [model, "another"]
    foreign.pages["/v1/cluster"] = msgspec.json.encode(Cluster(me=board))
    shown = bench(foreign.url, model, "another", "--runs", "1").stdout
    known, unknown = shown.split(f"another at {foreign.url}")
    assert "7.76 tokens/s: the first exo-rkllama" in known
    assert "16.69 tokens/s: the vendor's" in known
    assert "20.00 tokens/s: the most" in known
    assert "tokens/s:" not in unknown


def test_ctrl_c_shows_what_has_been_measured(foreign: Foreign, home: Path) -> None:
    foreign.hangs = PROMPTS[1]
    home.mkdir()
    file = home / "out.json"
    terminal = Terminal(home, "bench", "foreign", "--url", foreign.url, "--json", str(file))
    try:
        assert foreign.hung.wait(PATIENCE)
        terminal.until("1 of 15 answers")
        terminal.type(CTRL_C)
        terminal.until(PROMPTS[0])
        terminal.until("incomplete, 1 of 15")
        assert terminal.process.wait(PATIENCE) == 130
    finally:
        terminal.close()
    report = json.loads(file.read_bytes())
    assert report["complete"] is False
    assert [len(each["runs"]) for each in report["models"][0]["prompts"]] == [1, 0, 0, 0, 0]


# Files


def test_figures_are_written_as_json(foreign: Foreign, home: Path, bench: Bench) -> None:
    foreign.models = ["one", "two"]
    ended = bench(foreign.url, "two", "one", "--runs", "2", "--json", "-")
    assert (ended.returncode, ended.stderr) == (0, "")
    report = json.loads(ended.stdout)
    assert {name: report[name] for name in ("url", "complete", "runs", "max_tokens")} == {
        "url": foreign.url,
        "complete": True,
        "runs": 2,
        "max_tokens": 256,
    }
    assert [each["model"] for each in report["models"]] == ["two", "one"]
    for model in report["models"]:
        assert [each["prompt"] for each in model["prompts"]] == list(PROMPTS)
        for each in model["prompts"]:
            assert len(each["runs"]) == 2
            assert all(one["ttft_seconds"] > 0 and one["counted"] for one in each["runs"])
            assert set(each["median"]) == set(model["median"]) == set(each["runs"][0])


def test_hostile_names_are_text_in_the_plot(foreign: Foreign, home: Path, bench: Bench) -> None:
    hostile = "</text><script>alert('&')</script>"
    foreign.models = [hostile, "plain"]
    home.mkdir()
    file = home / "plot.svg"
    assert bench(foreign.url, hostile, "plain", "--runs", "1", "--svg", str(file)).returncode == 0
    root = ET.parse(file).getroot()
    tags = [each.tag.rpartition("}")[2] for each in root.iter()]
    assert set(tags) == {"svg", "rect", "path", "text"}
    assert {hostile, "plain"} <= {each.text for each in root.iter()}
    assert len([each for each in root.iter() if each.get("class") == "bar"]) == 2 * len(PROMPTS)


@pytest.mark.parametrize("option", ["--json", "--svg"])
def test_a_file_that_cannot_be_written_is_told_first(
    foreign: Foreign, home: Path, bench: Bench, option: str
) -> None:
    fails(bench(foreign.url, "foreign", option, str(home / "nowhere" / "out")), option, "nowhere")
    assert foreign.asked == []
