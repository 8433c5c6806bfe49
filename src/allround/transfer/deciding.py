"""Decisions from what is known of transfer: which sources, which clusters, which auxiliary tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from allround.core.errors import AllroundError
from allround.transfer.matrix import TaskMatrix, Values


@dataclass(frozen=True)
class Kept:
    """Whether an auxiliary task should be trained along. sure: whether the gain is larger than twice its standard
    error; True where no error is known."""

    task: str
    gain: float
    keep: bool
    sure: bool


def pick_sources(matrix: TaskMatrix, targets: Sequence[str], count: int) -> list[str]:
    """At most `count` sources that together serve some targets best: each time the source that adds most to the sum
    over targets of the best value so far (facility location, whose greedy choice is within 1 - 1/e of the best).

    Values of each target are scaled to between 0 and 1 first. Errors: a count below 1; an unknown target.

    >>> m = TaskMatrix("gain", ("a", "b", "c"), ("t", "u"), [[1.0, 0.2], [0.9, 0.3], [0.0, 1.0]])
    >>> pick_sources(m, ["t", "u"], 2)
    ['b', 'c']
    """
    if count < 1:
        raise AllroundError(f"pick {count} sources", "there is no such choice", "give 1 or more")
    gains = matrix.take(targets=targets).gains
    known = ~np.isnan(gains)
    low = np.where(known, gains, np.inf).min(0)
    high = np.where(known, gains, -np.inf).max(0)
    scaled = np.where(known, (gains - low) / np.where(high > low, high - low, 1), 0)
    served = np.zeros(len(targets))
    chosen: list[int] = []
    for _ in range(min(count, len(gains))):
        added = np.maximum(scaled, served).sum(1) - served.sum()
        added[chosen] = -np.inf
        best = int(added.argmax())
        chosen.append(best)
        served = np.maximum(served, scaled[best])
    return [matrix.sources[row] for row in chosen]


def keep_or_drop(matrix: TaskMatrix, target: str) -> list[Kept]:
    """For each source whose measured gain for a target is known, whether to train it along, the best first.

    Errors: an estimate, whose zero means nothing; an unknown target.

    >>> m = TaskMatrix("gain", ("a", "b"), ("t",), [[0.3], [-0.1]], errors=[[0.1], [0.2]], kind="measured")
    >>> [(one.task, one.keep, one.sure) for one in keep_or_drop(m, "t")]
    [('a', True, True), ('b', False, False)]
    """
    if matrix.kind != "measured":
        raise AllroundError(
            f"say which tasks to keep beside '{target}'",
            f"'{matrix.name}' is an estimate, whose zero does not mean that a task has no effect",
            "give measured gains; an estimate can rank sources: TaskMatrix.best",
        )
    column = matrix.targets.index(target) if target in matrix.targets else -1
    found = []
    for source in matrix.best(target):
        row = matrix.sources.index(source)
        gain = float(matrix.gains[row, column])
        error = float("nan") if matrix.errors is None else float(matrix.errors[row, column])
        found.append(Kept(source, gain, gain > 0, bool(np.isnan(error) or abs(gain) > 2 * error)))
    return found


def likeness(matrix: TaskMatrix) -> Values:
    """(n, n): how alike tasks are, higher being more alike, from a matrix of the same n sources and targets.

    It is the mean of both directions. Where the matrix is not symmetric, values are first ranked within each target,
    since the scales of targets differ.

    Errors: other sources than targets.
    """
    from allround.transfer.blending import ranked

    if matrix.sources != matrix.targets:
        raise AllroundError(
            f"compare tasks by '{matrix.name}'", "its sources are not its targets", "take the tasks that are both"
        )
    if matrix.symmetric:
        return np.array(matrix.gains)
    apart = np.where(np.eye(len(matrix.sources), dtype=bool), np.nan, matrix.gains)
    ranks = ranked(apart)
    both = np.stack([ranks, ranks.T])
    known = ~np.isnan(both)
    counts = known.sum(0)
    sums = np.where(known, both, 0).sum(0)
    return np.asarray(np.divide(sums, counts, out=np.full(counts.shape, np.nan), where=counts > 0))


def linkage_of(alike: Values) -> Values:
    """The tree of average linkage over tasks, as SciPy writes it: (n - 1, 4). alike: (n, n), symmetric, higher is more
    alike; what is not known counts as least alike, and the diagonal is not read."""
    from scipy.cluster.hierarchy import linkage
    from scipy.spatial.distance import squareform

    apart = ~np.eye(len(alike), dtype=bool)
    known = alike[apart & ~np.isnan(alike)]
    low, high = (known.min(), known.max()) if len(known) else (0.0, 1.0)
    distance = np.where(np.isnan(alike), 1.0, (high - alike) / (high - low if high > low else 1.0))
    distance = np.where(apart, (distance + distance.T) / 2, 0)
    return np.asarray(linkage(squareform(distance, checks=False), "average"))


def cluster_tasks(alike: Values, count: int) -> list[int]:
    """The cluster of each task, of `count` clusters by average linkage, numbered in the order of their first tasks.

    >>> cluster_tasks(np.array([[1, 0.9, 0.1], [0.9, 1, 0.2], [0.1, 0.2, 1]]), 2)
    [0, 0, 1]
    """
    from scipy.cluster.hierarchy import fcluster

    if not 1 <= count <= len(alike):
        raise AllroundError(f"put {len(alike)} tasks into {count} clusters", "there cannot be so many",
                            f"give 1 to {len(alike)}")  # fmt: skip
    if len(alike) == 1:
        return [0]
    found = fcluster(linkage_of(alike), count, "maxclust").tolist()
    order = list(dict.fromkeys(found))
    return [order.index(label) for label in found]


def fuzzy_membership(alike: Values, count: int, *, sharpness: float = 1.07) -> Values:
    """How much each task belongs to each of `count` clusters: (n, count), rows sum to 1.

    Tasks are points whose coordinates are their likeness to all tasks; k-means gives the centres, and the membership
    is that of fuzzy c-means with the exponent `sharpness`, as STG-MTL has it (Sherif et al., 2023, arXiv:2307.03374):
    u_ic = 1 / sum_k (d_ic / d_ik)^(2 / (sharpness - 1)). A task at a centre belongs to that cluster alone.

    >>> fuzzy_membership(np.array([[1, 0.9, 0.1], [0.9, 1, 0.2], [0.1, 0.2, 1]]), 2).round(3).tolist()
    [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]
    """
    from sklearn.cluster import KMeans

    if sharpness <= 1 or not 1 <= count <= len(alike):
        raise AllroundError(
            f"put {len(alike)} tasks into {count} fuzzy clusters with sharpness {sharpness:g}",
            "sharpness must be above 1, and there cannot be more clusters than tasks",
            "give such numbers",
        )
    points = np.nan_to_num(alike)
    made = KMeans(count, n_init=10, random_state=0).fit(points)
    order = list(dict.fromkeys(made.labels_.tolist()))
    distances = np.linalg.norm(points[:, None] - made.cluster_centers_[order][None], axis=-1)
    logs = -2 / (sharpness - 1) * np.log(np.maximum(distances, 1e-12))
    powers = np.exp(logs - logs.max(1, keepdims=True))
    return np.asarray(powers / powers.sum(1, keepdims=True))
