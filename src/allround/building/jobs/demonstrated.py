"""Language models with demonstrations, as jobs make and open them."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypedDict

from allround.building.jobs.assemble import assemble
from allround.building.jobs.predict import keep_predictions
from allround.building.jobs.rows import stored_task
from allround.composition.demonstrating import make_demonstrations
from allround.composition.systems.demonstrated import Demonstrated, demonstrate, read_way
from allround.core import registry
from allround.core.pieces import Piece
from allround.evaluation.predict import predict_split
from allround.models.base import find_folder, load_encoder
from allround.models.device import pick_device


class Parts(TypedDict):
    """What a language model with demonstrations is made of. encoder: its folder. heads, tasks: the folders of all its
    tasks. way: as it was asked for. examples: the folder of the piece that holds them."""

    encoder: str
    heads: dict[str, str]
    tasks: dict[str, str]
    way: str
    examples: str


def make_examples(
    piece: Piece, encoder: str, heads: Mapping[str, str], tasks: Mapping[str, str], way: str, seed: int, device: str
) -> None:
    """The examples of a way to choose them, and what it learns. heads, tasks: folders by task, of trained tasks."""
    started = time.perf_counter()
    with piece.make() as (folder, facts):
        listed = [stored_task(place) for place in tasks.values()]
        model = assemble(encoder, heads, listed)
        made = demonstrate(model.to(pick_device(device)), listed, way, seed=seed)
        made.write_way(folder)
        facts["more"] = made.cost().parameters_stored - model.cost().parameters_stored
        facts["examples"] = len(made.way.bank.examples)
        facts["seconds"] = time.perf_counter() - started


def open_demonstrated(parts: Parts) -> Demonstrated:
    """A language model with demonstrations, from its parts."""
    tasks = [stored_task(folder) for folder in parts["tasks"].values()]
    model = assemble(parts["encoder"], parts["heads"], tasks)
    name, settings = registry.spelled("demonstrations", parts["way"])
    way = make_demonstrations(name, settings)
    reader = load_encoder(find_folder(way.encoder)) if way.encoder else model.encoder
    read_way(way, Path(parts["examples"]), reader, model.definitions, f"answer by '{parts['way']}'")
    return Demonstrated(model, way, settings)


def predict_demonstrated(
    pieces: Sequence[Mapping[str, Piece]],
    source: str,
    own: Sequence[Mapping[str, str]],
    tasks: Mapping[str, str],
    split: str,
    device: str,
) -> None:
    """Predictions of a language model with demonstrations; a piece for each task.

    source: the JSON of its parts, which name its heads. The other arguments are those of `jobs.predict.predict`.
    """
    parts: Parts = json.loads(source)
    system = open_demonstrated({**parts, "tasks": {**parts["tasks"], **tasks}}).to(pick_device(device))
    for made in pieces:
        for name in tasks:
            if not made[name].done:
                predicted = predict_split(system, stored_task(tasks[name]), split)
                with made[name].make() as (folder, facts):
                    keep_predictions(predicted, folder, facts)
