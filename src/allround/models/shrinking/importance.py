"""What the parts of a network are worth to tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import torch
from torch import Tensor

Over: TypeAlias = Literal["max", "mean"]


def contributions(values: Tensor, gradients: Tensor) -> Tensor:
    """To first order, how much the loss of each row would fall if a part were zero.

    Shapes: (n, positions, parts, size) each, gradients of the rows' own losses -> (n, parts)
    Formula: sum over positions and entries of value * gradient

    >>> contributions(torch.tensor([[[[2.0], [1.0]]]]), torch.tensor([[[[3.0], [-4.0]]]])).tolist()
    [[6.0, -4.0]]
    """
    return (values * gradients).sum((1, 3))


def taylor(given: Tensor) -> Tensor:
    """The importance of parts: the mean over rows of how much the loss would change without each.

    Shapes: contributions (n, parts) -> (parts,)
    Source: Michel et al., NeurIPS 2019, arXiv:1905.10650, equation 2; for channels Molchanov et al., ICLR 2017,
    arXiv:1611.06440, equation 8

    >>> taylor(torch.tensor([[1.0, -3.0], [-1.0, 1.0]])).tolist()
    [1.0, 2.0]
    """
    return given.abs().mean(0)


def combined(scores: Tensor, over: Over = "max", weights: Sequence[float] | None = None) -> Tensor:
    """One score for each part, in which every task counts: each task's scores are divided by their length (as Michel
    et al. do within a layer) and multiplied by its weight, then the largest or the mean over tasks is taken.

    Shapes: (tasks, parts) -> (parts,)

    >>> combined(torch.tensor([[3.0, 4.0], [0.0, 100.0]]), "max").tolist()
    [0.6000000238418579, 1.0]
    >>> combined(torch.tensor([[3.0, 4.0], [0.0, 100.0]]), "mean", [1.0, 0.0]).tolist()
    [0.6000000238418579, 0.800000011920929]
    """
    lengths = scores.norm(dim=1, keepdim=True)
    fair = scores / torch.where(lengths > 0, lengths, torch.ones_like(lengths))
    each = torch.ones(len(scores)) if weights is None else torch.tensor(weights)
    fair = fair * each[:, None]
    return fair.amax(0) if over == "max" else fair.sum(0) / each.sum()


def highest(scores: Tensor, count: int) -> tuple[int, ...]:
    """The numbers of the parts with the highest scores, ascending; of equal ones the first.

    >>> highest(torch.tensor([1.0, 5.0, 2.0, 5.0]), 2), highest(torch.tensor([1.0, 1.0]), 1)
    ((1, 3), (0,))
    """
    order = torch.argsort(scores, descending=True, stable=True)[:count]
    return tuple(sorted(order.tolist()))
