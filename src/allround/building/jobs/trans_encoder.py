"""Half a cycle of Trans-Encoder, as jobs: a model that learns the scores of its teachers, and scores all pairs."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from allround.building.jobs.rows import stored_task
from allround.checkpoints.weights import Weights
from allround.core.growing import remove_empty
from allround.core.pieces import Piece
from allround.core.seeds import seed_everything
from allround.models.base import find_folder, load_encoder
from allround.models.device import pick_device
from allround.models.fitting import fit_head
from allround.models.head import HeadState
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.definition import Definition
from allround.tasks.task import Split, Task
from allround.training.settings import Settings
from allround.training.trainer import train

#: The folder of the model in a piece, and its scores of the pairs.
MODEL, SCORES = "model", "scores.safetensors"
#: The splits of the pairs: those that are learned from, and those that are held back.
LEARNED, HELD = "train", "validation"


def begin(piece: Piece, base: str, encoder: Mapping[str, Any], pairs: str, device: str) -> None:
    """A base as a bi-encoder: the score of a pair is the cosine of its two vectors."""
    started, rows = time.perf_counter(), stored_task(pairs)
    with piece.make() as (folder, facts):
        _write(_bi_encoder(base, rows.definition, encoder).to(pick_device(device)), rows, folder)
        facts["seconds"] = time.perf_counter() - started


def learn(
    piece: Piece,
    base: str,
    encoder: Mapping[str, Any],
    pairs: str,
    teachers: Sequence[str],
    settings: Mapping[str, object],
    seed: int,
    joint: bool,
) -> None:
    """A model that begins from the base and learns the mean of the teachers' scores of the pairs.

    joint: a cross-encoder, by binary cross-entropy from both orders of each pair; else a bi-encoder, by the squared
    error of its cosines. teachers: the folders of their pieces. The best state by the rank correlation with the
    teachers' scores of held pairs is kept.
    """
    chosen, rows = Settings.from_json(dict(settings)), stored_task(pairs)
    wanted = {split: mean_scores(teachers, split) for split in (LEARNED, HELD)}
    with piece.make() as (folder, facts):
        seed_everything(seed)
        inputs = {split: rows.splits[split].inputs for split in (LEARNED, HELD)}
        if joint:
            wanted = {split: np.clip(values, 0, 1) for split, values in wanted.items()}
            inputs[LEARNED] = [row for one, other in inputs[LEARNED] for row in ((one, other), (other, one))]
            wanted[LEARNED] = np.repeat(wanted[LEARNED], 2)
        splits = {split: Split(inputs[split], wanted[split]) for split in (LEARNED, HELD)}
        task = Task(rows.definition, {**splits, "test": splits[HELD].take([])})
        if joint:
            task, model = _cross_encoder(base, task, encoder, chosen.device)
        else:
            model = _bi_encoder(base, task.definition, encoder)
        course = train(model, [task], chosen, seed=seed, scratch=piece.scratch)
        _write(model, rows, folder)
        facts |= {"steps": course.steps, "seconds": course.seconds, "evaluations": course.evaluations}
    remove_empty(piece.scratch)


def mean_scores(pieces: Sequence[str | Path], split: str) -> np.ndarray:
    """The mean of what several models say of the pairs of a split: (n,)."""
    found = [Weights(Path(folder) / SCORES).read(split).double().numpy() for folder in pieces]
    mean: np.ndarray = np.mean(found, axis=0)
    return mean


def _bi_encoder(base: str, definition: Definition, encoder: Mapping[str, Any]) -> MultiTaskModel:
    model = MultiTaskModel(load_encoder(find_folder(base), **encoder, pairs="separate"), {})
    unit = {"weight": torch.ones(1, 1), "bias": torch.zeros(1)}
    model.add_task(definition, HeadState(unit, "similarity"))
    return model


def _cross_encoder(base: str, task: Task, encoder: Mapping[str, Any], device: str) -> tuple[Task, MultiTaskModel]:
    """A base that reads pairs as one sequence, with a head that is fitted on it; and the task with that head."""
    made = load_encoder(find_folder(base), **encoder, pairs="joint").to(pick_device(device))
    task = replace(task, definition=made.headed(task.definition, "sigmoid"))
    model = MultiTaskModel(made, {})
    model.add_task(task.definition, fit_head(made, task).state)
    return task, model


def _write(model: MultiTaskModel, rows: Task, folder: Path) -> None:
    """The model, and what it says of all pairs."""
    found = {split: np.asarray(model.answers(rows.name, rows.splits[split].inputs).predictions)
             for split in (LEARNED, HELD)}  # fmt: skip
    save_file({split: torch.as_tensor(values) for split, values in found.items()}, folder / SCORES)
    model = model.to("cpu")
    (folder / MODEL).mkdir()
    model.write(folder / MODEL)
