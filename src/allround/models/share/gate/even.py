"""All modules weigh the same."""

from __future__ import annotations

import torch
from torch import Tensor

from allround.core.registry import method
from allround.models.share.gate_base import Gate


@method(source="a constant")
class Even(Gate):
    """Each module weighs `weight`; None is 1 / count, so that they are averaged.

    >>> Even(2, 4)(torch.ones(3, 4)).tolist()
    [0.5, 0.5]
    """

    def __init__(self, count: int, width: int, own: tuple[int, ...] = (), *, weight: float | None = None) -> None:
        super().__init__(count, width, own)
        self.weight = 1 / count if weight is None else weight

    def forward(self, values: Tensor) -> Tensor:
        return torch.full((self.count,), self.weight, dtype=values.dtype, device=values.device)
