"""Estimates of transfer between the tasks of a run."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from allround.building.jobs.assemble import assemble
from allround.building.jobs.rows import stored_task
from allround.core import registry
from allround.core.pieces import Piece
from allround.models.base import load_encoder
from allround.transfer.estimating import estimates
from allround.transfer.files import read_matrices, write_matrices
from allround.transfer.matrix import TaskMatrix
from allround.transfer.view import TransferView

#: What the name of an estimate ends in that looked at specialists.
BY_SPECIALISTS = "-by-specialists"
_FILE = "estimates.parquet"


def estimate_transfer(
    piece: Piece, encoder: str, tasks: Sequence[str], specialists: Mapping[str, str], names: Sequence[str] | None,
    limit: int | None, seed: int,
) -> None:  # fmt: skip
    """What estimators expect of each pair of tasks, from training rows and a frozen base.

    encoder: its folder. tasks: the folders of the tasks. specialists: the folder of each task's; where there are some,
    only those estimators are asked that look at models, and the names of their estimates say so. names: of estimators;
    all where it is None. limit: training rows of each task.
    """
    started = time.perf_counter()
    data = [stored_task(folder) for folder in tasks]
    models = {task.name: assemble(f"{specialists[task.name]}/encoder", {task.name: specialists[task.name]}, [task])
              for task in data if task.name in specialists}  # fmt: skip
    if models:
        names = [name for name in names or registry.names("estimate") if _reads_models(name)]
    view = TransferView.of(data, load_encoder(encoder), limit=limit, seed=seed, models=models)
    with piece.make() as (folder, facts):
        found = estimates(view, names)
        made = [replace(one, name=one.name + BY_SPECIALISTS) if models else one for one in found.matrices]
        write_matrices(folder / _FILE, made)
        facts["left_out"] = dict(found.left_out)
        facts["seconds"] = time.perf_counter() - started


def _reads_models(name: str) -> bool:
    needs = registry.find("estimate", registry.spelled("estimate", name)[0]).needs
    return not {"models", "heads"}.isdisjoint(needs)


def estimated(piece: Piece) -> tuple[list[TaskMatrix], dict[str, str]]:
    """The estimates of a piece, and those that were left out, with the reason."""
    return list(read_matrices(Path(piece.folder) / _FILE).values()), dict(piece.facts["left_out"])
