"""A-GEM: steps that would raise the loss on remembered rows are turned aside."""

from __future__ import annotations

from allround.continual.strategy import Strategy
from allround.core.registry import method


@method(source="Chaudhry et al., ICLR 2019, arXiv:1812.00420")
def agem(*, bytes: int = 50_000, memory: str = "balanced", rows: int = 64) -> Strategy:
    """Tune the model on the rows of each arrival alone, with the guard `agem`, which looks at remembered rows.

    bytes: of the remembered rows. memory: how they are chosen, a method of the family `memory`. rows: of them for each
    step.
    """
    return Strategy(memory=memory, bytes=bytes, replay=False, guards={"agem": {"rows": rows}})
