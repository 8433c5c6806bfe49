"""GradDrop: in each number of the gradient one sign is drawn, and only the tasks that agree with it take part."""

from __future__ import annotations

from torch import Tensor

from allround.core.registry import method
from allround.training.balancing import Balancer, Outline, StepView
from allround.training.learned import check_range


@method(
    source="Chen et al., NeurIPS 2020, arXiv:2010.06808, Algorithm 1",
    needs=("gradients",),
    by="gradients",
    keeps=("scale",),
)
class Graddrop(Balancer):
    """Gradient sign dropout: the sign is drawn with the odds of the gradients' own agreement on it.

    leak: how much of the gradients of the other sign is kept.
    Formula: d = sum_t (leak + (1 - leak) m_t) g_t, m_t = [P > u] [g_t > 0] + [P < u] [g_t < 0],
    P = (1 + sum_t g_t / sum_t |g_t|) / 2, u ~ U(0, 1)
    Differs: on the gradients of the shared weights, as in torchjd; the paper drops at the features.

    >>> import torch
    >>> gradients = torch.tensor([[1.0, 2.0, -1.0], [1.0, 0.0, -3.0]])
    >>> one = torch.ones(2, dtype=torch.float64)
    >>> made = Graddrop(Outline(("a", "b"), (2, 2), (10, 10)))
    >>> made.combine(StepView(torch.arange(2), one, one, one, gradients=gradients))
    tensor([ 2.,  2., -4.])
    """

    def __init__(self, outline: Outline, *, leak: float = 0.0) -> None:
        from torchjd.aggregation import GradDrop

        super().__init__(outline)
        check_range("graddrop", "leak", leak, 0, 1)
        self.leak, self.dropout = leak, GradDrop

    def combine(self, seen: StepView) -> Tensor:
        assert seen.gradients is not None
        combined: Tensor = self.dropout(leak=seen.gradients.new_full((len(seen),), self.leak))(seen.gradients)
        return combined
