"""The scoreboards of several runs of one build, by seeds or folds, as one: means, with intervals over runs and rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from statistics import fmean

from allround.evaluation.predictions import Predictions
from allround.evaluation.scoreboard.board import Scoreboard
from allround.evaluation.scoreboard.measure import measure_runs
from allround.evaluation.scoreboard.scores import Notes, ScoredSystem
from allround.evaluation.scoreboard.simple import REFERENCE
from allround.models.cost import Cost


@dataclass(frozen=True)
class RepeatedRun:
    """One of several runs: its board, and the predictions that it rests on, by system and task."""

    board: Scoreboard
    predictions: Mapping[tuple[str, str], Predictions]


def common_systems(runs: Mapping[str, RepeatedRun]) -> list[str]:
    """The systems that every run has, in the order of the first."""
    first, *others = runs.values()
    named = [{system.name for system in run.board.systems} for run in others]
    return [system.name for system in first.board.systems if all(system.name in names for names in named)]


def pool(
    runs: Mapping[str, RepeatedRun], *, of: str, best: str | None, notes: Notes, provenance: Mapping[str, object]
) -> Scoreboard:
    """One board of the systems that all runs have: the mean of each score, with an interval over runs and rows.

    of: what the runs differ by: seed or fold. Costs are those of one run, as a mean.
    """
    runs = _same_reference(runs)
    boards = {name: run.board for name, run in runs.items()}
    first, names = next(iter(boards.values())), common_systems(runs)
    validation = {
        (system, task): fmean(board.validation[system][task] for board in boards.values())
        for system in names
        for task in first.definitions
        if all(task in board.validation.get(system, {}) for board in boards.values())
    }
    made = measure_runs(
        {name: run.predictions for name, run in runs.items()},
        first.definitions,
        [_pooled_system(name, boards) for name in names],
        of=of,
        reference=first.reference,
        validation=validation,
        best=best,
        seed=first.seed,
        resamples=first.resamples,
        notes=notes,
        provenance=provenance,
    )
    return Scoreboard(**{field.name: getattr(made, field.name) for field in fields(made)})


def _same_reference(runs: Mapping[str, RepeatedRun]) -> Mapping[str, RepeatedRun]:
    """The runs with one reference: where it is another in each, each run's own under one name."""
    if len({run.board.reference for run in runs.values()}) == 1:
        return runs
    found: dict[str, RepeatedRun] = {}
    for name, run in runs.items():
        board, own = run.board, run.board.reference
        if own is None or own == REFERENCE:
            found[name] = run
            continue
        system = replace(board.system(own), name=REFERENCE, role=REFERENCE, single=False)
        board = replace(
            board,
            systems=[*board.systems, system],
            validation={**board.validation, REFERENCE: board.validation.get(own, {})},
            reference=REFERENCE,
        )
        same = {(REFERENCE, task): run.predictions[own, task] for task in board.definitions}
        found[name] = RepeatedRun(board, {**run.predictions, **same})
    return found


def _pooled_system(name: str, boards: Mapping[str, Scoreboard]) -> ScoredSystem:
    """A system with the mean of its costs; settings that differ are given for each run."""
    systems = {run: board.system(name) for run, board in boards.items()}
    first = next(iter(systems.values()))
    settings = first.settings
    if any(system.settings != settings for system in systems.values()):
        settings = {run: system.settings for run, system in systems.items()}
    title = first.title
    if first.role == REFERENCE and any(system.title != title for system in systems.values()):
        title = "in each run the better of specialist and base on each task, chosen on validation rows"
    return replace(first, title=title, settings=settings, cost=_mean_cost([system.cost for system in systems.values()]))


def _mean_cost(costs: list[Cost]) -> Cost:
    found: dict[str, float | int | None] = {}
    for field in fields(Cost):
        values = [getattr(cost, field.name) for cost in costs]
        known = [value for value in values if value is not None]
        mean = fmean(known) if known else None
        found[field.name] = round(mean) if mean is not None and all(isinstance(v, int) for v in known) else mean
    return Cost(**found)  # type: ignore[arg-type]
