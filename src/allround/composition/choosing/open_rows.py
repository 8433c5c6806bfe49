"""Rows of other tasks that are like a few rows of a new one, and not like each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from allround.composition.router import plain_vectors
from allround.models.encoder import Encoder
from allround.tasks.task import Split, Task

#: Rows with a larger cosine are taken for the same.
SAME = 0.95


def like_rows(encoder: Encoder, task: Task, few: Split, tasks: Sequence[Task], count: int) -> list[Task]:
    """Other tasks with the `count` of all their training rows that are nearest to some rows of a task; those without
    any are left out. Rows are compared by the vectors that the encoder gives them when it is told nothing of a task.

    After Rocket, "Leveraging Open Knowledge for Advancing Task Expertise in Large Language Models": chosen by
    similarity to the few rows, near-duplicates removed.
    """
    wanted = plain_vectors(encoder, task.definition, few.inputs)
    owners = [(number, row) for number, one in enumerate(tasks) for row in range(len(one.splits["train"]))]
    if not owners:
        return []
    every = torch.cat([plain_vectors(encoder, one.definition, one.splits["train"].inputs)
                       for one in tasks if len(one.splits["train"])])  # fmt: skip
    taken = [owners[place] for place in nearest(wanted, every, count)]
    found = []
    for number, one in enumerate(tasks):
        own = sorted(row for task, row in taken if task == number)
        if own:
            found.append(replace(one, splits={**one.splits, "train": one.splits["train"].take(own)}))
    return found


def nearest(wanted: Tensor, every: Tensor, count: int, same: float = SAME) -> list[int]:
    """Places of at most `count` vectors, those with the largest cosine to one that is wanted first; one that is nearer
    than `same` to a wanted one, or to one that was taken before, is left out.

    Shapes: wanted (k, d), every (n, d)

    >>> nearest(torch.eye(3)[:1], torch.tensor([[0.0, 1, 0], [1, 1, 0], [1, 1.01, 0], [1, 0, 0]]), 2)
    [1, 0]
    """
    wanted, every = F.normalize(wanted, dim=-1), F.normalize(every, dim=-1)
    score = (every @ wanted.T).amax(1)
    taken: list[int] = []
    for place in score.argsort(descending=True, stable=True).tolist():
        if len(taken) == count:
            break
        alike = max(float(score[place]), float((every[taken] @ every[place]).max()) if taken else -1.0)
        if alike < same:
            taken.append(place)
    return taken
