"""Making a routed system: modules of one base, the heads of their tasks, and a router fitted on training rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from allround.composition.combining import make_combine
from allround.composition.router import RouteRows, make_router
from allround.composition.systems.routed import Member, Routed, bank_of
from allround.core.errors import AllroundError
from allround.core.seeds import seed_of
from allround.models.base import load_encoder
from allround.models.batch import taken
from allround.models.encoder import Encoder
from allround.models.head import HeadState
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.task import Task

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
    of all tasks. rows: of each task at most, drawn by the seed. encoder: the base, where it is loaded already; the
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
    return Routed(model, members, chosen, combining, bank,
                  router_settings=router_settings, combine_settings=combine_settings)  # fmt: skip


def _rows(model: MultiTaskModel, task: Task, module: int | None, most: int, seed: int) -> RouteRows:
    """Some training rows of a task, as a router is fitted on them."""
    split = task.splits["train"]
    numbers = np.random.default_rng(seed_of(seed, "route", task.name)).permutation(len(split.inputs))[:most]
    kept = sorted(numbers.tolist())
    return RouteRows(model, task.name, module, [split.inputs[row] for row in kept], taken(split.targets, kept))
