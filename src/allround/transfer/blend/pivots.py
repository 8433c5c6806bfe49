"""pivots: how much a source helps tasks that the target is like (TaskShop)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from allround.core.registry import method
from allround.transfer.matrix import TaskMatrix


@method(
    source="TaskShop: Kim et al., EMNLP 2023, arXiv:2305.13256, and the authors' code",
    paper="TaskWeb: Selecting Better Source Tasks for Multi-task NLP",
    needs=("measured", "estimates"),
)
def pivots(estimates: Sequence[TaskMatrix], measured: TaskMatrix, *, weight: float = 0.7) -> TaskMatrix:
    """Expect of a source for a target what it did for other tasks, the pivots, and how alike pivots and target are.

    Formula: value(s, t) = weight * mean over pivots p of (T(s, p) + S(p, t)) / 2 + (1 - weight) * S(s, t), where T is
    `measured` and S the first of `estimates`; a pivot is a target of T that is neither s nor t, and a source of S.
    weight: of the way over pivots. Measured transfer to t itself is not looked at.
    Differs: nothing; the paper's text speaks of a product, and the authors' code averages.

    >>> alike = TaskMatrix("alike", ("s", "p"), ("t",), [[0.2], [0.6]])
    >>> truth = TaskMatrix("gain", ("s",), ("p", "t"), [[0.4, 9.0]])
    >>> round(pivots([alike], truth).value("s", "t"), 3)
    0.41
    """
    alike = estimates[0]
    values = np.full(alike.values.shape, np.nan)
    for column, target in enumerate(alike.targets):
        near = dict(zip(alike.sources, alike.gains[:, column].tolist(), strict=True))
        for row, source in enumerate(alike.sources):
            if source not in measured.sources or source == target:
                continue
            gains = dict(zip(measured.targets, measured.gains[measured.sources.index(source)].tolist(), strict=True))
            over = [(gains[p] + near[p]) / 2 for p in gains if p in near and p not in (source, target)]
            known = [value for value in over if not np.isnan(value)]
            if known:
                values[row, column] = weight * float(np.mean(known)) + (1 - weight) * near[source]
    return TaskMatrix("pivots", alike.sources, alike.targets, values)
