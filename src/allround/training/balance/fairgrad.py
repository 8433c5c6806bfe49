"""FairGrad: what each task gains from the step is shared out alpha-fairly."""

from __future__ import annotations

from torch import Tensor

from allround.core.registry import method
from allround.training.balancing import Balancer, Outline, StepView
from allround.training.gramians import over_mean, solve_nonzero
from allround.training.learned import check_range


@method(
    source="Ban & Ji, ICML 2024, arXiv:2402.15638, equation 4",
    needs=("gramian",),
    by="gradients",
    keeps=("scale", "non_conflicting_when_independent"),
)
class Fairgrad(Balancer):
    """Fair resource allocation: the smaller a task's gain g_t d, the more it weighs.

    fairness: alpha; 0 is equal weights, 1 proportional fairness (the solution of Nash-MTL), large is max-min.
    Formula: w >= 0 with G w = w^(-1 / alpha) element by element, by least squares
    Differs: solved for the Gramian divided by the mean squared norm, and scaled back, so that it ends as well for tiny
    gradients as for others. A task whose gradient is zero is left out of the step.

    >>> import torch
    >>> gramian = torch.tensor([[4.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    >>> one = torch.ones(2, dtype=torch.float64)
    >>> Fairgrad(Outline(("a", "b"), (2, 2), (10, 10))).weigh(StepView(torch.arange(2), one, one, one, gramian=gramian))
    tensor([0.5000, 1.0000], dtype=torch.float64)
    """

    def __init__(self, outline: Outline, *, fairness: float = 1.0) -> None:
        from torchjd.aggregation import FairGradWeighting

        super().__init__(outline)
        check_range("fairgrad", "fairness", fairness, 0)
        self.fairness = fairness
        self.weighting = FairGradWeighting(alpha=fairness)

    def alone(self, raw: bool) -> bool:
        return raw and self.fairness > 0

    def weigh(self, seen: StepView) -> Tensor:
        assert seen.gramian is not None
        size = over_mean(seen.gramian)[1]
        weights = solve_nonzero(lambda gramian, _: self.weighting(gramian), seen.gramian)
        return weights * size ** (-self.fairness / (1 + self.fairness)) if size else weights
