"""Temperature sampling: between proportional (1) and uniform (infinity)."""

from __future__ import annotations

from collections.abc import Sequence

from allround.core.errors import AllroundError
from allround.core.registry import method


@method(source="temperature-scaled mixing: Raffel et al., JMLR 2020, arXiv:1910.10683, section 3.5.2")
def temperature(sizes: Sequence[int], *, temperature: float = 2.0) -> list[float]:
    """Shares that follow a root of the number of training rows.

    Formula: share_t = n_t^(1 / temperature) / sum_s n_s^(1 / temperature)
    Differs: the paper also counts no more than a limit of rows; `capped` does that, without the root.

    >>> temperature([900, 100], temperature=2.0)
    [0.75, 0.25]
    """
    if not temperature > 0:
        raise AllroundError(
            f"sample with temperature={temperature}", "there is no such temperature", "give a number above 0"
        )
    roots = [(size / max(sizes)) ** (1 / temperature) for size in sizes]
    return [root / sum(roots) for root in roots]
