"""Blends of estimates: their formulas, and that none looks at what is measured of the target itself."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from allround.core import checking, registry
from allround.core.errors import AllroundError
from allround.transfer.blending import blend, ranked, standardised
from allround.transfer.matrix import TaskMatrix
from allround.transfer.profiles import profiles
from allround.transfer.score import popularity, score

NAMES = tuple("abcdef")
RNG = np.random.default_rng(3)
#: Two halves of targets: what helps one half harms the other.
SIDE = np.array([1.0, 1, 1, -1, -1, -1])
APART = np.where(np.eye(6, dtype=bool), np.nan, 1.0)
TRUTH = TaskMatrix("gain", NAMES, NAMES, APART * (np.outer(RNG.normal(size=6), SIDE) + 0.1 * RNG.normal(size=(6, 6))),
                   kind="measured")  # fmt: skip
ALIKE = TaskMatrix("alike", NAMES, NAMES, APART * np.outer(SIDE, SIDE), symmetric=True)
NOISE = TaskMatrix("noise", NAMES, NAMES, RNG.normal(size=(6, 6)))
BLENDS = registry.names("blend")


@pytest.mark.parametrize("name", BLENDS)
def test_it_is_documented(name: str) -> None:
    checking.documented(registry.find("blend", name), parameters=True, names={"TaskMatrix": TaskMatrix})


@pytest.mark.parametrize("name", BLENDS)
def test_it_looks_at_nothing_measured_of_the_target(name: str) -> None:
    made = partial(blend, name, [ALIKE, NOISE])
    changed = TRUTH.mapped(lambda v: np.where(np.arange(6) == 2, 7 - 3 * v, v))
    assert np.array_equal(made(TRUTH).values[:, 2], made(changed).values[:, 2], equal_nan=True)
    assert np.allclose(made(TRUTH).values[:, 2], made(TRUTH.without("c")).values[:, 2], equal_nan=True)


@pytest.mark.parametrize("name", BLENDS)
def test_the_order_of_tasks_does_not_matter(name: str) -> None:
    other = [NAMES[place] for place in (3, 1, 5, 0, 2, 4)]
    one = blend(name, [ALIKE, NOISE], TRUTH).take(other, other)
    two = blend(name, [ALIKE.take(other, other), NOISE.take(other, other)], TRUTH.take(other, other))
    assert np.allclose(one.values, two.values, equal_nan=True)
    assert one.targets == two.targets


@pytest.mark.parametrize("name", [n for n in BLENDS if "measured" in registry.find("blend", n).needs])
def test_without_measured_transfer_it_says_so(name: str) -> None:
    with pytest.raises(AllroundError, match="it needs measured transfer"):
        blend(name, [ALIKE])


def test_rank_sum_leaves_unknown_pairs_to_the_others() -> None:
    known = TaskMatrix("x", ("a", "b", "c"), ("t",), [[3.0], [2.0], [1.0]])
    half = TaskMatrix("y", ("a", "b", "c"), ("t",), [[np.nan], [1.0], [2.0]])
    assert blend("rank_sum", [known, half]).values.ravel().tolist() == [1.0, 0.25, 0.5]


def test_pivots_average_and_do_not_multiply() -> None:
    """By hand: from a to t over p and q: 0.7 * mean((1 + 0.5) / 2, (3 + 0.1) / 2) + 0.3 * 0.2."""
    near = TaskMatrix("near", ("a", "p", "q"), ("t",), [[0.2], [0.5], [0.1]])
    truth = TaskMatrix("gain", ("a",), ("p", "q", "t"), [[1.0, 3.0, 50.0]])
    assert blend("pivots", [near], truth).value("a", "t") == pytest.approx(0.7 * (0.75 + 1.55) / 2 + 0.3 * 0.2)


def test_neighbours_follow_alike_tasks() -> None:
    made = blend("neighbours", [ALIKE], TRUTH, {"temperature": 0.3})
    assert score(made, TRUTH).mean("spearman") > 0.7 > 0 > score(popularity(TRUTH), TRUTH).mean("spearman")
    profiled = blend("neighbours", [], TRUTH)
    assert np.isfinite(profiled.values[~np.eye(6, dtype=bool)]).all()


def test_profiles_see_what_a_task_does_for_others() -> None:
    truth = TaskMatrix("gain", tuple("abct"), tuple("pqrs"), [[1, 2, 3, 4], [4, 3, 2, 1], [1, 2, 4, 3], [1, 2, 3, 5]])
    found = profiles(truth, "t")
    assert found["a"] > found["c"] > found["b"]
    assert profiles(truth.take(sources=["a", "b"]), "t") == {}


def test_regression_finds_the_estimate_that_tells() -> None:
    made = blend("regression", [NOISE, TRUTH.mapped(lambda v: 5 * v + 1, "copy")], TRUTH, {"penalty": 0.01})
    assert score(made, TRUTH).mean("spearman") > 0.9


def test_scales_within_a_target() -> None:
    values = np.array([[1.0, np.nan], [1.0, 2.0], [4.0, np.nan]])
    assert ranked(values)[:, 0].tolist() == [0.25, 0.25, 1.0] and ranked(values)[1, 1] == 0
    assert standardised(values)[:, 0].sum() == pytest.approx(0) and standardised(values)[1, 1] == 0
