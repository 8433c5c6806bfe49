"""Rank saved models, or the tasks of a suite, as starts for a new task, without training anything."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from allround.core import registry
from allround.core.errors import AllroundError, suggestion
from allround.core.words import plural
from allround.models.base import open_encoder
from allround.models.encoder import Encoder
from allround.models.manifest import read_manifest
from allround.models.system import load
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.suite import Suite, as_suite
from allround.tasks.task import Task
from allround.transfer.estimating import Estimates, estimates
from allround.transfer.matrix import TaskMatrix
from allround.transfer.starts import Starts
from allround.transfer.view import TransferView


def sources(
    starts: Suite | str | Path | Sequence[str | Path],
    task: Task | Suite | str | Path,
    *,
    base: str | Path | None = None,
    estimators: Sequence[str] | None = None,
    rows: int | None = 300,
    seed: int = 0,
    data_dir: Path | str | None = None,
    only: str | None = None,
) -> Starts:
    """Rank starts for a task: which saved model to tune on it first, or the specialist of which task of a suite.

    starts: folders of models that allround saved, with one encoder each; or a suite, a suite file or the name of one,
    whose tasks are the sources. task: the new task, or a suite that has one; only: its name where a suite has several.
    base: what the tasks of a suite are looked at with; by default what the suite names. Models need none; with one,
    estimators that look at it apply too. estimators: as in `relate`. rows: training rows of each task that are looked
    at, drawn by `seed`. Only training rows are read, and nothing is trained. Models are opened one at a time; one with
    several tasks counts with that task which says most of the new one.

    Errors: no model or task; a folder that holds no such model; a suite without a base; no estimator that applies.
    """
    begun = time.perf_counter()
    new = _task(task, data_dir, only)
    asked = f"rank starts for the task '{new.name}'"
    for name in estimators or ():
        registry.find("estimate", registry.spelled("estimate", name)[0])
    if rows is not None and rows < 1:
        raise AllroundError(asked, f"rows is {rows}", "give 1 or more rows")
    suite = _suite(starts, data_dir)
    if suite is not None:
        found = _of_tasks(suite, new, base, estimators, rows, seed, asked)
        return replace(found, seconds=time.perf_counter() - begun)
    folders = [Path(one) for one in starts] if isinstance(starts, Sequence) else []
    if not folders:
        raise AllroundError(asked, "there is no model", "give folders of models, or a suite")
    encoder = None if base is None else open_encoder(str(base), [new], seed, {})
    found = _of_models(folders, new, encoder, estimators, rows, seed, asked)
    return replace(found, seconds=time.perf_counter() - begun)


def _task(given: Task | Suite | str | Path, data_dir: Path | str | None, only: str | None) -> Task:
    """The new task."""
    if isinstance(given, Task):
        return given
    suite = given if isinstance(given, Suite) else Suite.load(given, data_dir=data_dir, only=only and [only])
    if only is None and len(suite.tasks) != 1:
        raise AllroundError(
            f"rank starts for a task of '{suite.name}'",
            f"it has {plural(len(suite.tasks), 'task')}: {', '.join(suite.tasks)}",
            "say which one: --task NAME",
        )
    return next(iter(suite.tasks.values())) if only is None else suite[only]


def _suite(starts: Suite | str | Path | Sequence[str | Path], data_dir: Path | str | None) -> Suite | None:
    """The suite whose tasks are the sources; None where starts are models."""
    if isinstance(starts, Sequence) and not isinstance(starts, str) and len(starts) == 1:
        return _suite(starts[0], data_dir)
    if isinstance(starts, Suite):
        return starts
    if isinstance(starts, (str, Path)):
        if Path(starts).is_dir():
            return None
        return as_suite(starts, data_dir=data_dir)
    return None


def _of_tasks(
    suite: Suite,
    new: Task,
    base: str | Path | None,
    names: Sequence[str] | None,
    rows: int | None,
    seed: int,
    asked: str,
) -> Starts:
    """The tasks of a suite as sources."""
    known = [task for task in suite.to_train.tasks.values() if task.name != new.name]
    notes = (f"{new.name} of '{suite.name}' is left out: it is called as the new task.",) if new.name in suite else ()
    if not known:
        raise AllroundError(asked, f"'{suite.name}' has no other task", "give a suite with other tasks")
    base = suite.own_base(asked) if base is None else base
    tasks = [*known, new]
    view = TransferView.of(tasks, open_encoder(str(base), tasks, seed, {}), limit=rows, seed=seed,
                           sources=[task.name for task in known], targets=[new.name])  # fmt: skip
    found = estimates(view, names)
    return _starts(new.name, {task.name: task.name for task in known}, found.matrices, found.left_out, notes, asked)


def _of_models(
    folders: Sequence[Path], new: Task, base: Encoder | None, names: Sequence[str] | None, rows: int | None, seed: int,
    asked: str,
) -> Starts:  # fmt: skip
    """Saved models as sources, one of them in memory at a time."""
    starts: dict[str, str] = {}
    made: list[Estimates] = []
    for name, folder in _named(folders, new.name).items():
        read_manifest(folder)
        model = load(folder)
        if not isinstance(model, MultiTaskModel):
            raise AllroundError(
                asked,
                f"{folder} is a system of the sort '{model.sort}', which no training starts from",
                "leave it out; give models with one encoder",
            )
        models = dict(_by_task(name, model))
        starts[name] = str(folder)
        view = TransferView.of([new], base, limit=rows, seed=seed, models=models, sources=list(models),
                               targets=[new.name])  # fmt: skip
        found = estimates(view, names)
        made.append(replace(found, matrices=tuple(_best_of(one, name) for one in found.matrices)))
    order = dict.fromkeys(one.name for found in made for one in found.matrices)
    wanted = [name for name in (names or registry.names("estimate")) if name in order]
    left_out = {name: why for found in made for name, why in found.left_out.items() if name not in order}
    return _starts(new.name, starts, [_stacked(name, made, list(starts)) for name in wanted], left_out, (), asked)


def _named(folders: Sequence[Path], task: str) -> dict[str, Path]:
    """Folders by short names: the last parts of their paths, as many as tell them apart, and from the task.

    >>> list(_named([Path("runs/a/best"), Path("runs/b/best")], "mood"))
    ['a/best', 'b/best']
    """
    whole = list(dict.fromkeys(folder.absolute() for folder in folders))
    longest = max(len(folder.parts) for folder in whole)
    for count in range(1, longest + 1):
        names = ["/".join(folder.parts[-count:]) for folder in whole]
        if len({*names, task}) > len(whole):
            break
    given = {folder.absolute(): folder for folder in reversed(folders)}
    return {name: given[folder] for name, folder in zip(names, whole, strict=True)}


def _by_task(name: str, model: MultiTaskModel) -> Iterator[tuple[str, MultiTaskModel]]:
    """A model with each of its tasks alone; all share the encoder."""
    for task, definition in model.definitions.items():
        one = MultiTaskModel(model.encoder, {})
        one.add_heads({task: definition}, {task: model.head(task).stored()})
        yield f"{name}:{task}", one.eval()


def _best_of(found: TaskMatrix, name: str) -> TaskMatrix:
    """What a model is expected to give with that of its tasks which says most of the new one."""
    best = np.nanmax(found.gains, axis=0, keepdims=True)
    return replace(found, sources=(name,), values=best if found.higher_is_better else -best, symmetric=False)


def _stacked(name: str, made: Sequence[Estimates], sources: list[str]) -> TaskMatrix:
    """The estimates of one name, below each other; NaN for sources of which it says nothing."""
    parts = [one for found in made for one in found.matrices if one.name == name]
    known = {
        source: value for one in parts for source, value in zip(one.sources, one.values[:, 0].tolist(), strict=True)
    }
    values = np.array([[known.get(source, np.nan)] for source in sources])
    return replace(parts[0], sources=tuple(sources), values=values, seconds=sum(one.seconds for one in parts))


def _starts(
    task: str,
    starts: Mapping[str, str],
    found: Sequence[TaskMatrix],
    left_out: Mapping[str, str],
    notes: tuple[str, ...],
    asked: str,
) -> Starts:
    if not found:
        why = next(iter(left_out.values()), "none was named")
        raise AllroundError(
            asked,
            f"none of {plural(len(left_out), 'estimator')} says anything: {why}",
            "give models that read the rows of the task, or other estimators: "
            + suggestion("", registry.names("estimate")),
        )
    return Starts(task, dict(starts), tuple(found), dict(left_out), notes)
