"""Folds: every row is tested once, what belongs together stays together, and tasks on the same rows go alike."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from allround.core.errors import AllroundError
from allround.tasks.folds import fold_suites
from allround.tasks.make import make_task
from allround.tasks.suite import Suite
from allround.tasks.task import SPLITS, Task

Rows = list[dict[str, Any]]


def rows_of(count: int = 100) -> Rows:
    return [
        {"x": f"row {i // 2 if i < 20 else i}", "y": "rare" if i % 10 == 9 and i > 20 else "ab"[i // 2 % 2],
         "z": i / 7 if i % 3 else None, "who": f"c{i % 13}", "lang": "de" if i % 2 else "en"}
        for i in range(count)
    ]  # fmt: skip


def make(name: str, kind: str, target: str, **changes: Any) -> Task:
    return make_task(name, kind=kind, inputs="x", target=target, data={"train": rows_of()}, **changes)


@pytest.fixture(scope="module")
def suite() -> Suite:
    mood = make("mood", "classification", "y", slices="lang")
    return Suite("s", [mood, make("size", "regression", "z", missing="drop")])


def inputs(task: Task, split: str) -> list[str]:
    return [str(x) for (x,) in task.splits[split].inputs]


def test_every_row_is_tested_once_and_equal_rows_together(suite: Suite) -> None:
    found = fold_suites(suite, 5)
    for name in ("mood", "size"):
        tested = [row for one in found for row in inputs(one[name], "test")]
        every = [row for split in SPLITS for row in inputs(suite[name], split)]
        assert Counter(tested) == Counter(every)
        for one in found:
            parts = [set(inputs(one[name], split)) for split in SPLITS]
            assert not parts[0] & parts[1] and not parts[0] & parts[2] and not parts[1] & parts[2]
            assert sum(len(one[name].splits[split]) for split in SPLITS) == len(every)
            assert one[name].definition == suite[name].definition
    sizes = [len(one["mood"].splits["test"]) for one in found]
    assert sum(sizes) == 100 and max(sizes) - min(sizes) <= 2
    assert all(8 <= len(one["mood"].splits["validation"]) <= 14 for one in found)
    note = found[1]["mood"].notes[-1]
    assert note == f"fold 2 of 5: {sizes[1]} of all 100 rows are for test"
    assert found[0]["mood"].content != found[1]["mood"].content
    assert [one["mood"].content for one in fold_suites(suite, 5)] == [one["mood"].content for one in found]


def test_tasks_on_the_same_rows_have_the_same_folds(suite: Suite) -> None:
    for one in fold_suites(suite, 4):
        for split in SPLITS:
            known = set(inputs(one["mood"], split))
            assert set(inputs(one["size"], split)) <= known


def test_targets_and_slices_go_with_their_rows(suite: Suite) -> None:
    known = {row["x"]: (row["y"], row["lang"]) for row in rows_of() if int(row["x"].split()[1]) >= 10}
    for one in fold_suites(suite, 3):
        mood = one["mood"]
        for split in SPLITS:
            part = mood.splits[split]
            labels = [mood.definition.labels[target] for target in part.targets]
            for x, label, lang in zip(inputs(mood, split), labels, part.slices["lang"], strict=True):
                assert x not in known or known[x] == (label, lang)


def test_folds_have_their_share_of_rare_labels(suite: Suite) -> None:
    for one in fold_suites(suite, 5):
        assert Counter(np.asarray(one["mood"].splits["test"].targets).tolist())[2] in (1, 2)


def test_groups_stay_together() -> None:
    task = make("mood", "classification", "y", split={"by": "who"})
    for one in fold_suites(Suite("s", [task]), 3):
        groups = [set(one["mood"].splits[split].keys) for split in SPLITS]
        assert not groups[0] & groups[2] and not groups[1] & groups[2] and not groups[0] & groups[1]


def test_rows_of_a_table_keep_their_numbers() -> None:
    options: dict[str, Any] = {"table": "rows", "missing": "drop"}
    both = Suite("s", [make("mood", "classification", "y", **options), make("size", "regression", "z", **options)])
    tested = []
    for one in fold_suites(both, 3):
        numbers = [np.asarray(one[name].splits["test"].rows).tolist() for name in ("mood", "size")]
        assert set(numbers[1]) <= set(numbers[0])
        tested += numbers[0]
    assert sorted(tested) == list(range(100))


def test_folds_that_make_no_sense(suite: Suite) -> None:
    for count, words in ((1, "at least two folds"), (80, "only 90 distinct rows can be told apart")):
        with pytest.raises(AllroundError, match=words):
            fold_suites(suite, count)
    timed = make_task("t", kind="classification", inputs="x", target="y", data={
        "train": [{**row, "at": i} for i, row in enumerate(rows_of())]}, split={"time": "at"})  # fmt: skip
    with pytest.raises(AllroundError, match="follow time"):
        fold_suites(Suite("s", [timed]), 3)
