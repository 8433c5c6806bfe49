"""Two runs compared: their settings, and their scores with a verdict where they answered the same rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from allround.building.stages.report import PREDICTIONS
from allround.core.errors import AllroundError, suggestion
from allround.evaluation.intervals import Bootstrap, Interval, same_rows, verdict
from allround.evaluation.predictions import Predictions, score
from allround.evaluation.scoreboard import Scoreboard
from allround.tasks.metric import better


@dataclass(frozen=True)
class ScoreDifference:
    """One task in two runs. difference: of the second run's score, turned so that higher is better.

    verdict: of the paired difference; None where the runs did not answer the same rows, or one has no predictions.
    """

    task: str
    metric: str
    first: float
    second: float
    difference: Interval
    verdict: str | None


@dataclass(frozen=True)
class RunComparison:
    """Two runs compared. systems: which of each was compared. settings: what differs, by name: (first, second).

    only: tasks of one run alone.
    """

    runs: tuple[str, str]
    systems: tuple[str, str]
    settings: dict[str, tuple[object, object]]
    scores: list[ScoreDifference]
    only: list[str]


def compare_runs(first: Path | str, second: Path | str, *, system: str | None = None) -> RunComparison:
    """Compare the best systems of two builds, or the systems of one name.

    Errors: a folder without a scoreboard; a system that one of them does not have.
    """
    folders = (Path(first), Path(second))
    boards = tuple(_board(folder) for folder in folders)
    chosen = tuple(_system(board, folder, system) for board, folder in zip(boards, folders, strict=True))
    shared = [task for task in boards[0].definitions if task in boards[1].definitions]
    names = dict.fromkeys([*boards[0].definitions, *boards[1].definitions])
    return RunComparison(
        (str(first), str(second)),
        (chosen[0], chosen[1]),
        _differing(*(dict(_flat(_settings(board))) for board in boards)),
        [_compared(task, boards, folders, chosen) for task in shared],
        [task for task in names if task not in shared],
    )


def _board(folder: Path) -> Scoreboard:
    if not (folder / "scoreboard.json").is_file():
        raise AllroundError(
            f"compare the run {folder}", "it has no scoreboard.json", "give the folder of a finished build"
        )
    return Scoreboard.load(folder)


def _system(board: Scoreboard, folder: Path, asked: str | None) -> str:
    names = [system.name for system in board.systems]
    name = asked if asked is not None else board.best if board.best is not None else names[-1]
    if name not in names:
        raise AllroundError(f"compare '{name}' of {folder}", "the run has no such system", suggestion(name, names))
    return name


def _settings(board: Scoreboard) -> dict[str, object]:
    left_out = ("base_piece", "workers")
    return {name: value for name, value in board.provenance.items() if name not in left_out}


def _flat(value: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Nested settings as pairs of a dotted name and a value.

    >>> dict(_flat({"seed": 1, "settings": {"epochs": 2}}))
    {'seed': 1, 'settings.epochs': 2}
    """
    for name, item in value.items():
        if isinstance(item, Mapping) and item:
            yield from _flat(item, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", item


def _differing(one: Mapping[str, object], other: Mapping[str, object]) -> dict[str, tuple[object, object]]:
    names = dict.fromkeys([*one, *other])
    return {name: (one.get(name), other.get(name)) for name in names if one.get(name) != other.get(name)}


def _compared(
    task: str, boards: tuple[Scoreboard, ...], folders: tuple[Path, Path], systems: tuple[str, ...]
) -> ScoreDifference:
    scores = [board.cells[system][task].score for board, system in zip(boards, systems, strict=True)]
    metrics = [board.definitions[task].metric for board in boards]
    sign = 1.0 if better(metrics[1]) == "higher" else -1.0
    plain = Interval(sign * (scores[1] - scores[0]), None, None)
    one, other = (_predictions(folder, system, task) for folder, system in zip(folders, systems, strict=True))
    # Predictions that belong to another run of the folder than its scoreboard would mislead.
    if (
        one is None
        or other is None
        or metrics[0] != metrics[1]
        or not same_rows(one, other)
        or [score(one), score(other)] != scores
    ):
        return ScoreDifference(task, metrics[1], scores[0], scores[1], plain, None)
    paired = Bootstrap.make({("second", task): other, ("first", task): one}, seed=boards[0].seed)
    difference = paired.task_difference("second", "first", task)
    return ScoreDifference(task, metrics[1], scores[0], scores[1], difference, verdict(difference))


def _predictions(folder: Path, system: str, task: str) -> Predictions | None:
    path = folder / PREDICTIONS / system / f"{task}.parquet"
    return Predictions.load(path) if path.is_file() else None
