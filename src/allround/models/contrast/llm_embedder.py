"""llm_embedder: a teacher's order of candidates, each against all that the teacher puts behind it."""

from __future__ import annotations

import torch
from torch import Tensor

from allround.core.registry import method
from allround.models.contrasting import log_sum, logits_of, one_of, wide


@method(
    source="Zhang et al., 2023, arXiv:2310.07554; checked against DenseRetriever._compute_loss with stable_distill in "
    "research/llm_embedder/src/retrieval/modeling_dense.py of FlagOpen/FlagEmbedding",
    needs=("teacher",),
)
def llm_embedder(
    scores: Tensor,
    grades: Tensor,
    teacher: Tensor,
    *,
    temperature: float = 0.01,
    contrast: float = 0.2,
    distil: float = 1.0,
) -> Tensor:
    """`infonce`, and for each candidate that the teacher scored its share beside all that do not stand before it.

    Shapes: scores (n, m), grades (n, m), teacher (n, m) with NaN where the teacher says nothing -> ()
    Formula: contrast * infonce + distil * mean_i sum_r p_ir (log sum_{c in C_ir} e^{s_ic / T} - s_ir / T), where r are
    the candidates of query i that the teacher scored, the best first, p_i the softmax of its scores over them, and C_ir
    all candidates but those before r. Candidates that the teacher did not score stand behind all others.
    temperature: T. contrast, distil: weights of the two parts.

    >>> scores, known = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 0.0]])
    >>> llm_embedder(scores, known, known, temperature=1.0, contrast=0.0)  # half of log(1 + 1 / e); the second is alone
    tensor(0.1566)
    """
    logits = logits_of(scores, temperature)
    lowest = torch.finfo(logits.dtype).min / 2
    known = ~teacher.isnan() & (grades >= 0)
    taught = wide(teacher).masked_fill(~known, lowest)
    order = taught.sort(dim=1, descending=True, stable=True).indices
    ranked = logits.masked_fill(~known, lowest).gather(1, order)
    rest = log_sum(logits, ~known & (grades >= 0)).unsqueeze(1)
    behind = torch.cat([rest, ranked.flip(1)], 1).logcumsumexp(1)[:, 1:].flip(1)
    shares = taught.softmax(1).gather(1, order) * known.gather(1, order)
    losses = (shares * (behind - ranked)).sum(1)
    found = losses.sum() / known.any(1).sum().clamp_min(1) * distil
    return found + contrast * one_of(scores, grades, temperature) if contrast else found
