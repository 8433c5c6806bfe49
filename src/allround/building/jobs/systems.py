"""Systems of any sort as jobs make and open them: linear models, trees, and members of an ensemble."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import TypedDict

from allround.building.jobs.assemble import assemble
from allround.building.jobs.predict import keep_predictions
from allround.building.jobs.rows import stored_task
from allround.core.pieces import Piece
from allround.evaluation.predict import predict_split
from allround.models.boosting import fit_trees
from allround.models.device import pick_device
from allround.models.plain.fit import fit_linear
from allround.models.robust_boosting import fit_robust
from allround.models.system import System, load
from allround.models.systems.ensemble import Ensemble
from allround.models.systems.linear_models import LinearModels
from allround.models.systems.rmtgb import Rmtgb
from allround.models.systems.trees import Trees
from allround.tasks.task import Task


class Part(TypedDict):
    """What answers one task of a system, in plain values.

    folder: of a saved system; or of an encoder, where `head` is the folder with the task's head.
    """

    folder: str
    head: str | None


def make_trees(piece: Piece, task: str, seed: int) -> None:
    """Boosted trees for a task; settings and rounds are chosen on its validation rows."""
    started = time.perf_counter()
    with piece.make() as (folder, facts):
        data = stored_task(task)
        found, tried = fit_trees(data, seed=seed)
        Trees({data.name: found}).write(folder)
        facts["tried"] = tried
        facts["examples"] = len(data.splits["train"])
        facts["seconds"] = time.perf_counter() - started


def make_robust(piece: Piece, tasks: Sequence[str], seed: int) -> None:
    """Robust trees that tasks share; the rounds of each part are chosen on validation rows."""
    started = time.perf_counter()
    with piece.make() as (folder, facts):
        data = [stored_task(task) for task in tasks]
        found, losses = fit_robust(data, seed=seed)
        Rmtgb(found).write(folder)
        facts["losses"] = losses
        facts["outliers"] = found.outliers()
        facts["examples"] = sum(len(task.splits["train"]) for task in data)
        facts["seconds"] = time.perf_counter() - started


def make_linear(piece: Piece, task: str) -> None:
    """A linear model for a task; the strength of its penalty is chosen on its validation rows."""
    started = time.perf_counter()
    with piece.make() as (folder, facts):
        data = stored_task(task)
        found, tried = fit_linear(data)
        LinearModels({data.name: found}).write(folder)
        facts["tried"] = tried
        facts["examples"] = len(data.splits["train"])
        facts["seconds"] = time.perf_counter() - started


def open_part(part: Part, task: Task) -> System:
    """The system that answers a task."""
    if part["head"] is None:
        return load(part["folder"])
    return assemble(part["folder"], {task.name: part["head"]}, [task])


def predict_parts(
    pieces: Sequence[Mapping[str, Piece]],
    source: str,
    own: Sequence[Mapping[str, str]],
    tasks: Mapping[str, str],
    split: str,
    device: str,
) -> None:
    """Predictions of systems on a split; a piece for each system and task.

    own: of each system by task, the JSON of its parts, whose answers are averaged. The other arguments are those of
    `jobs.predict.predict`; source tells these systems from others, and is not read.
    """
    for made, parts in zip(pieces, own, strict=True):
        for name, place in tasks.items():
            if made[name].done:
                continue
            task = stored_task(place)
            members = [open_part(part, task).to(pick_device(device)) for part in read_parts(parts[name])]
            system = members[0] if len(members) == 1 else Ensemble(members)
            predicted = predict_split(system, task, split)
            with made[name].make() as (folder, facts):
                keep_predictions(predicted, folder, facts)


def read_parts(text: str) -> list[Part]:
    """Parts as `write_parts` wrote them."""
    found: list[Part] = json.loads(text)
    return found


def write_parts(parts: Sequence[Part]) -> str:
    """Parts as a line of JSON, as an `Answerer` takes them."""
    return json.dumps(list(parts))
