"""AdaRank: which singular components of each change take part, by the entropy of predictions; needs no labels."""

from __future__ import annotations

from allround.core.errors import AllroundError, suggestion
from allround.core.registry import method
from allround.merging.learn.learning import Learning


@method(
    source="Lee et al., 2025, arXiv:2503.22178",
    paper="AdaRank: Adaptive Rank Pruning for Enhanced Model Merging",
)
def adarank(
    *,
    origin: str = "base",
    objective: str = "entropy",
    scale: float = 0.3,
    rank: float = 1.0,
    temperature: float = 10.0,
    steps: int = 60,
    rate: float = 0.01,
    guard: bool = True,
) -> Learning:
    """base + sum_t c_t,w U diag(m s) V for each matrix w, with binary m and c learned together.

    origin: "base" begins as task arithmetic does. "mean" begins as CART: at the mean of the models, with their changes
    from there; the authors then take a scale of 1 to 3 and a rank of 0.16 or 0.32. rank: the share of each change's
    components, the first ones, that take part in the start.
    guard: keep the best of the start and the states on the way by agreement with the specialists.
    Differs: the authors take 10,000 steps at the rate 0.001 on the test inputs, and have no guard; and their masks are
    on attention and MLP weights, here on all matrices but embeddings. Checked against the authors' code: both starts,
    the masks, straight through gradient, coefficients.

    >>> adarank().parametrisation, adarank(guard=False).needs
    ('singular', ())
    """
    if origin not in ("base", "mean"):
        raise AllroundError(f"begin at '{origin}'", "there is no such origin", suggestion(origin, ("base", "mean")))
    return Learning(
        "singular",
        objective,
        {"temperature": temperature, "rank": rank},
        scale=scale,
        steps=steps,
        rate=rate,
        centred=origin == "mean",
        guard=guard,
    )
