"""Streams: how tasks are cut into arrivals, and in which order they come."""

from __future__ import annotations

import numpy as np
import pytest

from allround.building.stream import make_streams
from allround.continual.stream import of_tasks, permuted, rotated, split_labels
from allround.core.errors import AllroundError
from allround.tasks.suite import Suite


def test_labels_are_split_without_losing_a_row(digits_suite: Suite) -> None:
    digit = digits_suite["digit"]
    for scenario in ("class", "task", "domain"):
        made = split_labels(digit, 2, scenario)  # type: ignore[arg-type]
        rows = [len(one.tasks[0].splits["train"]) for one in made.arrivals]
        assert len(rows) == 5 and sum(rows) == len(digit.splits["train"]) and made.scenario == scenario
        labels = [one.tasks[0].definition.labels for one in made.arrivals]
        names = {one.tasks[0].name for one in made.arrivals}
        assert (len(names) == 5) == (scenario == "task")
        assert labels == ([("0", "1")] * 5 if scenario == "domain" else [(str(n), str(n + 1)) for n in range(0, 10, 2)])
        second = made.arrivals[1].tasks[0].splits["train"]
        old = [
            row
            for row, y in zip(digit.splits["train"].inputs, digit.splits["train"].targets, strict=True)
            if y in (2, 3)
        ]
        assert second.inputs == old and set(second.targets.tolist()) == {0, 1}


def test_nothing_tells_where_an_arrival_ends_in_the_scenario_free(digits_suite: Suite) -> None:
    digit = digits_suite["digit"]
    made = split_labels(digit, 5, "free").arrivals
    pieces = [one for number, arrival in enumerate(made) for one in arrival.pieces(4, 4 * number)]
    assert [one.name for one in pieces] == [f"piece {number}" for number in range(8)]
    assert {one.tasks[0].definition for one in pieces} == {digit.definition}, "all labels are known from the start"
    came = [set(one.tasks[0].splits["train"].targets.tolist()) for one in pieces]
    assert all(labels <= set(range(5)) for labels in came[:4]) and all(
        labels <= set(range(5, 10)) for labels in came[4:]
    )
    rows = [row for one in pieces[:4] for row in one.tasks[0].splits["train"].inputs]
    assert sorted(map(id, rows)) == sorted(map(id, made[0].tasks[0].splits["train"].inputs)), "each row comes once"
    assert rotated(digit, 2, scenario="free").scenario == "free"


def test_orders_follow_from_their_seed(digits_suite: Suite) -> None:
    digit = digits_suite["digit"]
    drawn = [[one.name for one in split_labels(digit, 2, "class", order=order).arrivals] for order in (0, 1, 1, 2)]
    assert drawn[1] == drawn[2] and len({tuple(names) for names in drawn}) == 3
    whole = of_tasks("digits", list(digits_suite))
    assert whole.ordered(0) == whole and {a.name for a in whole.ordered(3).arrivals} == {a.name for a in whole.arrivals}


def test_images_are_changed_in_each_arrival_alike(digits_suite: Suite) -> None:
    digit = digits_suite["digit"]
    made = permuted(digit, 3)
    first, second = (
        np.stack([np.asarray(row[0]) for row in one.tasks[0].splits["train"].inputs]) for one in made.arrivals[:2]
    )
    assert (first == np.stack([np.asarray(row[0]) for row in digit.splits["train"].inputs])).all()
    moved = [int(np.flatnonzero((first.reshape(len(first), -1) == column[:, None]).all(0))[0])
             for column in second.reshape(len(second), -1).T]  # fmt: skip
    assert (np.sort(second.reshape(len(second), -1), 1) == np.sort(first.reshape(len(first), -1), 1)).all()
    assert len(set(moved)) > 30, "pixels go to other places, the same in all rows"
    turned = rotated(digit, 2, 180).arrivals[1].tasks[0].splits["train"].inputs[0][0]
    assert np.array_equal(np.asarray(turned), np.rot90(first[0], 1))


def test_what_is_no_stream_is_said(digits_suite: Suite) -> None:
    def refused(words: str, **asked: object) -> None:
        with pytest.raises(AllroundError) as caught:
            make_streams(digits_suite, **({"task": "digit"} | asked))  # type: ignore[arg-type]
        assert words in str(caught.value), caught.value

    refused("give a number that divides them: 1, 2 and 5", labels=3)
    refused("the kind regression", task="ink", labels=2)
    refused("nothing says how it is cut")
    refused("--labels and --permuted were given", labels=2, permute=2)
    refused("no task was named", task=None, labels=2)
    refused("for one task that comes in parts", task=None, scenario="class")
    refused("there is only 1 arrival", permute=1)
    refused("--orders is 0", labels=2, orders=0)
    refused("come in the scenario 'domain' or 'free'", permute=2, scenario="class")
    with pytest.raises(AllroundError, match="only 1 task"):
        of_tasks("one", [digits_suite["digit"]])
