"""Sigmoid: a linear layer whose answer is a number between 0 and 1."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from allround.core.errors import AllroundError
from allround.core.registry import method
from allround.models.batch import Features, TaskLoss
from allround.models.heads.linear import Linear
from allround.tasks.kind import Encoded

#: How far a target may lie beyond 0 or 1 by rounding.
_ROUNDING = 1e-6


@method(
    source="soft labels by binary cross-entropy: self_distill.py of amzn/trans-encoder, and the CrossEncoder of one "
    "label in sentence-transformers that it trains",
    paper="Trans-Encoder: Unsupervised sentence-pair modelling through self- and mutual-distillations",
    bounded=True,
)
class Sigmoid(Linear):
    """answer = sigmoid(weight @ features + bias), for numbers from 0 to 1; 0.5 before it is trained.

    It learns by binary cross-entropy, in which the target is the probability of a yes. The cross-encoders of
    `allround.trans_encoder` have it: their targets are the cosines of a bi-encoder.

    Formula: loss = mean -(t log p + (1 - t) log(1 - p)), p the answer
    Errors: a task whose targets are no numbers; a target outside of 0 to 1.

    >>> from allround.tasks.definition import Definition
    >>> head = Sigmoid(Definition("t", "similarity", ("a", "b"), "text", "spearman", center=0.0, scale=1.0), 2)
    >>> head(torch.ones(1, 2)).tolist()
    [[0.5]]
    >>> round(head.loss(Features(torch.ones(1, 2)), torch.tensor([0.25])).mean.item(), 4)  # log 2
    0.6931
    """

    sort = "sigmoid"

    def tensor(self, encoded: Encoded) -> Tensor:
        targets = super().tensor(encoded)
        raw = self._raw(targets)
        odd = (raw < -_ROUNDING) | (raw > 1 + _ROUNDING)
        if bool(odd.any()):
            raise AllroundError(
                f"train the head 'sigmoid' of task '{self.definition.name}'",
                f"a target is {raw[odd][0].item():g}",
                "give targets from 0 to 1, or use the head linear",
            )
        return targets

    def forward(self, values: Tensor) -> Tensor:
        """The answers in the units of encoded targets: (n, width) -> (n, 1)."""
        answers = torch.sigmoid(super().forward(values))
        return (answers - self.definition.center) / self.definition.scale

    def loss(self, features: Features, targets: Tensor) -> TaskLoss:
        return TaskLoss(self.training_loss(super().forward(features.values), targets), len(targets))

    def training_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The mean loss. outputs: before the sigmoid, (n, 1)."""
        wanted = self._raw(targets).clamp(0, 1)
        return F.binary_cross_entropy_with_logits(outputs.float().squeeze(-1), wanted)

    def _raw(self, targets: Tensor) -> Tensor:
        return targets * self.definition.scale + self.definition.center
