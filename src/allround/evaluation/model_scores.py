"""Scores of several models on several tasks: a table from a file, from per-row answers, or from a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from allround.core.errors import AllroundError
from allround.evaluation.partial import COUNTED
from allround.evaluation.scoreboard import Scoreboard
from allround.tasks.metric import better
from allround.tasks.values import short

#: Endings of files, and the format that they are read in.
_FORMATS = {".csv": "csv", ".tsv": "tsv", ".json": "json", ".jsonl": "json"}
_LONG = ("model", "task", "score", "rows")
_ROWS = ("model", "task", "row", "right")


@dataclass(frozen=True, eq=False)
class ModelScores:
    """Scores of M models on T tasks.

    values: (M, T), higher is better; NaN where a score is not known. rows: how many rows each task has, or None.
    counted: whether every score is a share of right answers, so that the rows tell how sure it is.

    Errors: shapes that do not match the names, a name that stands twice, infinite scores, a task without a score.
    """

    models: tuple[str, ...]
    tasks: tuple[str, ...]
    values: npt.NDArray[np.float64]
    rows: tuple[int, ...] | None = None
    counted: bool = False

    def __post_init__(self) -> None:
        asked = "make a table of scores"
        shape = len(self.models), len(self.tasks)
        if not all(shape):
            raise AllroundError(asked, "there is no score in it", "give the score of a model on a task")
        if self.values.shape != shape:
            raise AllroundError(asked, f"it has the shape {self.values.shape}, not {shape}",
                                "give one row for each model and one column for each task")  # fmt: skip
        for what, names in (("model", self.models), ("task", self.tasks)):
            twice = next((name for name in names if names.count(name) > 1), None)
            if twice is not None:
                raise AllroundError(asked, f"the {what} '{twice}' stands there twice", f"name each {what} once")
        if np.isinf(self.values).any():
            raise AllroundError(asked, "a score is infinite", "leave it out where it is not known")
        known: npt.NDArray[np.bool_] = ~np.isnan(self.values)
        empty = next((task for place, task in enumerate(self.tasks) if not known[:, place].any()), None)
        if empty is not None:
            raise AllroundError(asked, f"no model has a score on '{empty}'", "leave this task out")
        if self.rows is not None and (len(self.rows) != len(self.tasks) or min(self.rows) < 1):
            raise AllroundError(asked, f"there are {len(self.rows)} counts of rows for {len(self.tasks)} tasks, or one "
                                "is below 1", "give how many rows each task has")  # fmt: skip

    @property
    def gaps(self) -> int:
        """How many scores are not known."""
        return int(np.isnan(self.values).sum())

    def without(self, model: int) -> npt.NDArray[np.float64]:
        """The scores of all models but one: (M - 1, T)."""
        return np.delete(self.values, model, axis=0)

    @classmethod
    def of(cls, scores: Mapping[str, Mapping[str, float]], rows: Mapping[str, int] | None = None) -> ModelScores:
        """From model -> task -> score; a missing one is not known. rows: of each task, where scores are shares.

        >>> ModelScores.of({"a": {"x": 0.5, "y": 0.2}, "b": {"x": 0.7}}).values.tolist()
        [[0.5, 0.2], [0.7, nan]]
        """
        tasks = tuple(dict.fromkeys(task for found in scores.values() for task in found))
        values = np.array([[found.get(task, np.nan) for task in tasks] for found in scores.values()], dtype=np.float64)
        uncounted = [task for task in tasks if rows is not None and task not in rows]
        if uncounted:
            raise AllroundError("make a table of scores", f"the rows of '{uncounted[0]}' are not said, and others are",
                                "give the number of rows of all tasks, or of none")  # fmt: skip
        counts = None if rows is None else tuple(rows[task] for task in tasks)
        shares = bool(((values >= 0) & (values <= 1) | np.isnan(values)).all())
        return cls(tuple(scores), tasks, values.reshape(len(scores), len(tasks)), counts, counts is not None and shares)

    @classmethod
    def read(cls, place: Path | str, *, rows: int | None = None) -> ModelScores:
        """Read a table (CSV, TSV, JSON or JSONL), or the scoreboard in a run folder.

        A table has the columns model, task, score and, if it is known, rows, the number of rows of the task; or the
        columns model, task, row and right (1 or 0), one line for each answer; or the column model and one for each
        task. A scoreboard gives all its systems but floors. rows: of each task, where the table does not say it.

        Errors: no such file; other columns; a score that is no number.
        """
        path = Path(place)
        if path.is_dir():
            return _of_board(Scoreboard.load(path), f"read the scores in {path}")
        scores, counts = _of_table(path)
        if rows is not None and not counts:
            counts = {task: rows for found in scores.values() for task in found}
        return cls.of(scores, counts or None)


def _of_board(board: Scoreboard, asked: str) -> ModelScores:
    names = [system.name for system in board.systems if system.role != "floor"]
    signs = {task: 1.0 if better(found.metric) == "higher" else -1.0 for task, found in board.definitions.items()}
    if len(set(signs.values())) > 1:
        lower = next(task for task, sign in signs.items() if sign < 0)
        raise AllroundError(asked, f"lower is better on '{lower}' and higher on others, so that they have no mean",
                            "give a table of the tasks whose metrics are alike")  # fmt: skip
    cells = {name: {task: board.cells[name][task] for task in board.definitions} for name in names}
    made = ModelScores.of({n: {t: signs[t] * cell.score for t, cell in found.items()} for n, found in cells.items()},
                          {task: cell.n for task, cell in cells[names[0]].items()})  # fmt: skip
    if any(found.metric not in COUNTED for found in board.definitions.values()):
        return ModelScores(made.models, made.tasks, made.values, made.rows)
    return made


def _of_table(path: Path) -> tuple[dict[str, dict[str, float]], dict[str, int]]:
    """The scores by model and task, and the rows of each task where the table says them."""
    from allround.tasks.sources.text_files import read_columns

    asked = f"read the scores in {path}"
    if path.suffix.lower() not in _FORMATS:
        raise AllroundError(asked, f"its name ends in '{path.suffix}'", f"give a file ending in {', '.join(_FORMATS)}, "
                            "or a run folder")  # fmt: skip
    found = read_columns({"scores": (path, _FORMATS[path.suffix.lower()])}, as_written=("model", "task"))["scores"]
    if "model" not in found:
        raise AllroundError(
            asked, f"its columns are {', '.join(list(found)[:8])}", "name the model in a column 'model'"
        )
    if set(_ROWS) <= set(found):
        return _of_answers(found, asked)
    if {"task", "score"} <= set(found):
        return _of_lines(found, asked)
    scores: dict[str, dict[str, float]] = {}
    for place, model in enumerate(found["model"]):
        if str(model) in scores:
            raise AllroundError(asked, f"the model '{model}' stands there twice", "name each model once")
        scores[str(model)] = {task: _number(found[task][place], asked) for task in found
                              if task != "model" and found[task][place] is not None}  # fmt: skip
    return scores, {}


def _of_lines(found: Mapping[str, Sequence[object]], asked: str) -> tuple[dict[str, dict[str, float]], dict[str, int]]:
    scores: dict[str, dict[str, float]] = {}
    rows: dict[str, int] = {}
    counts = found.get("rows", [None] * len(found["model"]))
    for model, task, score, count in zip(found["model"], found["task"], found["score"], counts, strict=True):
        own = scores.setdefault(str(model), {})
        if str(task) in own:
            raise AllroundError(asked, f"'{model}' has two scores on '{task}'", "give one score for each of them")
        if score is not None:
            own[str(task)] = _number(score, asked)
        if count is not None and rows.setdefault(str(task), int(_number(count, asked))) != count:
            raise AllroundError(asked, f"'{task}' has {rows[str(task)]} rows, and {count} elsewhere",
                                "give one number of rows for each task")  # fmt: skip
    return scores, rows


def _of_answers(
    found: Mapping[str, Sequence[object]], asked: str
) -> tuple[dict[str, dict[str, float]], dict[str, int]]:
    right: dict[str, dict[str, dict[str, float]]] = {}
    for model, task, row, value in zip(*(found[name] for name in _ROWS), strict=True):
        own = right.setdefault(str(model), {}).setdefault(str(task), {})
        if str(row) in own or _number(value, asked) not in (0, 1):
            raise AllroundError(asked, f"row {row} of '{task}' is there twice for '{model}', or `right` is {value}",
                                "give each answer once, with right as 1 or 0")  # fmt: skip
        own[str(row)] = _number(value, asked)
    rows: dict[str, set[str]] = {}
    for model, tasks in right.items():
        for task, answers in tasks.items():
            if set(answers) != rows.setdefault(task, set(answers)):
                raise AllroundError(asked, f"'{model}' did not answer the rows of '{task}' that others answered",
                                    "give the answers of all models to the same rows")  # fmt: skip
    shares = {m: {t: float(np.mean(list(own.values()))) for t, own in tasks.items()} for m, tasks in right.items()}
    return shares, {task: len(own) for task, own in rows.items()}


def _number(value: object, asked: str) -> float:
    if isinstance(value, bool | int | float) and abs(value) < 1e15:
        return float(value)
    raise AllroundError(asked, f"{short(value)} is no number", "give scores and counts as numbers")
