"""PCGrad: each task's gradient loses what goes against another's, in drawn order."""

from __future__ import annotations

from torch import Tensor

from allround.core.registry import method
from allround.training.balancing import Balancer, Outline, StepView
from allround.training.gramians import solve_nonzero


@method(
    source="Yu et al., NeurIPS 2020, arXiv:2001.06782, Algorithm 1",
    needs=("gramian",),
    by="gradients",
    keeps=("scale", "linear_under_scaling"),
    exempt={"permutation_invariant": "the order in which conflicts are removed is drawn"},
)
class Pcgrad(Balancer):
    """Gradient surgery: project a task's gradient onto the normal plane of each other gradient that it conflicts with.

    Formula: w = sum_i c_i, c_i the weights of h_i: from h_i = g_i, for each j != i in drawn order,
    h_i <- h_i - min(0, h_i g_j) / |g_j|^2 g_j
    Differs: a task whose gradient is zero is left out of the step.

    >>> import torch
    >>> gramian = torch.tensor([[4.0, -1.0], [-1.0, 1.0]], dtype=torch.float64)
    >>> one = torch.ones(2, dtype=torch.float64)
    >>> Pcgrad(Outline(("a", "b"), (2, 2), (10, 10))).weigh(StepView(torch.arange(2), one, one, one, gramian=gramian))
    tensor([1.2500, 2.0000], dtype=torch.float64)
    """

    def __init__(self, outline: Outline) -> None:
        from torchjd.aggregation import PCGradWeighting

        super().__init__(outline)
        self.weighting = PCGradWeighting()

    def weigh(self, seen: StepView) -> Tensor:
        assert seen.gramian is not None
        return solve_nonzero(lambda gramian, _: self.weighting(gramian), seen.gramian)
