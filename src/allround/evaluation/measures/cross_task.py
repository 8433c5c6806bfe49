"""cross_task: whether a system believes the same of a row when two tasks ask about it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from allround.core.errors import AllroundError
from allround.core.registry import method
from allround.evaluation.measuring import Measured, MeasureView, mean_of, names_in, scores_of


@method(
    source="Maharana et al., 2023, arXiv:2303.16133, the consistency of contrast sets",
)
def cross_task(view: MeasureView, *, tasks: str) -> Sequence[Measured]:
    """Compare the answers to two tasks on the same rows, such as a digit and whether it is even: `tasks=digit+parity`.

    A contrast of a row is another pair of labels that some row has, and in which both labels differ from the row's own.
    Formula: consistency = mean over rows, and over contrasts of a row, of [in both tasks the row's own label is the
    more probable one, or in neither]. Agreement: how often the two answers are a pair that some row has.
    Differs: the paper writes contrasts of captions and questions; here they follow from the targets. Rows without a
    contrast are left out.
    """
    one, other = names_in(tasks, f"measure the consistency of {tasks}", 2)
    asked = f"measure the consistency of '{one}' and '{other}'"
    first, second = view.of(one, asked), view.of(other, asked)
    left, right = scores_of(first, asked), scores_of(second, asked)
    if len(first) != len(second):
        raise AllroundError(asked, f"they have {len(first)} and {len(second)} rows", "give two tasks of the same rows")
    a, b = np.asarray(first.targets), np.asarray(second.targets)
    known = np.zeros((left.shape[1], right.shape[1]), dtype=bool)
    known[a, b] = True
    rows = np.arange(len(a))
    beyond_a, beyond_b = left[rows, a][:, None] > left, right[rows, b][:, None] > right
    shares = np.full(len(a), np.nan)
    for x, y in np.argwhere(known).tolist():
        own = (a == x) & (b == y)
        pairs = [(i, j) for i, j in np.argwhere(known).tolist() if i != x and j != y]
        if pairs:
            i, j = np.array(pairs).T
            shares[own] = (beyond_a[own][:, i] == beyond_b[own][:, j]).mean(1)
    held = ~np.isnan(shares)
    if not held.any():
        raise AllroundError(asked, "no pair of labels differs from another one in both tasks",
                            "give two tasks whose labels go together")  # fmt: skip
    together = known[np.asarray(first.predictions), np.asarray(second.predictions)]
    named = f"{one} and {other}"
    return [mean_of(f"consistency of {named}", one, shares[held]), mean_of(f"agreement of {named}", one, together)]
