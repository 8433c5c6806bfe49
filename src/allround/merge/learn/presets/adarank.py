"""AdaRank: which singular components of each change take part, by the entropy of predictions; needs no labels."""

from __future__ import annotations

from allround.core.registry import method
from allround.merge.learn.learning import Learning


@method(
    source="Lee et al., 2025, arXiv:2503.22178",
    paper="AdaRank: Adaptive Rank Pruning for Enhanced Model Merging",
)
def adarank(
    *,
    objective: str = "entropy",
    scale: float = 0.3,
    temperature: float = 10.0,
    steps: int = 60,
    rate: float = 0.01,
) -> Learning:
    """base + sum_t c_t,w U diag(m s) V for each matrix w, with binary m and c learned together.

    Differs: the authors take 10,000 steps at the rate 0.001 on the test inputs; and their masks are on attention and
    MLP weights, here on all matrices but embeddings. Checked against the authors' code: start of the masks, straight
    through gradient, coefficients.

    >>> adarank().parametrisation, adarank().needs
    ('singular', ())
    """
    return Learning("singular", objective, {"temperature": temperature}, scale=scale, steps=steps, rate=rate)
