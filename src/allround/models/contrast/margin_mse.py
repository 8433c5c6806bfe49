"""margin_mse: a teacher's differences between relevant and irrelevant candidates."""

from __future__ import annotations

from torch import Tensor

from allround.core.registry import method
from allround.models.contrasting import wide


@method(
    source="Hofstätter et al., 2020, arXiv:2010.02666; pinned to MarginMSELoss of sentence-transformers",
    needs=("teacher",),
)
def margin_mse(scores: Tensor, grades: Tensor, teacher: Tensor, *, scale: float = 1.0) -> Tensor:
    """The mean squared difference of margins, over all pairs of a relevant and an irrelevant candidate of a query.

    Shapes: scores (n, m), grades (n, m), teacher (n, m) with NaN where the teacher says nothing -> ()
    Formula: mean over (i, p, c) of (scale (s_ip - s_ic) - (t_ip - t_ic))^2. scale: what scores are multiplied by;
    cosines need one that makes their margins as large as the teacher's.

    >>> import torch
    >>> margin_mse(torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0]]), torch.tensor([[3.0, 0.0]]))
    tensor(4.)
    """
    known = ~teacher.isnan() & (grades >= 0)
    apart = (scale * wide(scores) - wide(teacher)).masked_fill(~known, 0)
    apart = apart - (apart.detach().sum(1) / known.sum(1).clamp_min(1)).unsqueeze(1)
    relevant, other = known & (grades > 0), known & (grades == 0)
    up, down = apart * relevant, apart * other
    pairs = relevant.sum(1) * other.sum(1)
    sums = up.square().sum(1) * other.sum(1) + down.square().sum(1) * relevant.sum(1) - 2 * up.sum(1) * down.sum(1)
    return sums.sum() / pairs.sum().clamp_min(1)
