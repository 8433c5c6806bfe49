"""none: each arrival is learned as if it were the only one."""

from __future__ import annotations

from allround.continual.strategy import Strategy
from allround.core.registry import method


@method(source="sequential fine-tuning, the lower reference of van de Ven and Tolias, arXiv:1904.07734")
def none() -> Strategy:
    """Tune the model on each arrival, with nothing that holds the old."""
    return Strategy()
