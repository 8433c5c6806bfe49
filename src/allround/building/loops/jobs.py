"""The piece of work that loops add: branches into one model, with heads and validation scores."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from allround.building.jobs.assemble import assemble
from allround.core.pieces import Piece
from allround.evaluation.predict import predict_split
from allround.evaluation.predictions import score
from allround.merging.angles import gram
from allround.merging.run import merge_folders
from allround.merging.whole import WHOLE
from allround.models.adapted import open_weights
from allround.models.base import copy_encoder, load_encoder
from allround.models.device import pick_device, products
from allround.models.fitting import fit_head
from allround.models.head import HeadState
from allround.models.head_files import read_heads, write_heads
from allround.tasks.task import Task
from allround.training.settings import Settings

#: Entries of a weight that are read at once for the cosines.
_STRETCH = 1 << 22


def merge_branches(
    piece: Piece,
    encoder: str,
    heads: Mapping[str, str],
    branches: Mapping[str, Piece],
    tasks: Mapping[str, str],
    fit: Sequence[str],
    method: str,
    values: Mapping[str, object],
    settings: Mapping[str, object],
    keep: bool,
) -> None:
    """The branches merged, scored on the validation rows of the tasks.

    encoder, heads: of the model that the branches were tuned from, which stays as it is where there are none. fit:
    tasks whose heads are fitted on the merged encoder. keep: also keep the weights, and what the branches did.
    """
    started = time.perf_counter()
    chosen = Settings.from_json(dict(settings))
    data = {name: Task.load(Path(folder)) for name, folder in tasks.items()}
    with piece.make() as (folder, facts):
        merged = folder / "encoder"
        tuned = [branch.folder / "encoder" for branch in branches.values()]
        if branches:
            merged.mkdir()
            merge_folders(encoder, tuned, merged, method=method, parameters=values)
        else:
            copy_encoder(Path(encoder), merged)
        found: dict[str, HeadState] = {n: read_heads(Path(heads[n]) / "heads.safetensors")[n] for n in data}
        if chosen.heads == "tuned":
            held = [read_heads(branch.folder / "heads.safetensors") for branch in branches.values()]
            found = {n: mixed(h, [one.get(n) for one in held], values.get("weights")) for n, h in found.items()}
        for name in fit:
            fitted = fit_head(load_encoder(merged).to(pick_device(chosen.device)), data[name])
            found[name] = fitted.state
        write_heads(folder / "heads.safetensors", found)
        model = assemble(str(merged), dict.fromkeys(data, str(folder)), list(data.values()))
        model.to(pick_device(chosen.device))
        with products(chosen.precision, chosen.device):
            facts["validation"] = {n: score(predict_split(model, task, "validation")) for n, task in data.items()}
        if keep:
            told = ("validation", "examples", "seconds")
            facts["branches"] = {n: {k: v for k, v in b.facts.items() if k in told} for n, b in branches.items()}
            facts["cosines"] = cosines(encoder, tuned) if tuned else []
        else:
            shutil.rmtree(merged)
            (folder / "heads.safetensors").unlink()
        facts["seconds"] = time.perf_counter() - started


def mixed(before: HeadState, held: Sequence[HeadState | None], weights: object = None) -> HeadState:
    """A task's head after a round: the mean of the branches' heads, by the weights of the merge where it has some for
    each; the one before where no branch that holds it counts.

    >>> one, two = (HeadState({"bias": torch.full((1,), x)}) for x in (1.0, 3.0))
    >>> mixed(one, [one, two, None], [0.25, 0.25, 0.5])["bias"]
    tensor([2.])
    """
    factors = weights if isinstance(weights, (list, tuple)) else [1.0] * len(held)
    pairs = [(factor, head) for factor, head in zip(factors, held, strict=True) if head is not None and factor]
    total = sum(factor for factor, _ in pairs)
    if not total:
        return before
    return HeadState(
        {part: torch.stack([f / total * head[part] for f, head in pairs]).sum(0) for part in before}, before.sort
    )


def cosines(base: Path | str, tuned: Sequence[Path | str]) -> list[list[float]]:
    """The cosines between the changes of tuned encoders from their base; 0 beside one that did not change."""
    first, others = open_weights(Path(base)), [open_weights(Path(path)) for path in tuned]
    products = torch.zeros(len(others), len(others), dtype=torch.float64)
    for name in first:
        size = math.prod(first.shape(name))
        for start in range(0, size, _STRETCH):
            stop = min(start + _STRETCH, size)
            changes = torch.stack([other.read(name, start, stop).float() for other in others])
            products += gram(changes - first.read(name, start, stop).float(), WHOLE)
    norms = products.diagonal().sqrt()
    found: list[list[float]] = (products / torch.outer(norms, norms).clamp_min(1e-300)).tolist()
    return found
