"""LwF: on the new rows, the old heads are to answer as before."""

from __future__ import annotations

from allround.continual.strategy import Strategy
from allround.core.registry import method


@method(source="Li and Hoiem, ECCV 2016, arXiv:1606.09282", paper="Learning without Forgetting")
def lwf(*, weight: float = 1.0, temperature: float = 2.0) -> Strategy:
    """Tune the model on each arrival with the guard `lwf`. weight, temperature: see there. No row is remembered."""
    return Strategy(guards={"lwf": {"weight": weight, "temperature": temperature}})
