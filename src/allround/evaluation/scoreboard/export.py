"""The scores of a board as a table for a paper or a spreadsheet."""

from __future__ import annotations

from allround.evaluation.score_table import Score, ScoreTable
from allround.evaluation.scoreboard.scores import Scores
from allround.tasks.metric import better


def score_table(board: Scores) -> ScoreTable:
    """One row for each system; one column for each task, and one for mean retention where there is a reference."""
    sides = {task: better(definition.metric) for task, definition in board.definitions.items()}
    columns = [f"{task} ({definition.metric})" for task, definition in board.definitions.items()]
    rows: list[tuple[str, list[Score | None]]] = []
    for system in board.systems:
        cells = board.cells[system.name]
        scores: list[Score | None] = [Score(cells[t].score, cells[t].low, cells[t].high, sides[t]) for t in sides]
        if board.mean:
            mean = board.mean.get(system.name)
            scores.append(Score(mean.value, mean.low, mean.high) if mean else None)
        rows.append((system.name, scores))
    return ScoreTable(columns + (["mean retention"] if board.mean else []), rows)
