"""A specialist that the user gives, as a model of the build."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from allround.building.jobs.rows import stored_task
from allround.checkpoints.adapter_config import is_adapter
from allround.checkpoints.source import Source
from allround.checkpoints.weights import Weights
from allround.composition.library.card import WEIGHTS
from allround.composition.modules.changes import Changes
from allround.core.errors import AllroundError
from allround.core.pieces import Piece
from allround.models.adapted import can_be_adapted, copy_adapter, open_weights, put_changed, write_adapted
from allround.models.base import find_folder, load_encoder
from allround.models.classifier import Classifier
from allround.models.encoder import Encoder
from allround.models.fitting import fit_head
from allround.models.head import HeadState
from allround.models.head_files import HEADS, read_heads
from allround.models.network import load_modules, load_network, open_network
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.task import Task


def take_specialist(piece: Piece, given: Mapping[str, Any], base: str, task: str, head: str | None) -> None:
    """A specialist that the user gives, with its own head or one that is fitted anew on its frozen encoder.

    given: a `GivenSpecialist` as plain values. base: the folder of the build's encoder. head: the sort of a new head.
    """
    started = time.perf_counter()
    data = stored_task(task)
    with piece.make() as (folder, facts):
        encoder, kept = (_of_library if given["module"] else _ours if given["ours"] else _foreign)(given, base, data)
        model = MultiTaskModel(encoder, {})
        model.add_task(data.definition, fit_head(encoder, data, head).state if kept is None else kept)
        model.facts = {"made_by": {"given": given["folder"]}}
        weights, place = Path(given["folder"]) / WEIGHTS, piece.folder / "encoder"
        if given["module"] and encoder.keeps_adapters and is_adapter(weights) and can_be_adapted(Path(base), place):
            copy_adapter(weights, folder / "encoder")
            write_adapted(folder / "encoder", Path(base), place)
            model.write_parts(folder)
        else:
            model.write(folder)
        facts["head"] = "its own" if kept is not None else "fitted on its frozen encoder"
        facts.update({"seconds": time.perf_counter() - started, "examples": {data.name: 0}, "given": given["folder"]})


def _ours(given: Mapping[str, Any], base: str, data: Task) -> tuple[Encoder, HeadState | None]:
    """The encoder of a model that allround saved, and its head where that is kept."""
    from allround.merging.layout import check_alike

    folder = find_folder(given["folder"], "specialist")
    check_alike(open_weights(Path(base)), [open_weights(folder)])
    encoder = load_encoder(folder)
    read, wanted = encoder.features(data.definition), load_encoder(base).features(data.definition)
    if read != wanted:
        raise AllroundError(
            f"use {given['folder']} as the specialist of '{data.name}'",
            f"its encoder gives {read} features for this task, and the base {wanted}, so one head cannot read both",
            "give a specialist that was tuned with the encoder settings of this build (how it reads pairs, say)",
        )
    kept = given["order"] is not None
    return encoder, read_heads(Path(given["folder"]) / HEADS)[data.name] if kept else None


def _of_library(given: Mapping[str, Any], base: str, data: Task) -> tuple[Encoder, HeadState | None]:
    """The base's encoder with a module of a library in it, and the head that came with the module where it is kept."""
    place = Path(given["folder"])
    changes = Changes(Weights(base), place / WEIGHTS)
    encoder = load_encoder(base)
    put_changed(encoder, changes.tuned, set(changes))
    if given["order"] is None:
        return encoder, None
    if given["classifier"] is None:
        return encoder, read_heads(place / HEADS)[data.name]
    return encoder, _head_of(given, encoder, data, open_network(place / WEIGHTS, Path(base)))


def _foreign(given: Mapping[str, Any], base: str, data: Task) -> tuple[Encoder, HeadState | None]:
    """The base's encoder with the network of a folder that another library saved, and its head where that is kept."""
    folder = Path(given["folder"])
    encoder = load_encoder(base)
    source = open_network(folder, Path(base))
    load_network(encoder, folder, source)
    if given["modules"]:
        load_modules(encoder, folder)
    if given["order"] is None:
        return encoder, None
    return encoder, _head_of(given, encoder, data, source)


def _head_of(given: Mapping[str, Any], encoder: Encoder, data: Task, source: Source) -> HeadState:
    """The head that a classifier of transformers has for a task."""
    features = encoder.features(data.definition)
    return Classifier(**given["classifier"]).head(data.definition, given["order"], source, features)
