"""Arithmetic of gradients that are lists of tensors, one for each parameter."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

#: One tensor for each parameter, or None where the loss does not depend on it.
Gradient = list[Tensor | None]


def separate(gradient: Sequence[Tensor | None]) -> Gradient:
    """The same numbers, each tensor in memory of its own: autograd may give one tensor twice, or one number as many."""
    seen: set[int] = set()
    made: Gradient = []
    for g in gradient:
        if g is not None and (g.data_ptr() in seen or not g.is_contiguous()):
            g = g.clone(memory_format=torch.contiguous_format)
        if g is not None:
            seen.add(g.data_ptr())
        made.append(g)
    return made


def add_scaled(one: Sequence[Tensor | None], other: Sequence[Tensor | None], weight: float) -> Gradient:
    """one + weight * other, in the memory of the first (of the second, where the first has no tensor).

    An empty list is a gradient without any tensor yet.

    >>> add_scaled([torch.ones(2), None], [torch.ones(2), torch.ones(1)], 2.0)
    [tensor([3., 3.]), tensor([2.])]
    """
    made: Gradient = []
    for a, b in zip(one or [None] * len(other), other, strict=True):
        if b is None:
            made.append(a)
        elif a is None:
            made.append(b if weight == 1 else b.mul_(weight))
        else:
            made.append(a.add_(b, alpha=weight))
    return made


def write_row(row: Tensor, gradient: Gradient, sizes: Sequence[int]) -> None:
    """Write a gradient into a row (p,): its tensors flat, one after the other, with zeros where it has none.

    sizes: the number of entries of each parameter; they sum to p.
    """
    for place, g in zip(row.split(sizes), gradient, strict=True):
        if g is None:
            place.zero_()
        else:
            place.copy_(g.reshape(-1))


def assign_gradient(parameters: Sequence[Tensor], gradient: Gradient, factor: float) -> None:
    """Set the `grad` of each parameter to `factor` times its tensor; the tensors are changed in place."""
    for p, g in zip(parameters, gradient, strict=True):
        p.grad = g if g is None or factor == 1 else g.mul_(factor)


def norm_of(gradient: Sequence[Tensor | None]) -> float:
    """The Euclidean norm over all tensors.

    >>> norm_of([torch.tensor([3.0]), None, torch.tensor([4.0])])
    5.0
    """
    there = [g for g in gradient if g is not None]
    return float(torch.stack(torch._foreach_norm(there)).norm()) if there else 0.0


def dot(one: Gradient, other: Gradient) -> float:
    """The inner product of two gradients, summed in float64.

    >>> dot([torch.tensor([1.0, 2.0]), None], [torch.tensor([3.0, 4.0]), torch.ones(1)])
    11.0
    """
    pairs = zip(one, other, strict=True)
    return sum(float((a * b).sum(dtype=torch.float64)) for a, b in pairs if a is not None and b is not None)
