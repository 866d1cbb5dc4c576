"""The examples that are fitted to, what each counts, and how they are split by whole families."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
from numpy.typing import NDArray

from auto.families import Family, Question, families, questions
from auto.fitting import Examples, Vector, calibrated, fit, rounded
from exo.choice.questions import Weights, features

SEED = 1
COUNT = 110
"""Questions of each family."""

FOLDS = 6

_LENGTHS = (0, 30, 45, 65, 90, 120, 160, 250, 500, 900)
"""Characters at which questions are told apart as to length."""

_MOST = 5.0
"""How often a question may count, however rare its like is."""


@dataclass(frozen=True)
class Data:
    """Questions, the same as numbers, whether thinking `pays` (0 or 1), and how often each `counts`."""

    questions: Sequence[Question]
    examples: Examples
    pays: Vector
    counts: Vector


def made(seed: int = SEED, count: int = COUNT) -> Data:
    """The questions of that seed."""
    drawn = questions(count, seed)
    pays = np.array([float(each.family.pays) for each in drawn])
    lengths = np.array([len(each.text) for each in drawn])
    return Data(drawn, Examples([features(each.request) for each in drawn]), pays, _even(pays, lengths))


def folds(seed: int) -> Iterator[frozenset[Family]]:
    """Families to hold out, all of them in turn: each time as many of either kind, as near as can be."""
    rng = Random(seed)
    parts: list[list[Family]] = [[] for _ in range(FOLDS)]
    for pays in (True, False):
        shuffled = [each for each in families() if each.pays == pays]
        rng.shuffle(shuffled)
        for position, family in enumerate(shuffled):
            parts[position % FOLDS].append(family)
    yield from map(frozenset, parts)


def held_out(data: Data, out: NDArray[np.bool_]) -> Vector:
    """The logits of the questions that are `out`, of a fit to the others."""
    weights = fit(data.examples.only(~out), data.pays[~out], data.counts[~out])
    return data.examples.only(out).times(weights)


def of_families(data: Data, chosen: frozenset[Family]) -> NDArray[np.bool_]:
    """Which questions are of the families."""
    names = {family.name for family in chosen}
    return np.array([each.family.name in names for each in data.questions])


def fitted(data: Data) -> Weights:
    """The weights, fitted to all, and scaled by how sure fits could be of families that they had not seen."""
    logits = np.zeros(len(data.pays))
    for chosen in folds(0):
        out = of_families(data, chosen)
        logits[out] = held_out(data, out)
    weights = fit(data.examples, data.pays, data.counts)
    return rounded(weights * calibrated(logits, data.pays, data.counts))


def _even(pays: Vector, lengths: NDArray[np.int_]) -> Vector:
    """Counts for which, among questions of about one length, thinking pays for half of them: so nothing is
    learnt from length as such. Many questions that gain from it are longer than those that do not."""
    bins = np.digitize(lengths, _LENGTHS)
    counts = np.zeros(len(pays))
    for each in np.unique(bins):
        for kind in (0.0, 1.0):
            chosen = (bins == each) & (pays == kind)
            if chosen.any():
                counts[chosen] = min(_MOST, (bins == each).sum() / 2 / chosen.sum())
    return counts
