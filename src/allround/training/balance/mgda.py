"""MGDA: the shortest vector among all weighted means of the gradients; no task gets worse along it."""

from __future__ import annotations

import torch
from torch import Tensor

from allround.core.registry import method
from allround.training.balancing import Balancer, Outline, StepView
from allround.training.gramians import DIVISORS, check_choice, divisors, solve
from allround.training.learned import check_range


@method(
    source="Désidéri, Comptes Rendus Mathématique 2012; Sener & Koltun, NeurIPS 2018, arXiv:1810.04650, Algorithm 2",
    needs=("gramian",),
    by="gradients",
    keeps=("scale", "non_conflicting"),
    exempt={"beside_zero": "the shortest combination is that gradient of zero itself: the method has arrived"},
)
class Mgda(Balancer):
    """Multiple gradient descent: the weighted mean of the gradients that is shortest, found by Frank-Wolfe.

    normalise: what each gradient is divided by first: "none", "l2" (its norm), "loss", or "loss_plus" (both). Without
    it the smallest gradient nearly has the step to itself. iterations: of Frank-Wolfe, at most; it stops earlier when
    it moves by less than the tolerance.
    Formula: w_t = a_t / n_t, a = argmin{ |sum_t a_t g_t / n_t|^2 : a >= 0, sum(a) = 1 }
    Differs: w is divided by n, as in LibMTL, so that no task gets worse; the authors' code solves for the divided
    gradients and then takes a for the undivided ones.

    >>> gramian = torch.tensor([[4.0, -1.0], [-1.0, 1.0]], dtype=torch.float64)
    >>> one = torch.ones(2, dtype=torch.float64)
    >>> Mgda(Outline(("a", "b"), (2, 2), (10, 10))).weigh(StepView(torch.arange(2), one, one, one, gramian=gramian))
    tensor([0.2857, 0.7143], dtype=torch.float64)
    """

    def __init__(
        self, outline: Outline, *, normalise: str = "none", iterations: int = 250, tolerance: float = 1e-5
    ) -> None:
        from torchjd.aggregation import MGDAWeighting

        super().__init__(outline)
        check_choice("mgda", "normalise", normalise, DIVISORS)
        check_range("mgda", "iterations", iterations, 1)
        check_range("mgda", "tolerance", tolerance, 0, above=True)
        self.normalise = normalise
        self.weighting = MGDAWeighting(epsilon=tolerance, max_iters=iterations)

    def alone(self, raw: bool) -> bool:
        return raw and self.normalise != "none"

    def weigh(self, seen: StepView) -> Tensor:
        assert seen.gramian is not None
        by = divisors(self.normalise, seen.gramian, seen.losses)
        return solve(self.weighting, seen.gramian / torch.outer(by, by)) / by
