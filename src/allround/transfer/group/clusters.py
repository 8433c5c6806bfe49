"""clusters: tasks that help each other, in groups that share no task, by average linkage."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from allround.core.errors import AllroundError
from allround.core.registry import method
from allround.transfer.deciding import cluster_tasks
from allround.transfer.grouping import GroupRuns


@method(source="hierarchical clustering with average linkage: Sokal and Michener, 1958")
def clusters(runs: GroupRuns, count: int) -> Sequence[int]:
    """Cut a dendrogram of the tasks into `count` groups. The distance of two tasks is how much worse than the best pair
    they do together, on average of both, each task's values being divided by their spread over partners.

    Errors: a pair that was not measured; a cluster that is not among the groups of `runs`.

    >>> runs = GroupRuns.of({("a",): {"a": 0.0}, ("b",): {"b": 0.0}, ("c",): {"c": 0.0},
    ...     ("a", "b"): {"a": 1.0, "b": 1.0}, ("a", "c"): {"a": -1.0, "c": 0.0}, ("b", "c"): {"b": -1.0, "c": 0.1}})
    >>> runs.members[clusters(runs, 2)].astype(int).tolist()
    [[1, 1, 0], [0, 0, 1]]
    """
    signed = runs.pairs * (1 if runs.higher_is_better else -1)
    if np.isnan(signed).any():
        raise AllroundError("group tasks by 'clusters'", "a pair of tasks, or a task alone, was not measured",
                            "measure all pairs and all tasks alone")  # fmt: skip
    gains = signed - signed.diagonal()[:, None]
    apart = ~np.eye(len(gains), dtype=bool)
    spread = np.array([row[other].std() if other.any() else 1.0 for row, other in zip(gains, apart, strict=True)])
    scaled = gains / np.where(spread > 0, spread, 1)[:, None]
    labels = cluster_tasks((scaled + scaled.T) / 2, min(count, len(gains)))
    known = {members.tobytes(): row for row, members in enumerate(runs.members)}
    found = []
    for label in dict.fromkeys(labels):
        members = np.array([one == label for one in labels])
        if members.tobytes() not in known:
            names = ", ".join(name for name, inside in zip(runs.tasks, members, strict=True) if inside)
            raise AllroundError("group tasks by 'clusters'", f"nothing is known of the group {names}",
                                "foretell all groups first: transfer.grouping.foretell")  # fmt: skip
        found.append(known[members.tobytes()])
    return found
