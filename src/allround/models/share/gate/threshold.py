"""A score that is above a threshold or not."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from allround.core.registry import method
from allround.models.share.gate_base import Gate


@method(source="Wallingford et al., CVPR 2022 (TAPS), equations 3 to 5; checked against MattWallingford/TAPS")
class Threshold(Gate):
    """1 where the score of a module has at least the size of the threshold, else 0; its gradient passes as it is.

    start: the scores as they begin. weight: of the mean size of the scores, which is added to the loss so that few
    modules are used.

    >>> Threshold(2, 1)(torch.ones(1)).tolist()
    [1.0, 1.0]
    """

    def __init__(
        self,
        count: int,
        width: int,
        own: tuple[int, ...] = (),
        *,
        threshold: float = 0.1,
        start: float = 0.15,
        weight: float = 0.1,
    ) -> None:
        super().__init__(count, width, own)
        self.threshold, self.weight = threshold, weight
        self.scores = nn.Parameter(torch.full((count,), start))

    def forward(self, values: Tensor) -> Tensor:
        size = self.scores.abs()
        used = (size >= self.threshold).to(size.dtype)
        return used + size - size.detach() if self.training else used

    def penalty(self) -> Tensor | None:
        return self.weight * self.scores.abs().mean()
