"""Merges: a trial of a setting, the merged model, statistics that merges need, learned merges."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from allround.building.jobs.assemble import assemble
from allround.building.jobs.rows import prepared_rows, stored_task
from allround.core.pieces import Piece
from allround.core.progress import Progress
from allround.evaluation.predict import predict_split
from allround.evaluation.predictions import score
from allround.merging.learn import learning
from allround.merging.learn.material import Specialist
from allround.merging.learn.run import learn
from allround.merging.learn.save import write
from allround.merging.run import merge_folders
from allround.merging.statistics.collect import collect
from allround.models.device import pick_device, products
from allround.models.head_files import read_heads, write_heads
from allround.models.manifest import write_manifest
from allround.training.settings import Settings

#: The file of a statistic in its piece.
STATISTIC = "statistic.safetensors"


def try_merge(
    piece: Piece,
    base: str,
    specialists: Mapping[str, str],
    tasks: Mapping[str, str],
    method: str,
    parameters: Mapping[str, object],
    statistics: Mapping[str, Sequence[str]],
    settings: Mapping[str, object],
) -> None:
    """One merge with one setting, scored on validation in the precision of training; its weights are not kept."""
    started = time.perf_counter()
    with piece.make() as (folder, facts):
        merged = folder / "merged"
        merged.mkdir()
        merge_folders(base, _encoders(specialists), merged, method=method, parameters=parameters,
                      statistics=_files(statistics))  # fmt: skip
        facts["validation"] = validation_scores(str(merged), specialists, tasks, settings)
        shutil.rmtree(merged)
        facts["seconds"] = time.perf_counter() - started


def merge(
    piece: Piece,
    base: str,
    specialists: Mapping[str, str],
    tasks: Mapping[str, str],
    method: str,
    parameters: Mapping[str, object],
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
        definitions = {name: stored_task(f).definition for name, f in tasks.items()}
        write_manifest(folder, definitions, {"made_by": recipe})
        facts["seconds"] = time.perf_counter() - started


def _encoders(specialists: Mapping[str, str]) -> list[str]:
    return [f"{folder}/encoder" for folder in specialists.values()]


def _files(statistics: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    return {kind: [f"{folder}/{STATISTIC}" for folder in folders] for kind, folders in statistics.items()}


def validation_scores(
    encoder: str, heads: Mapping[str, str], tasks: Mapping[str, str], settings: Mapping[str, object]
) -> dict[str, float]:
    """Validation scores of an encoder with heads, in the precision of training."""
    chosen = Settings.from_json(dict(settings))
    model = assemble(encoder, heads, [stored_task(f) for f in tasks.values()]).to(pick_device(chosen.device))
    scores = {}
    for name, folder in tasks.items():
        rows = prepared_rows(model, folder, "validation")
        with products(chosen.precision, chosen.device):
            scores[name] = score(predict_split(model, stored_task(folder), "validation", prepared=rows))
    return scores


def make_statistic(piece: Piece, kind: str, specialist: str, task: str, rows: int, seed: int, device: str) -> None:
    """A statistic of a specialist on its task's training rows."""
    started = time.perf_counter()
    with piece.make() as (folder, facts):
        made = collect(specialist, [stored_task(task)], kind, folder / STATISTIC, rows=rows, seed=seed,
                       device=device)  # fmt: skip
        facts["rows"] = made.rows
        facts["seconds"] = time.perf_counter() - started


def learn_merge(
    piece: Piece,
    base: str,
    specialists: Mapping[str, str],
    tasks: Mapping[str, str],
    preset: str,
    values: Mapping[str, object],
    settings: Mapping[str, object],
    seed: int,
) -> None:
    """A learned merge: the whole model, and its validation scores."""
    started = time.perf_counter()
    chosen = Settings.from_json(dict(settings))
    with piece.make() as (folder, facts):
        data = {name: stored_task(place) for name, place in tasks.items()}
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
        facts["validation"] = validation_scores(
            str(folder / "encoder"), dict.fromkeys(tasks, str(folder)), tasks, settings
        )
        facts["rows"] = sum(made.record["rows"].values())
        facts["learning_seconds"] = made.record["seconds"]
        facts["seconds"] = time.perf_counter() - started
