"""The page of a node that serves HTTPS."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.certificates import Authority
from tests.e2e.tls import TlsNode, flags

from .driver import Reader
from .scripts import write_all


@pytest.fixture
def node(tmp_path: Path) -> Iterator[TlsNode]:
    authority = Authority(tmp_path / "ca")
    write_all(tmp_path / "home")
    node = TlsNode(tmp_path / "home", authority.ca, *flags(authority.issue("node")))
    try:
        yield node
        node.stop()
    finally:
        node.kill()


# The browser has a store of CAs of its own, which the test's is not put into.
@pytest.mark.parametrize("options", [{"ignore_https_errors": True}], ids=["https"])
def test_the_page_comes_and_chats_over_https(node: TlsNode, reader: Reader) -> None:
    assert reader.page.url.startswith(f"{node.url}/")
    reader.ask("hi", "paced")
    expect(reader.said).to_contain_text("word0 word1")
    assert "word39" not in reader.said.inner_text()
    reader.settled()
    expect(reader.said).to_contain_text("word39")
    assert reader.page.evaluate("window.isSecureContext")
