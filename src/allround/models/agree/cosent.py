"""cosent: every two pairs in the right order."""

from __future__ import annotations

import torch
from torch import Tensor

from allround.core.registry import method
from allround.models.contrasting import wide


@method(
    source="Huang et al., IEEE/ACM TASLP, 2024, doi:10.1109/TASLP.2024.3402087; pinned to CoSENTLoss of "
    "sentence-transformers"
)
def cosent(cosines: Tensor, targets: Tensor, *, temperature: float = 0.05) -> Tensor:
    """The log of one plus the sum over all two pairs of how far they are in the wrong order.

    Shapes: cosines (n,), targets (n,) -> ()
    Formula: log(1 + sum_{t_i > t_j} e^{(s_j - s_i) / T}). Of the targets only the order counts.
    temperature: T.

    >>> cosent(torch.tensor([1.0, 0.0]), torch.tensor([5.0, 2.0]), temperature=1.0)  # log(1 + 1 / e)
    tensor(0.3133)
    """
    s = wide(cosines) / temperature
    higher = targets.unsqueeze(1) > targets.unsqueeze(0)
    apart = (s.unsqueeze(0) - s.unsqueeze(1))[higher]
    return torch.cat([s.new_zeros(1), apart]).logsumexp(0) if len(apart) else s.sum() * 0
