"""The panel of the cluster in a browser: real nodes, and machines that are not at hand, which are played."""

import json
import re
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.e2e.conftest import Start
from tests.e2e.node import HANG, Node, Wire, eventually, raw_chat, text, write_script

from .browser import PHONE, Watch
from .member import Pair, free_port, pairs


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    """Is asked for before the page, which then does not see them end."""
    with pairs(tmp_path) as pair:
        yield pair


def opened(page: Page, node: Node) -> Locator:
    """The panel of the cluster of that node's page."""
    page.goto(node.url + "/")
    page.get_by_role("button", name="Cluster", exact=True).click()
    return page.get_by_role("complementary", name="Cluster")


def card(panel: Locator, id: str) -> Locator:
    return panel.get_by_role("article", name=f"Node {id}")


def closed(node: Node) -> int:
    """How many streams of events have ended."""
    return sum('"/v1/cluster/events"' in line for line in node.log.splitlines())


# Real nodes


def test_two_nodes_show_up_and_what_one_does_is_seen_on_the_other(
    pair: Pair, page: Page, tmp_path: Path
) -> None:
    write_script(tmp_path / "board", "hangs", [text("It has begun"), HANG], slots=1)
    desk, board = pair("desk", "board")
    panel = opened(page, desk)
    expect(panel.locator(".panel-summary")).to_have_text("2 nodes · 0 running · 0 waiting")
    expect(panel.get_by_role("article")).to_have_count(2)
    # This one first, though its name comes later.
    expect(panel.get_by_role("article").first).to_contain_text("this node")
    there = card(panel, "board")
    expect(there).to_contain_text("No model in memory")
    with Wire(desk) as chat, Wire(board) as second:
        chat.send(raw_chat("hangs", stream=True))
        chat.until(b"It has begun")
        expect(there).to_contain_text("1 running")
        expect(there.get_by_role("listitem")).to_contain_text("1 of 1 answering")
        second.send(raw_chat("hangs", stream=True))
        expect(there).to_contain_text("1 of 64 waiting")
        expect(panel.locator(".panel-summary")).to_have_text("2 nodes · 1 running · 1 waiting")
    expect(there).to_contain_text("0 running")
    line = there.get_by_role("img", name="Requests running on board over the last two minutes, 1 at most")
    assert "V" not in str(line.locator("path").last.get_attribute("d"))
    # Another node's memory is not this one's to free.
    expect(there.get_by_role("button")).to_have_count(0)


def test_a_node_that_is_killed_is_grey_for_a_minute_and_then_forgotten(pair: Pair, page: Page) -> None:
    a, b = pair("a", "b")
    page.clock.install()
    panel = opened(page, a)
    expect(card(panel, "b")).to_have_attribute("data-state", "here")
    b.kill()
    gone = card(panel, "b")
    expect(gone).to_have_attribute("data-state", "gone")
    expect(gone).to_contain_text(re.compile(r"gone for \d+ s"))
    expect(panel.locator(".panel-summary")).to_have_text("1 node · 0 running · 0 waiting")
    expect(panel.get_by_role("region", name="Add a machine")).to_be_visible()
    page.clock.fast_forward(61_000)
    expect(panel.get_by_role("article")).to_have_count(1)


def test_a_node_that_shuts_down_says_so_first(pair: Pair, page: Page, tmp_path: Path) -> None:
    write_script(tmp_path / "b", "hangs", [text("It has begun"), HANG])
    a, b = pair("a", "b")
    panel = opened(page, a)
    with Wire(b) as chat:
        chat.send(raw_chat("hangs", stream=True))
        chat.until(b"It has begun")
        b.signal(signal.SIGTERM)
        expect(card(panel, "b")).to_have_attribute("data-state", "leaving")
        expect(card(panel, "b")).to_contain_text("shutting down")
    b.exit_code()
    expect(card(panel, "b")).to_contain_text("shut down")


def test_a_node_that_is_alone_says_how_another_one_joins(page: Page, node: Node) -> None:
    hint = opened(page, node).get_by_role("region", name="Add a machine")
    expect(hint).to_contain_text("start exo on the same network")
    expect(hint).to_contain_text("This node listens on this machine only")


def test_a_model_is_unloaded_by_keyboard(page: Page, node: Node) -> None:
    node.chat("hello")
    panel = opened(page, node)
    unload = panel.get_by_role("button", name="Unload hello")
    unload.focus()
    page.keyboard.press("Enter")
    expect(unload).to_have_count(0)
    expect(page.locator("#announcer")).to_have_text("hello leaves memory")
    eventually(lambda: "hello" not in {each["model"] for each in node.me()["loaded"]})


def test_nothing_is_asked_for_while_the_panel_is_closed(page: Page, node: Node, watch: Watch) -> None:
    ended = closed(node)
    panel = opened(page, node)
    expect(panel.get_by_role("article")).to_have_count(1)
    panel.get_by_role("button", name="Close the cluster").click()
    expect(panel).to_be_hidden()
    eventually(lambda: closed(node) == ended + 1)
    asked = [url for url in watch.asked if url.endswith("/v1/cluster/events")]
    assert len(asked) == 1


# What goes wrong


def test_a_node_that_comes_back_is_seen_again(start: Start, page: Page, watch: Watch) -> None:
    watch.allow("ERR_CONNECTION_REFUSED", "ERR_INCOMPLETE_CHUNKED_ENCODING", "ERR_CONNECTION_RESET")
    flags = ("--port", str(free_port()), "--node-id", "phoenix")
    node = start(*flags)
    panel = opened(page, node)
    phoenix = card(panel, "phoenix")
    expect(phoenix).to_be_visible()
    node.kill()
    expect(panel).to_contain_text(re.compile(r"Trying again"))
    expect(phoenix).to_have_class(re.compile("stale"))
    node.process.returncode = 0  # it was no defect
    start(*flags)
    expect(phoenix).not_to_have_class(re.compile("stale"))
    expect(panel).not_to_contain_text("Trying again")


def test_too_many_watchers_are_told_and_tried_again(page: Page, node: Node, watch: Watch) -> None:
    watch.allow("429")
    error = {"message": "64 clients watch the cluster already", "code": "overloaded"}
    page.route(
        "**/v1/cluster/events",
        lambda route: route.fulfill(status=429, headers={"Retry-After": "60"}, json={"error": error}),
    )
    panel = opened(page, node)
    expect(panel).to_contain_text("64 clients watch the cluster already Trying again.")
    page.unroute("**/v1/cluster/events")
    panel.get_by_role("button", name="Try again").click()
    expect(panel.get_by_role("article")).to_have_count(1)
    expect(panel.get_by_role("button", name="Try again")).to_be_hidden()


def test_what_the_node_refuses_is_said_and_left_at_that(page: Page, node: Node, watch: Watch) -> None:
    watch.allow("404")
    error = {"message": "there is no /v1/cluster/events here", "code": "not_found"}
    page.route("**/v1/cluster/events", lambda route: route.fulfill(status=404, json={"error": error}))
    panel = opened(page, node)
    expect(panel).to_contain_text("there is no /v1/cluster/events here")
    expect(panel).not_to_contain_text("Trying again")
    assert sum(url.endswith("/v1/cluster/events") for url in watch.asked) == 1


def test_an_unload_that_fails_says_why(page: Page, node: Node, watch: Watch) -> None:
    watch.allow("403")
    node.chat("hello")
    # As Ollama's dialect has it.
    page.route("**/api/generate", lambda route: route.fulfill(status=403, json={"error": "not from there"}))
    panel = opened(page, node)
    panel.get_by_role("button", name="Unload hello").click()
    expect(panel.get_by_role("alert")).to_contain_text("not from there")
    expect(panel.get_by_role("alert")).to_contain_text("EXO_API_KEY")
    expect(panel.get_by_role("button", name="Unload hello")).to_be_enabled()


# Machines that are not at hand

PLAYED = """
  const real = window.fetch;
  window.fetch = (path, given) => {
    if (path !== "/v1/cluster/events") return real(path, given);
    const body = new ReadableStream({
      start(controller) {
        const text = new TextEncoder();
        window.tell = (cluster) => controller.enqueue(text.encode(`data: ${JSON.stringify(cluster)}\\n\\n`));
        window.tell(CLUSTER);
      },
    });
    return Promise.resolve(new Response(body));
  };
"""


def played(page: Page, node: Node, cluster: Mapping[str, Any]) -> Locator:
    """The panel where that is what the node tells; `window.tell` tells more."""
    page.add_init_script(PLAYED.replace("CLUSTER", json.dumps(cluster)))
    return opened(page, node)


def board(node: Node, **facts: Any) -> dict[str, Any]:
    """A board with an NPU, as it would say of itself."""
    me = node.me()
    gib = 1 << 30
    device = {"kind": "rockchip", "chip": "RK3588", "cores": 8, "memory": 8 * gib, "free": 3 * gib}
    resident = {"model": "qwen2.5-1.5b", "state": "ready", "bytes": int(1.5 * gib), "slots": 1, "running": 1}
    more = {"waiting": 2, "used": 1, "idle": None, "expires_in": None}
    return {
        **me,
        "id": "board",
        "device": {**me["device"], **device, "temperature": 61.6, "npu_load": 0.45},
        "budget": 6 * gib,
        "loaded": [{**resident, **more}],
        "waiting": 2,
        "speeds": [{"model": "qwen2.5-1.5b", "decode": 16.69}, {"model": "phi-3-mini", "decode": 6.5}],
        **facts,
    }


def test_a_board_with_its_npu(page: Page, node: Node) -> None:
    shown = card(played(page, node, {"me": board(node), "peers": []}), "board")
    expect(shown).to_contain_text("Rockchip RK3588 · 8 cores · 3.0 GiB of 8.0 GiB free · 62 °C")
    npu, memory = (shown.get_by_role("meter", name=name) for name in ("NPU load", "Model memory"))
    expect(npu).to_have_attribute("aria-valuenow", "45")
    expect(memory).to_have_attribute("aria-valuenow", "25")
    expect(memory).to_have_attribute("aria-valuetext", "1.5 GiB of 6.0 GiB")
    expect(shown.get_by_role("listitem")).to_contain_text("1 of 1 answering · 2 waiting · 16.7 tokens/s")
    expect(shown).to_contain_text("Measured: phi-3-mini 6.5 tokens/s")
    expect(shown.locator(".hot")).to_have_count(0)


def test_hot_boards_and_other_versions_are_warned_of(page: Page, node: Node) -> None:
    device = {**board(node)["device"], "temperature": 84.0}
    other = board(node, id="old", version="0.0.1", device=device)
    panel = played(page, node, {"me": board(node), "peers": [other]})
    expect(card(panel, "old")).to_contain_text("It runs version 0.0.1, this node 0.1.0")
    expect(card(panel, "old").locator(".hot")).to_have_text("· 84 °C")
    expect(card(panel, "board")).not_to_contain_text("version")


def test_names_from_other_nodes_are_text(page: Page, node: Node) -> None:
    evil = "<img src=x onerror=alert(1)>"
    resident = {**board(node)["loaded"][0], "model": evil}
    panel = played(page, node, {"me": board(node), "peers": [board(node, id=evil, loaded=[resident])]})
    expect(card(panel, evil).get_by_role("listitem")).to_contain_text(evil)
    expect(panel.locator("img")).to_have_count(0)


def test_focus_stays_where_it_is_while_figures_move(page: Page, node: Node) -> None:
    me = board(node)
    me["cards"] = [{**me["cards"][0], "id": "qwen2.5-1.5b"}]
    panel = played(page, node, {"me": me, "peers": []})
    unload = panel.get_by_role("button", name="Unload qwen2.5-1.5b")
    unload.focus()
    for load in (0.1, 0.9):
        me["device"]["npu_load"] = load
        page.evaluate("cluster => window.tell(cluster)", {"me": me, "peers": [board(node, id="a-first")]})
        expect(card(panel, "board").get_by_role("meter", name="NPU load")).to_have_attribute(
            "aria-valuenow", str(round(100 * load))
        )
        expect(unload).to_be_focused()


@pytest.mark.parametrize("options", [{"viewport": PHONE}, {"viewport": {"width": 360, "height": 640}}])
def test_it_fits_a_phone(page: Page, node: Node) -> None:
    long = board(node, id="a-node-whose-name-is-longer-than-any-phone-is-wide-" * 2)
    panel = played(page, node, {"me": board(node), "peers": [long]})
    expect(panel.get_by_role("article")).to_have_count(2)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert panel.evaluate("each => [...each.querySelectorAll('*')].every(e => e.scrollWidth <= innerWidth)")
