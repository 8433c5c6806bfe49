"""joint: each arrival is learned anew from the base, together with all that came before."""

from __future__ import annotations

from allround.continual.strategy import Strategy
from allround.core.registry import method


@method(source="joint training, the upper reference of van de Ven and Tolias, arXiv:1904.07734")
def joint() -> Strategy:
    """Keep all rows, and train from the base on all of them after each arrival: no limit of memory nor of time.

    It is `allround train` on everything that arrived: heads are fitted on the base first, and a step holds one task.
    """
    return Strategy(anew=True, memory="reservoir")
