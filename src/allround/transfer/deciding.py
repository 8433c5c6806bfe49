"""Decisions from what is known of transfer: which sources, how often each, which clusters, which auxiliary
tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from allround.core.errors import AllroundError, suggestion
from allround.transfer.matrix import TaskMatrix, Values


@dataclass(frozen=True)
class Kept:
    """Whether an auxiliary task should be trained along. sure: whether the gain is larger than twice its standard
    error; True where no error is known."""

    task: str
    gain: float
    keep: bool
    sure: bool


@dataclass(frozen=True)
class Covering:
    """A task that was chosen for its features. consistency: the cosine of its mean with the target's. coverage: of the
    target by this task and those that were chosen before it."""

    task: str
    consistency: float
    coverage: float


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
    return [matrix.sources[row] for row in facility_location(scaled, count)]


def facility_location(served: Values, count: int) -> list[int]:
    """At most `count` rows, each time the one that adds most to the sum over columns of the best value so far: the
    greedy choice, which is within 1 - 1/e of the best (Nemhauser, Wolsey and Fisher, Mathematical Programming 14,
    1978). served: (n, m), not below 0: how well row i serves column j.

    >>> facility_location(np.array([[3.0, 0.0], [2.0, 2.0], [0.0, 3.0]]), 2)
    [1, 0]
    """
    best, chosen = np.zeros(served.shape[1]), list[int]()
    for _ in range(min(count, len(served))):
        added = np.maximum(served, best).sum(1) - best.sum()
        added[chosen] = -np.inf
        chosen.append(int(added.argmax()))
        best = np.maximum(best, served[chosen[-1]])
    return chosen


def pick_covering(
    features: Mapping[str, Values], target: str, *, growth: float = 0.05, ridge: float = 0.01
) -> list[Covering]:
    """Tasks to tune on before a target, by their features alone: those that look like it, and together span its rows.

    Each task is a Gaussian, the mean and covariance of its features. Tasks come in the order of the cosine of their
    means with the target's (consistency), and are taken until one raises the coverage by less than the share `growth`
    (diversity), as Xu et al. have it (ICLR 2024, arXiv:2402.15017). The authors' code does not hold that selection; the
    coverage is our own: one over the mean squared Mahalanobis distance of the target's rows from the Gaussian of the
    chosen tasks' mixture, in which each task has the same weight.

    features: of each task, the target too, (n, d) of a frozen base. ridge: added to the diagonal of covariances, as a
    share of the mean variance, since rows may be fewer than features.

    Errors: a target without features; other widths, fewer than 2 rows or numbers that are not finite; no other task.

    >>> rows = {"t": [[2, 2], [2, -2]], "near": [[1, 0], [3, 0], [2, 1], [2, -1]], "wide": [[2, 3], [2, -2]]}
    >>> [one.task for one in pick_covering({name: np.array(one) for name, one in rows.items()}, "t")]
    ['near', 'wide']
    """
    asked = f"choose tasks that cover '{target}'"
    if target not in features:
        raise AllroundError(asked, "it has no features", suggestion(target, list(features)))
    rows = {name: np.asarray(found, dtype=np.float64) for name, found in features.items()}
    aim = rows.pop(target)
    for name, found in {target: aim, **rows}.items():
        if found.ndim != 2 or len(found) < 2 or found.shape[1:] != aim.shape[1:] or not np.isfinite(found).all():
            raise AllroundError(
                asked,
                f"the features of '{name}' have the shape {found.shape}, or hold a number that is not finite",
                f"give 2 rows or more of the same {aim.shape[-1]} finite numbers for each task",
            )
    if not rows:
        raise AllroundError(asked, "there is no other task", "give the features of one or more")
    means = {name: found.mean(0) for name, found in rows.items()}
    spreads = {name: np.cov(found.T, bias=True).reshape(2 * aim.shape[1:]) for name, found in rows.items()}
    centre = aim.mean(0)
    alike = {n: float(m @ centre / max(np.linalg.norm(m) * np.linalg.norm(centre), 1e-12)) for n, m in means.items()}

    def coverage(names: Sequence[str]) -> float:
        mean = np.mean([means[name] for name in names], 0)
        spread = np.mean([spreads[n] + np.outer(means[n] - mean, means[n] - mean) for n in names], 0)
        spread += np.eye(len(mean)) * max(ridge * np.trace(spread) / len(mean), 1e-12)
        gaps = aim - mean
        return 1 / max(float((gaps * np.linalg.solve(spread, gaps.T).T).sum(1).mean()), 1e-12)

    chosen: list[Covering] = []
    for name in sorted(rows, key=lambda name: -alike[name]):
        covered = coverage([*(one.task for one in chosen), name])
        if chosen and covered < (1 + growth) * chosen[-1].coverage:
            break
        chosen.append(Covering(name, alike[name], covered))
    return chosen


def mixture_weights(matrix: TaskMatrix, target: str, *, temperature: float = 1.0) -> dict[str, float]:
    """How often to draw each source beside a target, the weights of all sources summing to 1: source -> weight.

    Formula: w_s = exp(z_s / temperature) / sum exp(z / temperature), z the gains for the target with mean 0 and
    standard deviation 1 over its sources. A source with a measured gain below 0 has the weight 0, and all have it where
    all gains are. Our own: papers with learned mixtures train for their weights; this needs a matrix alone. A lower
    temperature trusts the matrix more; a high one draws all sources alike.

    Sources of unknown value, and the target itself, are left out. Errors: a temperature that is not above 0; an unknown
    target.

    >>> m = TaskMatrix("gain", ("a", "b", "c"), ("t",), [[0.3], [0.1], [-0.1]], kind="measured")
    >>> {name: round(weight, 3) for name, weight in mixture_weights(m, "t").items()}
    {'a': 0.773, 'b': 0.227, 'c': 0.0}
    """
    if not temperature > 0:
        raise AllroundError(f"weigh the sources of '{target}' at the temperature {temperature:g}",
                            "it must be above 0", "give a positive temperature, such as 1")  # fmt: skip
    names = [name for name in matrix.best(target) if name != target]
    gains = matrix.take(names, [target]).gains[:, 0]
    spread = gains.std() if len(names) else 0.0
    scores = (gains - gains.mean()) / spread / temperature if spread > 0 else np.zeros(len(names))
    scores[(gains < 0) & (matrix.kind == "measured")] = -np.inf
    weights = np.exp(scores - scores.max()) if np.isfinite(scores).any() else np.zeros(len(names))
    return dict(zip(names, (weights / max(weights.sum(), 1.0)).tolist(), strict=True))


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


def cluster_count(alike: Values) -> int:
    """How many clusters tasks fall into: the tree of average linkage, cut where its joints lie furthest apart; one
    cluster of one or two tasks.

    >>> cluster_count(np.array([[1, 0.9, 0.1], [0.9, 1, 0.2], [0.1, 0.2, 1]]))
    2
    """
    if len(alike) < 3:
        return 1
    heights = [0.0, *linkage_of(alike)[:, 2].tolist()]
    return len(alike) - int(np.argmax(np.diff(heights)))


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
