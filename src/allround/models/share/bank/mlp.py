"""Perceptrons: linear layers with an activation behind each, as the experts of MMoE and PLE are."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from allround.core.registry import method
from allround.models.share.bank_base import Bank, side_by_side


@method(
    source="experts of mmoe.py (drawbridge/keras-mmoe) and of mtl_lib.py (facebookresearch/AdaTT): linear layers with "
    "ReLU, behind the last too"
)
class Mlp(Bank):
    """Hidden layers of `units` numbers, then `outputs`; ReLU and dropout behind each.

    >>> Mlp(3, 4, 2)(torch.ones(5, 1, 4)).shape
    torch.Size([5, 3, 2])
    """

    def __init__(
        self, count: int, width: int, outputs: int, *, units: tuple[int, ...] = (), dropout: float = 0.0
    ) -> None:
        super().__init__(count, width, outputs)
        self.dropout = dropout
        sizes = [width, *units, outputs]
        self.weights = nn.ParameterList(
            [torch.randn(count, after, before) * (2 / before) ** 0.5 for before, after in pairwise(sizes)]
        )
        self.biases = nn.ParameterList([torch.zeros(count, after) for after in sizes[1:]])

    def forward(self, values: Tensor) -> Tensor:
        for weight, bias in zip(self.weights, self.biases, strict=True):
            values = F.dropout(side_by_side(values, weight, bias).relu(), self.dropout, self.training)
        return values
