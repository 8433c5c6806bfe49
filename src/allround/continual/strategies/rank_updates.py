"""Incremental rank updates: each arrival adds matrices of rank 1, and weighs those of earlier ones."""

from __future__ import annotations

from allround.continual.strategy import Strategy
from allround.core.registry import method


@method(
    source="Hyder et al., ECCV 2022, arXiv:2207.09074, from the abstract",
    paper="Incremental Task Learning with Incremental Rank Updates",
)
def rank_updates(*, rank: int = 8, select: str = "keys") -> Strategy:
    """Each arrival adds `rank` matrices of rank 1 to each layer, and a selector that also weighs the matrices of
    earlier arrivals. These stay, with their selectors, so that old tasks answer as before to the bit.

    select: what tells the arrival of a row where that is not known, a method of the family `select`.
    """
    return Strategy(grow="residual", grow_settings={"share": f"rank_updates:rank={rank}"}, select=select)
