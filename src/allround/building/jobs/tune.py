"""Tuned models: a specialist, a joint model; and how fast tuning is here."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TypedDict, cast

from typing_extensions import NotRequired

from allround.building.jobs.assemble import assemble
from allround.building.jobs.rows import stored_task
from allround.core.growing import remove_empty
from allround.core.memory import PeakMemory
from allround.core.pieces import Piece
from allround.evaluation.predict import predict_split
from allround.models.adapted import can_be_adapted, write_adapted
from allround.models.device import pick_device
from allround.models.model import parameters_of
from allround.models.share.further import further_task, stored_in
from allround.tasks.task import Task
from allround.training.settings import Settings
from allround.training.sharing import shared_by, sharing_facts
from allround.training.trainer import train


class TrainingFacts(TypedDict):
    """What a training says of itself.

    validation: score of each task in the state that was kept. examples: rows of each task that were trained on.
    skipped: times that a task was left out of a step. peak_memory: bytes, None where it was not measured. further:
    bytes that one further task would store; of a specialist, all that it stores.
    """

    validation: dict[str, float]
    best_step: int
    steps: int
    skipped: int
    skipped_of: dict[str, int]
    backward_passes: int
    examples: dict[str, int]
    seconds: float
    peak_memory: int | None
    further: NotRequired[int]


def training_facts(piece: Piece) -> TrainingFacts:
    """What the training that made a piece says of itself."""
    return cast(TrainingFacts, piece.facts)


def tune(
    piece: Piece, base: str, heads: Mapping[str, str], tasks: Sequence[str], settings: Mapping[str, object], seed: int
) -> None:
    """A model tuned from the base: a specialist when there is one task, a joint model when there are many."""
    data = [stored_task(t) for t in tasks]
    with piece.make() as (folder, facts):
        chosen = Settings.from_json(dict(settings))
        model, chosen = shared_by(assemble(base, {t.name: heads[t.name] for t in data}, data), chosen, data, seed)
        lora, place = settings["tune"] == "lora", piece.folder / "encoder"
        alone = lora and model.encoder.keeps_adapters and can_be_adapted(Path(base), place)
        adapter = folder / ("encoder" if alone else "adapter") if lora else None
        memory = PeakMemory(cuda=pick_device(chosen.device).type == "cuda")
        course = train(model, data, chosen, seed=seed, scratch=piece.scratch, adapter=adapter)
        facts["peak_memory"] = memory.read()
        if alone:
            write_adapted(folder / "encoder", Path(base), place)
            model.write_parts(folder)
        else:
            model.write(folder)
        facts["parameters"] = parameters_of(model.encoder)
        facts["further"] = further_task(model).size if len(data) > 1 else stored_in(folder)
        used = sharing_facts(model, data, "", chosen)
        if used is not None:
            facts["sharing"] = asdict(used)
        facts["evaluations"] = course.evaluations
        facts["best_step"] = course.best_step
        facts["steps"] = course.steps
        facts["skipped"] = course.skipped
        facts["skipped_of"] = course.skipped_of
        facts["backward_passes"] = course.backward_passes
        facts["examples"] = course.examples
        facts["seconds"] = course.seconds
        best = next(e for e in course.evaluations if e["step"] == course.best_step)
        facts["validation"] = best["scores"]
    remove_empty(piece.scratch)


def probe(
    base: str, heads: Mapping[str, str], tasks: Mapping[str, str], settings: Mapping[str, object]
) -> dict[str, dict[str, float]]:
    """Seconds per training example and per predicted row of each task, from one small measurement."""
    found: dict[str, dict[str, float]] = {}
    chosen = Settings.from_json(dict(settings)).with_(epochs=1)
    for name, folder in tasks.items():
        task = stored_task(folder)
        model = assemble(base, heads, [task])
        started = time.perf_counter()
        count = min(64, len(task.splits["validation"]))
        first = {s: split.take(range(min(count, len(split)))) for s, split in task.splits.items()}
        small = Task(task.definition, first)
        predict_split(model, small, "validation")
        predicting = (time.perf_counter() - started) / count
        started = time.perf_counter()
        train(model, [small], chosen)
        # Training scores validation twice (before the first step, and at the end).
        training = max(0.0, time.perf_counter() - started - 2 * count * predicting) / len(small.splits["train"])
        found[name] = {"train": training, "predict": predicting}
    return found
