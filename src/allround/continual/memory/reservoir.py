"""reservoir: each row that ever came is kept with the same probability."""

from __future__ import annotations

import numpy as np

from allround.continual.rows import ArrivedRows, Ranking
from allround.core.registry import method


@method(source="reservoir sampling by random keys: Vitter, TOMS 1985; Li, TOMS 1994, algorithm with keys")
def reservoir(rows: ArrivedRows) -> Ranking:
    """One group, and a random rank for each row: what stays is a uniform sample of all rows so far."""
    return Ranking([""] * len(rows), np.asarray(rows.random.random(len(rows))))
