"""How well the probability tells questions apart that it was not fitted to, beside simpler rules."""

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from auto.data import Data, folds, held_out, made, of_families
from auto.fitting import Vector, auc, calibrated
from exo.chat import ChatRequest, Message
from exo.choice.questions import probability

_SPLITS = 5

_KEYWORDS = re.compile(
    r"prove|proof|derive|solve|calculate|compute|how many|how much|probability|why|explain|step by step"
    r"|reason|think|logic|puzzle|algorithm|complexity|optimi|debug|bug|error|refactor|implement|design|architect|analy"
    r"|compare|trade-?off|strategy|plan|schedule|minimum|maximum|equation|integral|if .* then",
    re.IGNORECASE,
)
"""What somebody writes who wants a router in ten minutes; those in wide use are lists like it."""

_BINS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)


def report() -> str:
    """Tables in Markdown. Takes some minutes."""
    data = made()
    return "\n\n".join([_families(data), _languages(data), _plain()])


def plain_questions() -> list[tuple[bool, str]]:
    """Those written by hand: whether thinking pays, and the question."""
    lines = Path(__file__).with_name("plain.txt").read_text("utf-8").splitlines()
    pairs = [line.split(" ", 1) for line in lines if line and not line.startswith("#")]
    return [(kind == "reasoning", text.replace("\\n", "\n")) for kind, text in pairs]


def keywords(text: str) -> float:
    """How many of the keywords there are."""
    return float(len(_KEYWORDS.findall(text)))


def _families(data: Data) -> str:
    """Families held out, each split anew."""
    texts = [each.text for each in data.questions]
    named, wording = (_part(data, what) for what in ("named", "wording"))
    rules: dict[str, Callable[[NDArray[np.bool_]], Vector]] = {
        "all features": lambda out: held_out(data, out),
        "named features only": lambda out: held_out(named, out),
        "wording only": lambda out: held_out(wording, out),
        "keyword router": lambda out: np.array([keywords(t) for t, o in zip(texts, out, strict=True) if o]),
        "length alone": lambda out: np.array([float(len(t)) for t, o in zip(texts, out, strict=True) if o]),
    }
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in rules}
    logits = np.zeros(len(texts))
    for split in range(_SPLITS):
        for chosen in folds(split):
            out = of_families(data, chosen)
            for name, rule in rules.items():
                scores = rule(out)
                alike = auc(scores, data.pays[out], data.counts[out])
                found[name].append((auc(scores, data.pays[out]), alike))
                if name == "all features" and split == 0:
                    logits[out] = scores
    rows = [
        (name, *_spread([a for a, _ in values]), _mean([b for _, b in values]))
        for name, values in found.items()
    ]
    columns = ("families never seen, AUC", "mean", "least", "most", "mean among questions of one length")
    return _table(columns, rows) + "\n\n" + _reliability(data, logits)


def _reliability(data: Data, logits: Vector) -> str:
    """What is said of families never seen, and what is so."""
    chances = 1.0 / (1.0 + np.exp(-logits * calibrated(logits, data.pays, data.counts)))
    rows = []
    for low, high in pairwise(_BINS):
        there = (chances >= low) & (chances < high)
        count = data.counts[there]
        share = float((count * data.pays[there]).sum() / count.sum())
        rows.append((f"{low:.1f} to {high:.1f}", f"{share:.2f}", f"{count.sum() / data.counts.sum():.2f}"))
    return _table(("probability told", "share for which thinking pays", "share of all"), rows)


def _languages(data: Data) -> str:
    """One language held out, its families seen in the others."""
    rows = []
    for language in ("en", "de", "es", "zh"):
        out = np.array([each.language == language for each in data.questions])
        rows.append((language, f"{auc(held_out(data, out), data.pays[out]):.3f}"))
    return _table(("language never seen", "AUC"), rows)


def _plain() -> str:
    """The questions written by hand, with the weights that are shipped."""
    kinds, texts = zip(*plain_questions(), strict=True)
    pays = np.array(kinds, float)
    told = np.array([probability(ChatRequest(model="", messages=(Message("user", text),))) for text in texts])
    wrong = float(((told > 0.5) != (pays > 0.5)).sum())
    rows = [
        ("all features", f"{auc(told, pays):.3f}"),
        ("keyword router", f"{auc(np.array([keywords(text) for text in texts]), pays):.3f}"),
        ("length alone", f"{auc(np.array([float(len(text)) for text in texts]), pays):.3f}"),
    ]
    return _table((f"{len(texts)} questions by hand", "AUC"), rows) + f"\n\nWrong at 0.5: {wrong:.0f}."


def _part(data: Data, what: str) -> Data:
    """The data with one kind of features only."""
    examples = data.examples.only(np.ones(len(data.examples), bool))
    if what == "named":
        examples.shares = np.zeros_like(examples.shares)
    else:
        examples.named = np.zeros_like(examples.named)
    return Data(data.questions, examples, data.pays, data.counts)


def _spread(values: Sequence[float]) -> Iterator[str]:
    yield from (f"{each:.3f}" for each in (float(np.mean(values)), min(values), max(values)))


def _mean(values: Sequence[float]) -> str:
    return f"{float(np.mean(values)):.3f}"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
