"""Shrinking a model, as jobs: what is measured of it, what its teachers give, smaller models, and their times."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from allround.building.jobs.adding import MODEL
from allround.building.jobs.rows import stored_task, without_test
from allround.checkpoints.weights import Weights
from allround.core import registry
from allround.core.errors import AllroundError
from allround.core.growing import remove_empty
from allround.core.pieces import Piece
from allround.evaluation.timing import row_times
from allround.models.batch import Features
from allround.models.device import pick_device
from allround.models.exporting import difference
from allround.models.model import parameters_of
from allround.models.running import features_of
from allround.models.shrinking.anatomy import Kept
from allround.models.shrinking.choosing import TooSmall
from allround.models.shrinking.study import Study, study
from allround.models.systems.multi_task_model import MultiTaskModel, open_model
from allround.models.widths import without
from allround.tasks.task import Task
from allround.training.settings import Settings
from allround.training.teacher_rows import ask_teachers, write_teacher_rows
from allround.training.term import Term
from allround.training.terms.distillation import Distillation
from allround.training.trainer import train

#: Training rows of each task by which parts are scored, and those by which losses are measured.
SCORED, MEASURED = 256, 32
#: Rows of each task that are timed, and halvings of the interval in which the share of the work lies.
TIMED, HALVINGS = 32, 7
_SCORES = "scores.safetensors"


def study_model(piece: Piece, model: str, tasks: Sequence[str], device: str) -> None:
    """The importance of every part of a model to every task."""
    started = time.perf_counter()
    given, data = _opened(model, tasks, device)
    with piece.make() as (folder, facts):
        save_file(dict(study(given, data, rows=SCORED).scores), folder / _SCORES)
        facts["seconds"] = time.perf_counter() - started


def teach_rows(piece: Piece, model: str, specialists: Sequence[str], tasks: Sequence[str], device: str) -> None:
    """What a model and specialists give for all training rows."""
    started = time.perf_counter()
    given, data = _opened(model, tasks, device)
    with piece.make() as (folder, facts):
        others = {one: open_model(one, device=str(pick_device(device))) for one in specialists}
        write_teacher_rows(ask_teachers(given, others, data), folder)
        facts["seconds"] = time.perf_counter() - started


def find_share(
    piece: Piece,
    model: str,
    tasks: Sequence[str],
    scores: str,
    way: str,
    values: Mapping[str, Any],
    milliseconds: float,
) -> None:
    """The largest share of the work with which a row that is asked alone takes at most so long on this machine."""
    started = time.perf_counter()
    given, data = _opened(model, tasks, "cpu")
    seen = _study(given, data, scores)
    rows = {task.name: task.splits["train"].inputs[:TIMED] for task in data}
    with piece.make() as (_, facts):
        known: dict[str, float] = {}

        def takes(kept: Kept) -> float:
            key = str(sorted(kept.items()))
            if key not in known:
                known[key] = row_times([without(given, kept)], rows, rounds=3)[0].alone
            return known[key]

        facts["whole"] = takes({})
        low, high, met = 0.0, 1.0, 0.0
        for _ in range(HALVINGS if facts["whole"] > milliseconds else 0):
            middle = (low + high) / 2
            try:
                fits = takes(registry.load("shrink", way)(seen, middle, **values)) <= milliseconds
            except TooSmall:
                low = middle
                continue
            low, high, met = (middle, high, middle) if fits else (low, middle, met)
        facts["share"], facts["least"] = met, min(known.values())
        facts["seconds"] = time.perf_counter() - started


def shrink_by(
    piece: Piece,
    model: str,
    tasks: Sequence[str],
    scores: str,
    way: str,
    values: Mapping[str, Any],
    share: float,
    settings: Mapping[str, object],
    distillation: Mapping[str, Any] | None,
    taught: str,
    seed: int,
) -> None:
    """A smaller model: parts are removed in one way, then it is trained.

    distillation: settings of that term; None trains on labels alone. The fact `refused` says that the share cannot be
    met in this way.
    """
    chosen = Settings.from_json(dict(settings))
    given, data = _opened(model, tasks, chosen.device)
    with piece.make() as (folder, facts):
        seen = _study(given, data, scores)
        try:
            kept: Kept = registry.load("shrink", way)(seen, share, **values)
        except TooSmall:
            facts["refused"] = True
            return
        seen.anatomy.check(kept)
        made = without(given, kept)
        facts["kept"] = {group: list(parts) for group, parts in kept.items()}
        facts["groups"] = {group.name: group.count for group in seen.anatomy.groups}
        facts["share"] = seen.anatomy.share(kept)
        facts["before"] = dict(zip([t.name for t in data], seen.losses(kept).tolist(), strict=True))
        terms: list[Term] = []
        if distillation is not None:
            terms = [Distillation(teacher=model, taught=taught, **distillation)]
        course = train(made, data, chosen, seed=seed, scratch=piece.scratch, terms=terms)
        made = made.to("cpu")
        made.facts = {}
        (folder / MODEL).mkdir()
        made.write(folder / MODEL)
        _check_written(made, folder / MODEL, data[0])
        facts |= {"seconds": course.seconds, "steps": course.steps, "evaluations": course.evaluations,
                  "parameters": parameters_of(made), "encoder": made.encoder.numbers,
                  "bytes": weight_bytes(folder / MODEL)}  # fmt: skip
    remove_empty(piece.scratch)


def measure_times(piece: Piece, models: Mapping[str, str], tasks: Sequence[str]) -> None:
    """Milliseconds of a row of several models, measured in turns on validation rows."""
    started = time.perf_counter()
    systems = {name: open_model(folder) for name, folder in models.items()}
    rows = {task.name: task.splits["validation"].inputs[:TIMED] for task in map(stored_task, tasks)}
    with piece.make() as (_, facts):
        found = row_times(list(systems.values()), rows)
        facts["times"] = {name: list(one) for name, one in zip(systems, found, strict=True)}
        facts["threads"] = torch.get_num_threads()
        facts["seconds"] = time.perf_counter() - started


def weight_bytes(folder: Path) -> int:
    """Bytes of the weights in a model's folder."""
    return sum(path.stat().st_size for path in folder.rglob("*.safetensors"))


def _opened(model: str, tasks: Sequence[str], device: str) -> tuple[MultiTaskModel, list[Task]]:
    given = open_model(model, device=str(pick_device(device)))
    data = [without_test(stored_task(folder)) for folder in tasks]
    return given, [task.as_defined(given.definition(task.name)) for task in data]


def _study(model: MultiTaskModel, tasks: Sequence[Task], folder: str) -> Study:
    weights = Weights(Path(folder) / _SCORES)
    return study(model, tasks, rows=MEASURED, scores={name: weights.get(name) for name in weights})


def _check_written(model: MultiTaskModel, folder: Path, task: Task) -> None:
    """An error where the folder does not load as what was written into it."""
    definition = model.definition(task.name)
    rows = model.prepare(task.name, task.splits["validation"].inputs[:4])
    found: list[Features] = [features_of(one.encoder, rows, definition) for one in (model, open_model(folder))]
    gap = difference(found[0].values, found[1].values)
    if gap > 1e-5:
        raise AllroundError("write the smaller model", f"loaded again, its features differ by {gap:.1g}",
                            "report this as a bug, with the base")  # fmt: skip
