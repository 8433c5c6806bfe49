"""AdaMerging: coefficients that make the merged model's predictions decided; needs no labels."""

from __future__ import annotations

from allround.core.errors import AllroundError, suggestion
from allround.core.registry import method
from allround.merging.learn.learning import Learning


@method(
    source="Yang et al., ICLR 2024, arXiv:2310.02575",
    paper="AdaMerging: Adaptive Model Merging for Multi-Task Learning",
)
def adamerging(
    *,
    level: str = "block",
    plus: bool = False,
    scale: float = 0.3,
    steps: int = 60,
    rate: float = 0.01,
    guard: bool = True,
) -> Learning:
    """base + sum_t c_t d_t, c in [0, 1], by the entropy of predictions on rows without labels.

    level: "task", "layer" or "block", which has a coefficient for each weight tensor: that is what the paper calls
    layer-wise. plus: AdaMerging++, where d_t are the changes as TIES trims (to a fifth) and elects them.
    guard: keep the best of the start and the states on the way by agreement with the specialists.
    Differs: the paper takes 500 steps at the rate 0.001 on the test inputs, and has no guard; here fewer and longer
    steps, on validation inputs unless others are asked for. Checked against the authors' code: start, bounds,
    optimiser, objective, TIES.

    >>> adamerging(plus=True).keep, adamerging(level="task").parametrisation
    (0.2, 'task')
    """
    if level not in ("task", "layer", "block"):
        raise AllroundError(f"learn a coefficient for each '{level}'", "there is no such level",
                            suggestion(level, ("task", "layer", "block")))  # fmt: skip
    return Learning(
        level,
        "entropy",
        {"bound": "unit"},
        scale=scale,
        keep=0.2 if plus else 1.0,
        elect=plus,
        steps=steps,
        rate=rate,
        guard=guard,
    )
