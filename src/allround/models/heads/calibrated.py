"""Calibrated: weights of labels and the features of a row look at each other, and then the nearest weight answers."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from allround.core.registry import method
from allround.models.head import OutputHead
from allround.tasks.definition import Definition

#: What cosines are multiplied by.
SCALE = 16.0


@method(
    source="LIMIT: Zhou et al., TPAMI 2023, arXiv:2203.17030; models/limit/Network.py of zhoudw-zdw/TPAMI-Limit; "
    "attention: Vaswani et al., NeurIPS 2017"
)
class Calibrated(OutputHead):
    """The weights of all labels and the features f of a row pass one layer of attention with one head; outputs are
    cosines of what became of them.

    Formula: Z = [weight; f], A = softmax((Z query^T) (Z key^T)^T / sqrt(d)), Y = norm(A Z value^T mix^T + b + Z);
    outputs = 16 cos(Y_f, Y_label), b being mix_bias. Where mix and b are 0 the nearest weight answers

    >>> from allround.tasks.definition import Definition
    >>> d = Definition("t", "classification", ("x",), "text", "accuracy", ("a", "b"))
    >>> head = Calibrated(d, 3)
    >>> head(torch.ones(1, 3)).tolist()
    [[0.0, 0.0]]
    """

    sort = "calibrated"

    def __init__(self, definition: Definition, width: int) -> None:
        super().__init__(definition, width)
        self.weight = nn.Parameter(torch.zeros(self.outputs, width))
        self.query, self.key, self.value, self.mix = (nn.Parameter(torch.zeros(width, width)) for _ in range(4))
        self.mix_bias, self.norm, self.norm_bias = (nn.Parameter(torch.zeros(width)) for _ in range(3))
        self.reset()

    def reset(self) -> None:
        for name, parameter in self.named_parameters():
            nn.init.constant_(parameter, 1.0 if name == "norm" else 0.0)

    def forward(self, values: Tensor) -> Tensor:
        return self.compare(values, self.weight)

    def compare(self, values: Tensor, weight: Tensor) -> Tensor:
        """The outputs for features (n, d) with weights of labels (k, d): (n, k)."""
        both = torch.cat([weight.expand(values.shape[0], -1, -1), values[:, None]], 1)
        looks = (both @ self.query.T) @ (both @ self.key.T).transpose(1, 2) / values.shape[1] ** 0.5
        mixed = F.linear(looks.softmax(2) @ (both @ self.value.T), self.mix, self.mix_bias)
        made = F.layer_norm(mixed + both, values.shape[1:], self.norm, self.norm_bias)
        return SCALE * F.cosine_similarity(made[:, -1:], made[:, :-1], dim=2)
