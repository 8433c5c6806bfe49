"""exhaustive: the best choice of groups, of all that there are."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from allround.core.errors import AllroundError
from allround.core.registry import method
from allround.transfer.grouping import GroupRuns

#: Choices that are tried at most: about ten seconds.
MOST = 2_000_000


@method(source="exhaustive search: Standley et al., ICML 2020, arXiv:1905.07553")
def exhaustive(runs: GroupRuns, count: int) -> Sequence[int]:
    """Try every choice of `count` groups, each task being served by the group that is best for it.

    Errors: more choices than `MOST`.

    >>> runs = GroupRuns.of({("a",): {"a": 0.5}, ("b",): {"b": 0.4}, ("a", "b"): {"a": 0.6, "b": 0.3}})
    >>> exhaustive(runs, 2)
    [1, 2]
    """
    return best_choices(runs, count)[0]


def best_choices(runs: GroupRuns, count: int, most: int = 1) -> list[list[int]]:
    """The numbers of the groups of the best choices, the best first; of equal ones, that with the first groups.

    >>> runs = GroupRuns.of({("a",): {"a": 0.5}, ("b",): {"b": 0.4}, ("a", "b"): {"a": 0.6, "b": 0.3}})
    >>> best_choices(runs, 2, most=2)
    [[1, 2], [0, 1]]
    """
    from math import comb

    count = min(count, len(runs.members))
    if comb(len(runs.members), count) > MOST:
        raise AllroundError(
            f"try every choice of {count} of {len(runs.members)} groups",
            f"there are {comb(len(runs.members), count):,}",
            "group by branch_and_bound or clusters, or into fewer groups",
        )
    gains = np.where(np.isnan(runs.gains), -np.inf, runs.gains)
    choices = np.array(list(combinations(range(len(gains)), count)))
    totals = np.full(len(choices), 0.0)
    for task in range(gains.shape[1]):
        totals += gains[choices, task].max(1)
    order = np.argsort(-totals, kind="stable")[:most]
    return [choices[row].tolist() for row in order if totals[row] > -np.inf] or [[]]
