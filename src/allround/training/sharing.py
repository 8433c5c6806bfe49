"""Putting a way to share onto a model, by the name of a preset."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from allround.core import registry
from allround.core.errors import AllroundError, suggestion
from allround.evaluation.pages import settings_text
from allround.evaluation.sharing import SharingFacts
from allround.models.encoders.sharing import Sharing
from allround.models.fitting import fit_head
from allround.models.model import Model
from allround.models.running import features_of
from allround.models.share.further import further_task
from allround.models.share.plan import Plan
from allround.models.share.usage import dead_modules, module_uses, twin_modules
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.task import Task
from allround.training.settings import Settings
from allround.training.task_vectors import with_vectors

#: Rows of a task, and of its validation, that heads are fitted on before a network is trained.
MOST_ROWS = 2000
#: Validation rows of a task on which it is seen which modules it uses.
USED_ROWS = 64


def plan_of(name: str, values: Mapping[str, object] | None = None) -> Plan:
    """The plan of a preset. Errors: no such preset; parameters that it does not have.

    >>> plan_of("hard").empty
    True
    """
    entry = registry.find("share", name)
    made: Plan = entry.load()(**entry.resolve(values or {}))
    return made


def check_start(plan: Plan, tasks: Iterable[str]) -> None:
    """Refuse numbers for gates to begin with that lack a task, or do not fit the modules."""
    for mixing in plan.mixings:
        for task in tasks if mixing.start else ():
            asked = f"begin the gates of task '{task}' from given numbers"
            if task not in mixing.start:
                raise AllroundError(
                    asked,
                    f"there are none for it, only for {', '.join(mixing.start)}",
                    "give numbers for each task; for `alike`, run `allround relate` on all tasks of the suite",
                )
            uses = mixing.start[task]
            if len(uses) != mixing.shared or not all(math.isfinite(use) and 0 <= use <= 1 for use in uses):
                raise AllroundError(
                    asked, f"they are {list(uses)}, for {mixing.shared} modules that tasks share",
                    "give one number for each of these modules, from 0 to 1",
                )  # fmt: skip


def share(model: MultiTaskModel, plan: Plan) -> MultiTaskModel:
    """A model with the encoder and tasks of another, that shares as a plan says; the same model for an empty plan.

    Heads are kept where the plan adds modules inside the encoder alone; behind a network they begin untrained. The
    encoder becomes a part of the new model.
    """
    if plan.empty:
        return model
    encoder = model.encoder
    if encoder.by_task:
        raise AllroundError(
            "add a way to share to the model", "it shares in one way already", "start from another base"
        )
    definitions = model.definitions
    check_start(plan, definitions)
    unknown = [name for level in plan.levels for name in level.ends if name not in definitions]
    if unknown:
        raise AllroundError(
            f"put the task '{unknown[0]}' at a level",
            f"the model has no such task; its tasks are {', '.join(definitions)}",
            suggestion(unknown[0], definitions),
        )
    if plan.levels:
        for name, definition in definitions.items():
            if registry.find("head", encoder.head(definition)).facts["reads"] != "vectors":
                raise AllroundError(
                    f"share a network behind the encoder with task '{name}'",
                    f"its head, of the sort '{encoder.head(definition)}', reads what the language model says, and a "
                    "network behind the encoder gives vectors",
                    "choose a preset with modules inside the encoder, such as adapters, or the head linear",
                )
    plan = with_vectors(plan, encoder, definitions)
    every = [encoder.features(definition) for definition in definitions.values()]
    widths = sorted(set(every), key=lambda width: (-every.count(width), width))
    made = MultiTaskModel(Sharing(encoder, plan, [list(definitions)], widths), {})
    for name, definition in definitions.items():
        made.add_task(definition, None if plan.levels else model.head(name).stored())
    made.facts = model.facts
    return made


def shared_by(
    model: MultiTaskModel, settings: Settings, tasks: Sequence[Task], seed: int = 0
) -> tuple[MultiTaskModel, Settings]:
    """A model that shares as the settings of a training say, ready for it, and the settings that it is trained with.

    Behind a network heads begin anew: what comes to it is standardised, heads are fitted on it as it begins, and are
    tuned.
    """
    plan = plan_of(settings.share, settings.share_settings)
    if (plan.inserts or plan.tree) and settings.tune == "lora":
        raise AllroundError(
            f"train with share={settings.share} and tune=lora",
            "this way to share has modules of its own inside the encoder",
            "leave tune as it is: the preset says what is trained",
        )
    made = share(model, plan)
    if plan.tree is not None:  # heads that stay as they are fit the base, and no tree of its copies
        return made, settings.with_(heads="tuned")
    if not plan.levels:
        return made, settings
    fit_network(made, tasks, seed)
    return made, settings.with_(heads="tuned")


def fit_network(model: MultiTaskModel, tasks: Sequence[Task], seed: int) -> None:
    """Standardise what comes to the network behind an encoder, and fit heads on what it gives as it is."""
    encoder = model.encoder
    assert isinstance(encoder, Sharing) and encoder.network is not None
    some = [task.limit({"train": MOST_ROWS, "validation": MOST_ROWS}, seed) for task in tasks]
    by_width: dict[int, list[Tensor]] = {}
    for task in some:
        rows = encoder.prepare(task.splits["train"].inputs, task.definition)
        found = features_of(encoder.inner, rows, task.definition).values
        by_width.setdefault(found.shape[-1], []).append(found)
    for values in by_width.values():
        encoder.network.standardise(torch.cat(values))
    for task in some:
        model.add_task(model.definition(task.name), fit_head(encoder, task).state)


def sharing_facts(model: Model, tasks: Sequence[Task], system: str, settings: Settings) -> SharingFacts | None:
    """Who uses what in a model that shares by a plan, on validation rows; None for other models."""
    if not isinstance(model, MultiTaskModel) or not isinstance(model.encoder, Sharing):
        return None
    encoder = model.encoder
    rows = {t.name: encoder.prepare(t.splits["validation"].inputs[:USED_ROWS], t.definition) for t in tasks}
    uses = module_uses(encoder, rows, model.definitions)
    listed = settings_text(settings.share_settings)
    way = f"{settings.share} ({listed})" if settings.share_settings else settings.share
    return SharingFacts(system, way, tuple(uses), tuple(dead_modules(uses)), tuple(twin_modules(encoder)),
                        tuple(encoder.tree()), further_task(model))  # fmt: skip
