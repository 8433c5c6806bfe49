"""skills: rows in groups of like gradients; in each the score that tells its rows apart best says which ones stay."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from allround.continual.rows import ArrivedRows, Ranking
from allround.core.registry import method
from allround.tasks.kind import kind

#: Groups of an arrival at most; rows of one group whose gradients have a cosine above this say the same.
GROUPS, SAME = 10, 0.95
#: Intervals in which scores are counted.
_BINS = 10

Matrix = NDArray[np.float64]


@method(source="Adapt-infinity: Maharana et al., 2024, arXiv:2410.10636, section 3")
def skills(rows: ArrivedRows) -> Ranking:
    """A group for each pseudo-skill: k-means on the gradients of the rows' losses with respect to the head's outputs
    and features. In each group one of three scores is chosen, that of the largest entropy over its rows: the loss, the
    length of the error (EL2N) or the entropy of the answer. Rows with high scores come first; rows that repeat one
    before them come behind all others.

    Formula: gradient of a row = (p - y) x features, its factors reduced to unit length
    Differs: gradients are those of the head, exactly, where the paper takes a later layer and a random projection;
    image grounding is left out; rows are grouped within the arrival, and earlier ones keep their ranks. Tasks without
    one label a row are grouped by features and drawn at random.
    """
    features = rows.features / np.maximum(np.linalg.norm(rows.features, axis=1, keepdims=True), 1e-12)
    definition = rows.task.definition
    rules, drawn = kind(definition.kind), np.asarray(rows.random.random(len(rows)))
    if rules.lists or not rules.fixed_labels or not rules.exclusive:
        return Ranking([f"{rows.task.name}: skill {one}" for one in clustered(features, rows.seed)], drawn)
    split = rows.task.splits["train"]
    chances = np.asarray(rows.model.answers(rows.task.name, split.inputs, scores=True).scores, dtype=np.float64)
    wanted = np.zeros_like(chances)
    wanted[np.arange(len(rows)), np.asarray(split.targets)] = 1
    vectors = outer(chances - wanted, features)
    groups = clustered(vectors, rows.seed)
    scores = scores_of(chances, wanted)
    ranks = np.zeros(len(rows))
    for group in np.unique(groups):
        places = np.flatnonzero(groups == group)
        chosen = most_telling({name: values[places] for name, values in scores.items()})
        order = places[np.lexsort((drawn[places], -scores[chosen][places]))]
        again = repeats(vectors[order])
        ranks[np.concatenate([order[~again], order[again]])] = np.arange(len(places))
    return Ranking([f"{rows.task.name}: skill {one}" for one in groups], ranks)


def outer(errors: Matrix, features: Matrix) -> Matrix:
    """Gradients of the loss by a linear head, row by row, of unit length: (n, k), (n, d) -> (n, k d)."""
    found = (errors[:, :, None] * features[:, None, :]).reshape(len(errors), -1)
    made: Matrix = found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)
    return made


def scores_of(chances: Matrix, wanted: Matrix) -> dict[str, Matrix]:
    """How informative each row is, in three ways. chances, wanted: (n, labels).

    >>> found = scores_of(np.array([[0.5, 0.5], [1.0, 0.0]]), np.array([[1.0, 0.0], [1.0, 0.0]]))
    >>> {name: values.round(3).tolist() for name, values in found.items()}
    {'loss': [0.693, -0.0], 'el2n': [0.707, 0.0], 'entropy': [0.693, -0.0]}
    """
    logs = np.log(np.maximum(chances, 1e-12))
    return {"loss": -(wanted * logs).sum(1), "el2n": np.linalg.norm(chances - wanted, axis=1),
            "entropy": -(chances * logs).sum(1)}  # fmt: skip


def most_telling(scores: Mapping[str, Matrix]) -> str:
    """The score whose values are spread most evenly over their range; of equals the first.

    >>> most_telling({"flat": np.zeros(4), "spread": np.array([0.0, 1.0, 2.0, 3.0]), "one": np.array([0.0, 0, 0, 9])})
    'spread'
    """

    def spread(values: Matrix) -> float:
        width = float(values.max() - values.min())
        if width <= 0:
            return 0.0
        counts, _ = np.histogram((values - values.min()) / width, bins=_BINS, range=(0, 1))
        shares = counts[counts > 0] / len(values)
        return float(-(shares * np.log(shares)).sum())

    return max(scores, key=lambda name: spread(scores[name]))


def repeats(vectors: Matrix) -> NDArray[np.bool_]:
    """Which rows say what one before them says: the cosine of their gradients is above `SAME`.

    >>> repeats(np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])).tolist()
    [False, False, True]
    """
    found = np.zeros(len(vectors), dtype=bool)
    cosines = vectors @ vectors.T
    for row in range(1, len(vectors)):
        found[row] = bool((cosines[row, :row][~found[:row]] > SAME).any())
    return found


def clustered(vectors: Matrix, seed: int) -> NDArray[np.int64]:
    """The group of each row, by k-means."""
    from sklearn.cluster import KMeans

    count = min(GROUPS, len(np.unique(vectors, axis=0)))
    made = KMeans(count, n_init=4, random_state=seed % 2**32).fit(vectors)
    return np.asarray(made.labels_, dtype=np.int64)
