"""A softmax over modules, linear in what is read."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from allround.core.registry import method
from allround.models.share.gate_base import Gate, uniform


@method(source="Ma et al., KDD 2018 (MMoE), equation 7; mmoe.py of drawbridge/keras-mmoe")
class Linear(Gate):
    """softmax(weight @ x + bias).

    >>> _ = torch.manual_seed(0)
    >>> Linear(3, 4)(torch.ones(2, 4)).sum(-1).tolist()
    [1.0, 1.0]
    """

    def __init__(self, count: int, width: int, own: tuple[int, ...] = (), *, bias: bool = True) -> None:
        super().__init__(count, width, own)
        self.weight = nn.Parameter(uniform((count, width), width**-0.5))
        self.bias = nn.Parameter(torch.zeros(count)) if bias else None

    def forward(self, values: Tensor) -> Tensor:
        return nn.functional.linear(values, self.weight, self.bias).softmax(-1)
