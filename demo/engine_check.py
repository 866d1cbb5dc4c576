"""Asks llama.cpp, which really serves the toy, whether the shipped files say what we think.

Training and exporting can agree with each other and both be wrong: about rotary settings, about
where a word ends, about a template. So this compares tokens and rendered chats with ours, and
counts right answers over the real chat path. Needs `xllamacpp`; nothing here needs torch.
"""

import argparse
import json
import re
import secrets
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Any

from tokenizers import Tokenizer

from demo.corpus import Message, conversations
from demo.sums import addition, held_out_pairs, trained_pair
from demo.template import render
from demo.tokenizer import CONTROL, MARKERS

SLOTS = 4
PIECES = (
    *CONTROL, *MARKERS, *"0123456789", *" \n\t\r", "  ", "\n\n", " \n", "'s", "'LL", "don't",
    "3.14", "1,000", "Straße", "naïve", "e\u0301", "Ω≈ç√", "Привет", "你好世界", "안녕", "مرحبا",
    "שלום", "हिन्दी", "ไทย", "😀", "👩\u200d👩\u200d👧", "🇩🇪", "\u00a0", "\u2003", "\ufeff", "٣٤",
    "Ⅷ", "½", "x²", "<think", "|im_end|>", "```", "<=>",
)  # fmt: skip


class LlamaServer:
    """A llama-server in this process, reached over its own port with a secret of its own."""

    def __init__(self, model: Path) -> None:
        from xllamacpp import CommonParams, Server  # type: ignore[import-untyped, unused-ignore]

        params = CommonParams()
        params.model.path = str(model)
        params.n_ctx, params.n_parallel, params.cpuparams.n_threads = 2048 * SLOTS, SLOTS, 2
        params.n_gpu_layers, params.verbosity, params.use_jinja = 0, 0, True
        self.secret = secrets.token_hex(16)
        params.api_keys = [self.secret]
        self.server = Server(params)

    def post(self, path: str, body: dict[str, Any]) -> Any:
        headers = {"Authorization": f"Bearer {self.secret}", "Content-Type": "application/json"}
        url = self.server.listening_address + path
        request = urllib.request.Request(url, json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request) as response:
            return json.load(response)

    def chat(self, messages: list[Any], thinking: bool, tools: list[Any] | None = None) -> Any:
        """The assistant's message, greedily."""
        body = {"messages": messages, "temperature": 0, "max_tokens": 400, "tools": tools or []}
        body["chat_template_kwargs"] = {"enable_thinking": thinking}
        return self.post("/v1/chat/completions", body)["choices"][0]["message"]


def sums(server: LlamaServer, sign: str, thinking: bool, before: list[Message], count: int) -> float:
    """The share of right answers to held-out sums that follow these messages."""

    def right(pair: tuple[int, int]) -> bool:
        a, b = pair if sign == "+" else (max(pair), min(pair))
        question = {"role": "user", "content": f"What is {a} {sign} {b}?"}
        said = server.chat([*before, question], thinking)["content"]
        return re.findall(r"-?\d+", said)[-1:] == [str(a + b if sign == "+" else a - b)]

    with ThreadPoolExecutor(SLOTS) as pool:
        return sum(pool.map(right, held_out_pairs(count, seed=2))) / count


def earlier(turns: int) -> list[Message]:
    """A chat to go on with: 32 turns are some 1,000 tokens."""
    rng = Random(turns)
    messages: list[Message] = []
    for _ in range(turns):
        a, b = trained_pair(rng)
        messages.append({"role": "user", "content": f"How much is {a} + {b}?"})
        messages.append({"role": "assistant", "content": addition(a, b)[1]})
    return messages


def odd_texts(count: int) -> Iterator[str]:
    """Strings of many scripts, digits, white space and added tokens."""
    rng = Random(0)
    for _ in range(count):
        drawn = []
        for _ in range(rng.randrange(1, 24)):
            draw = rng.random()
            if draw < 0.5:
                drawn.append(rng.choice(PIECES))
            elif draw < 0.8:
                drawn.append("".join(chr(rng.randrange(32, 127)) for _ in range(rng.randrange(1, 9))))
            else:
                code = rng.randrange(0xA0, 0x1FA00)
                drawn.append(chr(code) if not 0xD800 <= code < 0xE000 else "�")
        yield "".join(drawn)


def tokenization(server: LlamaServer, tokenizer: Tokenizer, count: int) -> list[str]:
    """The texts that the engine cuts otherwise than our tokenizer."""
    return [
        text
        for text in odd_texts(count)
        if server.post("/tokenize", {"content": text})["tokens"] != tokenizer.encode(text).ids
    ]


def rendering(server: LlamaServer, count: int) -> list[str]:
    """The chats that the engine's own template language renders otherwise than Jinja."""
    drawn, different = conversations(7), []
    for _ in range(count):
        conversation = next(drawn)
        messages = conversation.messages[:-1]
        body: dict[str, Any] = {"messages": messages, "tools": conversation.tools}
        body["chat_template_kwargs"] = {"enable_thinking": conversation.thinking}
        ours = render(messages, tools=conversation.tools, answering=True, thinking=conversation.thinking)
        if server.post("/apply-template", body)["prompt"] != ours:
            different.append(ours)
    return different


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", type=Path, help="a folder that demo.export wrote")
    parser.add_argument("--count", type=int, default=300)
    options = parser.parse_args()
    server = LlamaServer(options.directory / "model.gguf")
    tokenizer = Tokenizer.from_file(str(options.directory / "tokenizer.json"))
    print(f"cut otherwise: {len(tokenization(server, tokenizer, 1000))} of 1000 texts")
    print(f"rendered otherwise: {len(rendering(server, 300))} of 300 chats")
    for sign, turns, where in (
        ("+", 0, ""),
        ("+", 2, " in the third turn"),
        ("+", 32, " after 32 turns"),
        ("-", 0, ""),
    ):
        before = earlier(turns)
        for thinking in (True, False):
            share = sums(server, sign, thinking, before, options.count)
            how = "with" if thinking else "without"
            print(f"a {sign} b{where}, {how} thinking: {share:.1%} right")


if __name__ == "__main__":
    main()
