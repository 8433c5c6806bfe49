"""merge: each arrival is learned by a copy of the base, whose change is added to the model."""

from __future__ import annotations

from allround.continual.strategy import Strategy
from allround.core.registry import method


@method(source="task arithmetic: Ilharco et al., ICLR 2023, arXiv:2212.04089; one task after another")
def merge(*, scale: float = 0.5) -> Strategy:
    """Tune a copy of the base on the arrival alone, add `scale` of its change to the encoder, and fit the heads of new
    tasks on that. No row is remembered. For tasks with heads of their own."""
    return Strategy(merge=scale)
