"""Adapt-infinity: replay of rows that are chosen skill by skill."""

from __future__ import annotations

from allround.continual.strategy import Strategy
from allround.core.registry import method


@method(source="after Maharana et al., 2024, arXiv:2410.10636")
def adapt_inf(*, bytes: int = 50_000) -> Strategy:
    """As `er`, with rows that the memory `skills` keeps: in groups of like gradients, by the score that tells most
    there, without those that repeat others. bytes: of the remembered rows.

    Differs: all rows of an arrival are trained on when they come; the choice is about what stays.
    """
    return Strategy(memory="skills", bytes=bytes)
