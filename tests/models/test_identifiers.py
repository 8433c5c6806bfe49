"""Identifiers: residual k-means against a hand computation, no two the same, and the same again."""

from __future__ import annotations

import numpy as np
import pytest

from allround.models.identifiers import residual_codes, semantic_ids, word_ids


def test_codes_are_those_of_what_is_left() -> None:
    """Two directions, and in each two small deviations: the first code tells the directions, the second the rest."""
    angles = np.radians([-2.0, 2.0, 88.0, 92.0])
    vectors = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    codes = residual_codes(vectors, 2, 2)
    assert codes[0, 0] == codes[1, 0] != codes[2, 0] == codes[3, 0]
    # The centres are the means, so that along x 0 and 0, and along y -sin 2 and sin 2 are left of the first two, and
    # cos 88 and cos 92 of the others: (0, -.035), (0, .035), (.035, 0), (-.035, 0). Two clusters halve these four.
    assert sorted(np.bincount(codes[:, 1]).tolist()) == [2, 2]
    assert codes[0, 1] != codes[1, 1] and codes[2, 1] != codes[3, 1]
    assert np.array_equal(residual_codes(vectors * 7, 2, 2), codes), "lengths do not count"


def test_no_two_are_the_same_and_they_come_again() -> None:
    vectors = np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32)
    vectors[50:] = vectors[0]
    found = semantic_ids(vectors, levels=2, size=4)
    assert len(set(found)) == 60 and semantic_ids(vectors, levels=2, size=4) == found
    same = [found[0], *found[50:]]
    assert len({one.rpartition("-")[0] for one in same}) == 1, "the same vectors have the same codes"
    codes = residual_codes(vectors, 2, 4)
    for one, row in zip(found, codes.tolist(), strict=True):
        assert one.rpartition("-")[0] == "-".join(map(str, row))
    numbers = [int(one.rpartition("-")[2]) for one in found if one.startswith(found[0].rpartition("-")[0] + "-")]
    assert numbers == list(range(len(numbers)))
    assert semantic_ids(vectors, levels=2, size=4, seed=1) != found


def test_the_number_of_clusters_follows_the_number_of_vectors() -> None:
    vectors = np.random.default_rng(1).normal(size=(27, 4)).astype(np.float32)
    assert residual_codes(vectors, 3, 3).max() == 2
    assert max(int(one.split("-")[0]) for one in semantic_ids(vectors, levels=3)) == 2
    assert max(int(one.split("-")[0]) for one in semantic_ids(vectors, levels=1)) == 26


@pytest.mark.parametrize("count", [1, 2])
def test_few_vectors(count: int) -> None:
    found = semantic_ids(np.ones((count, 3), dtype=np.float32), levels=2, size=8)
    assert found == [f"0-0-{number}" for number in range(count)]


def test_words() -> None:
    assert word_ids(["a b c", "a b d", " a  b", ""], 2) == ["a b", "a b 1", "a b 2", "empty"]
