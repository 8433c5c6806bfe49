"""Aligning and zipping models that allround saved: encoders with their heads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from allround.core.errors import AllroundError, suggestion
from allround.core.seeds import seed_of
from allround.merging.align.apply import Folds, Orders
from allround.merging.align.flops import flops_of
from allround.merging.align.networks import (
    Batches,
    SpaceMatch,
    UnalignedWeight,
    check_alike,
    learn,
    left_of,
    match_activations,
    match_weights,
    permute,
    reset_statistics,
)
from allround.merging.align.spaces import spaces_of
from allround.merging.align.trace import Trace, tensors_of
from allround.merging.align.zipping import ZipResult, head_of, zip_networks
from allround.models.batch import Batch
from allround.models.heads.linear import Linear
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.models.systems.zipped import Zipped, copies
from allround.tasks.definition import Definition
from allround.tasks.modality import modality_of
from allround.tasks.suite import Suite
from allround.tasks.task import limit_split

_BATCH = 32


@dataclass(frozen=True)
class AlignedModel:
    """A model in another's order. matched: what was aligned; left: the layers that were not; made_by: what its manifest
    says."""

    model: MultiTaskModel
    matched: list[SpaceMatch]
    left: list[UnalignedWeight]
    made_by: Mapping[str, object]


@dataclass(frozen=True)
class ZipMerge:
    """Models zipped into one. zipped: what became of the weights; flops: of one row, by `single`, `merged`, `apart`;
    made_by: what its manifest says."""

    model: MultiTaskModel | Zipped
    zipped: ZipResult
    left: list[UnalignedWeight]
    flops: Mapping[str, int]
    statistics: int
    made_by: Mapping[str, object]


def batches_from(models: Sequence[MultiTaskModel], suite: Suite, *, rows: int = 256, seed: int = 0) -> Batches:
    """Rows of the models' tasks, without their targets: up to `rows` training rows of each task of the suite."""
    definitions = _definitions(models)
    shared = [name for name in suite.tasks if name in definitions]
    lacking = [name for name in definitions if name not in suite.tasks]
    if not shared or rows < 2:
        raise AllroundError(
            f"take {rows} rows for each task of {', '.join(definitions)} from the suite '{suite.name}'",
            "that is too few" if shared else f"it has none of them ({', '.join(lacking)})",
            "give --rows 256, and the suite that the models were made with",
        )
    found = []
    for name in shared:
        split = limit_split(suite.tasks[name].splits["train"], rows, seed_of(seed, "align", name))
        found += _batches(models, definitions[name], split.inputs)
    return found


def example_of(models: Sequence[MultiTaskModel]) -> Batches:
    """Made-up rows, one batch for each task: enough to see how a network computes, not to compare features."""
    found = []
    for definition in _definitions(models).values():
        row = modality_of(definition).example(len(definition.inputs)).row
        found += _batches(models, definition, [row] * 2)
    return found


def _definitions(models: Sequence[MultiTaskModel]) -> dict[str, Definition]:
    return {name: definition for model in models for name, definition in model.definitions.items()}


def _batches(
    models: Sequence[MultiTaskModel], definition: Definition, inputs: Sequence[Any]
) -> list[tuple[str, Batch]]:
    made = []
    for model in models:
        prepared = model.encoder.prepare(inputs, definition)
        made.append([model.encoder.batch(prepared[i : i + _BATCH], definition) for i in range(0, len(inputs), _BATCH)])
    for other in made[1:]:
        if any(not _same(one, two) for one, two in zip(made[0], other, strict=True)):
            raise AllroundError(
                "align the features of two models",
                f"they read the same rows of '{definition.name}' in different ways (another vocabulary or size, other "
                "columns)",
                "give models that were tuned or trained with the same encoder settings",
            )
    return [(definition.name, batch.to(models[0].device)) for batch in made[0]]


def _same(one: Batch, two: Batch) -> bool:
    return one.tensors.keys() == two.tensors.keys() and all(
        torch.equal(tensor, two.tensors[name]) for name, tensor in one.tensors.items()
    )


def _check(models: Sequence[MultiTaskModel]) -> None:
    if any(type(model.encoder) is not type(models[0].encoder) for model in models):
        names = ", ".join(model.encoder.name for model in models)
        raise AllroundError("align the features of models", f"their encoders are {names}", "give models of one sort")
    for model in models[1:]:
        check_alike(models[0].encoder, model.encoder)


@torch.no_grad()
def _load(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors_of(network).items():
        tensor.copy_(state[name])


@torch.no_grad()
def align_models(
    first: MultiTaskModel,
    other: MultiTaskModel,
    batches: Batches,
    *,
    by: str = "activations",
    leave: Sequence[str] = (),
) -> AlignedModel:
    """The second model with its features in the first's order. It answers as before; only now the two can be averaged.

    by: `activations` on the same rows, or `weights` (then the rows only show how the network computes).
    """
    if by not in ("activations", "weights"):
        raise AllroundError(
            f"align models by '{by}'", "there is no such way", suggestion(by, ("activations", "weights"))
        )
    _check([first, other])
    trace = learn([first.encoder, other.encoder], batches, free_output=True, leave=leave)
    if by == "weights":
        matched = match_weights(trace, first.encoder, other.encoder)
    else:
        matched = match_activations(trace, first.encoder, other.encoder, batches)
    orders = {one.space: one.order for one in matched}
    made = deepcopy(other)
    _load(made.encoder, permute(trace, other.encoder, orders))
    for name in made.definitions:
        weight = _linear(made, name).weight
        weight.copy_(_head(trace, weight, name, [orders], {}, 0))
    made_by: dict[str, object] = {"aligned_by": by}
    made.facts = {"made_by": made_by}
    return AlignedModel(made, matched, left_of(trace, spaces_of(trace)), made_by)


@torch.no_grad()
def zip_models(
    models: Sequence[MultiTaskModel],
    batches: Batches,
    *,
    depth: float | str = 1.0,
    alpha: float = 0.3,
    beta: float = 0.125,
    by: str = "zip",
    leave: Sequence[str] = (),
) -> ZipMerge:
    """One model for the tasks of several, whose features need not correspond.

    Zipped wholly it is a model like each of them; zipped to a depth it has one trunk and a tail for each. The rest as
    `networks.zip_networks`. BatchNorm gets its statistics anew, from the same rows.
    """
    _check(models)
    names = [name for model in models for name in model.definitions]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise AllroundError(
            "zip models", f"the task '{twice[0]}' is in two of them", "give each task once: there is one head for each"
        )
    encoders = [model.encoder for model in models]
    trace = learn(encoders, batches, free_output=True, leave=leave)
    zipped = zip_networks(trace, encoders, batches, depth=depth, alpha=alpha, beta=beta, by=by)
    first = deepcopy(encoders[0])
    _load(first, zipped.states[0])
    whole = len(zipped.shared) == len(trace.weights)
    tails = [first]
    if not whole:
        own = [{n: t for n, t in state.items() if n not in zipped.shared} for state in zipped.states]
        tails = copies(first, own)
    statistics = [reset_statistics(tail, batches) for tail in tails]
    members = [MultiTaskModel(tail, {}) for tail in tails]
    for number, model in enumerate(models):
        for name, definition in model.definitions.items():
            state = _linear(model, name).stored()
            if whole:
                weight = _linear(model, name).weight
                state["weight"] = _head(trace, weight, name, zipped.orders, zipped.folds, number)
            members[0 if whole else number].add_task(definition, state)
    for member in members:
        member.to(models[0].device)
        member.eval()
    made = members[0] if whole else Zipped(members)
    made_by: dict[str, object] = {
        "zipped_by": by,
        "depth": zipped.depth,
        "cut": zipped.cut,
        "alpha": alpha,
        "beta": beta,
    }
    made.facts = {"made_by": made_by}
    single = flops_of(encoders[:1], batches)
    flops = {"single": single, "merged": flops_of(tails, batches), "apart": len(models) * single}
    return ZipMerge(made, zipped, left_of(trace, spaces_of(trace)), flops, statistics[0], made_by)


def _linear(model: MultiTaskModel, task: str) -> Linear:
    """The head of a task, which must be linear: then the order of its features can be changed."""
    head = model.head(task)
    if not isinstance(head, Linear):
        raise AllroundError(
            f"change the order of the features that the head of task '{task}' reads",
            f"the head is of the sort '{head.sort}', and this is known of linear ones alone",
            "give models with linear heads",
        )
    return head


def _head(trace: Trace, weight: Tensor, task: str, orders: Sequence[Orders], folds: Folds, model: int) -> Tensor:
    if task not in trace.outputs:
        raise AllroundError(
            f"adapt the head of task '{task}'",
            "no rows of the task were given, so it is not known which features it reads",
            "give a suite with all tasks of the models",
        )
    return head_of(trace, weight, task, orders, folds, model)
