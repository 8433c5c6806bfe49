"""UPGrad: each task's gradient is moved to the nearest one that goes against no task; then their mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from allround.core.registry import method
from allround.training.balancing import Balancer, Outline, StepView, per_task
from allround.training.gramians import solve
from allround.training.learned import check_range


@method(
    source="Quinton & Rey, arXiv:2406.16232, section 3 (unconflicting projection of gradients)",
    needs=("gramian",),
    by="gradients",
    keeps=("scale", "non_conflicting", "linear_under_scaling", "strongly_stationary"),
)
class Upgrad(Balancer):
    """Unconflicting projection: no task gets worse to first order, and a task whose gradient is small counts little.

    preference: how much each task counts (list, or mapping by name; equal without). regularise: added to the diagonal
    of the Gramian, as a share of its trace, so that dependent gradients can be solved for.
    Formula: w = sum_t v_t, v_t = argmin{ v^T G v : v >= (p_t / k) e_t }, by quadratic programming (quadprog)
    Differs: `regularise` is 1e-4 in torchjd, where it is seen in the weights of gradients of unlike size.

    >>> gramian = torch.tensor([[4.0, -1.0], [-1.0, 1.0]], dtype=torch.float64)
    >>> one = torch.ones(2, dtype=torch.float64)
    >>> Upgrad(Outline(("a", "b"), (2, 2), (10, 10))).weigh(StepView(torch.arange(2), one, one, one, gramian=gramian))
    tensor([0.6250, 1.0000], dtype=torch.float64)
    """

    def __init__(
        self,
        outline: Outline,
        *,
        preference: Mapping[str, float] | Sequence[float] = (),
        regularise: float = 1e-6,
    ) -> None:
        from torchjd.aggregation import UPGradWeighting
        from torchjd.linalg import QuadprogProjector

        super().__init__(outline)
        check_range("upgrad", "regularise", regularise, 0, above=True)
        self.preference = torch.tensor(per_task(preference, outline, "preference"), dtype=torch.float64)
        self.weighting = UPGradWeighting(projector=QuadprogProjector(reg_eps=regularise))

    def weigh(self, seen: StepView) -> Tensor:
        assert seen.gramian is not None
        self.weighting.pref_vector = self.preference[seen.tasks] / len(seen)
        return solve(self.weighting, seen.gramian)
