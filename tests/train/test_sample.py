"""How often each task is drawn."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allround.core import registry
from allround.core.errors import AllroundError
from allround.train.sample.proportional import proportional
from allround.train.sample.temperature import temperature
from allround.train.sample.uniform import uniform
from allround.train.settings import Settings
from allround.train.trainer import draw_tasks

SAMPLERS = registry.names("sample")
SIZES = st.lists(st.integers(1, 10**6), min_size=1, max_size=12)


def test_by_hand() -> None:
    assert proportional([300, 100]) == [0.75, 0.25]
    assert uniform([300, 100]) == [0.5, 0.5]
    assert temperature([900, 100]) == pytest.approx([0.75, 0.25])
    assert temperature([8, 1], temperature=3.0) == pytest.approx([2 / 3, 1 / 3])


def test_temperature_lies_between_the_others() -> None:
    sizes = [1000, 100, 10]
    assert temperature(sizes, temperature=1.0) == pytest.approx(proportional(sizes))
    assert temperature(sizes, temperature=1e9) == pytest.approx(uniform(sizes))
    assert temperature(sizes, temperature=0.5) == pytest.approx([s**2 / 1010100 for s in sizes])


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
def test_a_temperature_that_is_none_is_refused(value: float) -> None:
    with pytest.raises(AllroundError, match="above 0"):
        temperature([2, 1], temperature=value)


def test_a_very_low_temperature_draws_the_largest() -> None:
    assert temperature([1000, 999, 10], temperature=1e-5) == pytest.approx([1, math.exp(-100), 0], abs=1e-4)


@pytest.mark.parametrize("name", SAMPLERS)
@given(sizes=SIZES)
@settings(max_examples=50, deadline=None, derandomize=True)
def test_shares_are_shares(name: str, sizes: list[int]) -> None:
    shares = registry.load("sample", name)(sizes)
    assert len(shares) == len(sizes)
    assert sum(shares) == pytest.approx(1, abs=1e-9)
    assert all(0 < share <= 1 for share in shares)
    for a, b in zip(range(len(sizes)), range(1, len(sizes)), strict=False):
        if sizes[a] > sizes[b]:
            assert shares[a] >= shares[b], "more rows are never drawn less"
    turned = registry.load("sample", name)(sizes[::-1])
    assert turned == pytest.approx(shares[::-1]), "the order of tasks does not matter"
    again = registry.load("sample", name)([10 * s for s in sizes])
    assert again == pytest.approx(shares), "only the ratios of sizes matter"


@pytest.mark.parametrize("name", SAMPLERS)
@given(sizes=SIZES, steps=st.integers(0, 300), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=50, deadline=None, derandomize=True)
def test_draws_follow_the_shares_to_one_step(name: str, sizes: list[int], steps: int, seed: int) -> None:
    chosen = Settings(sample=name)
    drawn = draw_tasks(sizes, steps, chosen, seed)
    assert len(drawn) == steps
    shares = registry.load("sample", name)(sizes)
    counts = Counter(drawn)
    assert all(abs(counts[t] - share * steps) < 1 + 1e-6 for t, share in enumerate(shares))
    assert draw_tasks(sizes, steps, chosen, seed) == drawn


def test_the_seed_decides_the_order_alone() -> None:
    one, two = (draw_tasks([30, 20], 50, Settings(), seed) for seed in (0, 1))
    assert one != two and Counter(one) == Counter(two) == {0: 30, 1: 20}
    assert draw_tasks([30, 20], 50, Settings(sample="temperature", sample_settings={"temperature": 1.0}), 0) == one


def test_draws_are_mixed() -> None:
    drawn = draw_tasks([50, 50], 100, Settings(), 0)
    assert 30 < sum(a != b for a, b in pairwise(drawn)) < 70
