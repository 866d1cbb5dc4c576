"""What the panel keeps of the log and of the requests."""

import io
import logging
import sys
from collections.abc import Iterator

import msgspec
import pytest

from exo.http.app import AccessRecord, access
from exo.terminal.recent import Log, Requests

from .samples import HOSTILE

log = logging.getLogger("exo.tests")


class Stderr:
    """A log that goes to stderr, as `commandline.log_to_stderr` makes it."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.stream = io.StringIO()
        patch.setattr(sys, "stderr", self.stream)
        root = logging.getLogger()
        self._level = root.level
        # Not the attribute: what was enabled before is remembered by each logger.
        root.setLevel(logging.INFO)
        patch.setattr(access, "propagate", False)
        self._handlers = [logging.StreamHandler(self.stream), logging.StreamHandler(self.stream)]
        self._handlers[0].setFormatter(logging.Formatter("%(levelname)s %(message)s"))
        logging.getLogger().addHandler(self._handlers[0])
        access.addHandler(self._handlers[1])

    def close(self) -> None:
        logging.getLogger().removeHandler(self._handlers[0])
        logging.getLogger().setLevel(self._level)
        access.removeHandler(self._handlers[1])

    @property
    def text(self) -> str:
        return self.stream.getvalue()


@pytest.fixture
def stderr(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stderr]:
    made = Stderr(monkeypatch)
    yield made
    made.close()


@pytest.fixture
def changes() -> list[str]:
    return []


@pytest.fixture
def kept(stderr: Stderr, changes: list[str]) -> Iterator[Log]:
    made = Log(lambda: changes.append("log"))
    yield made
    if made.muting:
        made.unmute()
    made.close()


def test_lines_are_kept_and_still_said(kept: Log, stderr: Stderr, changes: list[str]) -> None:
    log.warning("it is %s", "late")
    assert [(line.level, line.text) for line in kept.lines] == [(logging.WARNING, "it is late")]
    assert stderr.text == "WARNING it is late\n"
    assert changes == ["log"]


def test_a_muted_log_is_said_when_that_is_over(kept: Log, stderr: Stderr) -> None:
    log.info("before")
    streams = sys.stdout, sys.stderr
    kept.mute()
    log.info("one")
    access.info("{}")
    print("a stray", file=sys.stderr)
    print("another", end="")
    print(" one")
    assert stderr.text == "INFO before\n"
    kept.unmute()
    assert stderr.text == "INFO before\nINFO one\na stray\nanother one\n"
    assert (sys.stdout, sys.stderr) == streams
    log.info("after")
    assert stderr.text.endswith("INFO after\n")
    assert [line.text for line in kept.lines] == ["before", "one", "a stray", "another one", "after"]


def test_what_is_too_much_to_keep_is_counted(kept: Log, stderr: Stderr) -> None:
    kept.mute()
    for number in range(507):
        log.info("line %d", number)
    kept.unmute()
    said = stderr.text.splitlines()
    assert said[:2] == ["7 earlier lines of the log are left out", "INFO line 7"]
    assert said[-1] == "INFO line 506"
    assert len(kept.lines) == 500


def test_a_failure_is_one_line_to_see_and_whole_afterwards(kept: Log, stderr: Stderr) -> None:
    kept.mute()
    try:
        raise ValueError("the wheel came off")
    except ValueError:
        log.exception("a request failed")
    assert kept.lines[-1].text == "a request failed: ValueError('the wheel came off')"
    kept.unmute()
    assert "Traceback" in stderr.text
    assert stderr.text.endswith("ValueError: the wheel came off\n")


def test_what_strangers_have_had_logged_drives_no_terminal_afterwards(kept: Log, stderr: Stderr) -> None:
    # pytest keeps the log, too, and can pass no half character on to another process.
    hostile = HOSTILE.replace("\udc80", "")
    kept.mute()
    log.error("no model '%s'", hostile)
    print(hostile, file=sys.stderr)
    kept.unmute()
    assert "no model '[31mred]0;title[bold]not bold[/bold]" in stderr.text
    assert not set(stderr.text) & set("\x1b\r\x07\x9b\u202e")


def test_whoever_logs_nonsense_does_not_fail(kept: Log) -> None:
    kept.mute()
    kept.handle(logging.LogRecord("x", logging.INFO, "", 1, "%d apples", ("three",), None))
    kept.unmute()
    assert any("TypeError" in line.text for line in kept.lines)


def record(**more: object) -> str:
    usual = AccessRecord(time="", id="r1", remote="", method="POST", path="/v1/chat/completions", status=200)
    return msgspec.json.encode(msgspec.structs.replace(usual, **more)).decode()


@pytest.fixture
def requests(stderr: Stderr, changes: list[str]) -> Iterator[Requests]:
    made = Requests(lambda: changes.append("request"))
    yield made
    made.close()


def test_a_request_is_kept_with_its_figures(requests: Requests, changes: list[str]) -> None:
    requests.taken = {"r1": "rock-2: it has the model in memory"}.__getitem__
    access.info(record(model="m", completion_tokens=21, duration_ms=2500.0, ttft_ms=500.0))
    (request,) = requests.latest
    assert (request.model, request.node, request.tokens, request.ttft) == ("m", "rock-2", 21, 0.5)
    assert (request.seconds, request.rate, request.failed) == (2.5, 10.5, False)
    assert (requests.answered, requests.failed) == (1, 0)
    assert changes == ["request"]


def test_one_that_a_node_passed_on_is_answered_here(requests: Requests) -> None:
    requests.here = "rock-1"
    access.info(record(model="m", completion_tokens=21))
    access.info(record(model="m", status=404, error="model_not_found"))
    assert [request.node for request in requests.latest] == ["", "rock-1"]
    assert (requests.answered, requests.failed) == (1, 1)


def test_what_asks_no_model_is_left_out_unless_it_fails(requests: Requests) -> None:
    access.info(record(path="/v1/models"))
    access.info(record(path="/download", model="m"))
    access.info(record(path="/favicon.ico", status=404))
    assert not requests.latest
    access.info(record(status=401, error="unauthorized"))
    assert [(request.status, request.error) for request in requests.latest] == [(401, "unauthorized")]
    assert requests.answered == 0


def test_a_client_that_leaves_is_neither_answered_nor_failed(requests: Requests) -> None:
    access.info(record(model="m", status=499))
    assert [request.hung_up for request in requests.latest] == [True]
    assert (requests.answered, requests.failed) == (0, 0)


def test_only_the_latest_are_kept(requests: Requests) -> None:
    for number in range(150):
        access.info(record(id=str(number), model=f"m{number}", prompt_tokens=3))
    assert len(requests.latest) == 100
    assert requests.latest[0].model == "m149"
    assert requests.answered == 150
