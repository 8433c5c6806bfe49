"""Attention from what is read to what modules give."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from allround.core.registry import method
from allround.models.share.gate_combining import Combiner


@method(
    source="Pfeiffer et al., EACL 2021 (AdapterFusion), equations 3 to 6; checked against BertFusion in "
    "adapters/modeling.py of adapter-hub/adapters"
)
class Attention(Combiner):
    """sum of softmax(query(x) . key(module)) value(module); what is read is as long as what modules give.

    Query and key begin normal with a deviation of 0.02, the value as the identity plus `off`. weight: of the squared
    distance of the value from the identity, which is added to the loss.
    """

    def __init__(
        self, count: int, width: int, own: tuple[int, ...] = (), *, weight: float = 0.01, off: float = 1e-6
    ) -> None:
        super().__init__(count, width, own)
        self.weight = weight
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        for layer in (self.query, self.key):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
        self.value = nn.Parameter(torch.eye(width) + off)

    def combine(self, values: Tensor, found: Tensor) -> Tensor:
        scores = (self.key(found) @ self.query(values).unsqueeze(-1)).squeeze(-1)
        made: Tensor = ((found @ self.value.T) * scores.softmax(-1).unsqueeze(-1)).sum(-2)
        return made

    def penalty(self) -> Tensor | None:
        off = self.value - torch.eye(self.width, device=self.value.device)
        return self.weight * off.square().sum()
