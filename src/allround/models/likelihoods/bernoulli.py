"""Bernoulli: each label is there or not, independently of the others."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from allround.core.registry import method
from allround.models.likelihood import Likelihood
from allround.tasks.definition import Definition
from allround.tasks.kind import Encoded


@method(source="independent logistic regressions", kinds=("multilabel",))
class Bernoulli(Likelihood):
    """p = sigmoid of the outputs (n, labels); targets are 0 or 1, float32 (n, labels).

    >>> Bernoulli().confidence(torch.zeros(1, 2)).tolist()
    [0.25]
    """

    def outputs(self, definition: Definition) -> int:
        return len(definition.labels)

    def tensor(self, encoded: Encoded) -> Tensor:
        return torch.as_tensor(np.asarray(encoded), dtype=torch.float32)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return binary_cross_entropy_with_logits(outputs.float(), targets)

    def predict(self, outputs: Tensor) -> Encoded:
        return (outputs > 0).cpu().numpy().astype(np.int8)

    def confidence(self, outputs: Tensor) -> Tensor:
        """The probability of the whole set of labels."""
        return outputs.double().abs().sigmoid().prod(-1)

    def scores(self, outputs: Tensor) -> Tensor:
        return outputs.float().sigmoid()

    def log_probabilities(self, outputs: Tensor) -> Tensor:
        outputs = outputs.float()
        return torch.stack([torch.zeros_like(outputs), outputs], -1).log_softmax(-1)

    def draws(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        drawn = torch.bernoulli(outputs.detach().float().sigmoid().cpu(), generator=generator)
        return drawn.to(outputs.device)
