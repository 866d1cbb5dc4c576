"""From a Hugging Face folder to the file that the stand-in runtime loads as an `.rkllm` model.

`python -m demo.rkllm_container HF_DIR OUT.rkllm --release 1.2.3 --platform rk3588 --dtype w8a8
--max-context 2048` writes weights, tokenizer and chat template in one file. It is no vendor file: the
vendor's format is closed, and the real converter is not ours. `--dtype` is a label that the runtime prints;
the weights stay bfloat16, so that the NPU path can be compared with the CPU path token for token.

The layout is little-endian and read by `standin/container.c`: magic, layout number, file size, FNV-1a of all
that follows; then strings as length and bytes, numbers as 32 bits; last the weights, aligned to 64 bytes.
"""

import argparse
import json
import re
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from demo import tokenizer
from demo.export import Package, from_hf
from demo.template import render

MAGIC = b"EXORKLLM"
LAYOUT = 1
NORMAL, CONTROL, MARKER = range(3)
CORES = {"rk3588": 3, "rk3576": 2, "rk3562": 1, "rv1126b": 1}
LIMIT = 16384


@dataclass(frozen=True)
class Label:
    """What the file says of how it was made; the runtime checks and prints it."""

    release: str = "1.2.3"
    platform: str = "rk3588"
    dtype: str = "w8a8"
    max_context: int = 2048
    cores: int = 0

    def __post_init__(self) -> None:
        if not re.fullmatch(r"\d+\.\d+\.\d+", self.release):
            raise ValueError(f"release {self.release!r} is not like 1.2.3")
        if self.platform not in CORES:
            raise ValueError(f"platform {self.platform!r} is none of {', '.join(CORES)}")
        if not 0 < self.max_context <= LIMIT or self.max_context % 32:
            raise ValueError(f"max_context {self.max_context} is no multiple of 32 up to {LIMIT}")


def pack(package: Package, label: Label) -> bytes:
    """The whole file. Raises `ValueError` for a model that the stand-in could not run."""
    shape = package.shape
    if any(size % 8 for size in (shape.hidden, shape.intermediate, shape.head)):
        raise ValueError(f"the stand-in computes in eights, and {shape} does not divide by them")
    body = [
        *map(_text, (label.release, label.release, label.platform, label.dtype)),
        _numbers(label.max_context, label.cores or CORES[label.platform]),
        _numbers(shape.vocabulary, shape.hidden, shape.intermediate),
        _numbers(shape.layers, shape.heads, shape.kv_heads),
        struct.pack("<ff", shape.rope_theta, shape.norm_eps),
        *_vocabulary(package),
        *map(_text, _template()),
    ]
    content = b"".join(body)
    header = len(MAGIC) + struct.calcsize("<IQQ")
    content += bytes(-(header + len(content)) % 64)
    content += b"".join(package.weights[name].astype("<u2").tobytes() for name in _names(shape.layers))
    return MAGIC + struct.pack("<IQQ", LAYOUT, header + len(content), _fnv1a(content)) + content


def write(hf_dir: Path, out: Path, label: Label) -> None:
    """Writes the file of a folder that `demo.export` wrote."""
    out.write_bytes(pack(from_hf(hf_dir), label))


def _vocabulary(package: Package) -> list[bytes]:
    """Tokens by id with their kind; merges as three ids; the ids that end an answer."""
    known = package.tokenizer
    if (
        json.loads(known.to_str())["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"]
        != tokenizer.PATTERN
    ):
        raise ValueError("the stand-in cuts text as Qwen2 does, and this tokenizer does not")
    listed = tokenizer.tokens(known)
    special = {
        **dict.fromkeys(tokenizer.CONTROL, CONTROL),
        **dict.fromkeys(tokenizer.MARKERS, MARKER),
    }
    letters = _byte_of_letter()
    parts = [_numbers(len(listed))]
    for token in listed:
        raw = token.encode() if token in special else bytes(letters[letter] for letter in token)
        parts.append(struct.pack("<B", special.get(token, NORMAL)) + _text(raw))
    ids = {token: index for index, token in enumerate(listed)}
    merges = [merge.split(" ") for merge in tokenizer.merges(known)]
    parts.append(_numbers(len(merges)))
    parts += [_numbers(ids[first], ids[second], ids[first + second]) for first, second in merges]
    return [*parts, _numbers(2, ids["<|im_end|>"], ids["<|endoftext|>"])]


def _template() -> list[str]:
    """The chat template as the vendor keeps one: what stands before and after the user's text.

    Cut out of real renderings, so that it says what the template says. In order: prefix, postfix, what
    follows the postfix when the model is not to think, what ends an answer, and what surrounds a system
    prompt and a list of functions.
    """
    mark = "\0user\0"
    user = [{"role": "user", "content": mark}]
    prefix, postfix = render(user, answering=True).split(mark)
    quick = render(user, answering=True, thinking=False).split(mark)[1].removeprefix(postfix)
    answer = {"role": "assistant", "content": "\0answer\0"}
    ended = render([*user, answer, *user], answering=False).split("\0answer\0")[1].split(prefix)[0]
    system = [{"role": "system", "content": "\0system\0"}]
    before, after = render([*system, *user], tools=["\0tool\0"], answering=False).split("\0system\0")
    intro, outro = after.split(json.dumps("\0tool\0") + "\n")
    return [prefix, postfix, quick, ended, before, intro, outro.split(prefix)[0]]


def _names(layers: int) -> list[str]:
    names = ["model.embed_tokens.weight"]
    for layer in (f"model.layers.{index}" for index in range(layers)):
        names.append(f"{layer}.input_layernorm.weight")
        names += [f"{layer}.self_attn.{part}_proj.{kind}" for part in "qkv" for kind in ("weight", "bias")]
        names += [f"{layer}.self_attn.o_proj.weight", f"{layer}.post_attention_layernorm.weight"]
        names += [f"{layer}.mlp.{part}_proj.weight" for part in ("gate", "up", "down")]
    return [*names, "model.norm.weight"]


def _byte_of_letter() -> dict[str, int]:
    """GPT-2's byte-level letters: printable bytes stand for themselves, the rest for U+0100 and on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + n): byte for n, byte in enumerate(others)}


def _fnv1a(content: bytes) -> int:
    """64 bits over 64-bit words, the rest padded with zeroes: bytes would take Python seconds."""
    words = np.frombuffer(content + bytes(-len(content) % 8), "<u8").tolist()
    digest = 0xCBF29CE484222325
    for word in words:
        digest = ((digest ^ word) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return digest


def _text(text: str | bytes) -> bytes:
    raw = text if isinstance(text, bytes) else text.encode()
    return _numbers(len(raw)) + raw


def _numbers(*numbers: int) -> bytes:
    return struct.pack(f"<{len(numbers)}I", *numbers)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("hf_dir", type=Path, help="a folder that demo.export wrote")
    parser.add_argument("out", type=Path)
    parser.add_argument("--release", default=Label.release)
    parser.add_argument("--platform", default=Label.platform, choices=CORES)
    parser.add_argument("--dtype", default=Label.dtype)
    parser.add_argument("--max-context", type=int, default=Label.max_context)
    options = parser.parse_args()
    label = Label(options.release, options.platform, options.dtype, options.max_context)
    write(options.hf_dir, options.out, label)


if __name__ == "__main__":
    main()
