"""What is said of limits that are for one model."""

import logging
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from exo.chat import ChatRequest, Message
from exo.engines.scripted import ScriptedEngine
from exo.node.limits import too_tight, without_effect
from exo.node.local import LocalNode
from exo.nodes import Device
from exo.residency.residency import Limits, Residency
from exo.settings import Defaults
from exo.store.catalogue import Catalogue
from tests.doubles import SilentObserver, answer, card

R1 = "deepseek-r1-distill-qwen-7b"


def test_a_thinker_under_a_tight_cap_is_warned_of_with_the_remedy() -> None:
    text = too_tight(card(R1), Defaults(max_tokens=512))
    assert text is not None
    assert "its thought may use up all 512 tokens" in text
    assert f"--max-generate-tokens-for {R1}=4096 allows more" in text


@pytest.mark.parametrize("id", [R1, "deepseek-r1-1.5b-rkllm", "QwQ-32B-Q4_K_M", "qwen3-8b", "mine"])
def test_thinkers_are_known_by_card_by_family_and_by_name(id: str) -> None:
    capabilities = ("completion", "thinking") if id == "mine" else ("completion",)
    thinker = msgspec.structs.replace(card(id), capabilities=capabilities)
    assert too_tight(thinker, Defaults(max_tokens=1023)) is not None


@pytest.mark.parametrize(
    ("id", "defaults"),
    [
        ("qwen-2.5-7b", Defaults(max_tokens=512)),
        (R1, Defaults()),
        (R1, Defaults(max_tokens=1024)),
        (R1, Defaults(max_tokens=512, max_tokens_for={R1: 4096})),
        (R1, Defaults(max_tokens=512, max_tokens_for={R1: 256})),
        (R1, Defaults(max_tokens_for={R1: 256})),
    ],
)
def test_nothing_is_said_where_nothing_is_wrong_or_the_owner_has_decided(id: str, defaults: Defaults) -> None:
    assert too_tight(card(id), defaults) is None


def test_a_model_whose_owner_has_switched_its_thoughts_off_needs_no_room_for_them() -> None:
    silent = msgspec.structs.replace(card("qwen3-8b"), thinking=False)
    assert too_tight(silent, Defaults(max_tokens=512)) is None


def test_a_limit_for_a_model_that_is_not_here_names_flag_and_model() -> None:
    given: dict[str, dict[str, float]] = {
        "--max-generate-tokens-for": {"deepseek": 4096, "quick": 64},
        "--timeout-for": {"depseek": 2.5},
    }
    assert [*without_effect(given, ["deepseek", "quick"])] == [
        "--timeout-for depseek=2.5 has no effect yet: model 'depseek' is not here; did you mean deepseek?"
    ]


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[LocalNode]:
    for name in ("deepseek-r1-here", "quick"):
        (tmp_path / f"{name}.script.json").write_text('{"steps": [{"type": "text", "text": "hi"}]}')
    shelf = Catalogue(tmp_path)
    limits = Limits(memory=1 << 30, silence_for={"nowhere": 60.0, "quick": 5.0})
    residency = Residency([ScriptedEngine()], shelf, limits, SilentObserver())
    yield LocalNode(
        id="me",
        url="http://me",
        version="1",
        device=Device(name="d", cores=1, memory=1),
        shelf=shelf,
        residency=residency,
        defaults=Defaults(max_tokens=512, max_tokens_for={"quick": 64, "gone": 8}),
    )
    await residency.close()


async def test_a_node_says_it_once_at_start(node: LocalNode, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        node.check_limits()
        await answer(node, ChatRequest(model="deepseek-r1-here", messages=(Message("user", "hi"),)))
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
        "--max-generate-tokens-for gone=8 has no effect yet",
        "--chatgpt-api-response-timeout-for nowhere=60 has no effect yet",
        "model 'deepseek-r1-here' thinks before it answers, and --max-generate-tokens 512 counts both",
    ]


async def test_a_thinker_that_came_later_is_warned_of_when_it_is_first_asked(
    node: LocalNode, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    node.check_limits()
    (tmp_path / "qwq-late.script.json").write_text('{"steps": [{"type": "text", "text": "hi"}]}')
    with caplog.at_level(logging.WARNING):
        caplog.clear()
        for _ in range(2):
            await answer(node, ChatRequest(model="qwq-late", messages=(Message("user", "hi"),)))
    assert len(caplog.records) == 1
    assert "--max-generate-tokens-for qwq-late=4096 allows more" in caplog.text
