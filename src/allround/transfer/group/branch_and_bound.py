"""branch_and_bound: the best choice of groups, without trying those that cannot be it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from allround.core.registry import method
from allround.transfer.grouping import GroupRuns
from allround.transfer.matrix import Values


@method(source="branch and bound over groups: Standley et al., ICML 2020; Fifty et al., NeurIPS 2021, arXiv:2109.04617")
def branch_and_bound(runs: GroupRuns, count: int) -> Sequence[int]:
    """Find what `exhaustive` finds, group by group: a branch is left when even the best of all groups that may still
    come, for each task, would not beat the best choice so far. Groups with large sums come first.

    >>> runs = GroupRuns.of({("a",): {"a": 0.5}, ("b",): {"b": 0.4}, ("a", "b"): {"a": 0.6, "b": 0.3}})
    >>> sorted(branch_and_bound(runs, 2))
    [1, 2]
    """
    gains = np.where(np.isnan(runs.gains), -np.inf, runs.gains)
    floor = np.min(gains[np.isfinite(gains)])
    order = np.argsort(-np.where(np.isfinite(gains), gains - floor, 0).sum(1), kind="stable")
    gains = gains[order]
    later = np.maximum.accumulate(gains[::-1])[::-1]  # the best that a task finds from here on
    best: tuple[float, list[int]] = (-np.inf, [])

    def go(first: int, chosen: list[int], held: Values) -> None:
        nonlocal best
        total = float(held.sum())
        if total > best[0]:
            best = total, chosen
        if len(chosen) == count:
            return
        for number in range(first, len(gains)):
            if np.maximum(held, later[number]).sum() <= best[0]:
                return
            go(number + 1, [*chosen, number], np.maximum(held, gains[number]))

    go(0, [], np.full(gains.shape[1], -np.inf))
    return [int(order[number]) for number in best[1]]
