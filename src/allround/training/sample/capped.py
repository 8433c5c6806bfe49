"""Capped sampling: proportional, where large data sets count as if they had no more rows than a limit."""

from __future__ import annotations

from collections.abc import Sequence

from allround.core.errors import AllroundError
from allround.core.registry import method


@method(
    source="examples-proportional mixing: Raffel et al., JMLR 2020, arXiv:1910.10683, section 3.5.2",
    exempt={"ratios": "the limit is a number of rows"},
)
def capped(sizes: Sequence[int], *, limit: int = 65536) -> list[float]:
    """Shares that follow the number of training rows, but none of them counts for more than `limit` rows.

    T0 and OPT-IML mix like this too. All rows are still used; a `limit` in the suite takes rows away.

    Formula: share_f = min(n_f, limit) / sum_g min(n_g, limit)
    Differs: the default is the smallest of the paper's limits (2^16 to 2^21).

    >>> capped([4000, 100], limit=300)
    [0.75, 0.25]
    """
    if limit < 1:
        raise AllroundError(f"sample with limit={limit}", "no rows would be left", "give at least 1")
    parts = [min(size, limit) for size in sizes]
    return [part / sum(parts) for part in parts]
