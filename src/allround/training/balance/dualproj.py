"""DualProj: the mean gradient is moved to the nearest one that goes against no task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from allround.core.registry import method
from allround.training.balancing import Balancer, Outline, StepView, per_task
from allround.training.gramians import solve
from allround.training.learned import check_range


@method(
    source="Lopez-Paz & Ranzato, NeurIPS 2017, arXiv:1706.08840, equation 11, on the mean gradient as in "
    "Quinton & Rey, arXiv:2406.16232, appendix",
    needs=("gramian",),
    by="gradients",
    keeps=("scale", "non_conflicting", "strongly_stationary"),
)
class Dualproj(Balancer):
    """The projection of the mean gradient onto the cone of steps that make no task worse to first order.

    preference: how much each task counts (list, or mapping by name; equal without). regularise: added to the diagonal
    of the Gramian, as a share of its trace, so that dependent gradients can be solved for.
    Formula: w = argmin{ v^T G v : v >= p / k }, by quadratic programming (quadprog)
    Differs: GEM projects the gradient of one task onto the cone of remembered ones. `regularise` is 1e-4
    in torchjd.

    >>> gramian = torch.tensor([[4.0, -3.0], [-3.0, 3.0]], dtype=torch.float64)
    >>> one = torch.ones(2, dtype=torch.float64)
    >>> Dualproj(Outline(("a", "b"), (2, 2), (10, 10))).weigh(StepView(torch.arange(2), one, one, one, gramian=gramian))
    tensor([0.5000, 0.5000], dtype=torch.float64)
    """

    def __init__(
        self,
        outline: Outline,
        *,
        preference: Mapping[str, float] | Sequence[float] = (),
        regularise: float = 1e-6,
    ) -> None:
        from torchjd.aggregation import DualProjWeighting
        from torchjd.linalg import QuadprogProjector

        super().__init__(outline)
        check_range("dualproj", "regularise", regularise, 0, above=True)
        self.preference = torch.tensor(per_task(preference, outline, "preference"), dtype=torch.float64)
        self.weighting = DualProjWeighting(projector=QuadprogProjector(reg_eps=regularise))

    def weigh(self, seen: StepView) -> Tensor:
        assert seen.gramian is not None
        self.weighting.pref_vector = self.preference[seen.tasks] / len(seen)
        return solve(self.weighting, seen.gramian)
