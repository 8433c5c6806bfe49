"""The pieces of work that a build is made of. Each is a top-level function of paths and plain values.

A job makes its piece whole or not at all; what it has to say goes into the piece's facts.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from allround.core.errors import AllroundError
from allround.core.files import hash_json
from allround.core.memory import PeakMemory
from allround.core.outputs import remove_empty
from allround.core.pieces import Piece
from allround.core.progress import Progress
from allround.core.seeds import seed_everything
from allround.evaluation.predict import predict_alike, predict_split
from allround.evaluation.predictions import Predictions, score
from allround.merging.learn import learning
from allround.merging.learn.material import Specialist
from allround.merging.learn.run import learn
from allround.merging.learn.save import write
from allround.merging.run import merge_folders
from allround.merging.statistics.collect import collect
from allround.models.base import find_folder, load_encoder, open_encoder
from allround.models.device import layer_seconds, pick_device, precision, products
from allround.models.encoder import Encoder
from allround.models.head import fit_head
from allround.models.model import (
    MultiTaskModel,
    parameters_of,
    read_definitions,
    read_heads,
    write_definitions,
    write_heads,
)
from allround.tasks.task import Task
from allround.training.settings import Settings
from allround.training.trainer import train

#: The file of a statistic in its piece.
STATISTIC = "statistic.safetensors"


@lru_cache(maxsize=64)
def _task(folder: str) -> Task:
    return Task.load(Path(folder))


_prepared: dict[tuple[str, str, str], list[Any]] = {}


def _rows(encoder: Encoder, task_folder: str, split: str) -> list[Any]:
    """A split as the encoder prepares it, kept for the next job whose encoder prepares alike: nearly all of a build."""
    key = (hash_json(encoder.preparation), task_folder, split)
    if key not in _prepared:
        task = _task(task_folder)
        _prepared[key] = encoder.prepare(task.splits[split].inputs, task.definition)
    return _prepared[key]


def make_base(piece: Piece, base: str, tasks: Sequence[str], seed: int, encoder: Mapping[str, Any]) -> None:
    """The encoder that everything starts from, saved in allround's own form."""
    started = time.perf_counter()
    seed_everything(seed)
    with piece.make() as (folder, facts):
        made = open_encoder(base, [_task(t) for t in tasks], seed, encoder)
        (folder / "encoder").mkdir()
        made.save(folder / "encoder")
        facts["notes"] = list(made.notes)
        facts["parameters"] = parameters_of(made)
        facts["encoder"] = made.name
        facts["epochs"] = made.epochs
        facts["learning_rate"] = made.learning_rate
        facts["seconds"] = time.perf_counter() - started


def decide_precision(piece: Piece, device: str) -> None:
    """In which precision "auto" computes, and the speeds that decided it."""
    with piece.make() as (_, facts):
        facts["precision"] = precision("auto", device)
        facts["layer"] = layer_seconds(pick_device(device).type)


def make_head(piece: Piece, encoder: str, task: str, device: str) -> None:
    """A head for a task, fitted on a frozen encoder."""
    started = time.perf_counter()
    with piece.make() as (folder, facts):
        data = _task(task)
        head = fit_head(load_encoder(encoder).to(pick_device(device)), data)
        write_heads(folder / "heads.safetensors", {data.name: {"weight": head.weight, "bias": head.bias}})
        facts["tried"] = {str(penalty): score for penalty, score in head.tried.items()}
        facts["chosen"] = head.chosen
        facts["validation"] = head.tried[head.chosen]
        facts["seconds"] = time.perf_counter() - started


def tune(
    piece: Piece, base: str, heads: Mapping[str, str], tasks: Sequence[str], settings: Mapping[str, Any], seed: int
) -> None:
    """A model tuned from the base: a specialist when there is one task, a joint model when there are many."""
    data = [_task(t) for t in tasks]
    with piece.make() as (folder, facts):
        model = assemble(base, {t.name: heads[t.name] for t in data}, data)
        adapter = folder / "adapter" if settings["tune"] == "lora" else None
        chosen = Settings.from_json(dict(settings))
        memory = PeakMemory(cuda=pick_device(chosen.device).type == "cuda")
        course = train(model, data, chosen, seed=seed, scratch=piece.scratch, adapter=adapter)
        facts["peak_memory"] = memory.read()
        model.write(folder)
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


def assemble(encoder: str, heads: Mapping[str, str], tasks: Sequence[Task]) -> MultiTaskModel:
    """A model from an encoder folder and, for each task, the folder that holds its head."""
    return with_heads(load_encoder(encoder), heads, tasks)


def with_heads(encoder: Encoder, heads: Mapping[str, str], tasks: Sequence[Task]) -> MultiTaskModel:
    """A model from an encoder and, for each task, the folder that holds its head."""
    model = MultiTaskModel(encoder, {})
    for task in tasks:
        model.add_task(task.definition, read_heads(Path(heads[task.name]) / "heads.safetensors").get(task.name, {}))
    return model.eval()


def predict(
    pieces: Sequence[Mapping[str, Piece]],
    encoder: str,
    heads: Sequence[Mapping[str, str]],
    tasks: Mapping[str, str],
    split: str,
    device: str,
) -> None:
    """Predictions of models that share one encoder, on a split of several tasks; a piece for each model and task.

    The encoder reads each row once, whatever the number of models. pieces and heads: by task, one of each a model.
    """
    loaded, listed = load_encoder(encoder), [_task(f) for f in tasks.values()]
    models = [with_heads(loaded, one, listed).to(pick_device(device)) for one in heads]
    for name, folder in tasks.items():
        todo = [(made[name], model) for made, model in zip(pieces, models, strict=True) if not made[name].done]
        if todo:
            _predict_into(todo, folder, split)


def _predict_into(todo: Sequence[tuple[Piece, MultiTaskModel]], task_folder: str, split: str) -> None:
    rows = _rows(todo[0][1].encoder, task_folder, split)
    found = predict_alike([model for _, model in todo], _task(task_folder), split, prepared=rows)
    for (piece, _), predicted in zip(todo, found, strict=True):
        with piece.make() as (folder, facts):
            predicted.write(folder / "predictions.parquet")
            facts["score"] = score(predicted)
            facts["seconds"] = predicted.seconds
            facts["rows"] = len(predicted)


def try_merge(
    piece: Piece,
    base: str,
    specialists: Mapping[str, str],
    tasks: Mapping[str, str],
    method: str,
    parameters: Mapping[str, Any],
    statistics: Mapping[str, Sequence[str]],
    settings: Mapping[str, Any],
) -> None:
    """One merge with one setting, scored on validation in the precision of training; its weights are not kept."""
    started = time.perf_counter()
    with piece.make() as (folder, facts):
        merged = folder / "merged"
        merged.mkdir()
        merge_folders(base, _encoders(specialists), merged, method=method, parameters=parameters,
                      statistics=_files(statistics))  # fmt: skip
        facts["validation"] = _validation(str(merged), specialists, tasks, settings)
        shutil.rmtree(merged)
        facts["seconds"] = time.perf_counter() - started


def merge(
    piece: Piece,
    base: str,
    specialists: Mapping[str, str],
    tasks: Mapping[str, str],
    method: str,
    parameters: Mapping[str, Any],
    statistics: Mapping[str, Sequence[str]],
) -> None:
    """The merged model: a merged encoder and every specialist's head."""
    started = time.perf_counter()
    with piece.make() as (folder, facts):
        (folder / "encoder").mkdir()
        recipe = merge_folders(base, _encoders(specialists), folder / "encoder", method=method, parameters=parameters,
                               statistics=_files(statistics))  # fmt: skip
        heads = {name: read_heads(Path(s) / "heads.safetensors")[name] for name, s in specialists.items()}
        write_heads(folder / "heads.safetensors", heads)
        definitions = {name: _task(f).definition for name, f in tasks.items()}
        write_definitions(folder, definitions, {"made_by": recipe})
        facts["seconds"] = time.perf_counter() - started


def _encoders(specialists: Mapping[str, str]) -> list[str]:
    return [f"{folder}/encoder" for folder in specialists.values()]


def _files(statistics: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    return {kind: [f"{folder}/{STATISTIC}" for folder in folders] for kind, folders in statistics.items()}


def _validation(
    encoder: str, heads: Mapping[str, str], tasks: Mapping[str, str], settings: Mapping[str, Any]
) -> dict[str, float]:
    """Validation scores of an encoder with heads, in the precision of training."""
    chosen = Settings.from_json(dict(settings))
    model = assemble(encoder, heads, [_task(f) for f in tasks.values()]).to(pick_device(chosen.device))
    scores = {}
    for name, folder in tasks.items():
        rows = _rows(model.encoder, folder, "validation")
        with products(chosen.precision, chosen.device):
            scores[name] = score(predict_split(model, _task(folder), "validation", prepared=rows))
    return scores


def make_statistic(piece: Piece, kind: str, specialist: str, task: str, rows: int, seed: int, device: str) -> None:
    """A statistic of a specialist on its task's training rows."""
    started = time.perf_counter()
    with piece.make() as (folder, facts):
        made = collect(specialist, [_task(task)], kind, folder / STATISTIC, rows=rows, seed=seed,
                       device=device)  # fmt: skip
        facts["rows"] = made.rows
        facts["seconds"] = time.perf_counter() - started


def learn_merge(
    piece: Piece,
    base: str,
    specialists: Mapping[str, str],
    tasks: Mapping[str, str],
    preset: str,
    values: Mapping[str, Any],
    settings: Mapping[str, Any],
    seed: int,
) -> None:
    """A learned merge: the whole model, and its validation scores."""
    started = time.perf_counter()
    chosen = Settings.from_json(dict(settings))
    with piece.make() as (folder, facts):
        data = {name: _task(place) for name, place in tasks.items()}
        made = learn(
            base,
            [Specialist(Path(s) / "encoder", (n,), read_heads(Path(s) / "heads.safetensors"))
             for n, s in specialists.items()],
            data,
            learning.preset(preset, values),
            seed=seed,
            device=chosen.device,
            precision=chosen.precision,
            progress=Progress(quiet=True),
        )  # fmt: skip
        record = {"preset": preset, "specialists": list(specialists), **made.record}
        write(folder, made, {name: task.definition for name, task in data.items()}, record)
        facts["validation"] = _validation(str(folder / "encoder"), dict.fromkeys(tasks, str(folder)), tasks, settings)
        facts["rows"] = sum(made.record["rows"].values())
        facts["learning_seconds"] = made.record["seconds"]
        facts["seconds"] = time.perf_counter() - started


def take_specialist(piece: Piece, given: str, base: str, task: str) -> None:
    """A specialist that the user gives: a model that allround saved, or an encoder folder (a head is then fitted)."""
    from allround.checkpoints.weights import Weights
    from allround.merging.layout import check_alike

    started = time.perf_counter()
    data = _task(task)
    source = Path(given)
    encoder_folder = find_folder(given)
    check_alike(Weights(base), [Weights(encoder_folder)])
    encoder = load_encoder(encoder_folder)
    read, wanted = encoder.features(data.definition), load_encoder(base).features(data.definition)
    if read != wanted:
        raise AllroundError(
            f"use {given} as the specialist of '{data.name}'",
            f"its encoder gives {read} features for this task, and the base {wanted}, so one head cannot read both",
            "give a specialist that was tuned with the encoder settings of this build (how it reads pairs, say)",
        )
    with piece.make() as (folder, facts):
        definitions = read_definitions(source)[0] if (source / "allround.json").is_file() else {}
        if data.name in definitions and definitions[data.name].labels == data.definition.labels:
            head = read_heads(source / "heads.safetensors")[data.name]
            facts["head"] = "its own"
        else:
            fitted = fit_head(encoder, data)
            head = {"weight": fitted.weight, "bias": fitted.bias}
            facts["head"] = "fitted on its frozen encoder"
        model = MultiTaskModel(encoder, {})
        model.add_task(data.definition, head)
        model.facts = {"made_by": {"given": str(given)}}
        model.write(folder)
        facts.update({"seconds": time.perf_counter() - started, "examples": {data.name: 0}, "given": str(given)})


def probe(base: str, heads: Mapping[str, str], tasks: Mapping[str, str], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Seconds per training example and per predicted row of each task, from one small measurement."""
    found: dict[str, Any] = {}
    chosen = Settings.from_json(dict(settings)).with_(epochs=1)
    for name, folder in tasks.items():
        task = _task(folder)
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


def loaded_predictions(piece: Piece) -> Predictions:
    """The predictions that a piece holds."""
    return Predictions.load(piece.folder / "predictions.parquet")
