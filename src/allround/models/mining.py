"""Mining: passages that a model ranks high for a query of training and that are not relevant to it."""

from __future__ import annotations

from dataclasses import replace

from allround.models.encoder import Encoder
from allround.models.head import Head
from allround.models.heads.ranking import Ranking
from allround.models.searching import Searcher, VectorReader
from allround.tasks.task import Task


def with_mined(encoder: Encoder, head: Head, task: Task) -> Task:
    """The task with further negatives in its training targets: `mined` of each row, as the contrast of its definition
    says, the hardest first; fewer where no more are far enough below the best relevant passage.

    The margin keeps out passages that are likely to be relevant and were not named so: Moreira et al., NV-Retriever,
    2024, arXiv:2407.15831 (TopK-MarginPos).
    """
    if not isinstance(head, Ranking) or not head.contrast.mined:
        return task
    contrast, split = head.contrast, task.splits["train"]
    ready = encoder.prepare(split.inputs, task.definition)
    targets = []
    for target, ranked in zip(split.targets, Searcher().ranked(VectorReader.of(encoder, head), ready), strict=True):
        best = max((ranked[one] for one, grade in target.items() if grade > 0 and one in ranked), default=None)
        most = min(ranked.values()) if best is None else best - contrast.margin
        hard = [one for one, score in ranked.items() if one not in target and score <= most]
        targets.append({**target, **dict.fromkeys(hard[: contrast.mined], 0.0)})
    return replace(task, splits={**task.splits, "train": replace(split, targets=targets)})
