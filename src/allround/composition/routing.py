"""Making a routed system: modules of one base, the heads of their tasks, and a router fitted on training rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from allround.composition.combining import make_combine
from allround.composition.router import RouteRows, make_router
from allround.composition.search_weights import SearchWeights
from allround.composition.systems.routed import Member, Routed, bank_of
from allround.core.errors import AllroundError
from allround.core.seeds import seed_of
from allround.models.base import load_encoder
from allround.models.batch import taken
from allround.models.encoder import Encoder
from allround.models.head import HeadState
from allround.models.prediction.answerer import TaskFound
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.kind import kind
from allround.tasks.task import Task
from allround.tasks.values import Row

#: Training rows of each task that a router is fitted on, unless it is told otherwise.
ROWS = 1000


def make_routed(
    base: Path,
    members: Sequence[Member],
    tasks: Mapping[str, Task],
    heads: Mapping[str, HeadState],
    *,
    router: str,
    combine: str = "outputs",
    router_settings: Mapping[str, object] | None = None,
    combine_settings: Mapping[str, object] | None = None,
    rows: int = ROWS,
    seed: int = 0,
    encoder: Encoder | None = None,
) -> Routed:
    """Fit a router on training rows of the tasks, and put it before the modules.

    base: the folder of the encoder that the modules were tuned from. members: the modules, each with its tasks. heads:
    of all tasks. rows: of each task at most, drawn by the seed, of training and of validation: by the latter a router
    may choose a setting. encoder: the base, where it is loaded already; the
    modules are put onto it. Errors: two modules of one task; modules that do not fit the base.
    """
    owners = [task for member in members for task in member.tasks]
    twice = [task for task in owners if owners.count(task) > 1]
    if twice:
        raise AllroundError(
            f"route between {len(members)} modules",
            f"two of them were tuned on the task '{twice[0]}'",
            "give one module for each task",
        )
    model = MultiTaskModel(load_encoder(base) if encoder is None else encoder, {})
    model.add_heads({name: task.definition for name, task in tasks.items()}, heads)
    model.eval()
    bank = bank_of(model.encoder, members, base)
    module_of = {task: number for number, one in enumerate(members) for task in one.tasks}
    chosen, combining = make_router(router, router_settings), make_combine(combine, combine_settings)
    found = {name: _rows(model, task, module_of.get(name), rows, seed) for name, task in tasks.items()}
    chosen.fit(bank, found, seed)
    combining.fit(bank, found, seed)
    made = Routed(model, members, chosen, combining, bank,
                  router_settings=router_settings, combine_settings=combine_settings)  # fmt: skip
    searches = [one for one in found.values() if kind(one.definition.kind).ranked and len(one)]
    if searches and chosen.level == "row" and chosen.mixes:
        weights = [made.row_weights(one.task, one.inputs) for one in searches]
        made.search_weights = SearchWeights.fit(torch.cat(weights))
    return made


def _rows(
    model: MultiTaskModel, task: Task, module: int | None, most: int, seed: int, split: str = "train"
) -> RouteRows:
    """Some rows of a task, as a router is fitted on them."""
    every = task.splits[split]
    numbers = np.random.default_rng(seed_of(seed, "route", task.name)).permutation(len(every))[:most]
    kept = sorted(numbers.tolist())
    held = split == "train" and len(task.splits.get("validation", ()))
    return RouteRows(model, task.name, module, [every.inputs[row] for row in kept], taken(every.targets, kept),
                     _rows(model, task, module, most, seed, "validation") if held else None)  # fmt: skip


def own_module_found(system: Routed, task: Task, split: str) -> NDArray[np.bool_] | None:
    """For each row of a task, whether the largest weight goes to the task's own module; None where it has none, or
    where the router is told."""
    module = system.module_of.get(task.name)
    inputs = task.splits[split].inputs
    if module is None or system.router.told or not len(inputs):
        return None
    found = system.module_weights(task.name, inputs)
    return np.asarray(found.argmax(1) == module)


def fit_threshold(system: Routed, tasks: Mapping[str, Task], keep: float = 0.95) -> float:
    """How certain a task must be for a row to be of one, so that this share of the validation rows keeps a task.

    Sets the system's threshold. Each task counts alike, whatever its rows. Errors: a share outside 0 to 1; no task that
    has a module.
    """
    if not 0 < keep <= 1:
        raise AllroundError(f"keep a task for {keep} of the rows", "it is no share above 0 and up to 1",
                            "give one such as 0.95")  # fmt: skip
    sure, weight = [], []
    for name in system.module_of:
        rows = list(tasks[name].splits["validation"].inputs) if name in tasks else []
        if rows:
            sure += [one.confidence for one in _without_threshold(system, rows)]
            weight += [1 / len(rows)] * len(rows)
    if not sure:
        raise AllroundError("fit a threshold", "no task of a module has validation rows", "give rows of the tasks")
    order = np.argsort(sure)[::-1]
    share = np.cumsum(np.asarray(weight)[order]) / np.sum(weight)
    place = min(int(np.searchsorted(share, keep - 1e-9)), len(order) - 1)
    # Less by a hair, so that a row that is computed in another batch is not lost by rounding.
    system.threshold = float(np.asarray(sure)[order][place]) - 1e-5
    return system.threshold


def _without_threshold(system: Routed, rows: Sequence[Row]) -> list[TaskFound]:
    before, system.threshold = system.threshold, None
    try:
        return system.find_tasks(rows)
    finally:
        system.threshold = before


def sent_nowhere(system: Routed, rows: Sequence[Row]) -> float:
    """The share of rows that are of no task: of rows out of scope their recall, of others what is lost.

    Errors: no rows; a system without a threshold.
    """
    if system.threshold is None or not rows:
        found = "there are no rows" if not rows else "the system has no threshold, so that every row is of a task"
        raise AllroundError("count rows that are of no task", found, "give rows, and fit a threshold first")
    return float(np.mean([one.task is None for one in system.find_tasks(rows)]))
