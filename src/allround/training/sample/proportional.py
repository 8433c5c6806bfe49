"""Proportional sampling: a task is drawn as often as it has rows."""

from __future__ import annotations

from collections.abc import Sequence

from allround.core.registry import method


@method(source="examples-proportional mixing: Raffel et al., JMLR 2020, arXiv:1910.10683, section 3.5.2")
def proportional(sizes: Sequence[int]) -> list[float]:
    """Shares that follow the number of training rows.

    Formula: share_t = n_t / sum_s n_s

    >>> proportional([300, 100])
    [0.75, 0.25]
    """
    return [size / sum(sizes) for size in sizes]
