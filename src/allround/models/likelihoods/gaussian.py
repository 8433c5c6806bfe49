"""Gaussian: a number, in units of the training targets' standard deviation."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from allround.core.registry import method
from allround.models.likelihood import Likelihood
from allround.tasks.definition import Definition
from allround.tasks.kind import Encoded


@method(source="least squares on standardised targets", kinds=("regression", "similarity"))
class Gaussian(Likelihood):
    """A normal distribution of variance 1 around the output (n, 1); targets are float32 (n,).

    >>> Gaussian().loss(torch.tensor([[3.0]]), torch.tensor([1.0])).item()
    2.0
    """

    def outputs(self, definition: Definition) -> int:
        return 1

    def tensor(self, encoded: Encoded) -> Tensor:
        return torch.as_tensor(np.asarray(encoded), dtype=torch.float32)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return 0.5 * mse_loss(outputs.float().squeeze(-1), targets)

    def predict(self, outputs: Tensor) -> Encoded:
        return outputs.squeeze(-1).double().cpu().numpy()

    def confidence(self, outputs: Tensor) -> Tensor | None:
        return None

    def scores(self, outputs: Tensor) -> Tensor | None:
        return None

    def log_probabilities(self, outputs: Tensor) -> Tensor | None:
        return None

    def draws(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        """One standard deviation away: the gradient is the distance of a target times that of the output, and the
        expected square of that distance is one."""
        return outputs.detach().float().squeeze(-1) + 1
