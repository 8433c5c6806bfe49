"""CoTASP: each arrival uses some units of shared layers, chosen by a sparse code of its description."""

from __future__ import annotations

from collections.abc import Sequence

from allround.continual.strategy import Strategy
from allround.core.registry import method


@method(
    source="Yang et al., ICML 2023, arXiv:2305.18444; checked against jaxrl/ of stevenyangyj/CoTASP",
    paper="Continual Task Allocation in Meta-Policy Network via Sparse Prompting",
)
def cotasp(*, units: Sequence[int] = (512, 512), penalty: float = 0.001, select: str = "keys") -> Strategy:
    """Layers on a frozen base; no row is remembered, but a dictionary for each layer. Tasks whose descriptions are
    alike share units, and old tasks answer as before to the bit. Arrivals must have descriptions of their own: names,
    labels or instructions.

    units, penalty: see the way to grow `masks`. select: what tells the arrival of a row where that is not known, a
    method of the family `select`. Differs: see there; the paper is about policies.
    """
    settings = {"units": units, "penalty": penalty}
    return Strategy(grow="masks", grow_settings=settings, select=select, scenarios=("task", "class"))
