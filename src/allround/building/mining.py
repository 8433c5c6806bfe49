"""Further pairs for a task of pairs: texts of its training rows that are alike, answered by a teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from allround.building.unlabelled import with_answered
from allround.core.errors import AllroundError
from allround.core.seeds import seed_of
from allround.models.base import open_encoder
from allround.models.encoder import Encoder
from allround.models.running import features_of
from allround.models.system import load
from allround.tasks.definition import Definition
from allround.tasks.suite import Suite
from allround.tasks.values import Row
from allround.training.teaching import check_teacher

#: What texts are read as when they are compared.
_TEXTS = Definition("texts", "classification", ("text",), "text", "accuracy", ("no", "yes"))
#: Texts that are compared with all others at once.
_BLOCK = 1024


def mine(encoder: Encoder, rows: Sequence[Row], count: int, seed: int = 0) -> list[Row]:
    """Pairs that are not among these, of first and second texts that are: for each first text the `count` second texts
    whose vectors are most alike to its own, and half as many (rounded up) that are drawn.

    Nearest ones alone would teach a student too little of pairs that have nothing in common. Source: Thakur et al.,
    NAACL 2021, arXiv:2010.08240, which samples pairs for a cross-encoder to label by semantic search or at random.
    """
    firsts, seconds = (list(dict.fromkeys(str(row[side]) for row in rows)) for side in (0, 1))
    u, v = (F.normalize(vectors_of(encoder, texts), dim=-1) for texts in (firsts, seconds))
    places = {text: place for place, text in enumerate(seconds)}
    # What is no new pair: those that are there, and a text beside itself.
    known = {first: {places[first]} if first in places else set() for first in firsts}
    for row in rows:
        known[str(row[0])].add(places[str(row[1])])
    generator = np.random.default_rng(seed_of(seed, "mine"))
    found: list[Row] = []
    for start in range(0, len(firsts), _BLOCK):
        some = firsts[start : start + _BLOCK]
        most = min(len(seconds), count + max(len(known[first]) for first in some))
        for first, near in zip(some, (u[start : start + _BLOCK] @ v.T).topk(most, 1).indices.tolist(), strict=True):
            taken = [place for place in near if place not in known[first]][:count]
            barred, few = {*known[first], *taken}, -(-count // 2)
            others = generator.choice(len(seconds), min(len(seconds), few + len(barred)), replace=False).tolist()
            drawn = [place for place in others if place not in barred][:few]
            found += [(first, seconds[place]) for place in [*taken, *drawn]]
    return found


@torch.inference_mode()
def vectors_of(encoder: Encoder, texts: Sequence[str], batch_size: int = 64) -> torch.Tensor:
    """The vectors of single texts, in float32 on the CPU: (n, d)."""
    encoder.eval()
    rows: list[Row] = [(text,) for text in texts]
    return features_of(encoder, encoder.prepare(rows, _TEXTS), _TEXTS, batch_size).values.float().cpu()


def with_mined(
    suite: Suite,
    base: str,
    teacher: Path | str,
    count: int,
    *,
    seed: int = 0,
    encoder: Mapping[str, object] | None = None,
) -> Suite:
    """A suite whose tasks of pairs have further training rows, as `mine` finds them by the vectors of a base; their
    targets are the answers of a teacher. Tasks that the teacher does not know stay as they are.

    Errors: none of the tasks has pairs and is known to the teacher.
    """
    answering = load(teacher)
    known = [task for task in suite.to_train if task.definition.pair and task.name in answering.definitions]
    if count < 1 or not known:
        raise AllroundError(
            f"mine {count} pairs for each text of '{suite.name}'",
            "no task has pairs of texts and is known to the teacher" if count >= 1 else "that is too few",
            "give a suite with two columns of text under `inputs`, and a teacher of the same task" if count >= 1
            else "give 1 or more",
        )  # fmt: skip
    for task in known:
        check_teacher(answering, task.definition, str(teacher))
    reader = open_encoder(base, known, seed_of(seed, "base"), encoder or {})
    more = {}
    for task in known:
        rows = mine(reader, task.splits["train"].inputs, count, seed)
        more[task.name] = with_answered(task, rows, answering, "mined") if rows else task
    tasks = [more.get(task.name, task) for task in suite]
    return Suite(suite.name, tasks, description=suite.description, base=suite.base, files=suite.files)
