"""Squeeze and excite: each number of a vector is scaled by what a small net makes of all of them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from allround.core.errors import AllroundError
from allround.core.registry import method
from allround.models.share.bank_base import Bank, side_by_side
from allround.models.share.gate_base import uniform


@method(source="Hu et al., CVPR 2018, arXiv:1709.01507, equation 3: two layers, ReLU between, a sigmoid behind")
class SqueezeExcite(Bank):
    """values * 2 sigmoid(up(relu(down(values)))).

    reduction: how many times fewer numbers there are between the two layers. Differs: a vector has no places to take
    the mean over; the scale is doubled and `up` begins at zero, so that a module begins as the identity.

    >>> SqueezeExcite(2, 4, 4)(torch.ones(1, 1, 4)).tolist()
    [[[1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0]]]
    """

    def __init__(self, count: int, width: int, outputs: int, *, reduction: int = 4) -> None:
        super().__init__(count, width, outputs)
        if outputs != width:
            raise AllroundError(
                f"scale {width} numbers into {outputs}", "a scale leaves as many as there are", "set units to 0"
            )
        units = max(1, width // reduction)
        self.down = nn.Parameter(uniform((count, units, width), width**-0.5))
        self.down_bias = nn.Parameter(torch.zeros(count, units))
        self.up = nn.Parameter(torch.zeros(count, width, units))
        self.up_bias = nn.Parameter(torch.zeros(count, width))

    def forward(self, values: Tensor) -> Tensor:
        hidden = side_by_side(values, self.down, self.down_bias).relu()
        return values * 2 * side_by_side(hidden, self.up, self.up_bias).sigmoid()
