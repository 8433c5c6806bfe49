"""ConFIG: the step has the same cosine with every task's gradient, and the length of what they agree on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from allround.core.registry import method
from allround.training.balancing import Balancer, Outline, StepView, per_task
from allround.training.gramians import solve_nonzero


@method(
    source="Liu et al., ICLR 2025, arXiv:2408.11104, equation 2",
    needs=("gramian",),
    by="gradients",
    keeps=("scale", "non_conflicting_when_independent", "linear_under_scaling"),
)
class Config(Balancer):
    """Conflict-free inverse gradients: the direction whose cosines with all gradients are equal (or in the relation of
    the preference), as long as the gradients' projections on it together. As long as the gradients are independent, no
    task gets worse.

    preference: how much each task counts (list, or mapping by name; equal without).
    Formula: d = u sum_t g_t u, u the unit vector along U^+ p, U the rows g_t / |g_t|. With D the diagonal of norms, G
    the Gramian and C = D^-1 G D^-1 the cosines, U^+ = U^T C^+, so that w = v (1^T G v) / (v^T G v), v = D^-1 C^+ p
    Differs: worked out from inner products alone, which the paper's code does from the gradients. Eigenvalues of C
    below 1e-6 of the largest count as zero: more cannot be told of float32 gradients. A task whose gradient is zero is
    left out of the step.

    >>> gramian = torch.tensor([[4.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    >>> one = torch.ones(2, dtype=torch.float64)
    >>> Config(Outline(("a", "b"), (2, 2), (10, 10))).weigh(StepView(torch.arange(2), one, one, one, gramian=gramian))
    tensor([0.7500, 1.5000], dtype=torch.float64)
    """

    def __init__(self, outline: Outline, *, preference: Mapping[str, float] | Sequence[float] = ()) -> None:
        super().__init__(outline)
        self.preference = torch.tensor(per_task(preference, outline, "preference"), dtype=torch.float64)

    def weigh(self, seen: StepView) -> Tensor:
        assert seen.gramian is not None

        def inverse(gramian: Tensor, there: Tensor) -> Tensor:
            wanted = self.preference[seen.tasks[there]]
            norms = gramian.diagonal().sqrt()
            cosines = gramian / torch.outer(norms, norms)
            along = 1 / norms * (torch.linalg.pinv(cosines, rtol=1e-6, hermitian=True) @ wanted)
            products = gramian @ along
            squared = along @ products
            return along * (products.sum() / squared) if squared > 1e-12 else torch.zeros_like(along)

        return solve_nonzero(inverse, seen.gramian)
