"""Figures from marks of time, what they compare with, and how they are shown."""

import json
import xml.etree.ElementTree as ET

import msgspec
import pytest

from exo.benchmark.barplot import barplot
from exo.benchmark.results import (
    PROMPTS,
    WARM_UP,
    Report,
    Run,
    drawn,
    measured,
    median,
    model_result,
    percentile,
    references,
    table,
    to_json,
)
from exo.cards import Format, ModelCard, Share, Span
from exo.chat import Finished, Timings, Usage
from exo.errors import EngineFailed
from exo.nodes import Cluster, Device, Node

SVG = "{http://www.w3.org/2000/svg}"


def run(ttft: float = 1.0, **keys: float | None) -> Run:
    return Run(ttft=ttft, tokens=10, counted=False, **keys)


def card(
    id: str = "Qwen2.5-1.5B-Instruct",
    format: Format = "rkllm",
    bytes: int = 1_690_000_000,
    quantization: str = "w8a8",
    architecture: str = "",
    split: tuple[Share, ...] = (),
    whole: bool = True,
) -> ModelCard:
    return ModelCard(
        id=id,
        format=format,
        context=4096,
        bytes=bytes,
        memory=bytes,
        quantization=quantization,
        architecture=architecture,
        split=split,
        whole=whole,
    )


def node(*cards: ModelCard, chip: str = "RK3588") -> Node:
    device = Device(name="board", cores=8, memory=8 * 10**9, kind="rockchip", chip=chip)
    return Node(id="a", url="http://a", version="0", device=device, cards=cards, loaded=(), waiting=0)


def known(*nodes: Node, model: str = "Qwen2.5-1.5B-Instruct") -> dict[str, float]:
    me, *peers = nodes
    found = references(model, Cluster(me=me, peers=tuple(peers)))
    return {each.what: round(each.tokens_per_second, 2) for each in found}


# Figures


def test_figures_are_of_the_marks_of_time() -> None:
    usage = Usage(prompt_tokens=50, completion_tokens=5, cached_tokens=10)
    got = measured(10.0, [15.0, 15.25, 15.5, 15.75, 17.0], Finished("stop", usage, Timings(0.4, 2.5)))
    assert got == Run(
        ttft=5.0,
        tokens=5,
        counted=False,
        itl_p50=0.25,
        itl_p95=1.25,
        tokens_per_second=2.0,
        prefill=100.0,
        decode=2.0,
    )


def test_pieces_are_counted_where_the_server_sends_no_usage() -> None:
    got = measured(0.0, [1.0, 1.5, 2.0], Finished("stop", Usage(), Timings(0.4, 2.5)))
    assert (got.counted, got.tokens, got.tokens_per_second) == (True, 3, 2.0)
    assert (got.prefill, got.decode) == (None, None)


def test_usage_is_believed_where_pieces_are_of_several_tokens() -> None:
    got = measured(0.0, [1.0, 2.0], Finished("stop", Usage(completion_tokens=9)))
    assert (got.counted, got.tokens, got.tokens_per_second) == (False, 9, 8.0)


@pytest.mark.parametrize("pieces", [[1.0], [1.0, 1.0]])
def test_what_comes_at_once_has_no_speed(pieces: list[float]) -> None:
    assert measured(0.0, pieces, Finished("stop")).tokens_per_second is None


def test_an_empty_answer_has_no_figures() -> None:
    with pytest.raises(EngineFailed, match="empty"):
        measured(0.0, [], Finished("stop"))


@pytest.mark.parametrize(
    ("share", "value"), [(0.5, 10.0), (0.95, 19.0), (0.0, 1.0), (1.0, 20.0), (0.951, 20.0)]
)
def test_percentiles_are_of_the_nearest_rank(share: float, value: float) -> None:
    assert percentile([float(number) for number in range(20, 0, -1)], share) == value


def test_nothing_has_no_percentile() -> None:
    assert percentile([], 0.5) is None


def test_each_figure_has_its_own_median() -> None:
    runs = [run(3.0, decode=5.0), run(1.0, decode=7.0), run(2.0)]
    assert median(runs) == run(2.0, decode=6.0)
    assert median([]) is None


def test_a_prompt_that_failed_is_in_no_median() -> None:
    runs = {PROMPTS[0]: [run(1.0)], PROMPTS[1]: [run(9.0)]}
    result = model_result("m", runs, {PROMPTS[1]: "the wheel came off"})
    assert [each.prompt for each in result.prompts] == list(PROMPTS)
    assert result.prompts[1].median is None
    assert result.prompts[1].error == "the wheel came off"
    assert result.median == run(1.0)


def test_the_warm_up_is_none_of_the_prompts() -> None:
    assert WARM_UP not in PROMPTS


# What is known


def test_a_known_model_on_a_known_board_is_compared() -> None:
    assert known(node(card())) == {
        "the first exo-rkllama, on the NPU of an RK3588": 7.76,
        "the vendor's benchmark of Qwen2.5-1.5B w8a8 on the RK3588": 16.69,
        "the most that LPDDR4X-4224 allows on the RK3588, if a token reads the whole file": 20.0,
        "the most that LPDDR5-5500 allows on the RK3588, if a token reads the whole file": 26.04,
    }


def test_a_board_whose_memory_is_not_known_has_the_vendors_figure_alone() -> None:
    board = node(card("Qwen3-0.6B", quantization="w4a16"), chip="RK3576")
    assert known(board, model="Qwen3-0.6B") == {
        "the vendor's benchmark of Qwen3-0.6B w4a16 on the RK3576": 24.85
    }


@pytest.mark.parametrize("quantization", ["w8a8_g128", "Q8_0"])
def test_other_weights_are_not_compared_with_the_vendors(quantization: str) -> None:
    assert not any("vendor" in what for what in known(node(card(quantization=quantization))))


def test_a_processors_model_is_not_compared_with_the_vendors() -> None:
    assert not any("vendor" in what for what in known(node(card(format="gguf", quantization=""))))


def test_the_bound_is_not_told_of_a_mixture_of_experts() -> None:
    assert not any("allows" in what for what in known(node(card(architecture="qwen2moe"))))


HALVES = (Share("a", Span(0, 2)), Share("b", Span(2, 4)))


@pytest.mark.parametrize(
    "nodes",
    [
        [node(card(), chip="")],
        [node(card(), chip="Apple M2")],
        [node(card(bytes=0))],
        [node(card(split=HALVES))],
        [node(card(whole=False))],
        [node(card("another"))],
        [node(card()), node(card(), chip="RK3576")],
    ],
    ids=["no chip", "another chip", "an upstream's", "split", "a part", "not there", "two chips"],
)
def test_nothing_is_said_of_what_is_not_known(nodes: list[Node]) -> None:
    assert known(*nodes) == {}


def test_nothing_is_said_without_a_cluster() -> None:
    assert references("Qwen2.5-1.5B-Instruct", None) == ()


def test_an_unknown_model_has_the_bound_alone() -> None:
    assert set(known(node(card("mine")), model="mine")) == {
        f"the most that {kind} allows on the RK3588, if a token reads the whole file"
        for kind in ("LPDDR4X-4224", "LPDDR5-5500")
    }


# How it is shown


def test_the_servers_figures_have_columns_where_there_are_any() -> None:
    plain = table(model_result("m", {PROMPTS[0]: [run()]}, {}))
    timed = table(model_result("m", {PROMPTS[0]: [run(decode=5.0)]}, {PROMPTS[1]: "no"}))
    assert (len(plain[0]), len(timed[0])) == (6, 8)
    assert all(len(row) == len(rows[0]) for rows in (plain, timed) for row in rows)
    assert timed[1][-2:] == ("-", "5.00")
    assert timed[2][1] == "failed"
    assert timed[-1][0] == "median of all"


def test_a_report_is_json() -> None:
    result = model_result("m", {PROMPTS[0]: [run(tokens_per_second=2.5)]}, {})
    report = Report(url="http://a", complete=False, runs=3, max_tokens=9, models=(result,))
    shown = json.loads(to_json(report))
    assert shown["models"][0]["median"]["ttft_seconds"] == 1.0
    assert shown["complete"] is False
    assert msgspec.json.decode(to_json(report), type=Report) == report


def test_a_report_that_is_not_complete_says_so_in_its_plot() -> None:
    report = Report(url="http://a", complete=False, runs=3, max_tokens=9, models=())
    assert "incomplete" in drawn(report)
    assert "incomplete" not in drawn(msgspec.structs.replace(report, complete=True))


def bars(svg: str) -> list[float]:
    """Heights."""
    return [
        float(each.attrib["height"]) for each in ET.fromstring(svg).iter(SVG + "rect") if each.get("class")
    ]


def test_bars_are_as_high_as_their_values() -> None:
    low, high = bars(barplot("t", "u", ["one", "two"], {"a": [1.0, None], "b": [None, 4.0]}))
    assert high == 4 * low


@pytest.mark.parametrize("values", [[None], [0.0], [1e-9], [1e9]])
def test_any_values_can_be_drawn(values: list[float | None]) -> None:
    assert all(height <= 260 for height in bars(barplot("t", "u", ["one"], {"a": values})))


@pytest.mark.parametrize("name", ["</text><script>alert(1)</script>", "&amp;\"'", "]]>", "x" * 1000])
def test_names_in_a_plot_are_text_and_nothing_else(name: str) -> None:
    root = ET.fromstring(barplot("t", "u", ["one"], {name: [1.0]}))
    assert {each.tag for each in root.iter()} == {SVG + tag for tag in ("svg", "rect", "path", "text")}
    assert any(name.startswith((each.text or "").removesuffix("...")) for each in root.iter(SVG + "text"))
    assert len(name) > 80 or name in {each.text for each in root.iter(SVG + "text")}


def test_what_xml_cannot_hold_is_replaced() -> None:
    svg = barplot("t", "u", ["one"], {"a\x00b\x1b[31m\udc80c\uffff": [1.0]})
    names = {each.text for each in ET.fromstring(svg.encode()).iter(SVG + "text")}
    assert "a\ufffdb\ufffd[31m\ufffdc\ufffd" in names
