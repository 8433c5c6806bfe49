"""Focal: a task that is learned already weighs less."""

from __future__ import annotations

import math

from allround.core.registry import method
from allround.training.balancing import Balancer, Outline
from allround.training.learned import check_range

#: A smaller loss weighs no less.
SMALLEST = 1e-6


@method(
    source="Liu et al., KDD 2024, arXiv:2311.02303, focal loss on the level of tasks",
    paper="MFTCoder: Boosting Code LLMs with Multitask Fine-Tuning",
    needs=("losses",),
    by="losses",
)
class Focal(Balancer):
    """Focal loss with a task in the place of an example: a step follows the gradient of the sum of focal losses.

    Formula: F(L) = (1 - p)^gamma L, p = exp(-L); w_t = dF/dL(L_t) = (1 - p)^gamma + gamma (1 - p)^(gamma - 1) p L_t
    Differs: p is the geometric mean of the probabilities of what is right, which the loss knows, where the paper takes
    the arithmetic mean. A loss below 1e-6 counts as 1e-6. Losses that are no negative log likelihoods (regression)
    are treated as if they were.

    >>> from allround.training.balancing import Outline
    >>> made = Focal(Outline(("a", "b"), (2, 2), (10, 10)))
    >>> [round(made.early(0, loss, 1.0), 4) for loss in (0.1, 1.0, 10.0)]
    [0.0263, 0.8647, 1.0008]
    """

    def __init__(self, outline: Outline, *, gamma: float = 2.0) -> None:
        super().__init__(outline)
        check_range("focal", "gamma", gamma, 0, 10)
        self.gamma = gamma

    def alone(self, raw: bool) -> bool:
        return raw

    def early(self, task: int, loss: float, norm: float) -> float:
        loss = max(loss, SMALLEST)
        wrong = -math.expm1(-loss)
        return float(wrong**self.gamma + self.gamma * wrong ** (self.gamma - 1) * math.exp(-loss) * loss)
