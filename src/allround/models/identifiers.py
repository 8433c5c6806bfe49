"""Identifiers of texts: short words that a language model can write, the same for texts that are alike in part."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

#: The most centres of a level, where nobody says how many.
MOST_CENTRES = 256


def semantic_ids(vectors: NDArray[np.float32], *, levels: int = 2, size: int | None = None, seed: int = 0) -> list[str]:
    """An identifier for each vector, such as "4-0-1": the codes of residual k-means, and a number that tells those
    with the same codes apart.

    vectors: (n, d), which are brought to length 1. levels: how often what is left of the vectors is put into clusters.
    size: clusters of a level; by default as many as give each vector codes of its own if they were spread evenly, up to
    256. Vectors that are near share their first codes.
    Source: Penha et al., Semantic IDs for Joint Generative Search and Recommendation, RecSys 2025, arXiv:2508.10478.

    >>> semantic_ids(np.array([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0]], dtype=np.float32), levels=1, size=2)
    ['1-0', '0-0', '0-1']
    """
    codes = residual_codes(vectors, levels, size or _size(len(vectors), levels), seed)
    seen: Counter[tuple[int, ...]] = Counter()
    found = []
    for row in codes.tolist():
        found.append("-".join(map(str, [*row, seen[tuple(row)]])))
        seen[tuple(row)] += 1
    return found


def _size(count: int, levels: int) -> int:
    return min(MOST_CENTRES, max(1, math.ceil(round(math.pow(count, 1 / levels), 6))))


def residual_codes(vectors: NDArray[np.float32], levels: int, size: int, seed: int = 0) -> NDArray[np.int64]:
    """The codes of residual k-means, (n, levels): at each level, the cluster of what the centres of the levels before
    leave of a vector."""
    from sklearn.cluster import KMeans

    left = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    codes = np.zeros((len(left), levels), dtype=np.int64)
    for level in range(levels):
        clusters = min(size, len(np.unique(left.round(6), axis=0)))
        made = KMeans(clusters, n_init=4, random_state=(seed + level) % 2**32).fit(left)
        codes[:, level] = made.labels_
        left = left - made.cluster_centers_[made.labels_]
    return codes


def word_ids(texts: Sequence[str], most: int = 8) -> list[str]:
    """An identifier for each text: its first words, `most` at most, and a number where an earlier one has the same.

    >>> word_ids(["card arrival", "card  arrival", "lost card"])
    ['card arrival', 'card arrival 1', 'lost card']
    """
    taken: set[str] = set()
    found = []
    for text in texts:
        words = " ".join(text.split()[:most]) or "empty"
        one, number = words, 0
        while one in taken:
            number += 1
            one = f"{words} {number}"
        taken.add(one)
        found.append(one)
    return found


def sample_ngrams(
    text: str, query: str | None, *, count: int, length: int, generator: np.random.Generator
) -> list[str]:
    """Different n-grams of a text, `length` words each or the whole text where it is shorter: `count` at most.

    query: n-grams that begin like parts of it are drawn more often: with a probability in proportion to the exponential
    of the sum, over its runs of three words, of the share of words in common with the n-gram's first three. None: each
    with the same probability.
    Source: extract_spans of scripts/training/make_supervised_dpr_dataset.py, facebookresearch/SEAL.
    Differs: words in common in place of a fuzzy match of their letters, no list of stop words, no n-gram twice, none
    that the end of the text cuts short.

    >>> sample_ngrams("a lost card", None, count=3, length=10, generator=np.random.default_rng(0))
    ['a lost card']
    """
    words = text.split()
    starts = max(1, len(words) - length + 1)
    likes = np.zeros(starts)
    if query is not None and starts > 1:
        runs = _runs(query.lower().split())
        own = _runs(text.lower().split())[:starts]
        likes = np.array([sum(len(one & run) / 3 for run in runs) for one in own])
    chances = np.exp(likes - likes.max()) + 1e-12  # none is out of reach
    drawn = generator.choice(starts, size=min(count, starts), replace=False, p=chances / chances.sum())
    return [" ".join(words[start : start + length]) for start in drawn.tolist()]


def _runs(words: Sequence[str]) -> list[set[str]]:
    """The three words from each one on; fewer at the end."""
    return [set(words[start : start + 3]) for start in range(len(words))]
