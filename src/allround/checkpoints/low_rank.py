"""Low-rank changes of weights, computed for some rows at a time from the factors in an adapter's file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from allround.checkpoints.weights import Weights

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class LowRank:
    """The factors of one layer: names of tensors in the adapter's file, and what they are multiplied by.

    Shapes: a (rank, in, *kernel), b (out, rank, *ones); of an embedding a (rank, rows), b (width, rank); of the
    parameter of n experts a (n * rank, in), b (out, rank * n), where the expert is the fastest index of b.
    """

    a: str
    b: str
    rank: int
    scale: float
    bias: str | None = None
    magnitude: str | None = None
    parameter: str | None = None
    #: Whether the rows of the weight are those of a: embeddings, and layers that hold their weight as (in, out).
    flipped: bool = False
    experts: int = 1

    def tensor(self, module: str) -> str:
        """The tensor of the model that changes, of a module."""
        return f"{module}.{self.parameter or 'weight'}"


def product(
    part: LowRank, weights: Weights, shape: tuple[int, ...], first: int, last: int, dtype: torch.dtype
) -> Tensor:
    """The rows from `first` to `last` of a low-rank change, scaled. Reads what they need of the factors.

    Shapes: -> (last - first, elements of a row)
    """
    import torch

    if part.experts > 1:
        pieces = []
        while first < last:
            end = min(last, (first // shape[1] + 1) * shape[1])
            expert, row = divmod(first, shape[1])
            pieces.append(_expert(part, weights, expert, row, row + end - first, dtype))
            first = end
        return torch.cat(pieces)
    rank = part.rank
    if part.flipped:
        left = _columns(weights, part.a, 0, rank, first, last).T
        right = weights.read(part.b).view(-1, rank).T
    else:
        left = weights.read(part.b, first * rank, last * rank).view(-1, rank)
        right = weights.read(part.a).view(rank, -1)
    return left.to(dtype).mul(part.scale) @ right.to(dtype)


def _expert(part: LowRank, weights: Weights, expert: int, first: int, last: int, dtype: torch.dtype) -> Tensor:
    """The rows from `first` to `last` of one expert."""
    rank, size, experts = part.rank, weights.shape(part.a)[1], part.experts
    if part.flipped:
        left = _columns(weights, part.a, expert * rank, rank, first, last).T
        right = weights.read(part.b).view(-1, rank, experts)[:, :, expert].T
    else:
        step = rank * experts
        left = weights.read(part.b, first * step, last * step).view(-1, rank, experts)[:, :, expert]
        right = weights.read(part.a, expert * rank * size, (expert + 1) * rank * size).view(rank, size)
    return left.to(dtype).mul(part.scale) @ right.to(dtype)


def _columns(weights: Weights, key: str, row: int, rows: int, first: int, last: int) -> Tensor:
    """Columns of some rows of a matrix: shape (rows, last - first)."""
    import torch

    size = weights.shape(key)[1]
    return torch.stack([weights.read(key, k * size + first, k * size + last) for k in range(row, row + rows)])
