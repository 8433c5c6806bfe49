"""Attention of a task to what modules give."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from allround.core.registry import method
from allround.models.share.gate_base import Gate, uniform


@method(source="scaled dot products: Vaswani et al., NeurIPS 2017, with a vector of the task as the query")
class Indicator(Gate):
    """softmax of the products of the task's vector with what each module gives, over the root of its length.

    Reads the outputs of the modules, (*, count, width).

    >>> Indicator(2, 3)(torch.ones(5, 2, 3))[0].tolist()
    [0.5, 0.5]
    """

    def __init__(self, count: int, width: int, own: tuple[int, ...] = ()) -> None:
        super().__init__(count, width, own)
        self.query = nn.Parameter(uniform((width,), 1.0))

    def forward(self, values: Tensor) -> Tensor:
        return torch.softmax(values @ self.query / self.width**0.5, -1)
