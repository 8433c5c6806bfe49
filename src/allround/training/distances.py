"""How far a model's answers are from those of another."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def output_distance(new: Tensor, old: Tensor, temperature: float, *, labels: bool = True) -> Tensor:
    """How far outputs are from those of a teacher, the mean over rows. Outputs that came since are to have no weight.

    Shapes: (n, outputs) and (n, old outputs) -> ()
    Formula: T^2 KL(softmax(old / T) || softmax(new / T)); where outputs are no scores of labels, the mean of
    (new - old)^2

    >>> import torch
    >>> one, other = torch.tensor([[0.0, 0.0]]), torch.tensor([[2.0, 0.0]])
    >>> round(output_distance(one, other, 1.0).item(), 4), output_distance(one, other, 1.0, labels=False).item()
    (0.3278, 2.0)
    """
    known = old.shape[1]
    if not labels or known < 2:
        return (new[:, :known] - old).square().mean()
    logs = F.log_softmax(new / temperature, 1)[:, :known]
    return temperature**2 * F.kl_div(logs, F.log_softmax(old / temperature, 1), reduction="batchmean", log_target=True)
