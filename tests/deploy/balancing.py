"""What every balancer in front of three nodes has to keep to, and what is open through it."""

import contextlib
import http.client
import itertools
import json
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest

from exo.http import page_routes
from tests.e2e.node import PATIENCE, Reply, chat_body, eventually

from .fronts import KEY, PACE, WORDS, Behind, Front, FrontOf, Member, Recorder, member, trio

OPEN = """
    GET /|GET /v1/models|GET /v1/models/hello|GET /models|GET /models/hello|GET /healthcheck|GET /ready
    GET /openapi.json|GET /modelpool|GET /initial_models|GET /v1/cluster|GET /v1/cluster/events
    GET /v1/topology|GET /v1/route/explain|GET /v1/download/progress
    GET /api/version|GET /api/tags|GET /api/ps
    POST /v1/chat/completions|POST /chat/completions|POST /v1/completions|POST /completions
    POST /v1/embeddings|POST /embeddings|POST /v1/messages|POST /v1/messages/count_tokens
    POST /v1/responses|POST /responses|GET /v1/responses/r_1|GET /responses/r_1|DELETE /v1/responses/r_1
    DELETE /responses/r_1|GET /v1/responses/r_1/input_items|GET /responses/r_1/input_items
    POST /v1/responses/r_1/cancel|POST /responses/r_1/cancel
    POST /v1/chat/token/encode|POST /chat/token/encode|POST /tokenize|POST /detokenize
    POST /api/chat|POST /api/generate|POST /api/embed|POST /api/embeddings|POST /api/show
    OPTIONS /v1/chat/completions|HEAD /
""".replace("\n", "|").split("|")  # fmt: skip

CLOSED = """
    POST /v1/load|POST /v1/spread|POST /download|DELETE /download/hello|POST /quit
    DELETE /v1/models/hello|DELETE /models/hello
    POST /api/pull|POST /api/create|DELETE /api/delete|POST /api/copy|POST /api/push
    HEAD /api/blobs/sha256:0|POST /api/blobs/sha256:0|GET /metrics|GET /v1/prometheus/targets
    GET /v1/cluster/plan|POST /v1/cluster/shard|GET /v1/cluster/shard/link
    POST /load_model|POST /unload_model|POST /pull|DELETE /rm
""".replace("\n", "|").split("|")  # fmt: skip

DISGUISED = (
    "POST /v1/%6Coad",
    "POST /v1/load?model=hello",
    "POST //v1/load",
    "POST /./v1/load",
    "POST /v1/chat/completions/../../load",
    "POST /v1/chat/completions/..%2f..%2fload",
    "GET /page/../metrics",
    "GET /page/%2e%2e/metrics",
    "GET /v1/models/../prometheus/targets",
    "DELETE /v1/responses/../models/hello",
)


def code(reply: Reply) -> str:
    """The code of a failure that looks as a node's."""
    error: dict[str, Any] = reply.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}, reply
    assert reply.headers["content-type"].startswith("application/json"), reply
    return str(error["code"])


def routes(listed: Sequence[str]) -> list[list[str]]:
    return [each.split() for each in listed if each.strip()]


class Balancing:
    """What any front keeps to. A class of tests for one of them says how that one is started, and how it
    shows what it has noticed."""

    plain: ClassVar[Mapping[str, str]]
    """The changes that docs/BALANCING.md has for a front without TLS."""

    @classmethod
    def started(cls, folder: Path, nodes: Sequence[Behind], changes: Mapping[str, str]) -> Front:
        """The front as it is shipped, but for its places and these changes, with its files in `folder`."""
        raise NotImplementedError

    def has_noticed(self, front: Front, number: int, state: str) -> None:
        """Waits until the front knows that the node of this number, from 1, is "UP" or "DOWN"."""
        raise NotImplementedError

    def has_reloaded(self, front: Front) -> None:
        """Waits until all requests go by the new configuration."""
        raise NotImplementedError

    @pytest.fixture(scope="class")
    @classmethod
    def nodes(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Member]]:
        """Shared by tests that leave them as they found them."""
        with trio(tmp_path_factory.mktemp("nodes")) as nodes:
            yield nodes

    @pytest.fixture(scope="class")
    @classmethod
    def front_of(cls, tmp_path_factory: pytest.TempPathFactory) -> FrontOf:
        @contextmanager
        def start(nodes: Sequence[Behind], changes: Mapping[str, str] | None = None) -> Iterator[Front]:
            front = cls.started(tmp_path_factory.mktemp("front"), nodes, changes or {})
            try:
                yield front
            finally:
                front.close()

        return start

    @pytest.fixture(scope="class")
    @classmethod
    def front(cls, front_of: FrontOf, nodes: list[Member]) -> Iterator[Front]:
        with front_of(nodes) as front:
            yield front

    # Streams

    def test_a_token_arrives_before_the_next_one_is_made(self, front: Front, nodes: list[Member]) -> None:
        with front.stream("begins") as answer:
            assert answer.getheader("content-type", "").startswith("text/event-stream")
            while b"begun" not in answer.readline():
                pass
        eventually(lambda: sum(node.running() for node in nodes) == 0)

    @pytest.mark.parametrize("tls", [True, False])
    def test_tokens_keep_the_pace_in_which_they_were_made(
        self, front_of: FrontOf, nodes: list[Member], tls: bool
    ) -> None:
        """Without TLS, too: what holds back small pieces is another one then."""
        with front_of(nodes, {} if tls else self.plain) as front, front.stream("words") as answer:
            came = [time.monotonic() for line in answer if b'"content":"' in line and b'""' not in line]
        gaps = sorted(later - earlier for earlier, later in itertools.pairwise(came))
        assert len(came) == WORDS
        assert gaps[len(gaps) // 2] > PACE / 2
        assert came[-1] - came[0] > PACE * (WORDS - 1) / 2

    @pytest.mark.parametrize("stream", [False, True])
    def test_a_client_that_leaves_before_the_first_byte_frees_its_node(
        self, front: Front, nodes: list[Member], stream: bool
    ) -> None:
        with front.abandoned("hangs", stream=stream):
            eventually(lambda: sum(node.running() for node in nodes) == 1)
        eventually(lambda: sum(node.running() for node in nodes) == 0)

    def test_requests_go_to_the_nodes_that_have_fewest(self, front: Front, nodes: list[Member]) -> None:
        with front.abandoned("hangs"):
            eventually(lambda: sum(node.running() for node in nodes) == 1)
            busy = next(node for node in nodes if node.running())
            before = busy.taken()
            assert [front.chat("hello").status for _ in range(9)] == [200] * 9
            assert busy.taken() == before
        eventually(lambda: sum(node.running() for node in nodes) == 0)

    # What goes through as it is

    def test_the_key_is_the_nodes_affair(self, front: Front) -> None:
        assert front.chat("hello").status == 200
        for headers in ({"Authorization": ""}, {"Authorization": "Bearer wrong"}):
            refused = front.request("POST", "/v1/chat/completions", chat_body("hello"), headers)
            assert (refused.status, code(refused)) == (401, "unauthorized")
        with_another_header = front.request(
            "GET", "/v1/models", headers={"Authorization": "", "x-api-key": KEY}
        )
        assert with_another_header.status == 200

    def test_a_full_queue_is_told_with_the_time_to_come_back(self, front_of: FrontOf, tmp_path: Path) -> None:
        full = member(tmp_path / "home", "--slots", "1", "--max-waiting", "1")
        with ExitStack() as stack, front_of([full] * 3) as front:
            stack.callback(full.kill)
            stack.enter_context(front.abandoned("single"))
            eventually(lambda: full.running() == 1)
            stack.enter_context(front.abandoned("single"))
            eventually(lambda: full.waiting() == 1)
            before = full.taken()
            for stream in (False, True):
                refused = front.chat("single", stream=stream)
                assert (refused.status, code(refused)) == (429, "overloaded")
                assert int(refused.headers["retry-after"]) >= 1
            # Not asked of another node: the one that was asked knows what the others have.
            assert full.taken() == before + 2

    def test_a_refusal_is_told_in_the_words_of_the_node(self, front: Front) -> None:
        refused = front.chat("nope")
        assert (refused.status, code(refused)) == (404, "model_not_found")
        assert refused.headers["x-request-id"]

    def test_nodes_are_told_who_asks_and_nobody_speaks_for_another_one(self, front_of: FrontOf) -> None:
        pretended = {
            "X-Exo-Hop": "node",
            "X-Exo-Proof": "proof",
            "X-Exo-Client": "someone",
            "X-Forwarded-For": "10.0.0.1",
            "Forwarded": "for=10.0.0.1",
        }
        recorder = Recorder()
        try:
            with front_of([recorder] * 3) as front:
                sent = front.request("POST", "/v1/completions", {}, pretended).json()
        finally:
            recorder.close()
        assert sent["authorization"] == f"Bearer {KEY}"
        assert sent["host"] == f"127.0.0.1:{front.port}"
        assert sent["x-exo-client"] == sent["x-forwarded-for"] == "127.0.0.1"
        assert sent["x-forwarded-proto"] == "https"
        assert not {"x-exo-hop", "x-exo-proof", "forwarded"} & sent.keys()

    def test_a_chain_of_responses_stays_on_its_node(self, front: Front) -> None:
        previous: str | None = None
        for _ in range(6):
            body = {"model": "hello", "input": "hi", "previous_response_id": previous}
            answer = front.request("POST", "/v1/responses", body)
            assert answer.status == 200, answer
            previous = answer.json()["id"]
            # So that the next node in turn is another one.
            assert front.chat("hello").status == 200
            assert front.request("GET", f"/v1/responses/{previous}").status == 200

    # What does not

    @pytest.mark.parametrize(("method", "path"), routes(OPEN))
    def test_open(self, front: Front, method: str, path: str) -> None:
        with contextlib.closing(front.connection()) as connection:
            connection.request(method, path, headers={"Authorization": f"Bearer {KEY}"})
            answer = connection.getresponse()
            assert answer.getheader("x-request-id"), "a node has answered"
            if path != "/v1/cluster/events":  # which does not end
                answer.read()

    def test_the_chat_page_is_open(self, front: Front) -> None:
        with contextlib.closing(front.connection()) as connection:
            for path in page_routes.assets():
                connection.request("GET", path)
                answer = connection.getresponse()
                answer.read()
                assert answer.status == 200, path

    @pytest.mark.parametrize(("method", "path"), [*routes(CLOSED), *routes(DISGUISED)])
    def test_closed(self, front: Front, method: str, path: str) -> None:
        refused = front.request(method, path, b"{}" if method == "POST" else None)
        assert refused.status == 403, refused
        assert "x-request-id" not in refused.headers, "no node was asked"
        if method != "HEAD":
            assert code(refused) == "forbidden"

    def test_a_body_larger_than_a_node_reads_is_refused_and_one_that_it_reads_is_not(
        self, front: Front
    ) -> None:
        body = json.dumps(chat_body("hello", "x" * (7 << 20))).encode()
        assert front.request("POST", "/v1/chat/completions", body).status == 200
        for larger in (body + b" " * (2 << 20), iter([body, b" " * (2 << 20)])):
            refused = front.request("POST", "/v1/chat/completions", larger)
            assert (refused.status, code(refused)) == (413, "request_too_large")

    def test_only_tls_is_spoken(self, front: Front) -> None:
        plain = http.client.HTTPConnection("127.0.0.1", front.port, timeout=PATIENCE)
        with contextlib.closing(plain):
            try:
                plain.request("GET", "/ready")
                assert plain.getresponse().status == 400
            except (ConnectionError, http.client.BadStatusLine):
                pass

    # Time

    def test_an_answer_of_which_nothing_comes_for_long_is_waited_for(
        self, front_of: FrontOf, nodes: list[Member]
    ) -> None:
        """A 600th of all: six seconds for an hour, and an answer after three for half an hour of prefill.
        With a shorter time the same answer is cut, so it is this setting that counts."""
        with front_of(nodes, {"3600s": "6s"}) as front:
            assert front.chat("slow").status == 200
        with front_of(nodes, {"3600s": "1s"}) as front:
            cut = front.chat("slow")
            assert (cut.status, code(cut)) == (504, "timeout")

    # Nodes that come and go

    def test_a_node_that_is_not_ready_gets_no_request(self, front_of: FrontOf, tmp_path: Path) -> None:
        with trio(tmp_path, (), (), ("--preload", "stuck")) as nodes, front_of(nodes) as front:
            self.has_noticed(front, 3, "DOWN")
            assert [front.chat("hello").status for _ in range(12)] == [200] * 12
            assert [bool(node.taken()) for node in nodes] == [True, True, False]
            for node in nodes[:2]:
                node.kill()
            self.has_noticed(front, 1, "DOWN")
            self.has_noticed(front, 2, "DOWN")
            none = front.chat("hello")
            assert (none.status, code(none), none.headers["retry-after"]) == (503, "not_ready", "2")
            assert front.request("GET", "/ready").status == 503

    def test_a_killed_node_costs_no_request_before_its_first_byte(
        self, front_of: FrontOf, tmp_path: Path
    ) -> None:
        with trio(tmp_path) as nodes, front_of(nodes) as front, ThreadPoolExecutor(20) as clients:

            def ask(number: int) -> Reply:
                # Up to 120 KB: a request has to be kept to be sent again.
                return front.chat("slow", "x" * number * 6_000, stream=bool(number % 2))

            asked = [clients.submit(ask, number) for number in range(10)]
            eventually(lambda: sum(node.running() for node in nodes) == 10)
            assert nodes[0].running() >= 3
            nodes[0].kill()
            asked += [clients.submit(ask, number) for number in range(10, 20)]
            replies = [each.result() for each in asked]
            assert [reply.status for reply in replies] == [200] * 20
            assert all(b"Hello" in reply.body for reply in replies)
            self.has_noticed(front, 1, "DOWN")
            revived = member(tmp_path / "node1", "--port", str(nodes[0].port))
            try:
                eventually(lambda: front.chat("hello").status == 200 and revived.taken() > 0)
            finally:
                revived.kill()

    def test_an_answer_that_has_begun_is_not_asked_for_again_and_does_not_look_whole(
        self, front_of: FrontOf, tmp_path: Path
    ) -> None:
        with trio(tmp_path) as nodes, front_of(nodes) as front, ExitStack() as stack:
            answers = []
            for _ in nodes:
                answers.append(stack.enter_context(front.stream("begins")))
                while b"begun" not in answers[-1].readline():
                    pass
            assert [node.running() for node in nodes] == [1, 1, 1]
            nodes[0].kill()
            with pytest.raises((http.client.IncompleteRead, ConnectionError)):
                answers[0].read()
            assert [node.taken() for node in nodes[1:]] == [1, 1]

    def test_a_node_that_is_shut_down_ends_its_answers(self, front_of: FrontOf, tmp_path: Path) -> None:
        with trio(tmp_path) as nodes, front_of(nodes) as front, ThreadPoolExecutor(6) as clients:
            streams = [clients.submit(front.whole_stream, "long") for _ in range(6)]
            eventually(lambda: [node.running() for node in nodes] == [2, 2, 2])
            nodes[0].signal(signal.SIGTERM)
            nodes[0].line("stopping")
            assert [front.chat("hello").status for _ in range(12)] == [200] * 12
            assert all(stream.result().endswith(b"data: [DONE]\n\n") for stream in streams)
            assert nodes[0].exit_code() == 0

    def test_a_reload_under_load_drops_nothing(self, front: Front, nodes: list[Member]) -> None:
        over = threading.Event()

        def keep_asking() -> list[int]:
            statuses = []
            while not over.is_set():
                statuses.append(front.chat("hello").status)
            return statuses

        with ThreadPoolExecutor(6) as clients:
            streams = [clients.submit(front.whole_stream, "long") for _ in range(3)]
            asking = [clients.submit(keep_asking) for _ in range(3)]
            try:
                eventually(lambda: sum(node.running() for node in nodes) >= 3)
                front.reload()
                self.has_reloaded(front)
                assert front.chat("hello").status == 200
            finally:
                over.set()
            assert all(stream.result().endswith(b"data: [DONE]\n\n") for stream in streams)
            statuses = [status for each in asking for status in each.result()]
        assert statuses
        assert set(statuses) == {200}
