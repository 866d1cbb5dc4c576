"""Muon: momentum whose update is made orthogonal, so that all directions of a matrix learn alike.

At this size it decides whether the model learns to carry at all: at equal steps the loss was a
third of AdamW's. Only hidden matrices are for it; embeddings, norms and biases belong to AdamW.
See Keller Jordan et al., https://kellerjordan.github.io/posts/muon/ (2024).
"""

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor


class Muon:
    """Updates matrices in place; those of one shape are orthogonalised together, as one batch."""

    def __init__(self, matrices: Iterable[Tensor], momentum: float = 0.95, decay: float = 0.01) -> None:
        self.momentum, self.decay = momentum, decay
        by_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
        for matrix in matrices:
            by_shape[matrix.shape].append(matrix)
        self.groups = list(by_shape.values())
        self.averages = [torch.zeros(len(group), *group[0].shape) for group in self.groups]

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """One step with this learning rate, from the gradients that the matrices hold."""
        for group, average in zip(self.groups, self.averages, strict=True):
            gradient = torch.stack([matrix.grad for matrix in group if matrix.grad is not None])
            average.lerp_(gradient, 1 - self.momentum)
            update = orthogonal(gradient.lerp_(average, self.momentum))  # Nesterov: a look ahead
            rows, columns = group[0].shape
            scale = max(1.0, rows / columns) ** 0.5
            for matrix, change in zip(group, update, strict=True):
                matrix.mul_(1 - rate * self.decay).sub_(change, alpha=rate * scale)


def orthogonal(matrices: Tensor, steps: int = 5) -> Tensor:
    """Roughly the nearest orthogonal matrices: Newton-Schulz steps bring singular values near 1."""
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrices.shape[-2] > matrices.shape[-1]
    x: Tensor = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x
