"""Fixed weights: one number for each task, chosen by the user."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from allround.core.errors import AllroundError
from allround.core.registry import method
from allround.training.balancing import Balancer, Outline, per_task


@method(source="linear scalarisation; as strong as any balancer when tuned: Xin et al., NeurIPS 2022, arXiv:2209.11379",
        by="losses", exempt={"alone": "without weights given, all are equal"})  # fmt: skip
class Fixed(Balancer):
    """Every task keeps the weight that it was given: a list in the order of the tasks, or a mapping by name in which
    tasks left out weigh 1.

    Formula: w_t = weights_t

    >>> from allround.training.balancing import Outline
    >>> Fixed(Outline(("a", "b"), (2, 2), (10, 10)), weights={"b": 3.0}).everyone()
    tensor([1., 3.], dtype=torch.float64)
    """

    def __init__(self, outline: Outline, *, weights: Mapping[str, float] | Sequence[float] = ()) -> None:
        super().__init__(outline)
        self.weights = per_task(weights, outline, "weights")
        if not any(self.weights):
            raise AllroundError(
                "balance by 'fixed'", "all weights are 0", "give at least one task a weight above 0"
            )  # fmt: skip

    def early(self, task: int, loss: float, norm: float) -> float:
        return self.weights[task]

    def everyone(self) -> Tensor:
        return torch.tensor(self.weights, dtype=torch.float64)
