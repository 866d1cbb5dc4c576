"""The panel of models in a browser: what is here and elsewhere, and downloads from a hub on this machine.

Nodes of a test's own are asked for before its page, which then is gone when they end."""

import asyncio
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from exo.store.catalogue import BUNDLED
from tests.e2e.conftest import Start
from tests.e2e.node import PATIENCE, Node, eventually, text, wait, write_script
from tests.store.mirror import Mirror

from .browser import PHONE, Watch
from .member import Pair, pairs

ID = "user/tiny"
HALF = re.compile(r"[1-9]\d")
"""Per cent of a download that is held: the client asks again after a while, and gets half of the rest."""


class Hub:
    """A mirror with the bundled model's GGUF file, that serves beside the test."""

    def __init__(self) -> None:
        self.mirror = Mirror()
        self.mirror.files = {"tiny.gguf": (BUNDLED / "exo-demo" / "model.gguf").read_bytes()}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._stack = ExitStack()
        self._running = self.mirror.running()
        self._do(self._running.__aenter__)

    def hold(self) -> None:
        """The second half of the file does not come before `let_go`."""
        self.mirror.held["tiny.gguf"] = asyncio.Event()

    def let_go(self) -> None:
        self._loop.call_soon_threadsafe(self.mirror.held["tiny.gguf"].set)

    def close(self) -> None:
        for event in self.mirror.held.values():
            self._loop.call_soon_threadsafe(event.set)
        self._do(lambda: self._running.__aexit__(None, None, None))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _do(self, work: Callable[[], object]) -> None:
        asyncio.run_coroutine_threadsafe(work(), self._loop).result(PATIENCE)  # type: ignore[arg-type]


@pytest.fixture
def hub() -> Iterator[Hub]:
    hub = Hub()
    yield hub
    hub.close()


@pytest.fixture
def getter(hub: Hub, start: Start, tmp_path: Path) -> Node:
    """A node that downloads from the hub."""
    env = {"HF_ENDPOINT": hub.mirror.url, "HF_HOME": str(tmp_path / "hf"), "HF_TOKEN": "", "NO_PROXY": "*"}
    return start(env=env)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    with pairs(tmp_path) as pair:
        yield pair


def opened(page: Page, node: Node) -> Locator:
    """The panel of models of that node's page."""
    page.goto(node.url + "/")
    page.get_by_role("button", name="Models", exact=True).click()
    return page.get_by_role("complementary", name="Models")


def row(panel: Locator, id: str) -> Locator:
    """A model's."""
    return panel.get_by_role("list", name="Models", exact=True).get_by_role("listitem").filter(has_text=id)


def downloads(panel: Locator) -> Locator:
    return panel.get_by_role("region", name="Downloads")


def ask_for(panel: Locator, name: str) -> None:
    panel.get_by_label("Model to download").fill(name)
    panel.get_by_label("Model to download").press("Enter")


def loaded(node: Node) -> set[str]:
    return {each["model"] for each in node.me()["loaded"] if each["state"] == "ready"}


def announced(page: Page, said: str) -> None:
    expect(page.locator("#announcer")).to_have_text(said)


# What is here


def test_a_model_with_what_is_known_of_it(page: Page, node: Node) -> None:
    demo = row(opened(page, node), "exo-demo")
    expect(demo).to_contain_text("4.8 MiB · 1.2 M parameters · GGUF F32 · context 2,048")
    for tag in ("thinking", "tools"):
        expect(demo.get_by_text(tag, exact=True)).to_be_visible()
    # It came with the program.
    expect(demo.get_by_role("button", name="Delete exo-demo")).to_have_count(0)


def test_a_model_is_loaded_used_and_unloaded_by_keyboard(start: Start, page: Page) -> None:
    node = start(scripts={"hello": [text("Hello")]})
    panel = opened(page, node)
    hello = row(panel, "hello")
    hello.get_by_role("button", name="Load hello", exact=True).press("Enter")
    expect(hello).to_contain_text("in memory")
    announced(page, "hello is in memory here")
    assert loaded(node) == {"hello"}
    hello.get_by_role("button", name="Use hello").press("Space")
    expect(page.get_by_role("combobox", name="Model")).to_have_value("hello")
    expect(panel).to_be_visible()
    hello.get_by_role("button", name="Unload hello").press("Enter")
    expect(hello.get_by_role("button", name="Load hello", exact=True)).to_be_visible()
    eventually(lambda: not loaded(node))


def test_a_load_that_fails_says_why_where_it_was_asked_for(
    start: Start, home: Path, page: Page, watch: Watch
) -> None:
    watch.allow("502")
    write_script(
        home, "burning", [text("hi")], load=[wait(0.2), {"type": "fail", "message": "the disk broke"}]
    )
    burning = row(opened(page, start()), "burning")
    burning.get_by_role("button", name="Load burning", exact=True).click()
    expect(burning).to_contain_text("Loading…")
    expect(burning.get_by_role("alert")).to_contain_text("the disk broke")
    expect(burning.get_by_role("button", name="Load burning", exact=True)).to_be_enabled()


def test_models_of_other_nodes_are_there_and_are_loaded_there(pair: Pair, page: Page, tmp_path: Path) -> None:
    write_script(tmp_path / "board", "far", [text("Hello")])
    write_script(tmp_path / "board", "both", [text("Hello")])
    write_script(tmp_path / "desk", "both", [text("Hello")])
    desk, board = pair("desk", "board")
    panel = opened(page, desk)
    far = row(panel, "far")
    expect(far).to_contain_text("on board")
    expect(row(panel, "both")).to_contain_text("also on board")
    expect(far.get_by_role("button", name="Delete far")).to_have_count(0)
    far.get_by_role("button", name="Load far", exact=True).click()
    expect(far).to_contain_text("in memory on board")
    assert (loaded(desk), loaded(board)) == (set(), {"far"})
    expect(far.get_by_role("button", name="Unload far")).to_have_count(0)


def test_a_model_is_deleted_once_that_is_confirmed(start: Start, home: Path, page: Page) -> None:
    node = start(scripts={"useless": [text("hm")]})
    useless = row(opened(page, node), "useless")
    for button, left in (("Cancel", 1), ("Delete", 0)):
        useless.get_by_role("button", name="Delete useless").click()
        dialog = page.get_by_role("dialog")
        expect(dialog).to_contain_text(re.compile(r"useless is deleted .* frees \d+ B"))
        dialog.get_by_role("button", name=button, exact=True).click()
        expect(dialog).to_have_count(0)
        expect(useless).to_have_count(left)
        assert len(list((home / "models").iterdir())) == left
    announced(page, "useless is deleted")


# Downloads


def test_a_download_shows_how_far_it_is_outlives_the_page_and_ends_as_a_model(
    hub: Hub, getter: Node, page: Page
) -> None:
    hub.hold()
    panel = opened(page, getter)
    ask_for(panel, ID)
    announced(page, f"The download of {ID} has begun")
    bar = downloads(panel).get_by_role("progressbar", name=f"Download of {ID}")
    expect(bar).to_have_attribute("aria-valuenow", HALF)
    expect(downloads(panel)).to_contain_text(re.compile(r"[\d.]+\sMiB\sof\s4.8\sMiB\s·\s.*/s\s·\s.*\sleft"))
    panel = opened(page, getter)
    expect(bar).to_have_attribute("aria-valuenow", HALF)
    hub.let_go()
    expect(downloads(panel)).to_contain_text("It is here: 4.8 MiB")
    expect(row(panel, ID)).to_contain_text("GGUF")
    announced(page, f"{ID} is downloaded")
    downloads(panel).get_by_role("button", name=f"Use {ID}").click()
    expect(page.get_by_role("combobox", name="Model")).to_have_value(ID)
    downloads(panel).get_by_role("button", name="Dismiss").click()
    expect(downloads(panel)).to_be_hidden()
    row(panel, ID).get_by_role("button", name=f"Delete {ID}").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete", exact=True).click()
    expect(row(panel, ID)).to_have_count(0)
    assert [path for path in (getter.home / "models").rglob("*") if path.is_file()] == []


def test_one_that_was_begun_elsewhere_is_found(hub: Hub, getter: Node, page: Page) -> None:
    hub.hold()
    assert getter.request("POST", "/download", {"model": ID}).status == 200
    panel = opened(page, getter)
    expect(downloads(panel).get_by_role("progressbar")).to_have_attribute("aria-valuenow", HALF)
    # It is told of when it ends, though nobody looks at the panel.
    panel.get_by_role("button", name="Close the models").click()
    hub.let_go()
    announced(page, f"{ID} is downloaded")


def test_what_cannot_be_downloaded_says_why(hub: Hub, getter: Node, page: Page, watch: Watch) -> None:
    watch.allow("404", "400")
    panel = opened(page, getter)
    ask_for(panel, "user/other")
    get = panel.get_by_role("region", name="Get a model")
    expect(get.get_by_role("alert")).to_contain_text("user/other")
    expect(panel.get_by_label("Model to download")).to_have_value("user/other")
    ask_for(panel, "nonsense")
    expect(get.get_by_role("alert")).to_contain_text("names no model on the hub")
    expect(downloads(panel)).to_be_hidden()


def test_a_download_is_stopped_and_gone_on_with_or_discarded(
    hub: Hub, getter: Node, page: Page, watch: Watch
) -> None:
    watch.allow("404")
    hub.hold()
    panel = opened(page, getter)
    ask_for(panel, ID)
    bar = downloads(panel).get_by_role("progressbar", name=f"Download of {ID}")
    expect(bar).to_have_attribute("aria-valuenow", HALF)
    for _ in range(2):
        downloads(panel).get_by_role("button", name=f"Stop the download of {ID}").click()
        expect(downloads(panel)).to_contain_text("Stopped; what has come is kept")
        expect(bar).to_be_hidden()
        downloads(panel).get_by_role("button", name=f"Go on with the download of {ID}").click()
        expect(bar).to_have_attribute("aria-valuenow", re.compile(r"\d"))
    downloads(panel).get_by_role("button", name=f"Stop the download of {ID}").click()
    downloads(panel).get_by_role("button", name=f"Discard the download of {ID}").click()
    expect(downloads(panel)).to_be_hidden()
    assert [path for path in (getter.home / "models").rglob("*") if path.is_file()] == []


def test_a_download_that_fails_is_tried_again_or_discarded(
    hub: Hub, getter: Node, page: Page, watch: Watch
) -> None:
    watch.allow("404")
    hub.mirror.tag = "0" * 64
    panel = opened(page, getter)
    ask_for(panel, ID)
    failed = downloads(panel)
    expect(failed.get_by_role("alert")).to_contain_text("checksum")
    failed.get_by_role("button", name=f"Discard the download of {ID}").click()
    expect(failed).to_be_hidden()
    # The node has forgotten it, too.
    panel = opened(page, getter)
    expect(panel.get_by_role("list", name="Models to download").get_by_role("listitem")).to_have_count(5)
    failed = downloads(panel)
    expect(failed).to_be_hidden()
    ask_for(panel, ID)
    expect(failed.get_by_role("alert")).to_contain_text("checksum")
    hub.mirror.tag = None
    failed.get_by_role("button", name=f"Retry the download of {ID}").click()
    expect(failed).to_contain_text("It is here")
    expect(row(panel, ID)).to_be_visible()


@pytest.mark.parametrize("options", [{"extra_http_headers": {"X-Forwarded-For": "198.18.0.9"}}])
def test_who_may_not_is_told_what_it_takes(page: Page, node: Node, watch: Watch) -> None:
    watch.allow("403")
    panel = opened(page, node)
    ask_for(panel, "qwen3-0.6b")
    expect(panel.get_by_role("alert").last).to_contain_text("set EXO_API_KEY here")
    node.request("POST", "/api/generate", {"model": "exo-demo", "keep_alive": 0})
    demo = row(panel, "exo-demo")
    demo.get_by_role("button", name="Load exo-demo", exact=True).click()
    expect(demo.get_by_role("alert")).to_contain_text("set EXO_API_KEY here")


def test_with_a_key_the_panel_fills_once_it_is_given(start: Start, page: Page, watch: Watch) -> None:
    watch.allow("401")
    node = start(env={"EXO_API_KEY": "a key for tests"})
    page.goto(node.url)
    settings = page.get_by_role("dialog", name="Settings")
    expect(settings).to_be_visible()
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Models", exact=True).click()
    panel = page.get_by_role("complementary", name="Models")
    expect(panel).to_contain_text("this node wants its key")
    page.get_by_role("button", name="Settings", exact=True).click()
    settings.get_by_label("API key").fill("a key for tests")
    settings.get_by_label("API key").press("Enter")
    expect(row(panel, "exo-demo")).to_be_visible()
    expect(panel.get_by_role("list", name="Models to download").get_by_role("listitem")).to_have_count(5)
    expect(panel).not_to_contain_text("wants its key")


def test_what_could_be_downloaded_is_found_by_parts_of_its_name(page: Page, node: Node) -> None:
    panel = opened(page, node)
    offers = panel.get_by_role("list", name="Models to download").get_by_role("listitem")
    expect(offers).to_have_count(5)
    # Small ones first, and those that only a Mac loads last.
    expect(offers.first).to_contain_text("0.5b")
    expect(panel).to_contain_text("more: type a part of a name")
    panel.get_by_label("Model to download").fill("qwen3 0.6")
    expect(offers).to_have_count(2)
    expect(offers.first.get_by_role("button", name="Download qwen3-0.6b", exact=True)).to_be_visible()
    panel.get_by_label("Model to download").fill("no such model")
    expect(offers).to_have_count(0)


@pytest.mark.parametrize("options", [{"viewport": PHONE}, {"viewport": {"width": 360, "height": 640}}])
def test_on_a_phone_it_fits_and_makes_way_for_the_chat(start: Start, page: Page) -> None:
    name = "a-model-whose-name-is-longer-than-any-phone-is-wide-" + "x" * 40
    panel = opened(page, start(scripts={name: [text("Hello")]}))
    expect(panel.get_by_role("list", name="Models to download").get_by_role("listitem")).to_have_count(5)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert panel.evaluate("each => [...each.querySelectorAll('*')].every(e => e.scrollWidth <= innerWidth)")
    row(panel, name).get_by_role("button", name=f"Use {name}").click()
    expect(panel).to_be_hidden()
    expect(page.get_by_role("combobox", name="Model")).to_have_value(name)
