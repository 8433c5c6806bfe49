"""Square-root sampling: between proportional and uniform."""

from __future__ import annotations

import math
from collections.abc import Sequence

from allround.core.registry import method


@method(source="square root sampling: Stickland & Murray, ICML 2019, arXiv:1902.02671")
def sqrt(sizes: Sequence[int]) -> list[float]:
    """Shares that follow the square root of the number of training rows; `temperature` with 2.

    Formula: share_f = sqrt(n_f) / sum_g sqrt(n_g)

    >>> sqrt([900, 100])
    [0.75, 0.25]
    """
    roots = [math.sqrt(size) for size in sizes]
    return [root / sum(roots) for root in roots]
