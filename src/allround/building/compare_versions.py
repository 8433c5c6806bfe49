"""`compare`: a new version of a model beside the old one, task by task and row by row, and gates that it must pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from allround.building.single import check_labels
from allround.building.stages.report import PREDICTIONS
from allround.core.errors import AllroundError
from allround.core.outputs import check_texts, write_texts
from allround.core.words import listed
from allround.evaluation.errors import text_of
from allround.evaluation.measuring import MeasureView, measure
from allround.evaluation.predict import predict_split
from allround.evaluation.predictions import Predictions
from allround.evaluation.scoreboard import Scoreboard
from allround.evaluation.versions import Gates, compare, new_errors
from allround.evaluation.versions_report import FILES, VersionsResult
from allround.models.manifest import MANIFEST
from allround.models.system import System, load
from allround.tasks.suite import Suite, as_suite

_COMMAND = "compare"


def compare_versions(
    old: Path | str,
    new: Path | str,
    suite: Suite | str | Path | None = None,
    *,
    split: str = "test",
    max_flips: float | None = None,
    max_drop: float | None = None,
    no_worse_task: bool = False,
    baseline: Path | str | None = None,
    measures: Sequence[str] = (),
    out: Path | str | None = None,
    data_dir: Path | str | None = None,
    only: Sequence[str] | None = None,
    limit: Mapping[str, int] | None = None,
    device: str = "cpu",
    resamples: int = 1000,
    seed: int = 0,
    force: bool = False,
) -> VersionsResult:
    """Compare two versions of a model on the same rows.

    old, new: a folder that allround saved, whose answers to a split of the suite are computed; the run folder of a
    build, whose best system is taken, with the test answers that it kept; a folder of Parquet files of predictions, one
    for each task; or one such file. suite: needed for saved folders; with it new errors are listed with their inputs.
    max_flips, max_drop, no_worse_task: see `Gates`. baseline: a further version that is meant to be as the old one,
    such as another seed: the rows that turn between these two are allowed to the new one too. measures: of the family
    `measure`, with settings, such as "cross_task:tasks=digit+parity"; each is taken of both versions. out: a folder for
    `compare.json`, `compare.md` and `new-errors.jsonl`, the rows that only the old version answers rightly.

    Errors: nothing in common; answers to other rows; a saved folder without a suite.
    """
    if out is not None:
        check_texts(out, FILES, _COMMAND, force=force)
    rows = None if suite is None else as_suite(suite, data_dir=data_dir, only=only, limit=limit)
    told: list[str] = []
    before, after = (answers_of(one, rows, split, device, told) for one in (old, new))
    floor: dict[str, float] = {}
    if baseline is not None:
        beside = compare(before, answers_of(baseline, rows, split, device, told), seed=seed, resamples=resamples)
        floor = {one.task: one.flips.lost_share for one in beside if one.flips is not None}
    tasks = compare(before, after, seed=seed, resamples=resamples)
    gates = Gates(max_flips, max_drop, no_worse_task, floor)
    errors = new_errors(before, after)
    if rows is not None:
        errors = [{**one, "input": _input(rows, one)} for one in errors]
    others = sorted(set(before) ^ set(after))
    pairs = [pair for text in measures
             for pair in zip(*(measure(text, MeasureView(one)) for one in (before, after)), strict=True)]  # fmt: skip
    found = VersionsResult(str(old), str(new), tasks, {one.task: gates.broken(one) for one in tasks}, errors, others,
                           list(dict.fromkeys(told)), pairs)  # fmt: skip
    if out is not None:
        write_texts(Path(out), found.files(), _COMMAND, force=force)
    return found


def answers_of(
    version: Path | str, suite: Suite | None, split: str, device: str, told: list[str]
) -> dict[str, Predictions]:
    """The answers of a version by task: see `compare_versions`. told: takes what has to be known of them."""
    place = Path(version)
    if place.is_file():
        made = Predictions.load(place)
        return {made.definition.name: made}
    if (place / MANIFEST).is_file():
        return _computed(place, suite, split, device)
    if (place / PREDICTIONS).is_dir():
        best = Scoreboard.load(place).best
        folder = place / PREDICTIONS / str(best)
        told.append(f"Of the run {place}, the best system is compared: {best}.")
    else:
        folder = place
    files = sorted(folder.glob("*.parquet")) if folder.is_dir() else []
    if not files:
        found = (
            "it has no predictions and is not a model that allround saved"
            if place.is_dir()
            else "there is nothing there"
        )
        do = "give a folder that allround saved, a run folder of a build, or files of predictions"
        raise AllroundError(f"compare the version {version}", found, do)
    kept = [Predictions.load(file) for file in files]
    names = suite.tasks if suite is not None else {one.definition.name for one in kept}
    return {one.definition.name: one for one in kept if one.definition.name in names}


def _computed(place: Path, suite: Suite | None, split: str, device: str) -> dict[str, Predictions]:
    if suite is None:
        raise AllroundError(f"compare the version {place}", "it is a model, and no rows were given to answer",
                            "give a suite, or files of predictions")  # fmt: skip
    return answers_of_system(load(place, device=device), suite, split, str(place))


def answers_of_system(system: System, suite: Suite, split: str, name: str) -> dict[str, Predictions]:
    """The answers of a system to the tasks of a suite that it knows. name: what messages call it. Errors: no task."""
    known = {one: task for one, task in suite.tasks.items() if one in system.definitions}
    if not known:
        raise AllroundError(f"compare the version {name} on '{suite.name}'",
                            f"it knows none of the tasks {listed(list(suite.tasks))}",
                            f"give a suite with its own: {listed(list(system.definitions))}")  # fmt: skip
    for task in known.values():
        check_labels(system, task, name)
    return {one: predict_split(system, task.as_defined(system.definition(one)), split)
            for one, task in known.items()}  # fmt: skip


def _input(suite: Suite, error: Mapping[str, object]) -> str | None:
    """The input of a row that is listed, as people read it; None where the suite has other rows."""
    task = suite.tasks.get(str(error["task"]))
    if task is None:
        return None
    split, row = task.splits[str(error["split"])], error["row"]
    if not isinstance(row, int) or row >= len(split):
        return None
    return text_of(split.inputs[row], task.definition.inputs, task.definition.modality)
