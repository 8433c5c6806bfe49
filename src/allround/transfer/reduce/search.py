"""search: each time the task that lets the mean score of the known models be estimated best."""

from __future__ import annotations

import numpy as np

from allround.core.registry import method
from allround.transfer.completing import complete
from allround.transfer.reducing import KnownTasks


@method(
    source="small-bench, the tasks from which the other scores are recovered best: Ye et al., EMNLP Findings 2023, "
    "arXiv:2305.14947",
    paper="How Predictable Are Large Language Model Capabilities? A Case Study on BIG-bench",
    needs=("scores",),
)
def search(known: KnownTasks, count: int) -> list[int]:
    """Add tasks one by one, so that the mean square error over models is least, each model being left out in turn and
    completed by `additive` from the others.

    Differs: the paper recovers scores with a network on features of models and tasks, and searches among many random
    subsets too.

    >>> search(KnownTasks(np.array([[0.1, 0.2, 0.6], [0.2, 0.6, 0.1], [0.4, 0.5, 0.6]])), 1)
    [0]
    """
    scores, chosen = known.scores, list[int]()
    others = [np.delete(scores, model, axis=0) for model in range(len(scores))]

    def error(tasks: list[int]) -> float:
        gaps = []
        for model, rest in enumerate(others):
            given = np.full(scores.shape[1], np.nan)
            given[tasks] = scores[model, tasks]
            gaps.append(complete("additive", rest, given).mean() - scores[model].mean())
        return float(np.mean(np.square(gaps)))

    while len(chosen) < count:
        left = [task for task in range(scores.shape[1]) if task not in chosen]
        chosen.append(min(left, key=lambda task: error([*chosen, task])))
    return chosen
