"""What short trainings measure: gains that are planted in scores come back, whatever the measure."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import numpy as np
import pytest

from allround.transfer.measures import MEASURES, Run, spread

TASKS = tuple("abcdef")
#: What each source (row) adds to each target (column) that it is trained with, or before.
PLANTED = np.random.default_rng(0).normal(0, 0.05, (6, 6)) * ~np.eye(6, dtype=bool)


def score(run: Run, task: str) -> float:
    sources = [other for other in (*run.tasks, *([] if run.start is None else [run.start])) if other != task]
    return 0.5 + sum(PLANTED[TASKS.index(source), TASKS.index(task)] for source in sources)


def measured(name: str, made: list[Run]) -> np.ndarray:
    values = np.full((6, 6), np.nan)
    for gain in MEASURES[name].gains(TASKS, made):
        values[TASKS.index(gain.source), TASKS.index(gain.task)] = sum(
            factor * score(run, gain.task) for run, factor in gain.factors.items()
        )
    return values


@pytest.mark.parametrize("name", MEASURES)
def test_planted_gains_come_back(name: str) -> None:
    measure = MEASURES[name]
    made = [*measure.first(TASKS), *measure.further(TASKS, 0)]
    found = measured(name, made)
    apart = ~np.eye(6, dtype=bool)
    assert np.isnan(found[~apart]).all()
    # the penalty of subsets draws parts towards zero by a few per cent
    assert np.allclose(found[apart], PLANTED[apart], atol=0.012 if name == "subsets" else 1e-9)


@pytest.mark.parametrize("name", MEASURES)
def test_only_what_was_made_is_told(name: str) -> None:
    measure = MEASURES[name]
    first, further = measure.first(TASKS), measure.further(TASKS, 0)
    assert measure.gains(TASKS, first) == [] and measure.gains(TASKS, further[:0]) == []
    some = measure.gains(TASKS, [*first, *further[:2]])
    assert some and {run for gain in some for run in gain.factors} <= {*first, *further[:2]}


def test_subsets_are_balanced_and_follow_from_the_seed() -> None:
    subsets = MEASURES["subsets"]
    drawn = subsets.further(TASKS, 0)
    # 2 n^2 / size groups of half of the tasks, but not more than there are
    assert len(set(drawn)) == len(drawn) == 20 and {len(run.tasks) for run in drawn} == {3}
    many = tuple(f"t{n}" for n in range(10))
    drawn = subsets.further(many, 0)
    assert drawn == subsets.further(many, 0) != subsets.further(many, 1)
    assert len(drawn) == 40 and {len(run.tasks) for run in drawn} == {5}
    together = Counter(pair for run in drawn for pair in combinations(run.tasks, 2))
    assert len(together) == 45 and max(together.values()) - min(together.values()) <= 2
    assert len(subsets.further(("a", "b", "c"), 0)) == 3, "there are no more groups of two"


def test_runs_that_scatter_are_less_sure() -> None:
    subsets = MEASURES["subsets"]
    made = [*subsets.first(TASKS), *subsets.further(TASKS, 0)]
    gain = next(gain for gain in subsets.gains(TASKS, made) if gain.task == "a")
    straight = np.array([score(run, "a") for run in gain.factors])
    noise = np.random.default_rng(1).normal(0, 0.02, len(straight))
    assert gain.left is not None
    assert spread(gain.left, straight) < 0.008
    assert spread(gain.left, straight + noise) == pytest.approx(0.02, rel=0.4)
