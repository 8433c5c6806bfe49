"""Linear: one affine layer."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from allround.core.registry import method
from allround.models.batch import Features
from allround.models.fitting import fit_outputs
from allround.models.head import HeadState, OutputHead
from allround.tasks.definition import Definition
from allround.tasks.kind import Encoded


@method(source="linear probing: Kumar et al., ICLR 2022, arXiv:2202.10054")
class Linear(OutputHead):
    """outputs = weight @ features + bias; zeros before it is trained.

    >>> d = Definition("t", "classification", ("x",), "text", "accuracy", ("no", "yes"))
    >>> Linear(d, 4)(torch.ones(1, 4)).tolist()
    [[0.0, 0.0]]
    """

    sort = "linear"

    def __init__(self, definition: Definition, width: int) -> None:
        super().__init__(definition, width)
        self.weight = nn.Parameter(torch.zeros(self.outputs, width))
        self.bias = nn.Parameter(torch.zeros(self.outputs))

    def reset(self) -> None:
        with torch.no_grad():
            self.weight.zero_()
            self.bias.zero_()

    def narrowed(self, places: Tensor) -> HeadState:
        state = self.stored()
        return HeadState({**state, "weight": state["weight"][:, places]}, state.sort)

    def forward(self, values: Tensor) -> Tensor:
        return F.linear(values, self.weight, self.bias)

    def fit(self, train: Features, targets: Encoded, score: Callable[[], float]) -> dict[float, float]:
        """By L-BFGS on standardised features, for each of some penalties on the squared weights."""
        mean = train.values.mean(0)
        std = train.values.std(0).clamp_min(1e-4) if len(train.values) > 1 else torch.ones_like(mean)

        def keep(weight: Tensor, bias: Tensor) -> None:
            self.weight.copy_(weight / std)
            self.bias.copy_(bias - weight @ (mean / std))

        x = ((train.values - mean) / std).clone()
        start = [x.new_zeros(self.outputs, x.shape[1]), x.new_zeros(self.outputs)]
        return fit_outputs(self, lambda w, b: x @ w.T + b, start, self.tensor(targets).to(x.device), keep, score)
