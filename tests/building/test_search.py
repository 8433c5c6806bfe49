"""The search for settings: what it tries, in which order, and what it takes."""

from __future__ import annotations

from typing import Any

from allround.building.search import Trial, coordinate_search, run_searches
from allround.core.registry import find


def test_coordinate_search_tries_one_parameter_after_the_other() -> None:
    search = coordinate_search(find("merge", "ties"), trials=100)
    keeps = next(search)
    assert [s["keep"] for s in keeps] == [0.2, 0.1, 0.4, 0.7] and {s["scale"] for s in keeps} == {1.0}
    scales = search.send([0.5, 0.4, 0.9, 0.6])
    assert {s["keep"] for s in scales} == {0.4}
    assert 1.0 not in [s["scale"] for s in scales], "that one is known already"
    try:
        search.send([0.1] * len(scales))
    except StopIteration as stop:
        assert stop.value == {"keep": 0.4, "scale": 1.0}


def test_no_more_than_the_trials_allowed() -> None:
    search = coordinate_search(find("merge", "ties"), trials=5)
    first = next(search)
    second = search.send([0.0] * len(first))
    assert (len(first), len(second)) == (4, 1)


def test_methods_without_parameters_are_tried_once() -> None:
    assert next(coordinate_search(find("merge", "average"), trials=5)) == [{}]


def test_searches_run_side_by_side_and_mark_the_chosen() -> None:
    rounds = []

    def score(pairs: list[tuple[str, dict[str, Any]]]) -> list[Trial]:
        rounds.append(len(pairs))
        return [Trial(m, s, -abs(s.get("scale", 0.3) - 0.5) - abs(s.get("keep", 0.2) - 0.1)) for m, s in pairs]

    found = run_searches([find("merge", n) for n in ("average", "task_arithmetic", "ties")], 20, score)
    assert rounds == [1 + 9 + 4, 5], "the first parameter of every method, then what is left"
    assert found["task_arithmetic"][0] == {"scale": 0.5}
    assert found["ties"][0] == {"keep": 0.1, "scale": 0.4}
    assert [t.settings for t in found["ties"][1] if t.chosen] == [{"keep": 0.1, "scale": 0.4}]
