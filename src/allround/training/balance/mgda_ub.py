"""MGDA-UB: MGDA on the gradients by the features, an upper bound that one pass through the encoder gives."""

from __future__ import annotations

import torch
from torch import Tensor

from allround.core.registry import method
from allround.training.balancing import Balancer, Outline, StepView
from allround.training.gramians import DIVISORS, check_choice, divisors, solve
from allround.training.learned import check_range


@method(
    source="Sener & Koltun, NeurIPS 2018, arXiv:1810.04650, section 3.3",
    needs=("features",),
    by="features",
    keeps=("scale", "non_conflicting"),
    exempt={"beside_zero": "the shortest combination is that gradient of zero itself: the method has arrived"},
)
class MgdaUb(Balancer):
    """The weights of MGDA for the gradients z_t of the losses by the features instead of by the shared weights.

    normalise: what each gradient is divided by first: "none", "l2" (its norm), "loss", or "loss_plus" (both).
    iterations: of Frank-Wolfe, at most; it stops earlier when it moves by less than the tolerance.
    Formula: w_t = a_t / n_t, a = argmin{ |sum_t a_t z_t / n_t|^2 : a >= 0, sum(a) = 1 }
    Differs: in the paper all tasks share their rows, and z_t holds the gradients of all rows side by side. Where tasks
    have rows of their own such z are orthogonal whatever the tasks want; there z_t is the sum over the task's rows of
    the gradients of its mean loss, that is, the mean over rows of each row's own gradient. It is no upper bound then.
    w is divided by n, which the authors' code leaves out.

    >>> gramian = torch.tensor([[4.0, -1.0], [-1.0, 1.0]], dtype=torch.float64)
    >>> one = torch.ones(2, dtype=torch.float64)
    >>> MgdaUb(Outline(("a", "b"), (2, 2), (10, 10))).weigh(StepView(torch.arange(2), one, one, one, gramian=gramian))
    tensor([0.2857, 0.7143], dtype=torch.float64)
    """

    def __init__(
        self, outline: Outline, *, normalise: str = "none", iterations: int = 250, tolerance: float = 1e-5
    ) -> None:
        from torchjd.aggregation import MGDAWeighting

        super().__init__(outline)
        check_choice("mgda_ub", "normalise", normalise, DIVISORS)
        check_range("mgda_ub", "iterations", iterations, 1)
        check_range("mgda_ub", "tolerance", tolerance, 0, above=True)
        self.normalise = normalise
        self.weighting = MGDAWeighting(epsilon=tolerance, max_iters=iterations)

    def alone(self, raw: bool) -> bool:
        return raw and self.normalise != "none"

    def weigh(self, seen: StepView) -> Tensor:
        assert seen.gramian is not None
        by = divisors(self.normalise, seen.gramian, seen.losses)
        return solve(self.weighting, seen.gramian / torch.outer(by, by)) / by
