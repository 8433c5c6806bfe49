"""A scoreboard as a table of pandas."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from allround.evaluation.scoreboard.scores import Scores

if TYPE_CHECKING:
    from pandas import DataFrame


def to_frame(board: Scores) -> DataFrame:
    """One row for each system and task: `Scoreboard.to_frame` says more."""
    import pandas

    rows = []
    for system in board.systems:
        about = {"system": system.name, "role": system.role, "best": system.name == board.best}
        for task, definition in board.definitions.items():
            scores = asdict(board.cells[system.name][task])
            rows.append({**about, "task": task, "metric": definition.metric, **scores, **asdict(system.cost)})
    return pandas.DataFrame(rows)
