"""Routed systems as jobs make and open them: modules of specialists, routers, and predictions."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import torch

from allround.building.jobs.predict import keep_predictions
from allround.building.jobs.rows import stored_task
from allround.checkpoints.adapter_config import is_adapter
from allround.checkpoints.header import FLOATS
from allround.checkpoints.replaced import REPLACED, differing, write_tensors
from allround.checkpoints.source import Source
from allround.checkpoints.weights import Weights
from allround.composition.combining import make_combine
from allround.composition.modules.changes import Changes
from allround.composition.router import CannotRoute, make_router, read_state
from allround.composition.routing import ROWS, make_routed, own_module_found
from allround.composition.search_weights import SearchWeights
from allround.composition.systems.routed import COMBINE, ROUTER, Member, Routed, bank_of
from allround.core.pieces import Piece
from allround.evaluation.predict import predict_split
from allround.merging.extract import extract_lora, takes_factors
from allround.models.adapted import copy_adapter, open_weights
from allround.models.base import load_encoder
from allround.models.device import pick_device
from allround.models.head_files import HEADS, read_heads
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.task import Task

#: Where the module lies in its piece.
MODULE = "module"


class Parts(TypedDict):
    """What a routed system is made of, in plain values.

    base: the folder of the encoder. modules: by name the folder of each and its tasks, of which a module of a library
    may have none. router: the piece with its state.
    """

    base: str
    modules: dict[str, tuple[str, Sequence[str]]]
    router: str
    name: str
    settings: dict[str, Any]
    combine: str
    combine_settings: dict[str, Any]


def make_module(piece: Piece, base: str, tuned: str, rank: int, own: bool) -> None:
    """What takes the base to a specialist: its own adapter where it has one of this base, else one of a rank that is
    cut from the difference, or the tensors that differ where convolutions do.

    tuned: the specialist's encoder, or the weights of a module in a library. own: it was tuned from this base. A
    specialist with the weights of the base has no module.
    """
    started, place = time.perf_counter(), Path(tuned)
    with piece.make() as (folder, facts):
        if own and is_adapter(place):
            copy_adapter(place, folder / MODULE)
            facts["held"] = 1.0
        elif same_weights(Weights(base), source := _opened(place, base)):
            facts["held"] = 1.0
        else:
            facts["held"] = _write_module(folder / MODULE, Weights(base), source, rank)
        made_of = list((folder / MODULE).iterdir()) if (folder / MODULE).is_dir() else []
        facts["bytes"] = sum(path.stat().st_size for path in made_of)
        facts["seconds"] = time.perf_counter() - started


def _write_module(folder: Path, base: Source, tuned: Source, rank: int) -> float:
    """What takes a base to a tuned model, into a new folder; the share of the squared change that it holds.

    It is an adapter of a rank where linear layers changed, and the tensors that differ where there are none, or where
    convolutions changed, of which an adapter would hold nothing.
    """
    changed = differing(base, tuned, [(name, name) for name in base if base.dtype(name) in FLOATS])
    shapes = {name: base.shape(name) for name in changed}
    linear = any(takes_factors(name, shape) for name, shape in shapes.items())
    if not linear or any(len(shape) > 2 for shape in shapes.values()):
        folder.mkdir()
        write_tensors(folder / REPLACED, tuned, {name: name for name in changed}, f"make a module of {tuned.path}")
        return 1.0
    made = extract_lora(tuned, base, folder, rank)
    for path in folder.iterdir():  # the listing of an output folder is none of a module
        if not path.name.startswith("adapter_"):
            path.unlink()
    return made.share


def _opened(tuned: Path, base: str) -> Source:
    """The weights of a tuned encoder, or of the base with a module of a library in it."""
    return Changes(Weights(base), tuned).tuned if (tuned / REPLACED).is_file() else open_weights(tuned)


def same_weights(one: Source, other: Source) -> bool:
    """Whether two models hold the same numbers."""
    return all(name in other and torch.equal(one.get(name), other.get(name).to(one.get(name).dtype)) for name in one)


def fit_router(
    piece: Piece,
    base: str,
    modules: Mapping[str, tuple[str, Sequence[str]]],
    heads: Mapping[str, str],
    tasks: Mapping[str, str],
    name: str,
    settings: Mapping[str, object],
    combine: str,
    combine_settings: Mapping[str, object],
    seed: int,
    device: str,
) -> None:
    """Fit a router on training rows of the tasks; or say why it cannot route between these modules (`refused`)."""
    started = time.perf_counter()
    data = {n: stored_task(folder) for n, folder in tasks.items()}
    with piece.make() as (folder, facts):
        facts["seconds"] = facts["examples"] = 0
        own = {n: read_heads(Path(heads[n]) / HEADS)[n] for n in data}
        try:
            made = make_routed(Path(base), _members(modules), data, own, router=name, router_settings=settings,
                               combine=combine, combine_settings=combine_settings, seed=seed,
                               encoder=load_encoder(base).to(pick_device(device)))  # fmt: skip
        except CannotRoute as error:
            facts["refused"] = error.found
            return
        made.write_states(folder)
        facts["stored"] = made.cost().parameters_stored
        facts["used"] = made.cost().parameters_used
        facts["examples"] = sum(min(ROWS, len(task.splits["train"])) for task in data.values())
        facts["seconds"] = time.perf_counter() - started


def _members(modules: Mapping[str, tuple[str, Sequence[str]]]) -> list[Member]:
    return [Member(name, Path(folder), tuple(tasks)) for name, (folder, tasks) in modules.items()]


def open_routed(parts: Parts, heads: Mapping[str, str], tasks: Sequence[Task]) -> Routed:
    """A routed system from its parts. heads: the folder of each task's head."""
    model = MultiTaskModel(load_encoder(parts["base"]), {})
    for task in tasks:
        model.add_heads({task.name: task.definition}, read_heads(Path(heads[task.name]) / HEADS))
    members = _members(parts["modules"])
    bank = bank_of(model.eval().encoder, members, Path(parts["base"]))
    router = make_router(parts["name"], parts["settings"])
    combine = make_combine(parts["combine"], parts["combine_settings"])
    router.restore(bank, read_state(Path(parts["router"]) / ROUTER))
    combine.restore(bank, read_state(Path(parts["router"]) / COMBINE))
    return Routed(model, members, router, combine, bank,
                  router_settings=parts["settings"], combine_settings=parts["combine_settings"],
                  search_weights=SearchWeights.read(Path(parts["router"]), len(members)))  # fmt: skip


def predict_routed(
    pieces: Sequence[Mapping[str, Piece]],
    source: str,
    own: Sequence[Mapping[str, str]],
    tasks: Mapping[str, str],
    split: str,
    device: str,
) -> None:
    """Predictions of a routed system; a piece for each task, which also says how often the row's own module was found.

    source: the JSON of its parts. own: the folder of each task's head. The other arguments are those of
    `jobs.predict.predict`.
    """
    parts: Parts = json.loads(source)
    listed = {name: stored_task(folder) for name, folder in tasks.items()}
    for made, heads in zip(pieces, own, strict=True):
        if all(made[name].done for name in tasks):
            continue
        system = open_routed(parts, heads, list(listed.values())).to(pick_device(device))
        for name, task in listed.items():
            if made[name].done:
                continue
            predicted = predict_split(system, task, split)
            with made[name].make() as (folder, facts):
                keep_predictions(predicted, folder, facts)
                sent = own_module_found(system, task, split)
                if sent is not None:
                    facts["routed"] = float(sent.mean())
                    if task.definition.metric == "accuracy":
                        facts["alone"] = float((sent & (predicted.predictions == predicted.targets)).mean())
