"""A logistic regression on named features and hashed wording, by Newton's method.

The loss is strictly convex, so it has one optimum, and it is followed until the gradient is zero to nine
places: the last bits in which machines differ are far below the steps that weights are rounded to.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from exo.choice.questions import BUCKETS, NAMES, Features, Weights

Vector = NDArray[np.float64]

_RIDGE_NAMED = 0.3
_RIDGE_WORDING = 0.3
"""How much weights of either kind are held back, in examples; chosen by `python -m auto --evaluate`."""

_CLOSE = 1e-9
"""Length of the gradient, per example, at which the optimum is reached."""


class Examples:
    """Questions as matrices. `named` has a row each, and a column for each of `NAMES`. The wording is sparse:
    `rows` and `columns` of what is not zero, each worth one over the root of how many its row has."""

    def __init__(self, questions: Sequence[Features]) -> None:
        self.named = np.array([each.values for each in questions])
        sizes = np.array([len(each.buckets) for each in questions])
        self.rows = np.repeat(np.arange(len(questions)), sizes)
        self.columns = np.array([bucket for each in questions for bucket in sorted(each.buckets)])
        self.shares = 1.0 / np.sqrt(sizes)[self.rows]

    def __len__(self) -> int:
        return len(self.named)

    def only(self, chosen: NDArray[np.bool_]) -> "Examples":
        """Those rows for which it is true."""
        part = Examples.__new__(Examples)
        part.named = self.named[chosen]
        kept = chosen[self.rows]
        part.rows = (np.cumsum(chosen) - 1)[self.rows[kept]]
        part.columns, part.shares = self.columns[kept], self.shares[kept]
        return part

    def times(self, weights: Vector) -> Vector:
        """The logits: `weights` are the bias, then those of `NAMES`, then those of the buckets."""
        named, wording = weights[1 : 1 + len(NAMES)], weights[1 + len(NAMES) :]
        sums = np.bincount(self.rows, wording[self.columns] * self.shares, len(self))
        logits: Vector = weights[0] + (self.named * named).sum(axis=1) + sums
        return logits

    def transposed_times(self, values: Vector) -> Vector:
        """What `times` does, the other way round: from a value a row to one a weight."""
        wording = np.bincount(self.columns, values[self.rows] * self.shares, BUCKETS)
        named = (self.named * values[:, None]).sum(axis=0)
        return np.concatenate(([values.sum()], named, wording))


def fit(examples: Examples, pays: Vector, counts: Vector) -> Vector:
    """The weights that fit best to `pays`, which is 0 or 1 a row; row i counts `counts[i]` times."""
    ridge = np.full(1 + len(NAMES) + BUCKETS, _RIDGE_WORDING)
    ridge[0], ridge[1 : 1 + len(NAMES)] = 1e-3, _RIDGE_NAMED
    weights = np.zeros(len(ridge))
    loss = _loss(examples, pays, counts, ridge, weights)
    while True:
        chances = _sigmoid(examples.times(weights))
        gradient = examples.transposed_times(counts * (chances - pays)) + ridge * weights
        length = float(np.linalg.norm(gradient))
        if length < _CLOSE * len(examples):
            return weights
        curvature = counts * chances * (1.0 - chances)

        def bent(step: Vector, curvature: Vector = curvature) -> Vector:
            return examples.transposed_times(curvature * examples.times(step)) + ridge * step

        step = _solved(bent, -gradient, min(0.1, (length / len(examples)) ** 0.5) * length)
        size = 1.0
        # Newton's full step may overshoot far from the optimum.
        while (new := _loss(examples, pays, counts, ridge, weights + size * step)) > loss and size > 1e-6:
            size /= 2
        weights, loss = weights + size * step, new


def calibrated(logits: Vector, pays: Vector, counts: Vector) -> float:
    """By what to multiply logits of questions that were not fitted to, so that they tell how often they are
    right (Platt's scaling, without a shift)."""
    low, high = 0.0, 4.0
    # The slope of the loss rises with the factor: halve to where it is zero.
    for _ in range(60):
        middle = (low + high) / 2
        slope = float((counts * (_sigmoid(middle * logits) - pays) * logits).sum())
        low, high = (middle, high) if slope < 0 else (low, middle)
    return low


def rounded(weights: Vector) -> Weights:
    """As they are written: named ones to three places, those of the buckets to a 127th of the largest."""
    wording = weights[1 + len(NAMES) :]
    # Three digits, so that it, too, is the same wherever it is made.
    step = float(f"{np.abs(wording).max() / 127:.3g}")
    return Weights(
        bias=round(float(weights[0]), 3),
        values={name: round(float(value), 3) for name, value in zip(NAMES, weights[1:], strict=False)},
        step=step,
        buckets=np.clip(np.rint(wording / step), -127, 127).astype(np.int8).tobytes(),
    )


def auc(scores: Vector, pays: Vector, counts: Vector | None = None) -> float:
    """How likely a question for which thinking pays scores above one for which it does not; ties are half."""
    weights = np.ones(len(scores)) if counts is None else counts
    _, place = np.unique(scores, return_inverse=True)
    above = np.bincount(place, weights * pays)
    below = np.bincount(place, weights * (1 - pays))
    right = above * (np.cumsum(below) - below / 2)
    return float(right.sum() / (above.sum() * below.sum()))


def _loss(examples: Examples, pays: Vector, counts: Vector, ridge: Vector, weights: Vector) -> float:
    logits = examples.times(weights)
    misfit = np.logaddexp(0.0, logits) - pays * logits
    return float((counts * misfit).sum() + (ridge * weights * weights).sum() / 2)


def _solved(matrix: Callable[[Vector], Vector], right: Vector, close: float) -> Vector:
    """The solution of `matrix` times it being `right`, by conjugate gradients."""
    found, rest = np.zeros(len(right)), right.copy()
    direction, length = rest.copy(), float(rest @ rest)
    for _ in range(200):
        if length**0.5 <= close:
            break
        turned = matrix(direction)
        share = length / float(direction @ turned)
        found += share * direction
        rest -= share * turned
        before, length = length, float(rest @ rest)
        direction = rest + length / before * direction
    return found


def _sigmoid(logits: Vector) -> Vector:
    return 0.5 * (1.0 + np.tanh(logits / 2.0))
