"""FiLM: a scale and a shift of each number of a vector."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from allround.core.errors import AllroundError
from allround.core.registry import method
from allround.models.share.bank_base import Bank


@method(source="Perez et al., AAAI 2018, arXiv:1709.07871, equation 2, with scales and shifts that are learned")
class Film(Bank):
    """scale * x + shift of each module, as a change of what a layer gives, which is then (1 + scale) * x + shift.

    It begins as no change. Of convolutions each channel has its scale.

    Shapes: scale, shift (count, width).

    >>> Film(2, 4, 4)(torch.ones(5, 1, 4)).abs().sum().item()
    0.0
    """

    def __init__(self, count: int, width: int, outputs: int) -> None:
        super().__init__(count, width, outputs)
        if outputs != width:
            raise AllroundError(
                f"scale {width} numbers into {outputs}", "a scale leaves as many as there are", "set units to 0"
            )
        self.scale = nn.Parameter(torch.zeros(count, width))
        self.shift = nn.Parameter(torch.zeros(count, width))

    def forward(self, values: Tensor) -> Tensor:
        return values * self.scale + self.shift

    def mixed(self, values: Tensor, weights: Tensor) -> Tensor:
        return values * (weights @ self.scale) + weights @ self.shift
