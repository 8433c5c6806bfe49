"""Equal weights: the plain sum of the tasks' mean losses."""

from __future__ import annotations

import torch
from torch import Tensor

from allround.core.registry import method
from allround.training.balancing import Balancer


@method(
    source="the baseline of every comparison; why it is hard to beat: Kurin et al., NeurIPS 2022, arXiv:2201.04122",
    by="losses",
    exempt={"alone": "equal weights are what it is for"},
)
class Equal(Balancer):
    """Every task weighs the same, whatever its rows, classes or losses.

    Formula: w_t = 1

    >>> from allround.training.balancing import Outline
    >>> Equal(Outline(("a", "b"), (2, 2), (10, 10))).everyone()
    tensor([1., 1.], dtype=torch.float64)
    """

    def early(self, task: int, loss: float, norm: float) -> float:
        return 1.0

    def everyone(self) -> Tensor:
        return torch.ones(len(self.outline), dtype=torch.float64)
