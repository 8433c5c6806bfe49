"""How alike two tasks are by what they do for others, in measured transfer."""

from __future__ import annotations

import numpy as np

from allround.transfer.blending import standardised
from allround.transfer.matrix import TaskMatrix, Values


def profiles(measured: TaskMatrix, target: str) -> dict[str, float]:
    """How alike each other task is to a target: by its profile as a source, without transfer to the target.

    It is the correlation between what the two do for other tasks, plus a third of what the target does for the other
    one, in standard deviations between -3 and 3 (both are about between -1 and 1). NaN where the target was never a
    source, or fewer than three tasks are known of both.
    """
    columns = [name for name in measured.targets if name != target]
    table = standardised(measured.take(targets=columns).gains)
    rows = {name: table[place] for place, name in enumerate(measured.sources)}
    if target not in rows:
        return {}
    found = {}
    for name, row in rows.items():
        if name != target:
            effect = rows[target][columns.index(name)] if name in columns else np.nan
            found[name] = _correlation(row, rows[target]) + (
                0.0 if np.isnan(effect) else float(np.clip(effect, -3, 3)) / 3
            )
    return found


def _correlation(one: Values, other: Values) -> float:
    known = ~np.isnan(one) & ~np.isnan(other)
    if known.sum() < 3:
        return float("nan")
    gaps = [values[known] - values[known].mean() for values in (one, other)]
    norm = np.sqrt((gaps[0] @ gaps[0]) * (gaps[1] @ gaps[1]))
    return float(gaps[0] @ gaps[1] / norm) if norm else 0.0
