"""GLS: the geometric mean of the losses."""

from __future__ import annotations

import torch
from torch import Tensor

from allround.core.registry import method
from allround.training.balancing import Balancer, StepView

#: A smaller loss weighs no more.
SMALLEST = 1e-12


@method(
    source="Chennupati et al., CVPR 2019 workshop, arXiv:1904.08492, geometric loss", needs=("losses",), by="losses"
)
class Gls(Balancer):
    """Geometric loss strategy: a step follows the gradient of the geometric mean, so that the same relative change of
    any loss counts the same.

    Formula: w_t = G / (k L_t), G = (prod_t L_t)^(1 / k) over the k tasks present
    Differs: a loss below 1e-12 counts as 1e-12.

    >>> rows = torch.tensor([8.0, 8.0])
    >>> from allround.training.balancing import Outline
    >>> made = Gls(Outline(("a", "b"), (2, 2), (10, 10)))
    >>> made.weigh(StepView(torch.tensor([0, 1]), torch.tensor([4.0, 1.0]).double(), rows, rows))
    tensor([0.2500, 1.0000], dtype=torch.float64)
    """

    def early(self, task: int, loss: float, norm: float) -> float:
        return 1 / max(loss, SMALLEST)

    def weigh(self, seen: StepView) -> Tensor:
        losses = seen.losses.clamp_min(SMALLEST)
        return torch.exp(losses.log().mean()) / (len(seen) * losses)
