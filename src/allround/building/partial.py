"""Scores of a model from part of the rows, within a budget."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from allround.building.compare_versions import answers_of
from allround.building.opening import open_for
from allround.core.errors import AllroundError
from allround.core.progress import make_console
from allround.core.words import duration, listed, percent, printable, span_text
from allround.evaluation.flips import right_rows
from allround.evaluation.partial import COUNTED, PartialScores, choose_rows, estimate
from allround.evaluation.predict import predict_split
from allround.evaluation.predictions import Predictions
from allround.evaluation.tables import fitted_table
from allround.models.system import System
from allround.tasks.suite import Suite
from allround.tasks.task import Task

#: Rows of each task that tell how long one takes, where the budget is a time.
TIMED = 16
_UNITS = {"rows": 0.0, "s": 1.0, "min": 60.0}


def evaluate_part(
    model: System | Path | str,
    suite: Suite,
    budget: str,
    *,
    beside: Path | str | None = None,
    split: str = "test",
    fit_heads: bool = False,
    seed: int = 0,
    others: Sequence[str] = (),
) -> PartialScores:
    """Estimate the scores of a model from part of the rows: see `allround.evaluation.partial`.

    budget: such as "500rows", "60s" or "2min", of answering over all tasks. beside: an earlier version that answered
    all rows, as for `compare_versions`. others: what was asked for beside that, which takes all rows.

    Errors: tasks whose metric is not the share of right answers; a budget that is too small.
    """
    asked = f"evaluate {model if not isinstance(model, System) else 'the model'} with a budget of {budget}"
    amount, unit = _parsed(budget, asked)
    if others:
        raise AllroundError(asked, f"{listed(others)} needs the answers to all rows", "leave it out, or --budget")
    uncounted = [task.name for task in suite.tasks.values() if task.definition.metric not in COUNTED]
    if uncounted:
        do = f"leave these tasks out with --only: the metrics {listed(COUNTED)} can be estimated"
        raise AllroundError(asked, f"the metric of {listed(uncounted)} is no share of right answers", do)
    old: dict[str, Predictions] | None = None
    if beside is not None:
        told: list[str] = []
        old = answers_of(beside, suite, split, "cpu", told)
    system = model if isinstance(model, System) else open_for(model, suite, fit_heads=fit_heads, say=lambda _: None)
    lacking = [name for name in suite.tasks if name not in system.definitions]
    if lacking:
        raise AllroundError(asked, f"the model has no head for {listed(lacking)}", "leave these tasks out with --only")
    tasks = {name: task.as_defined(system.definition(name)) for name, task in suite.tasks.items()}
    rows = {name: len(task.splits[split]) for name, task in tasks.items()}
    costs = None
    if unit != "rows":
        costs = {name: _seconds_a_row(system, task, split) for name, task in tasks.items()}
        amount *= _UNITS[unit]
    drawn = choose_rows(rows, amount, old=old, costs=costs, seed=seed)
    scores, took = {}, 0.0
    for one in drawn:
        made = predict_split(system, part_of(tasks[one.task], split, one.answered.tolist()), split)
        scores[one.task] = estimate(one, right_rows(made))
        took += made.seconds
    answered = {one.task: len(one.answered) for one in drawn}
    whole = took * sum(rows.values()) / max(1, sum(answered.values()))
    return PartialScores(scores, answered, rows, took, whole, None if beside is None else str(beside))


def part_of(task: Task, split: str, rows: Sequence[int]) -> Task:
    """A task with some rows of a split."""
    return replace(task, splits={**task.splits, split: task.splits[split].take(rows)}, table=None)


def _seconds_a_row(system: System, task: Task, split: str) -> float:
    few = part_of(task, split, range(min(TIMED, len(task.splits[split]))))
    predict_split(system, few, split)  # what is done once, at first
    started = time.perf_counter()
    predict_split(system, few, split)
    return (time.perf_counter() - started) / max(1, len(few.splits[split]))


def _parsed(text: str, asked: str) -> tuple[float, str]:
    """The number and the unit of a budget.

    >>> _parsed("500rows", ""), _parsed("1.5 min", "")
    ((500.0, 'rows'), (1.5, 'min'))
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(rows|s|min)\s*", text)
    if found is None or float(found[1]) <= 0:
        raise AllroundError(asked, "it is no budget", "give a number with its unit, such as 500rows, 60s or 2min")
    return float(found[1]), found[2]


def print_part(found: PartialScores) -> None:
    """Print the estimates, and what they rest on."""
    console = make_console()
    head = ["task", "score", "95% interval", "rows answered", "of"]
    body = [[name, percent(one.value), span_text(one.low, one.high).strip(), f"{found.answered[name]:,}",
             f"{found.rows[name]:,}"] for name, one in found.scores.items()]  # fmt: skip
    console.print()
    console.print(fitted_table(head, body, console.width))
    answered, rows = sum(found.answered.values()), sum(found.rows.values())
    lines = [f"Estimated from {answered:,} of {rows:,} rows in {duration(found.seconds)}; all of them would take about "
             f"{duration(found.full_seconds)}."]  # fmt: skip
    if found.beside is not None:
        lines.append(
            f"What changed since {found.beside}, which answered all rows, was estimated and added to its scores."
        )
    for line in lines:
        console.print(printable(line), markup=False, highlight=False)


def plain(found: PartialScores) -> Mapping[str, object]:
    """Everything as plain data."""
    return {
        "format": "allround partial 1",
        "scores": {name: one._asdict() for name, one in found.scores.items()},
        "answered": dict(found.answered),
        "rows": dict(found.rows),
        "seconds": found.seconds,
        "full_seconds": found.full_seconds,
        "beside": found.beside,
    }
