"""Changes of a whole layer: a matrix and a bias for each module."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from allround.core.registry import method
from allround.models.share.bank_base import Bank, side_by_side


@method(
    source="Wallingford et al., CVPR 2022 (TAPS), equation 2; the average of weights before one product: layer.py of "
    "fundamentalvision/Uni-Perceiver (task_moe)",
    reads="input",
)
class Delta(Bank):
    """What is added to a layer's weight and bias; a layer with a module's change added is a copy of it that learns.

    deviation: of the changes as they begin, so that modules that are used alike become unlike; 0 for none. Where the
    weights of the modules do not depend on the row, the changes are averaged before one product.

    Shapes: weight (count, outputs, width), bias (count, outputs).

    >>> Delta(2, 4, 3)(torch.ones(5, 1, 4)).abs().sum().item()
    0.0
    """

    def __init__(self, count: int, width: int, outputs: int, *, deviation: float = 0.0) -> None:
        super().__init__(count, width, outputs)
        self.weight = nn.Parameter(torch.randn(count, outputs, width) * deviation)
        self.bias = nn.Parameter(torch.zeros(count, outputs))

    def forward(self, values: Tensor) -> Tensor:
        return side_by_side(values, self.weight, self.bias)

    def mixed(self, values: Tensor, weights: Tensor) -> Tensor:
        if weights.dim() > 1:
            return super().mixed(values, weights)
        weight, bias = torch.einsum("k,kow->ow", weights, self.weight), weights @ self.bias
        return nn.functional.linear(values, weight, bias)
