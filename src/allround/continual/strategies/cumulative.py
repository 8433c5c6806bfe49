"""cumulative: the model is tuned further on all rows so far."""

from __future__ import annotations

from allround.continual.strategy import Strategy
from allround.core.registry import method


@method(source="cumulative training, as in Avalanche: Lomonaco et al., CVPR workshops 2021")
def cumulative() -> Strategy:
    """Keep all rows, and tune the model on all of them after each arrival, from where it is."""
    return Strategy(memory="reservoir")
