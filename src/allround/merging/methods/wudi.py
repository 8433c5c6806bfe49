"""WUDI: move the sum of all changes until what is added to each specialist is orthogonal to its own change."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from allround.core.errors import AllroundError
from allround.core.registry import Search, method
from allround.merging.matrices import mean, solve, wide

#: Entries of a weight whose steps are taken at a time.
_STRETCH = 1 << 19


@method(source="Cheng et al., ICML 2025, arXiv:2503.08099", block="tensor")
def wudi(
    base: Tensor,
    deltas: Tensor,
    *,
    steps: int = 300,
    learning_rate: float = 1e-5,
    exact: bool = False,
    scale: Annotated[float, Search(0.7, 1.0, 1.3)] = 1.0,
) -> Tensor:
    """Merge k changes of one weight without data, the change of a layer standing in for its inputs.

    Shapes: base (*s), deltas (k, *s) -> merged (*s)
    Formula: base + scale * D, where D starts at sum_i d_i and `steps` steps of Adam go down
    sum_i ||(D - d_i) d_i^T||^2 / ||d_i||^2. That is quadratic in D, with C_i = d_i^T d_i / ||d_i||^2 in the place of
    RegMean's Gram matrices; `exact` goes to the minimum at once: D = sum_i d_i C_i (sum_i C_i)^-1. Where the C_i say
    too little to be sure, D stays near the sum. What is no matrix is averaged: base + scale * mean_i d_i.
    Differs: the gradient is 2 (D - sum_j d_j) sum_i C_i + constant, with sum_i C_i computed once, so that a step costs
    one product of matrices and not two for each model. A model without a change takes no part. The authors' code for
    vision leaves all but the linear layers at the base (its code for text, with a learning rate of 2e-5, leaves none
    out). The steps take minutes on a processor for a large matrix: use a GPU. `exact` is ours, and takes seconds; where
    sum_i C_i is near singular the minimum lies far from all models, and the merged one may be of no use: look at it.

    >>> import torch
    >>> wudi(torch.zeros(2, 2), torch.tensor([[[3.0, 0.0], [0.0, 0.0]], [[1.0, 2.0], [0.0, 0.0]]]), exact=True)
    tensor([[3., 1.],
            [0., 0.]])
    """
    if steps < 0:
        raise AllroundError(f"take {steps} steps", "that is less than none", "give a number such as 300")
    if base.ndim != 2:
        return base + scale * mean(deltas)
    start = deltas.sum(0)
    few = 2 * len(deltas) * base.shape[0] < base.shape[1]
    if exact:
        matrix, apart = _quadratic(wide(start), wide(deltas), few)
        eps = torch.finfo(deltas.dtype).eps
        moved = solve(matrix @ matrix.T, apart, eps) @ matrix if few else solve(matrix, apart, eps)
        return base + scale * (start - moved.to(start.dtype))
    matrix, apart = _quadratic(start, deltas, few)
    merged = torch.empty_like(base)
    rows = max(64, _STRETCH // base.shape[1])  # each row goes its own way, so a few at a time save memory
    for first in range(0, len(base), rows):
        part = slice(first, first + rows)
        side = apart[part] @ matrix if few else apart[part]
        merged[part] = base[part] + scale * (start[part] + _descend(side, matrix, few, steps, learning_rate))
    return merged


def _descend(side: Tensor, matrix: Tensor, few: bool, steps: int, learning_rate: float) -> Tensor:
    """Where Adam is after some steps from zero, with the gradient 2 (X C + side) for rows X (r, n)."""
    moved, first, second = (torch.zeros_like(side) for _ in range(3))
    for step in range(1, steps + 1):
        left, right = (moved @ matrix.T, matrix) if few else (moved, matrix)
        gradient = torch.addmm(side, left, right, beta=2, alpha=2)
        first.lerp_(gradient, 0.1)
        second.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
        root = (second / (1 - 0.999**step)).sqrt_().add_(1e-8)
        moved.addcdiv_(first, root, value=-learning_rate / (1 - 0.9**step))
    return moved


def _quadratic(start: Tensor, deltas: Tensor, few: bool) -> tuple[Tensor, Tensor]:
    """What the objective is made of: C = sum_i C_i (n, n), and sum_i (start - d_i) C_i (m, n).

    few: the changes have so few rows (k m of them) that C is kept as R (k m, n) with C = R^T R, and the second
    as what is yet to be multiplied with R (m, k m).
    """
    if few:
        units = torch.cat([_unit(change) for change in deltas])
        apart = torch.cat(
            [(start - change) @ unit.T for change, unit in zip(deltas, units.split(len(start)), strict=True)], 1
        )
        return units, apart
    total, apart = start.new_zeros(start.shape[1], start.shape[1]), torch.zeros_like(start)
    for change in deltas:
        unit = _unit(change)
        part = unit.T @ unit
        total += part
        apart.addmm_(torch.sub(start, change, out=unit), part)
    return total, apart


def _unit(change: Tensor) -> Tensor:
    """A change over its norm; zero where there is none. The largest entry comes first, so that no square is lost."""
    peak = change.abs().amax()
    unit = change / torch.where(peak > 0, peak, 1)
    return unit.div_(torch.linalg.vector_norm(unit).clamp_min(1e-30))
