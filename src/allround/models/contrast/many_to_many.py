"""many_to_many: each relevant pair against all candidates of its query, and against all queries of its candidate."""

from __future__ import annotations

from torch import Tensor

from allround.core.registry import method
from allround.models.contrasting import log_sum, logits_of, row_mean


@method(
    source="De Lange, Decorte and Van Hautte, 2025, arXiv:2511.07969 (the authors' model code is not published); each "
    "direction: Khosla et al., NeurIPS 2020, arXiv:2004.11362, equation 2",
    paper="Unified Work Embeddings: Contrastive Learning of a Bidirectional Multi-task Ranker",
)
def many_to_many(scores: Tensor, grades: Tensor, *, temperature: float = 0.05) -> Tensor:
    """The negative log of the share that a relevant pair has among all pairs of its query, and of its candidate.

    Shapes: scores (n, m), grades (n, m) -> ()
    Formula: L(s, g) + L(s^T, g^T), L(s, g) = mean_i mean_{p relevant to i} -log(e^{s_ip / T} / sum_c e^{s_ic / T}).
    The sum is over all candidates c: other relevant ones of a query are in it too, unlike in `both_ways`, and the
    part of a query with k of them is log k at least. A candidate that is relevant to no query asks for none. A grade
    says only whether a candidate is relevant.
    The paper (UWE) trains with it, one task a step, on scores by soft late interaction: `compare="tokens"` of
    `allround.tasks.contrast.Contrast`.
    temperature: T of both directions; the paper takes 0.05, and 0.02 for some of its tasks.

    >>> import torch
    >>> many_to_many(torch.zeros(1, 2), torch.tensor([[1.0, 1.0]]))  # log 2 for the query, 0 for each candidate
    tensor(0.6931)
    """
    logits = logits_of(scores, temperature)
    return _share(logits, grades) + _share(logits.T, grades.T)


def _share(logits: Tensor, grades: Tensor) -> Tensor:
    """The mean over rows of the mean over relevant entries of -log softmax among those that something is said of."""
    return row_mean(log_sum(logits, grades >= 0).unsqueeze(1) - logits, grades > 0)
