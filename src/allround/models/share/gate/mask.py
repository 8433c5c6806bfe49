"""A mask over the numbers that a module gives."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from allround.core.registry import method
from allround.models.share.gate_base import Gate


@method(
    source="Liu et al., CVPR 2019 (MTAN), equations 2 and 3; checked against architecture/MTAN.py of LibMTL: two "
    "layers with ReLU between and a sigmoid behind"
)
class Mask(Gate):
    """sigmoid(up(relu(down(x)))), a number between 0 and 1 for each of the `channels` of each module.

    units: numbers between the two layers; 0 for as many as channels. Differs: no batch normalisation, which would let a
    row's answer depend on others in training alone.

    >>> Mask(1, 6, channels=3)(torch.ones(2, 6)).shape
    torch.Size([2, 1, 3])
    """

    def __init__(
        self, count: int, width: int, own: tuple[int, ...] = (), *, channels: int = 128, units: int = 0
    ) -> None:
        super().__init__(count, width, own)
        self.channels = channels
        self.down = nn.Linear(width, units or channels)
        self.up = nn.Linear(units or channels, count * channels)

    def forward(self, values: Tensor) -> Tensor:
        found = torch.sigmoid(self.up(self.down(values).relu()))
        made: Tensor = found.unflatten(-1, (self.count, self.channels))
        return made
