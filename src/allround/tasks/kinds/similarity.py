"""Similarity: how alike two texts are, as a number."""

from __future__ import annotations

from allround.core.registry import method
from allround.tasks.kinds.regression import Regression


@method(source="semantic textual similarity: Cer et al., SemEval 2017, arXiv:1708.00055; scored by rank correlation")
class Similarity(Regression):
    """One number for each pair, of which the order counts; as in `regression`, float64 (n,).

    An encoder of texts answers with the cosine of the two texts' vectors, so that tuning makes the vectors themselves
    comparable.

    >>> Similarity().metric
    'spearman'
    """

    metric = "spearman"
