"""gaps: each pair ahead of those of a lower target, the more the larger the gap."""

from __future__ import annotations

from torch import Tensor

from allround.core.registry import method
from allround.models.agreeing import gap_ranking


@method(
    source="PRO of CoDiEmb, arXiv:2508.11442; checked against PROLoss in training/CoDiEmb/train/loss.py of "
    "TencentCloudADP/youtu-embedding at d271351"
)
def gaps(cosines: Tensor, targets: Tensor, *, temperature: float = 0.05) -> Tensor:
    """A softmax of each pair beside all of a lower target, in which cosines are multiplied by gaps of targets.

    Shapes: cosines (n,), targets (n,) -> ()
    Formula: mean over k of log(e^{w_k s_k / T} + sum_{t_j < t_k} e^{g_kj s_j / T}) - w_k s_k / T, over pairs k that
    some pair lies below; g_kj is t_k - t_j as a share of the largest gap of the batch, and w_k the largest of k's.
    temperature: T.
    Differs: the authors take targets from 0 to 1 as they are, which is the same where a batch holds both ends.

    >>> import torch
    >>> gaps(torch.tensor([1.0, 0.0]), torch.tensor([1.0, 0.0]), temperature=1.0)  # log(1 + 1 / e)
    tensor(0.3133)
    """
    return gap_ranking(cosines, targets, temperature)
