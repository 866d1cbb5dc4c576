"""Limits of single models: of a node by its flags, of the NPU server by Modelfiles."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from .conftest import Start
from .node import text
from .npu import Bench

WORDS = [text(f"{word} ") for word in ("one", "two", "three", "four", "five", "six")]
LATE: list[object] = [{"type": "wait", "seconds": 0.6}, text("here")]


def test_one_model_may_say_more_or_less_than_the_others(start: Start) -> None:
    node = start(
        "--max-generate-tokens", "3",
        "--max-generate-tokens-for", "long=5", "--max-generate-tokens-for", "short=1",
        scripts={"long": [*WORDS], "short": [*WORDS], "other": [*WORDS]},
    )  # fmt: skip
    said = {model: node.chat(model).json() for model in ("long", "short", "other")}
    assert {model: each["usage"]["completion_tokens"] for model, each in said.items()} == {
        "long": 5,
        "short": 1,
        "other": 3,
    }


def test_one_model_may_take_more_time_or_less_than_the_others(start: Start) -> None:
    node = start(
        "--chatgpt-api-response-timeout", "0.2",
        "--chatgpt-api-response-timeout-for", "patient=30", "--timeout-for", "quick=0.05",
        scripts={"patient": LATE, "quick": LATE, "other": LATE},
    )  # fmt: skip
    assert node.chat("patient").json()["choices"][0]["message"]["content"] == "here"
    for model, seconds in (("quick", "0.05"), ("other", "0.2")):
        reply = node.chat(model)
        assert reply.status == 504
        assert f"model '{model}' for {seconds} s" in reply.error()["message"]
        assert f"--chatgpt-api-response-timeout-for {model}=SECONDS" in reply.error()["message"]


def test_what_a_limit_cannot_do_is_in_the_log(start: Start) -> None:
    node = start(
        "--max-generate-tokens", "512", "--max-generate-tokens-for", "helo=100",
        scripts={"hello": [*WORDS], "deepseek-r1-mine": [*WORDS]},
    )  # fmt: skip
    assert "did you mean hello?" in node.line("--max-generate-tokens-for helo=100 has no effect yet")
    assert "512" in node.line("--max-generate-tokens-for deepseek-r1-mine=4096 allows more")
    assert node.chat("deepseek-r1-mine").status == 200
    assert node.log.count("deepseek-r1-mine=4096 allows more") == 1


def test_the_npu_servers_model_has_its_length_from_its_modelfile(
    tmp_path: Path, build: Path, file_for: Callable[..., Path]
) -> None:
    """It is what a request gets that names none, and no cap. TIMEOUT is the patience: tests/rkllama."""
    bench = Bench(tmp_path, build, file_for, "1.2.3")
    bench.put("short", modelfile="TEMPERATURE=0\nMAX_NEW_TOKENS=4\n")
    bench.put("other")
    server = bench.start()

    def tokens(model: str, **keys: Any) -> int:
        reply = server.chat(model, "Count from 1 to 40.", temperature=0, enable_thinking=False, **keys)
        return int(reply.json()["usage"]["completion_tokens"])

    try:
        assert tokens("short") == 4
        assert tokens("short", max_tokens=9) == 9
        assert tokens("other") > 9
        server.stop()
    finally:
        server.kill()
