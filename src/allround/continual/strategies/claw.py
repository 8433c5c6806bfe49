"""CLAW: weights with a posterior that is the next prior, and units that each arrival may scale."""

from __future__ import annotations

from collections.abc import Sequence

from allround.continual.strategy import Strategy
from allround.core.registry import method


@method(
    source="Adel, Zhao and Turner, ICLR 2020, arXiv:1911.09514, from the abstract",
    paper="Continual Learning with Adaptive Weights (CLAW)",
)
def claw(
    *, units: Sequence[int] = (256, 256), weight: float = 1.0, rare: float = 0.1, select: str = "keys"
) -> Strategy:
    """Layers on a frozen base. No row is remembered, but the mean and deviation of each weight.

    units, weight, rare: see the way to grow `adapt`. select: what tells the arrival of a row where that is not known, a
    method of the family `select`. Differs: layers on the features of the base, where the paper trains the whole net;
    how it writes the size of an adaptation is not in the abstract.
    """
    settings = {"units": units, "weight": weight, "rare": rare}
    return Strategy(grow="adapt", grow_settings=settings, select=select, scenarios=("task", "class", "domain"))
