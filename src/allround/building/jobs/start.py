"""What a run starts from: the base, the precision of its work, and a head for each task."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from allround.building.jobs.rows import stored_task
from allround.core.pieces import Piece
from allround.core.seeds import seed_everything
from allround.models.base import load_encoder, open_encoder
from allround.models.device import layer_seconds, pick_device, precision
from allround.models.fitting import fit_head
from allround.models.head_files import write_heads
from allround.models.model import parameters_of


def make_base(piece: Piece, base: str, tasks: Sequence[str], seed: int, encoder: Mapping[str, object]) -> None:
    """The encoder that everything starts from, saved in allround's own form."""
    started = time.perf_counter()
    seed_everything(seed)
    with piece.make() as (folder, facts):
        made = open_encoder(base, [stored_task(t) for t in tasks], seed, encoder)
        (folder / "encoder").mkdir()
        made.save(folder / "encoder")
        facts["notes"] = list(made.notes)
        facts["parameters"] = parameters_of(made)
        facts["encoder"] = made.name
        facts["epochs"] = made.epochs
        facts["learning_rate"] = made.learning_rate
        facts["least_steps"] = made.least_steps
        facts["gives"] = list(made.gives)
        facts["seconds"] = time.perf_counter() - started


def decide_precision(piece: Piece, device: str) -> None:
    """In which precision "auto" computes, and the speeds that decided it."""
    with piece.make() as (_, facts):
        facts["precision"] = precision("auto", device)
        facts["layer"] = layer_seconds(pick_device(device).type)


def make_head(piece: Piece, encoder: str, task: str, device: str, sort: str | None) -> None:
    """A head of a sort for a task, fitted on a frozen encoder."""
    started = time.perf_counter()
    with piece.make() as (folder, facts):
        data = stored_task(task)
        head = fit_head(load_encoder(encoder).to(pick_device(device)), data, sort)
        write_heads(folder / "heads.safetensors", {data.name: head.state})
        facts["sort"] = head.state.sort
        facts["tried"] = {str(penalty): score for penalty, score in head.tried.items()}
        facts["chosen"] = head.chosen
        facts["validation"] = head.tried[head.chosen]
        facts["seconds"] = time.perf_counter() - started
