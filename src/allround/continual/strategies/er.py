"""er: new rows are learned together with some that are remembered."""

from __future__ import annotations

from allround.continual.strategy import Strategy
from allround.core.registry import method


@method(source="experience replay: Chaudhry et al., 2019, arXiv:1902.10486; as in GMvandeVen/continual-learning")
def er(*, bytes: int = 50_000, memory: str = "balanced") -> Strategy:
    """Rows of earlier arrivals are repeated until each of their labels comes as often as a new one; those of tasks with
    heads of their own until they are as many as the new rows. Heads with new labels are fitted on both first.

    bytes: of the remembered rows. memory: how they are chosen, a method of the family `memory`.
    """
    return Strategy(memory=memory, bytes=bytes)
