"""MLP: one hidden layer."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from allround.core.registry import method
from allround.models.batch import Features
from allround.models.fitting import fit_outputs
from allround.models.head import OutputHead
from allround.tasks.definition import Definition
from allround.tasks.kind import Encoded

#: Units of the hidden layer.
HIDDEN = 64


@method(source="a perceptron with one hidden layer of 64 GELU units, on standardised features")
class Mlp(OutputHead):
    """outputs = weight @ gelu(hidden_weight @ features + hidden_bias) + bias; answers zeros before it is trained.

    >>> d = Definition("t", "regression", ("x",), "text", "pearson", center=0.0, scale=1.0)
    >>> Mlp(d, 4)(torch.ones(1, 4)).tolist()
    [[0.0]]
    """

    sort = "mlp"

    def __init__(self, definition: Definition, width: int) -> None:
        super().__init__(definition, width)
        self.hidden_weight = nn.Parameter(torch.empty(HIDDEN, width))
        self.hidden_bias = nn.Parameter(torch.empty(HIDDEN))
        self.weight = nn.Parameter(torch.empty(self.outputs, HIDDEN))
        self.bias = nn.Parameter(torch.empty(self.outputs))
        self.reset()

    def reset(self) -> None:
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            drawn = torch.randn(HIDDEN, self.width, generator=generator) / math.sqrt(self.width)
            self.hidden_weight.copy_(drawn)
            for zero in (self.hidden_bias, self.weight, self.bias):
                zero.zero_()

    def forward(self, values: Tensor) -> Tensor:
        hidden = F.gelu(F.linear(values, self.hidden_weight, self.hidden_bias))
        return F.linear(hidden, self.weight, self.bias)

    def fit(self, train: Features, targets: Encoded, score: Callable[[], float]) -> dict[float, float]:
        """By L-BFGS on standardised features, for each of some penalties on all squared weights."""
        mean = train.values.mean(0)
        std = train.values.std(0).clamp_min(1e-4) if len(train.values) > 1 else torch.ones_like(mean)
        x = ((train.values - mean) / std).clone()

        def outputs(hidden: Tensor, hidden_bias: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
            return F.linear(F.gelu(F.linear(x, hidden, hidden_bias)), weight, bias)

        def keep(hidden: Tensor, hidden_bias: Tensor, weight: Tensor, bias: Tensor) -> None:
            self.hidden_weight.copy_(hidden / std)
            self.hidden_bias.copy_(hidden_bias - hidden @ (mean / std))
            self.weight.copy_(weight)
            self.bias.copy_(bias)

        self.reset()
        start = [value.detach().clone().to(x.device) for value in self.parameters()]
        # Where both layers are zero no gradient leads away, so that each penalty begins anew.
        return fit_outputs(self, outputs, start, self.tensor(targets).to(x.device), keep, score, anew=True)
