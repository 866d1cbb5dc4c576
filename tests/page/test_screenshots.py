"""The pictures of the documentation can be made, show something, and are small."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.e2e.node import Node

from .screenshots import PICTURES, take
from .scripts import write_pictures

COLOURS = """async (bytes) => {
    const image = await createImageBitmap(new Blob([new Uint8Array(bytes)], { type: "image/png" }));
    const canvas = new OffscreenCanvas(image.width, image.height);
    const context = canvas.getContext("2d");
    context.drawImage(image, 0, 0);
    const { data } = context.getImageData(0, 0, image.width, image.height);
    const colours = new Set(new Uint32Array(data.buffer));
    return [image.width, image.height, colours.size];
}"""


@pytest.fixture
def pictured(tmp_path: Path) -> Iterator[Node]:
    write_pictures(tmp_path)
    node = Node(tmp_path)
    try:
        yield node
        node.stop()
    finally:
        node.kill()


def test_pictures_are_made(browser: Browser, pictured: Node, images: Path) -> None:
    made = take(browser, pictured, images)
    assert [each.stem for each in made] == [*PICTURES]
    page = browser.new_page()
    try:
        for path in made:
            data = path.read_bytes()
            assert 15_000 < len(data) < 150_000, path.name
            width, height, colours = page.evaluate(COLOURS, list(data))
            assert {"width": width, "height": height} == PICTURES[path.stem]["viewport"]
            assert colours > 100, path.name
    finally:
        page.close()
