"""Weighted sampling: by the number of training rows times a weight for each task."""

from __future__ import annotations

import math
from collections.abc import Sequence

from allround.core.errors import AllroundError
from allround.core.registry import method


@method(source="task weights as sampling probabilities: Jiang et al., NeurIPS 2023, arXiv:2301.12618, their code")
def weighted(sizes: Sequence[int], *, weights: Sequence[float] = ()) -> list[float]:
    """Shares that follow the number of training rows times the task's weight; without weights, all weigh the same.

    Formula: share_t = w_t n_t / sum_s w_s n_s
    Differs: there the weights alone are the shares; here equal weights visit every row as often.

    >>> weighted([300, 100], weights=[1.0, 3.0])
    [0.5, 0.5]
    """
    if not isinstance(weights, Sequence):
        weights = [weights]
    weights = list(weights) or [1.0] * len(sizes)
    fine = all(isinstance(w, int | float) and 0 < w < math.inf for w in weights)
    if len(weights) != len(sizes) or not fine:
        raise AllroundError(
            f"sample {len(sizes)} tasks with the weights {weights}",
            "they are not one positive number for each task",
            "give as many positive numbers as there are tasks, in their order",
        )
    parts = [weight / max(weights) * size for weight, size in zip(weights, sizes, strict=True)]
    return [part / sum(parts) for part in parts]
