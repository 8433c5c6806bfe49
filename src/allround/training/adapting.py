"""A further task on a model that shares: its own parts alone learn, or the mean of shared skills."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Literal, cast

import torch

from allround.core.errors import AllroundError
from allround.models.encoders.sharing import Sharing
from allround.models.fitting import fit_head
from allround.models.share.bank.lora import Lora
from allround.models.share.insert import Replaced, replace_module
from allround.models.share.mixture import SHARED, Mixture
from allround.models.share.plan import Choice, Plan
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.task import Task


def adapt(model: MultiTaskModel, task: Task, form: Literal["z", "mu"] = "z") -> MultiTaskModel:
    """A model that is ready to be trained on a further task, with a head fitted on the rows of the task.

    form: "z", a copy of the model in which only what belongs to the task learns, such as its weights of skills (MHR-z);
    "mu", a model of the task alone with low-rank changes that begin as the mean of the skills (MHR-mu: Caccia et al.,
    NeurIPS 2023). Errors: a model that does not share, and for "mu" one without shared low-rank changes.
    """
    encoder = model.encoder
    if not isinstance(encoder, Sharing):
        raise AllroundError(f"adapt the model to task '{task.name}'", "it shares nothing by a plan", "train it anew")
    encoder = copy.deepcopy(encoder)
    if form == "z":
        encoder.add_task(task.name)
        encoder.learns = (task.name,)
        made = MultiTaskModel(encoder, {})
        for name, definition in model.definitions.items():
            made.add_task(definition, model.head(name).stored())
    else:
        made = MultiTaskModel(_of_means(encoder, task.name), {})
    made.add_task(task.definition, fit_head(made.encoder, task).state)
    return made


def _of_means(encoder: Sharing, task: str) -> Sharing:
    """An encoder for one task, with the mean of the skills at each layer in place of all of them."""
    plan = encoder.plan
    banks = [cast(Mixture, part).banks for part in encoder.parts.values()]
    if plan.levels or not banks or any(SHARED not in bank or not isinstance(bank[SHARED], Lora) for bank in banks):
        raise AllroundError(
            f"adapt the model to task '{task}' from the mean of its skills",
            "its tasks share no low-rank changes inside the encoder",
            "use form='z', or a model that was trained with poly, mhr or c_poly",
        )
    inserts = []
    for insert in plan.inserts:
        settings = {name: insert.mixing.bank.settings[name] for name in ("rank", "alpha")}
        mixing = replace(insert.mixing, bank=Choice("lora", settings), gate=Choice("even"), owners="tasks", count=1,
                         sees="own", gates="own", reads="vectors")  # fmt: skip
        inserts.append(replace(insert, mixing=mixing))
    for layer in encoder.replaced:
        replace_module(encoder.backbone, layer, cast(Replaced, encoder.backbone.get_submodule(layer)).base)
    made = Sharing(
        encoder.inner, Plan(inserts=tuple(inserts), frozen=plan.frozen, rate=plan.rate), [[task]], encoder.widths
    )
    with torch.no_grad():
        for name, part in made.parts.items():
            own, skills = cast(Mixture, part).bank(task), cast(Mixture, encoder.parts[name]).bank(SHARED)
            assert isinstance(own, Lora) and isinstance(skills, Lora)
            own.a.copy_(skills.a.mean(0, keepdim=True))
            own.b.copy_(skills.b.mean(0, keepdim=True))
    return made
