"""How long systems take for a row, measured in turns so that other work on the machine meets all of them alike."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from allround.models.system import System
from allround.tasks.values import Row

#: Rows of a batch.
BATCH = 64


class RowTime(NamedTuple):
    """Milliseconds of a row. alone: asked by itself; together: in batches of 64."""

    alone: float
    together: float


def row_times(
    systems: Sequence[System], rows: Mapping[str, Sequence[Row]], *, rounds: int = 5, most: int = 64
) -> list[RowTime]:
    """The time of a row of each system, from the text or image to the answer: of each row or batch the shortest of
    several rounds, which other work on the machine disturbed least, then the mean.

    rows: of each task, of which `most` in all are asked alone, and all in batches. Systems take turns at every row.
    """
    share = max(1, most // len(rows))
    single = [(task, [row]) for task, some in rows.items() for row in some[:share]]
    batches = [
        (task, some[start : start + BATCH]) for task, some in rows.items() for start in range(0, len(some), BATCH)
    ]
    for system in systems:  # what is loaded when it is first used
        for task, some in rows.items():
            system.answers(task, some[:1])
    alone, together = (_seconds(systems, asked, rounds) for asked in (single, batches))
    return [RowTime(1000 * one, 1000 * other) for one, other in zip(alone, together, strict=True)]


def _seconds(systems: Sequence[System], asked: Sequence[tuple[str, Sequence[Row]]], rounds: int) -> list[float]:
    """Seconds of a row by each system."""
    totals = [0.0] * len(systems)
    for task, some in asked:
        best = [float("inf")] * len(systems)
        for _ in range(rounds):
            for place, system in enumerate(systems):
                started = time.perf_counter()
                system.answers(task, some)
                best[place] = min(best[place], time.perf_counter() - started)
        totals = [total + one for total, one in zip(totals, best, strict=True)]
    return [total / sum(len(some) for _, some in asked) for total in totals]
