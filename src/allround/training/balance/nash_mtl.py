"""Nash-MTL: the tasks bargain for the step; the product of their gains is as large as it can be."""

from __future__ import annotations

import torch
from torch import Tensor

from allround.core.registry import method
from allround.training.balancing import Balancer, Outline, StepView
from allround.training.gramians import over_mean, solve_nonzero
from allround.training.learned import check_range

#: Added to the cosines' diagonal, so that there is a solution where no step helps all tasks: the digits of gradients.
RIDGE = 1e-6


@method(
    source="Navon et al., ICML 2022, arXiv:2202.01017, equation 2 and Algorithm 1",
    needs=("gramian",),
    by="gradients",
    keeps=("scale", "non_conflicting_when_independent"),
)
class NashMtl(Balancer):
    """The Nash bargaining solution: each task's weight is one over what it gains from the step.

    every: steps from one solution to the next; the weights stay in between. longest: length that the step
    d = sum_t w_t g_t is cut to; 0 leaves it (it matters only with `raw_scale`).
    Formula: w > 0 with G w = 1 / w element by element, the least point of w^T G w / 2 - sum_t log w_t
    Differs: that function is convex, and Newton's method finds its least point, whatever the weights were before. The
    authors' code, and torchjd, approach the equation by a sequence of other convex problems, which from some starts has
    no solution and then leaves the weights as they were. A step without some of the tasks is solved for those present;
    `every` counts steps of the training. A task whose gradient is zero is left out of the step.

    >>> gramian = torch.tensor([[4.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    >>> one = torch.ones(2, dtype=torch.float64)
    >>> made = NashMtl(Outline(("a", "b"), (2, 2), (10, 10)), longest=0.0)
    >>> made.weigh(StepView(torch.arange(2), one, one, one, gramian=gramian))
    tensor([0.5000, 1.0000], dtype=torch.float64)
    """

    def __init__(self, outline: Outline, *, every: int = 1, longest: float = 1.0) -> None:
        super().__init__(outline)
        check_range("nash_mtl", "every", every, 1)
        check_range("nash_mtl", "longest", longest, 0)
        self.every, self.longest = every, longest
        self.state["weights"] = torch.ones(len(outline), dtype=torch.float64)
        self.state["steps"] = torch.zeros((), dtype=torch.float64)

    def alone(self, raw: bool) -> bool:
        return raw

    def weigh(self, seen: StepView) -> Tensor:
        assert seen.gramian is not None
        gramian, size = seen.gramian, over_mean(seen.gramian)[1]
        if int(self.state["steps"]) % self.every == 0:
            weights = solve_nonzero(lambda scaled, _: _bargain(scaled), gramian)
            self.state["weights"] = self.state["weights"].index_copy(0, seen.tasks, weights)
        self.state["steps"] = self.state["steps"] + 1
        weights = self.state["weights"][seen.tasks]
        weights = weights / size**0.5 if size else weights
        length = float((weights @ gramian @ weights).clamp_min(0).sqrt())
        return weights * (self.longest / length) if 0 < self.longest < length else weights


def _bargain(gramian: Tensor) -> Tensor:
    """The least point of w^T G w / 2 - sum(log w), by Newton's method, damped until it is near.

    >>> found = _bargain(torch.tensor([[1.0, 0.5], [0.5, 2.0]]).double())
    >>> found * (torch.tensor([[1.0, 0.5], [0.5, 2.0]]).double() @ found)
    tensor([1.0000, 1.0000], dtype=torch.float64)
    """
    norms = gramian.diagonal().sqrt()
    # The solution for gradients of length 1, divided by their lengths, is the solution.
    cosines = gramian / torch.outer(norms, norms) + RIDGE * torch.eye(len(norms), dtype=torch.float64)
    weights = torch.ones_like(norms)
    for _ in range(100):
        slope = cosines @ weights - 1 / weights
        move = torch.linalg.solve(cosines + torch.diag(weights**-2), slope)
        decrement = float((slope @ move).clamp_min(0).sqrt())
        weights = weights - move / (1 + decrement if decrement > 0.25 else 1)
        if decrement < 1e-9:
            break
    return weights / norms
