"""Uniform sampling: every task is drawn equally often."""

from __future__ import annotations

from collections.abc import Sequence

from allround.core.registry import method


@method(source="equal mixing: Raffel et al., JMLR 2020, arXiv:1910.10683, section 3.5.2")
def uniform(sizes: Sequence[int]) -> list[float]:
    """Equal shares.

    Formula: share_t = 1 / T

    >>> uniform([300, 100])
    [0.5, 0.5]
    """
    return [1 / len(sizes)] * len(sizes)
