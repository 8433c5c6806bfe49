"""A softmax over modules, linear in what is read."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from allround.core.registry import method
from allround.models.share.gate_base import Gate, uniform


@method(
    source="Ma et al., KDD 2018 (MMoE), equation 7; mmoe.py of drawbridge/keras-mmoe; the native residual: mtl_lib.py "
    "of facebookresearch/AdaTT, which adds it to the weights of the gate"
)
class Linear(Gate):
    """softmax(weight @ x + bias).

    native: what is added to the weights of the task's own modules: "ones", or numbers that are learned, at first
    between -1 and 1 over the root of their count.

    >>> _ = torch.manual_seed(0)
    >>> Linear(3, 4)(torch.ones(2, 4)).sum(-1).tolist()
    [1.0, 1.0]
    """

    def __init__(
        self,
        count: int,
        width: int,
        own: tuple[int, ...] = (),
        *,
        bias: bool = True,
        native: Literal["none", "ones", "learned"] = "none",
    ) -> None:
        super().__init__(count, width, own)
        self.weight = nn.Parameter(uniform((count, width), width**-0.5))
        self.bias = nn.Parameter(torch.zeros(count)) if bias else None
        self.native = native if own else "none"
        self.register_buffer("places", torch.tensor(own, dtype=torch.long), persistent=False)
        self.learned = nn.Parameter(uniform((len(own),), len(own) ** -0.5)) if self.native == "learned" else None

    def forward(self, values: Tensor) -> Tensor:
        found = nn.functional.linear(values, self.weight, self.bias).softmax(-1)
        if self.native == "none":
            return found
        added = found.new_ones(len(self.own)) if self.learned is None else self.learned
        return found.index_add(-1, self.get_buffer("places"), added.expand(*found.shape[:-1], -1))
