"""Choosing the coefficients of a convex combination on validation."""

from __future__ import annotations

from allround.building.search import Setting, SettingSearch


def convex_search(count: int, grid: int) -> SettingSearch:
    """Coefficients of `count` branches, none negative, of sum one: greedily, from the best branch on.

    Each branch is scored alone. In the order of these scores, one after the other joins with a share of the mean
    coefficient of those before it (before all are scaled to sum one): 0, 1 / grid, ..., 1 of it, whichever scores best.
    On a tie the earlier branch, and the smaller share, stays. Yields lists of settings and takes their scores.
    Source: Jiang et al., NeurIPS 2023, arXiv:2301.12618, and their code.

    >>> search = convex_search(2, grid=1)
    >>> next(search)
    [{'weights': [1.0, 0.0]}, {'weights': [0.0, 1.0]}]
    >>> search.send([0.7, 0.8])
    [{'weights': [0.5, 0.5]}]
    """
    alone = yield [_setting([float(i == j) for j in range(count)]) for i in range(count)]
    order = sorted(range(count), key=lambda index: -alone[index])
    raw = [float(index == order[0]) for index in range(count)]
    best = alone[order[0]]
    for before, index in enumerate(order[1:], 1):
        most = sum(raw) / before
        tried = [[*raw[:index], most * step / grid, *raw[index + 1 :]] for step in range(1, grid + 1)]
        scores = yield [_setting(one) for one in tried]
        if max(scores) > best:
            best = max(scores)
            raw = tried[scores.index(best)]
    return _setting(raw)


def _setting(raw: list[float]) -> Setting:
    return {"weights": [value / sum(raw) for value in raw]}
