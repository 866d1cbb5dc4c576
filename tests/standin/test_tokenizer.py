"""The stand-in cuts text as the `tokenizers` library does, whatever is in it."""

import random
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from demo.engine_check import odd_texts
from demo.rkllm_container import CONTROL, _byte_of_letter
from tests.standin.conftest import ROOT

CONTROL_TOKENS = ("<|im_start|>", "<|im_end|>", "<think>", "</tool_call>")
SPACES = " \t\n\r\v\f\x85\u00a0\u2028\u3000"


@pytest.fixture(scope="module")
def encode(
    tmp_path_factory: pytest.TempPathFactory, file_for: Callable[..., Path]
) -> Callable[[list[str]], list[list[int]]]:
    into = tmp_path_factory.mktemp("encode")
    sources = [str(ROOT / "standin" / name) for name in ("tokenizer.c", "container.c")]
    command = ["cc", "-std=c11", "-O2", "-D_GNU_SOURCE", f"-I{ROOT / 'standin'}", *sources]
    subprocess.run(
        [*command, str(Path(__file__).with_name("encode.c")), "-o", str(into / "encode")], check=True
    )

    def run(texts: list[str]) -> list[list[int]]:
        raw = [text.encode() for text in texts]
        (into / "texts").write_bytes(b"".join(b"%d\n%s" % (len(text), text) for text in raw))
        command = [into / "encode", file_for(), into / "texts"]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        return [[int(id) for id in line.split()] for line in done.stdout.splitlines()]

    return run


def texts() -> list[str]:
    rng = random.Random(3)
    drawn = list(odd_texts(3000))
    for alphabet in (
        SPACES + "ab1'",
        "'sStT\u017fKreVEmMlLdD \n",
        "é漢字🙂 ½Ⅷ٣\u0301'",
        "<|>/imthnk_endstar",
    ):
        drawn += ["".join(rng.choices(alphabet, k=rng.randrange(1, 30))) for _ in range(1500)]
    for _ in range(1500):
        drawn.append("".join(rng.choices([*CONTROL_TOKENS, *SPACES, "a", "12", "'ll", "漢", "."], k=12)))
    for start in range(0, 0x110000, 64):  # every code point
        points = [chr(code) for code in range(start, start + 64) if not 0xD800 <= code < 0xE000]
        if start < 0x20000:
            drawn.append(" a".join(points))
        elif rng.random() < 0.02:
            drawn.append("".join(points))
    return drawn


def test_equals_the_library(encode: Callable[[list[str]], list[list[int]]], tokenizer: Tokenizer) -> None:
    drawn = texts()
    expected = [encoding.ids for encoding in tokenizer.encode_batch_fast(drawn)]
    different = [text for text, ids, ours in zip(drawn, expected, encode(drawn), strict=True) if ids != ours]
    assert not different, f"{len(different)} of {len(drawn)}, such as {different[0]!r}"


def test_the_container_spells_every_byte() -> None:
    assert sorted(_byte_of_letter().values()) == list(range(256))
    assert CONTROL
