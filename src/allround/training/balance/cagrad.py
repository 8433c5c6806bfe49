"""CAGrad: near the mean gradient, the step that serves the worst-off task most."""

from __future__ import annotations

from torch import Tensor

from allround.core.registry import method
from allround.training.balancing import Balancer, Outline, StepView
from allround.training.gramians import solve_nonzero
from allround.training.learned import check_range

#: A combined gradient below this share of the length of all of them together counts as zero; so does a task's own
#: below twice that.
ZERO = 1e-4


@method(
    source="Liu et al., NeurIPS 2021, arXiv:2110.14048, Algorithm 1",
    needs=("gramian",),
    by="gradients",
    keeps=("scale",),
)
class Cagrad(Balancer):
    """Conflict-averse gradient descent: the worst inner product with a gradient is as high as it can be within a ball
    around the mean gradient g0.

    c: radius of the ball, as a share of |g0|. 0 is the plain mean; from 1 on no task gets worse.
    Formula: w = 1 / k + c |g0| / |g_a| a, g_a = sum_t a_t g_t, a = argmin{ g_a g0 + c |g0| |g_a| :
    a >= 0, sum(a) = 1 }
    Differs: solved by cvxpy, as in torchjd; the authors' code has scipy. Where g_a is zero though no gradient is, no
    step helps all tasks, and w is zero: the gradients are Pareto stationary. A task whose gradient is zero, or 5000
    times shorter than all of them together, is left out of the step; the authors' code follows the mean then.

    >>> import torch
    >>> gramian = torch.tensor([[4.0, -1.0], [-1.0, 1.0]], dtype=torch.float64)
    >>> one = torch.ones(2, dtype=torch.float64)
    >>> made = Cagrad(Outline(("a", "b"), (2, 2), (10, 10)), c=0.0)
    >>> made.weigh(StepView(torch.arange(2), one, one, one, gramian=gramian))
    tensor([0.5000, 0.5000], dtype=torch.float64)
    """

    def __init__(self, outline: Outline, *, c: float = 0.5) -> None:
        from torchjd.aggregation import CAGradWeighting

        super().__init__(outline)
        check_range("cagrad", "c", c, 0)
        self.weighting = CAGradWeighting(c=c, norm_eps=ZERO)

    def weigh(self, seen: StepView) -> Tensor:
        assert seen.gramian is not None
        nothing = len(seen) * (2 * ZERO) ** 2
        return solve_nonzero(lambda gramian, _: self.weighting(gramian), seen.gramian, nothing)
