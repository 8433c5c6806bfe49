"""SI: weights whose path lowered earlier losses are held."""

from __future__ import annotations

from allround.continual.strategy import Strategy
from allround.core.registry import method


@method(source="Zenke, Poole and Ganguli, ICML 2017, arXiv:1703.04200")
def si(*, weight: float = 100.0) -> Strategy:
    """Tune the model on each arrival with the guard `si`. weight: see there."""
    return Strategy(guards={"si": {"weight": weight}})
