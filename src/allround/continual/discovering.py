"""Novel classes: groups of rows without labels, found with the help of rows of other classes that have some."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from allround.core import registry
from allround.core.errors import AllroundError

Labels = NDArray[np.int64]
#: The most novel classes that are looked for where their number is not given.
MOST = 15
#: Starts of k-means, of which the one with the least inertia is kept.
STARTS = 10


@dataclass(frozen=True)
class NovelRows:
    """Rows of known classes with their labels, and rows of novel classes without.

    known (n, d), labels (n,) from 0, novel (m, d): standardised numbers.
    """

    known: Tensor
    labels: Labels
    novel: Tensor

    @property
    def classes(self) -> int:
        """How many known classes there are."""
        return int(self.labels.max()) + 1


@dataclass(frozen=True)
class NovelClasses:
    """What was found. groups: of each novel row, from 0. count: how many groups were looked for."""

    groups: Labels
    count: int


class Discovery(ABC):
    """A way to find novel classes. It is made with its settings."""

    name: ClassVar[str]

    @abstractmethod
    def space(self, rows: NovelRows, seed: int) -> NDArray[np.float64]:
        """The vectors of the novel rows in the space in which classes lie apart: (m, d')."""

    def find(self, rows: NovelRows, count: int | None, seed: int) -> NovelClasses:
        """Find classes. count: how many; None is `estimate_count` in the way's own space."""
        vectors = self.space(rows, seed)
        count = estimate_count(vectors, seed) if count is None else count
        return NovelClasses(k_means(vectors, count, seed), count)


def make_discovery(name: str, values: Mapping[str, object] | None = None) -> Discovery:
    """A way to find novel classes by its name, with its settings."""
    entry = registry.find("discover", name)
    made: Discovery = entry.load()(**entry.resolve(values or {}))
    return made


def find_classes(
    known: Tensor, labels: Labels, novel: Tensor, way: str = "pbn", *, count: int | None = None, seed: int = 0
) -> NovelClasses:
    """Find the classes of rows that have no labels, none of which is among the known classes.

    known, novel: standardised numbers, (n, d) and (m, d). labels: (n,), whole numbers. way: one of
    `allround.methods("discover")`, with its settings behind a colon, such as "pbn:weight=0.5". count: how many classes;
    None estimates it.
    Errors: rows of different widths; fewer than two known classes; fewer rows than classes.

    >>> import torch
    >>> draw = torch.Generator().manual_seed(0)
    >>> corners = torch.tensor([[9.0, 0], [-9, 0], [0, 9], [0, -9]]).repeat_interleave(5, 0)
    >>> rows = corners + torch.randn(20, 2, generator=draw)
    >>> find_classes(rows[:10], np.arange(10) // 5, rows[10:], "kmeans").groups.tolist()
    [0, 0, 0, 0, 0, 1, 1, 1, 1, 1]
    """
    asked = f"find classes in {len(novel)} rows by '{way}'"
    if known.shape[1:] != novel.shape[1:] or len(known) != len(labels):
        raise AllroundError(asked, f"there are {tuple(known.shape)} numbers of known rows, {len(labels)} labels and "
                            f"{tuple(novel.shape)} numbers of novel rows", "give rows of one width")  # fmt: skip
    names, numbers = np.unique(labels, return_inverse=True)
    if len(names) < 2:
        raise AllroundError(asked, f"{len(names)} class is known", "give rows of two known classes or more")
    if count is not None and not 1 <= count <= len(novel):
        raise AllroundError(asked, f"{count} classes are to be found", f"give 1 to {len(novel)}")
    name, settings = registry.spelled("discover", way)
    found = make_discovery(name, settings).find(NovelRows(known, numbers, novel), count, seed)
    order = list(dict.fromkeys(found.groups.tolist()))
    return NovelClasses(np.array([order.index(group) for group in found.groups]), found.count)


def k_means(vectors: NDArray[np.float64], count: int, seed: int) -> Labels:
    """The group of each vector, by k-means with k-means++."""
    from sklearn.cluster import KMeans

    found: Labels = KMeans(count, n_init=STARTS, random_state=seed % 2**32).fit_predict(vectors).astype(np.int64)
    return found


def estimate_count(vectors: NDArray[np.float64], seed: int, most: int = MOST, rows: int = 2000) -> int:
    """How many groups the vectors lie in: from 2 to `most`, that with the best silhouette of k-means.

    Troisemaine et al. (Data Mining and Knowledge Discovery, 2024) find this the most reliable in the space that was
    learned. rows: of so many the silhouette is computed.
    """
    from sklearn.metrics import silhouette_score

    draw = np.random.default_rng(seed)
    some = vectors[draw.permutation(len(vectors))[:rows]]
    best, chosen = -np.inf, 2
    for count in range(2, min(most, len(some) - 1) + 1):
        groups = k_means(some, count, seed)
        value = float(silhouette_score(some, groups)) if len(set(groups)) > 1 else -1.0
        if value > best:
            best, chosen = value, count
    return chosen


def group_accuracy(truth: Labels, groups: Labels) -> float:
    """The share of rows that are right if each group is given to the class that makes this share the largest, no class
    twice (Kuhn, 1955).

    >>> group_accuracy(np.array([0, 0, 1, 1, 2]), np.array([1, 1, 0, 2, 2]))
    0.8
    """
    from scipy.optimize import linear_sum_assignment

    _, classes = np.unique(truth, return_inverse=True)
    together = np.zeros((int(groups.max()) + 1, int(classes.max()) + 1))
    np.add.at(together, (groups, classes), 1)
    rows, columns = linear_sum_assignment(-together)
    return float(together[rows, columns].sum() / len(truth))


def group_scores(truth: Labels, groups: Labels) -> dict[str, float]:
    """How far groups agree with classes: `accuracy` (of `group_accuracy`), normalised mutual information, and the
    adjusted Rand index."""
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    return {
        "accuracy": group_accuracy(truth, groups),
        "nmi": float(normalized_mutual_info_score(truth, groups)),
        "ari": float(adjusted_rand_score(truth, groups)),
    }
