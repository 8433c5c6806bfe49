"""Bottleneck adapters: down to a few numbers, an activation, up again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from allround.core.registry import method
from allround.models.share.bank_base import Bank, side_by_side

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "relu": F.relu, "tanh": torch.tanh}


@method(
    source="Houlsby et al., ICML 2019; modeling.py of google-research/adapter-bert: both matrices normal with a "
    "deviation of 0.001, cut off at two of them, biases 0"
)
class Bottleneck(Bank):
    """up(activation(down(x))) of each module; what it is added to is the site's.

    norm: whether what it gives is brought to a mean of 0 and a variance of 1 in each row, then scaled and shifted.

    >>> _ = torch.manual_seed(0)
    >>> Bottleneck(1, 8, 8, units=2)(torch.ones(1, 1, 8)).abs().max().item() < 1e-4
    True
    """

    def __init__(
        self,
        count: int,
        width: int,
        outputs: int,
        *,
        units: int = 64,
        activation: Literal["gelu", "relu", "tanh"] = "gelu",
        deviation: float = 1e-3,
        norm: bool = False,
    ) -> None:
        super().__init__(count, width, outputs)
        self.activation = _ACTIVATIONS[activation]
        self.down = nn.Parameter(_cut_normal((count, units, width), deviation))
        self.down_bias = nn.Parameter(torch.zeros(count, units))
        self.up = nn.Parameter(_cut_normal((count, outputs, units), deviation))
        self.up_bias = nn.Parameter(torch.zeros(count, outputs))
        # As changes of a scale of 1 and of a shift of 0.
        self.scale = nn.Parameter(torch.zeros(count, outputs)) if norm else None
        self.shift = nn.Parameter(torch.zeros(count, outputs)) if norm else None

    def forward(self, values: Tensor) -> Tensor:
        hidden = self.activation(side_by_side(values, self.down, self.down_bias))
        found = side_by_side(hidden, self.up, self.up_bias)
        if self.scale is None or self.shift is None:
            return found
        return F.layer_norm(found, (self.outputs,)) * (1 + self.scale) + self.shift


def _cut_normal(shape: tuple[int, ...], deviation: float) -> Tensor:
    return nn.init.trunc_normal_(torch.empty(shape), std=deviation, a=-2 * deviation, b=2 * deviation)
