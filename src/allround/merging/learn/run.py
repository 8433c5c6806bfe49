"""Learning a merge: material, start, steps, and the merged model that comes of it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from allround.checkpoints.finite import check_finite
from allround.checkpoints.header import FLOATS, torch_dtype
from allround.checkpoints.weights import Weights
from allround.core.errors import AllroundError
from allround.core.files import read_settings
from allround.core.progress import Progress
from allround.merging.learn.fit import fit_merge, set_weights
from allround.merging.learn.groups import fit_in_groups
from allround.merging.learn.learning import BATCH, Learning
from allround.merging.learn.material import Specialist, gather_rows
from allround.merging.learn.steps import Execution
from allround.models.base import load_encoder
from allround.models.device import pick_device
from allround.models.device import precision as named_precision
from allround.models.encoder import CONFIG, Encoder
from allround.models.fitting import fit_head
from allround.models.head import HeadState
from allround.tasks.task import Task


@dataclass
class LearnedMerge:
    """A merged encoder, the heads of the tasks, what was learned, and how.

    found: the learned numbers by name, enough to make the merge again from the same models; in groups each name begins
    with the number of its stage. record: for JSON.
    """

    encoder: Encoder
    heads: dict[str, HeadState]
    found: dict[str, Tensor]
    record: dict[str, Any] = field(default_factory=dict)


def learn(
    base: Path | str,
    specialists: Sequence[Specialist],
    tasks: Mapping[str, Task],
    learning: Learning,
    *,
    split: str | None = None,
    start: Path | str | None = None,
    seed: int = 0,
    device: str = "auto",
    precision: str = "auto",
    progress: Progress | None = None,
) -> LearnedMerge:
    """Merge specialists by numbers that are learned on rows of their tasks.

    base: the encoder folder they were tuned from. split: where rows come from, by default `learning.split`; with "test"
    labels are refused.
    start: an encoder folder to begin from, such as a fixed merge; by default the base and the scaled sum of changes.
    The same inputs and seed give the same model on the same machine.
    """
    split = split or learning.split
    learning.check_split(split)
    names = [name for one in specialists for name in one.tasks]
    lacking = [name for name in names if name not in tasks]
    if lacking:
        raise AllroundError(
            f"learn a merge of {len(specialists)} models",
            f"there are no rows for the task '{lacking[0]}'",
            f"give the data of all tasks; there is: {', '.join(tasks) or 'nothing'}",
        )
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise AllroundError(
            f"learn a merge of {len(specialists)} models",
            f"the task '{twice[0]}' is given twice",
            "give each task once: a merged model has one head for each",
        )
    if len(specialists) < 2:
        raise AllroundError("learn a merge", f"{len(specialists)} model is given", "give at least two")
    started = time.perf_counter()
    where = pick_device(device)
    precision = named_precision(precision, where.type)
    progress = progress or Progress(None)
    execution = Execution(seed, where, precision, progress)
    shell = _open(base, [one.encoder for one in specialists])
    learning = learning.with_(batch=learning.batch or shell.learn_batch or BATCH)
    learning.check(replace(tasks[name].definition, head=shell.head(tasks[name].definition)) for name in names)
    rows = gather_rows(shell, specialists, tasks, learning, split=split, seed=seed, device=where, precision=precision)
    progress.say(f"{sum(len(r.prepared) for r in rows.values())} {split} rows of {len(rows)} tasks are ready")
    heads = {name: r.kept for name, r in rows.items() if r.kept is not None}
    record: dict[str, Any] = {
        "learning": learning.to_json(),
        "split": split,
        "rows": {name: len(r.prepared) for name, r in rows.items()},
        "seed": seed,
        "device": where.type,
        "precision": precision,
    }
    if learning.centred and start is not None:
        raise AllroundError(
            "begin from a start of your own", "changes from the mean of the models begin there", "give no start"
        )
    if learning.group and len(specialists) > learning.group:
        if start is not None:
            raise AllroundError("merge in groups from a start of your own", "each group begins anew", "give no start")
        fitted = fit_in_groups(shell, specialists, rows, learning, execution)
    else:
        fitted = fit_merge(shell, [s.encoder for s in specialists], rows, learning, start, execution)
    set_weights(shell, fitted.weights)
    heads.update(fitted.heads)
    if learning.heads == "fitted":
        for name in rows:
            progress.say(f"fitting the head of {name} on the merged encoder")
            sort = heads[name].sort if name in heads else None
            heads[name] = fit_head(shell.to(where), tasks[name], sort).state
    shell.to("cpu", _stored_dtype(base))
    tensors = [*shell.named_parameters(), *((f"{t}.{k}", v) for t, head in heads.items() for k, v in head.items())]
    check_finite(tensors, "learn a merge", "the learned model", "take a smaller rate, or other rows")
    record.update(fitted.facts, seconds=round(time.perf_counter() - started, 3))
    return LearnedMerge(shell.eval(), heads, fitted.found, record)


def _stored_dtype(folder: Path | str) -> torch.dtype:
    """The dtype of a model's largest weight in its files. What is merged comes out in the base's."""
    weights = Weights(folder)
    floats = [name for name in weights if weights.dtype(name) in FLOATS]
    return torch_dtype(weights.dtype(max(floats, key=weights.numel))) if floats else torch.float32


def _open(base: Path | str, encoders: Sequence[Path]) -> Encoder:
    """The base, reading rows as its own folder says, or as the models do where it does not say."""
    if (Path(base) / CONFIG).is_file():
        return load_encoder(base)
    settings = [read_settings(e / CONFIG).get("settings", {}) if (e / CONFIG).is_file() else {} for e in encoders]
    for one in settings:
        if one != settings[0]:
            raise AllroundError(
                f"learn a merge of {len(encoders)} models",
                f"they read rows in different ways: {settings[0]} and {one}",
                "give models that were tuned with the same settings of the encoder",
            )
    return load_encoder(base, **settings[0])
