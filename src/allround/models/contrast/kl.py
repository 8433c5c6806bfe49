"""kl: a teacher's distribution over the candidates of a query."""

from __future__ import annotations

from torch import Tensor

from allround.core.registry import method
from allround.models.contrasting import log_sum, logits_of


@method(
    source="Lin et al., 2020, arXiv:2010.11386; pinned to DistillKLDivLoss of sentence-transformers",
    needs=("teacher",),
)
def kl(
    scores: Tensor, grades: Tensor, teacher: Tensor, *, temperature: float = 0.05, teacher_temperature: float = 1.0
) -> Tensor:
    """KL(softmax of the teacher's scores || softmax of the scores), over the candidates that the teacher scored.

    Shapes: scores (n, m), grades (n, m), teacher (n, m) with NaN where the teacher says nothing -> ()
    Formula: mean over queries of sum_c p_c log(p_c / q_c), p = softmax(t / teacher_temperature), q = softmax(s / T).
    temperature: T. teacher_temperature: that of the teacher. Whether a candidate is relevant is not looked at.
    Differs: sentence-transformers multiplies by T^2.

    >>> import torch
    >>> kl(torch.tensor([[0.0, 0.0]]), torch.zeros(1, 2), torch.tensor([[100.0, 0.0]]))  # log 2
    tensor(0.6931)
    """
    known = ~teacher.isnan() & (grades >= 0)
    taught = logits_of(teacher.masked_fill(~known, 0), teacher_temperature)
    logits = logits_of(scores, temperature)
    log_p = taught - log_sum(taught, known).unsqueeze(1)
    log_q = logits - log_sum(logits, known).unsqueeze(1)
    parts = (log_p.masked_fill(~known, 0).exp() * (log_p - log_q)).masked_fill(~known, 0)
    return parts.sum() / known.any(1).sum().clamp_min(1)
