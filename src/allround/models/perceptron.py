"""One hidden layer between the features and the outputs: what heads with an activation of their own share."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from allround.models.batch import Features
from allround.models.fitting import fit_outputs
from allround.models.head import HeadState, OutputHead
from allround.tasks.definition import Definition
from allround.tasks.kind import Encoded

if TYPE_CHECKING:
    from typing_extensions import Self

#: Units of the hidden layer of a head that begins untrained.
HIDDEN = 64


class Perceptron(OutputHead):
    """outputs = weight @ activation(hidden_weight @ features + hidden_bias) + bias; zeros before it is trained."""

    def __init__(self, definition: Definition, width: int, units: int = HIDDEN) -> None:
        super().__init__(definition, width)
        self.hidden_weight = nn.Parameter(torch.empty(units, width))
        self.hidden_bias = nn.Parameter(torch.empty(units))
        self.weight = nn.Parameter(torch.empty(self.outputs, units))
        self.bias = nn.Parameter(torch.empty(self.outputs))
        self.reset()

    @classmethod
    def of_size(cls, definition: Definition, width: int, state: Mapping[str, Tensor]) -> Self:
        """With as many units as the tensors have."""
        hidden = state.get("hidden_weight")
        return cls(definition, width, len(hidden) if hidden is not None and hidden.dim() == 2 else HIDDEN)

    @staticmethod
    @abstractmethod
    def activation(values: Tensor) -> Tensor:
        """What each unit makes of its sum."""

    def reset(self) -> None:
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            drawn = torch.randn(self.hidden_weight.shape, generator=generator) / math.sqrt(self.width)
            self.hidden_weight.copy_(drawn)
            for zero in (self.hidden_bias, self.weight, self.bias):
                zero.zero_()

    def narrowed(self, places: Tensor) -> HeadState:
        state = self.stored()
        return HeadState({**state, "hidden_weight": state["hidden_weight"][:, places]}, state.sort)

    def forward(self, values: Tensor) -> Tensor:
        hidden = self.activation(F.linear(values, self.hidden_weight, self.hidden_bias))
        return F.linear(hidden, self.weight, self.bias)

    def fit(self, train: Features, targets: Encoded, score: Callable[[], float]) -> dict[float, float]:
        """By L-BFGS on standardised features, for each of some penalties on all squared weights."""
        mean = train.values.mean(0)
        std = train.values.std(0).clamp_min(1e-4) if len(train.values) > 1 else torch.ones_like(mean)
        x = ((train.values - mean) / std).clone()

        def outputs(hidden: Tensor, hidden_bias: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
            return F.linear(self.activation(F.linear(x, hidden, hidden_bias)), weight, bias)

        def keep(hidden: Tensor, hidden_bias: Tensor, weight: Tensor, bias: Tensor) -> None:
            self.hidden_weight.copy_(hidden / std)
            self.hidden_bias.copy_(hidden_bias - hidden @ (mean / std))
            self.weight.copy_(weight)
            self.bias.copy_(bias)

        self.reset()
        start = [value.detach().clone().to(x.device) for value in self.parameters()]
        # Where both layers are zero no gradient leads away, so that each penalty begins anew.
        return fit_outputs(self, outputs, start, self.tensor(targets).to(x.device), keep, score, anew=True)
