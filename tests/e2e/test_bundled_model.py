"""The bundled model can add: sums that were kept out of its training, asked through the API."""

import asyncio
import re

import openai
import pytest

from demo.sums import held_out_pairs

from .node import Node

COUNT = 60


@pytest.mark.parametrize("thinking", [True, False], ids=["thinking", "at once"])
async def test_held_out_sums(node: Node, thinking: bool) -> None:
    pairs = held_out_pairs(COUNT, seed=20261121)
    async with openai.AsyncOpenAI(base_url=f"{node.url}/v1", api_key="unused", max_retries=0) as client:

        async def ask(a: int, b: int) -> str:
            answer = await client.chat.completions.create(
                model="exo-demo",
                messages=[{"role": "user", "content": f"What is {a} + {b}?"}],
                temperature=0,
                extra_body={"enable_thinking": thinking},
            )
            thought = (answer.choices[0].message.model_extra or {}).get("reasoning_content")
            assert bool(thought) is thinking
            return answer.choices[0].message.content or ""

        answers = await asyncio.gather(*(ask(a, b) for a, b in pairs))
    wrong = [
        f"{a} + {b}: {answer!r}"
        for (a, b), answer in zip(pairs, answers, strict=True)
        if re.findall(r"\d+", answer)[-1:] != [str(a + b)]
    ]
    assert len(wrong) <= COUNT * 0.05, f"{len(wrong)} of {COUNT} are wrong:\n" + "\n".join(wrong)
