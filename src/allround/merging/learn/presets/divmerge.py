"""DivMerge: coefficients that bring the merged model's predictions near to every specialist's; needs no labels."""

from __future__ import annotations

from allround.core.errors import AllroundError, suggestion
from allround.core.registry import method
from allround.merging.learn.learning import Learning


@method(
    source="Touayouch et al., 2025, arXiv:2509.02108",
    paper="DivMerge: A divergence-based model merging method for multi-tasking",
    build=True,
)
def divmerge(
    *,
    level: str = "layer",
    measure: str = "js",
    scale: float = 0.3,
    steps: int = 60,
    rate: float = 0.02,
) -> Learning:
    """base + sum_t c_t d_t, by the Jensen-Shannon divergence (or "kl") to each task's specialist on its inputs.

    level: "task", "layer" or "block".
    Differs: no code of the authors' is public; start, rate and steps are ours. Checked by hand.

    >>> divmerge(level="task").needs, divmerge().objective
    (('specialist',), 'divergence')
    """
    if level not in ("task", "layer", "block"):
        raise AllroundError(f"learn a coefficient for each '{level}'", "there is no such level",
                            suggestion(level, ("task", "layer", "block")))  # fmt: skip
    return Learning(level, "divergence", {}, {"measure": measure}, scale=scale, steps=steps, rate=rate, decay=True)
