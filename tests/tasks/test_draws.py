"""Splits by choice: whole groups, the latest rows, equal shares, and their sizes."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from allround.core.errors import AllroundError
from allround.tasks.make import make_task
from allround.tasks.suite import Suite
from allround.tasks.task import SPLITS, Task

Rows = list[dict[str, Any]]


def rows_of(count: int = 100) -> Rows:
    rng = np.random.default_rng(0)
    return [
        {
            "x": f"row {i}",
            "who": f"c{rng.integers(12)}",
            "day": f"2024-{1 + i % 12:02}-{1 + i % 28:02}",
            "y": "rare" if i % 20 == 0 else "ab"[i % 2],
        }
        for i in range(count)
    ]


def make(data: Any, split: dict[str, Any] | None, **changes: Any) -> Task:
    data = data if isinstance(data, dict) else {"train": data}
    options: dict[str, Any] = {"kind": "classification", "inputs": "x", "target": "y", **changes}
    return make_task("t", data=data, split=split, **options)


def of(task: Task, rows: Rows, name: str) -> dict[str, list[Any]]:
    """The values of a column in each split."""
    known = {row["x"]: row[name] for row in rows}
    return {split: [known[x] for (x,) in task.splits[split].inputs] for split in SPLITS}


def test_a_group_stays_in_one_split(tmp_path: Path) -> None:
    rows = rows_of()
    task = make(rows, {"by": "who", "test": 0.2})
    groups = {split: set(found) for split, found in of(task, rows, "who").items()}
    assert not groups["train"] & groups["test"] and not groups["train"] & groups["validation"]
    assert not groups["test"] & groups["validation"]
    sizes = {split: len(task.splits[split]) for split in SPLITS}
    assert sum(sizes.values()) == 100 and 0 < sizes["validation"] <= 10 and 10 <= sizes["test"] <= 20
    assert task.notes == (
        f"only train was given: a seeded draw of the 100 train rows makes validation ({sizes['validation']}) and test "
        f"({sizes['test']}), by whole groups of 'who'",
    )
    task.save(tmp_path / "t")
    again = Task.load(tmp_path / "t")
    assert again.rule == task.rule and list(again.splits["test"].keys) == list(task.splits["test"].keys)
    assert make(rows, None).rule is None and make(rows, None).splits["test"].keys == ()


def test_a_group_larger_than_the_split_is_better_than_none() -> None:
    rows = [{**row, "who": "ab"[i // 20]} for i, row in enumerate(rows_of(40))]
    rows += [{**row, "x": f"more {i}", "who": "c"} for i, row in enumerate(rows_of(10))]
    task = make(rows, {"by": "who"})
    assert {split: set(found) for split, found in of(task, rows, "who").items()}["validation"] == {"c"}


@pytest.mark.parametrize("split", [{"by": "day"}, {"time": "day"}])
def test_the_latest_rows_are_for_test(split: dict[str, Any]) -> None:
    rows = rows_of()
    task = make(rows, {**split, "validation": 0.1, "test": 20})
    days = of(task, rows, "day")
    assert max(days["train"]) < min(days["validation"]) <= max(days["validation"]) < min(days["test"])
    assert abs(len(days["test"]) - 20) <= 4 and abs(len(days["validation"]) - 10) <= 4
    assert "the latest of the 100 train rows by 'day' make validation" in task.notes[0]


def test_labels_that_come_late_are_left_out() -> None:
    rows = [{"x": f"row {i}", "at": float(i), "y": "late" if i > 95 else "ab"[i % 2]} for i in range(100)]
    rows[99].update(at=None, y="a")
    task = make(rows, {"time": "at"})
    assert of(task, rows, "at")["test"] == [89.0, 90.0, 91.0, 92.0, 93.0, 94.0, 95.0]
    assert "3 of 10 test rows have labels that no train row has after the draw, and are left out" in task.notes


def test_shares_are_those_of_the_rows() -> None:
    rows = rows_of()
    task = make(rows, {"stratify": "y", "validation": 0.2, "test": 0.2})
    assert {s: Counter(found) for s, found in of(task, rows, "y").items()} == {
        "train": {"a": 27, "b": 30, "rare": 3},
        "validation": {"a": 9, "b": 10, "rare": 1},
        "test": {"a": 9, "b": 10, "rare": 1},
    }
    other = make(rows, {"stratify": "y", "validation": 0.2, "test": 0.2}, target="who")
    assert other.splits["test"].inputs == task.splits["test"].inputs, "tasks on the same rows are split alike"
    of_table = make(rows, {"stratify": "y"}, table="rows")
    assert (
        of_table.splits["test"].inputs
        == make(rows, {"stratify": "y"}, table="rows", target="who").splits["test"].inputs
    )
    once = make([*rows, {"x": "z", "y": "once", "who": "z", "day": ""}], {"stratify": "y", "test": 0.5})
    assert "once" in of(once, [*rows, {"x": "z", "y": "once"}], "y")["train"]


def test_sizes_alone() -> None:
    task = make(rows_of(), {"validation": 5, "test": 0.25})
    assert [len(task.splits[s]) for s in SPLITS] == [70, 5, 25]


@pytest.mark.parametrize(
    ("split", "words"),
    [
        ({"by": "whom"}, "train has no column 'whom'"),
        ({"buy": "who"}, "`split`: there is no key 'buy'"),
        ({"by": "who", "time": "day"}, "`split` names by and time"),
        ({"time": "who"}, "cannot be read as times: it holds neither dates nor numbers, such as 'c10'"),
        ({"test": 0}, "gives test the size 0"),
        ({"test": 1.5}, "gives test the size 1.5"),
        ({"validation": True}, "gives validation the size True"),
    ],
)
def test_rules_that_make_no_sense(split: dict[str, Any], words: str) -> None:
    with pytest.raises(AllroundError) as caught:
        make(rows_of(), split)
    assert words in str(caught.value), str(caught.value)


def test_a_rule_needs_something_to_draw_and_groups_to_spare() -> None:
    rows = rows_of(40)
    with pytest.raises(AllroundError, match="all splits are given"):
        make(dict.fromkeys(SPLITS, rows), {"by": "who"})
    with pytest.raises(AllroundError, match="none of the 40 train rows can be spared for it, by whole groups of 'who'"):
        make([{**row, "who": "one"} for row in rows], {"by": "who"})


def test_a_suite_file_says_how_to_split(tmp_path: Path) -> None:
    rows = rows_of()
    (tmp_path / "a.csv").write_text("x,who,y\n" + "".join(f"{r['x']},{r['who']},{r['y']}\n" for r in rows))
    task = {"source": "a.csv", "kind": "classification", "inputs": "x", "target": "y", "split": {"by": "who"}}
    (tmp_path / "s.yml").write_text(json.dumps({"tasks": {"t": task}}))
    assert Suite.load(tmp_path / "s.yml")["t"].content == make(rows, {"by": "who"}).content
    (tmp_path / "s.yml").write_text(json.dumps({"tasks": {"t": {**task, "split": {"buy": "who"}}}}))
    with pytest.raises(AllroundError, match=r"tasks.t.split.buy: there is no such key\n.*did you mean 'by'"):
        Suite.load(tmp_path / "s.yml")
