"""Passthrough: one model as it is, or its weights times a number."""

from __future__ import annotations

from torch import Tensor

from allround.core.registry import method


@method(source="mergekit 0.1.5, passthrough", base="none", block="element", models=(1, 1))
def passthrough(base: Tensor, deltas: Tensor, *, scale: float = 1.0) -> Tensor:
    """Take over one weight.

    Shapes: base (*s), deltas (1, *s) -> merged (*s)
    Formula: scale * (base + d), which without a base is the weight itself
    Differs: in nothing from mergekit. The scale is of the weight, not of a change.

    >>> import torch
    >>> passthrough(torch.zeros(2), torch.tensor([[1.0, -2.0]]), scale=0.5)
    tensor([ 0.5000, -1.0000])
    """
    return (base + deltas[0]).mul_(scale)
