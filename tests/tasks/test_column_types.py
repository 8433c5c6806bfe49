"""Types of a table's columns: what is understood, what can be chosen, what a stray word does, what is odd later."""

from __future__ import annotations

import datetime
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from allround.core.errors import AllroundError
from allround.tasks.column_types import ColumnType, columns_in_words, understand
from allround.tasks.definition import Definition
from allround.tasks.make import make_task
from allround.tasks.modality import modality_of
from allround.tasks.numbers import number_of, writing_of
from allround.tasks.odd_cells import odd_cells
from allround.tasks.suite import Suite
from allround.tasks.task import SPLITS, Task

TWENTY = [str(i) for i in range(20)]


def make(columns: dict[str, list[Any]], test: dict[str, list[Any]] | None = None, **changes: Any) -> Task:
    count = len(next(iter(columns.values())))
    labels = {"label": ["a", "b"] * (count // 2)}
    data = {split: {**columns, **labels} for split in SPLITS}
    if test is not None:
        data["test"] = {**test, "label": ["a"] * len(next(iter(test.values())))}
    options: dict[str, Any] = {"inputs": list(columns), "modality": "table", **changes}
    return make_task("t", kind="classification", target="label", data=data, **options)


def types(task: Task) -> list[str]:
    return [column.type for column in task.definition.columns]


def values(task: Task, place: int = 0, split: str = "train") -> list[Any]:
    return [row[place] for row in task.splits[split].inputs]


@pytest.mark.parametrize(
    ("given", "type_", "format"),
    [
        ([1, 2.5, None, True], "number", ""),
        ([*TWENTY, "unknown"], "number", ""),
        ([*TWENTY, "NA", " n/a "], "category", ""),  # nothing but digits that are text: someone made it so
        (["1,5", "2", "-0,25"], "number", ","),
        (["1.200,50", "3"], "number", ","),
        (["1,200", "12,000.5"], "number", "1,000"),
        (["01234", "99999"], "category", ""),
        (["12a"] * 2 + TWENTY[:10], "category", ""),
        ([datetime.date(2024, 1, 2), None, pd.Timestamp("2024-01-03 10:00")], "date", ""),
        (["2024-01-02"] * 10 + ["soon"], "date", ""),
        (["31.1.2024", "1.2.2024"], "date", "%d.%m.%Y"),
        (["x", "y"], "category", ""),
        ([None, "", "NA"], "number", ""),
    ],
)
def test_what_is_understood(given: list[Any], type_: str, format: str) -> None:
    found = understand(given)
    assert (found.type, found.format) == (type_, format)


def test_numbers_as_text() -> None:
    assert [number_of(text) for text in ("1_000", "٣", "0x1", "1e400", "-.5", "5.")] == [None] * 3 + [
        float("inf"),
        -0.5,
        5.0,
    ]
    assert number_of("1.234.567,8", ",") == 1234567.8 and number_of("1.23", ",") is None
    assert writing_of(["0,125", "x, y"]) == "," and writing_of(["x, y"]) == "" and writing_of(["1,000", "1,5"]) == ","


def test_one_stray_word_does_not_make_a_column_text() -> None:
    ages: list[Any] = [*TWENTY[:-1], "unknown"]
    with pytest.raises(AllroundError) as caught:
        make({"age": ages})
    assert (
        caught.value.found
        == "input 'age' holds numbers, and something else in 1 of 20 rows of train: 'unknown' (row 19)"
    )
    assert "`stray: missing`" in caught.value.do and "`types: {age: category}`" in caught.value.do
    task = make({"age": ages}, stray="missing")
    assert values(task) == [*map(float, range(19)), None] and types(task) == ["number"]
    assert task.notes[0] == "1 of 20 train cells of 'age' are not numbers and count as missing: 'unknown' (row 19)"
    as_text = make({"age": ages}, types={"age": "category"})
    assert values(make({"price": [Decimal("1.5"), Decimal(2)]})) == [1.5, 2.0]
    assert values(as_text) == ages and as_text.definition.columns[0].count == 20
    late = make({"age": list(range(20))}, {"age": [1, "many"]}, stray="missing")
    assert values(late, split="test") == [1.0, None]


def test_dates_are_kept_as_iso_and_their_facts_are_days() -> None:
    days = ["1.2.1970", "31.1.1970 06:00"] * 5
    task = make({"when": days})
    assert values(task)[:2] == ["1970-02-01", "1970-01-31T06:00:00"]
    assert task.definition.columns == (ColumnType("date", "%d.%m.%Y", low=30.25, high=31.0),)
    frame = make({"when": [pd.Timestamp("1970-02-01"), pd.Timestamp("1970-01-31 06:00")] * 5}, modality=None)
    assert frame.definition.modality == "table" and values(frame) == values(task)
    unclear = {"when": ["1/2/2024", "3/4/2024"]}
    with pytest.raises(AllroundError, match="can be read in several ways: %d/%m/%Y or %m/%d/%Y"):
        make(unclear)
    assert values(make(unclear, types={"when": "date %m/%d/%Y"})) == ["2024-01-02", "2024-03-04"]


def test_types_by_choice() -> None:
    task = make({"zip": [10001, 10002.0, None, 9]}, types={"zip": "category"})
    assert values(task) == ["10001", "10002", None, "9"]
    assert values(make({"x": ["1", "2", "NA", "3"]}, types={"x": "number"})) == [1.0, 2.0, None, 3.0]
    for wrong, words in [({"y": "date"}, "which is no input"), ({"zip": "datum"}, "did you mean 'date'?"),
                         ({"zip": "number %d"}, "such as `date %d/%m/%Y`")]:  # fmt: skip
        with pytest.raises(AllroundError, match=words):
            make({"zip": [1, 2]}, types=wrong)
    with pytest.raises(AllroundError, match="the modality is not table"):
        make({"text": ["a", "b"]}, modality="text", types={"text": "category"})


def test_texts_of_dates_and_numbers_are_columns_of_a_table() -> None:
    columns = {"when": ["2024-01-02"] * 20, "age": [*TWENTY[:-1], "?"]}
    assert types(make(columns, modality=None, stray="missing")) == ["date", "number"]
    assert make({"a": TWENTY, "b": TWENTY}, modality=None).definition.pair
    assert make({"a": ["2024 was", "good"]}, modality=None).definition.modality == "text"


def test_facts_of_columns_go_with_the_definition(tmp_path: Path) -> None:
    task = make({"n": [3, 1], "c": ["x", "y"]}, {"n": [9], "c": ["z"]})
    number, category = ColumnType("number", low=1.0, high=3.0), ColumnType("category", categories=("x", "y"), count=2)
    assert task.definition.columns == (number, category)
    assert Definition.from_json(json.loads(json.dumps(task.definition.to_json()))) == task.definition
    task.save(tmp_path / "t")
    assert Task.load(tmp_path / "t").content == task.content
    assert columns_in_words(("n", "c"), task.definition.columns) == {
        "n": "number, 1 to 3",
        "c": "category, 2 values such as 'x'",
    }
    with pytest.raises(ValueError, match="does not describe each"):
        Definition.from_json({**task.definition.to_json(), "inputs": ["n"]})


def test_cells_are_read_by_the_type_of_their_column() -> None:
    columns = {"zip": ["10001", "9"], "price": ["1,5", "2"], "when": ["1.2.1970", "2.2.1970"], "on": [True, False]}
    definition = make(columns).definition
    rules = modality_of(definition)
    assert rules.read_row(definition, ["10001", "3,5", "5.2.1970", "1"], 0) == ("10001", 3.5, "1970-02-05", 1.0)
    assert rules.read_row(definition, [10001.0, 3.5, datetime.date(1970, 2, 5), ""], 0) == (
        "10001",
        3.5,
        "1970-02-05",
        None,
    )
    assert rules.read_row(definition, ["", "soon", "soon", None], 0) == ("", None, None, None)
    old = Definition("t", "classification", ("a",), "table", "accuracy", ("x", "y"))
    assert rules.read_row(old, ["10001"], 0) == (10001.0,)


def test_what_is_odd_about_a_row() -> None:
    task = make({"n": [0, 10], "c": ["x", None], "d": ["1970-01-01", "1970-01-11"], "z": [None, None]})
    odd = lambda *cells: odd_cells(task.definition, cells)  # noqa: E731
    assert odd(15, "x", "1970-01-16", None) == odd(-5, None, "1969-12-27", "") == []
    assert odd(15.1, "y", "1970-01-17", 3) == [
        "n: 15.1 is far outside 0 to 10",
        "c: 'y' was not seen in training",
        "d: '1970-01-17' is far outside 1970-01-01 to 1970-01-11",
        "z: 3 stands where training rows have nothing",
    ]
    assert odd("ten", "x", "soon", None) == ["n: 'ten' is not a number", "d: 'soon' is not a date"]


def test_a_suite_file_with_dates_gaps_and_a_stray_word(tmp_path: Path) -> None:
    rows = [f"{18 + i},0{i % 3}123,2024-01-{i % 28 + 1:02},{'yes' if i % 2 else 'no'}" for i in range(60)]
    rows[7] = "k.A.,02123,,no"
    (tmp_path / "a.csv").write_text("\n".join(["age,zip,joined,left", *rows]) + "\n")
    about = {"source": "a.csv", "kind": "classification", "inputs": ["age", "zip", "joined"], "target": "left"}
    (tmp_path / "s.yml").write_text(json.dumps({"tasks": {"churn": about}}))
    with pytest.raises(AllroundError, match=r"input 'age' holds numbers, .* 1 of 60 rows of train: 'k.A.' \(row 7\)"):
        Suite.load(tmp_path / "s.yml")
    about |= {"stray": "missing", "types": {"zip": "category"}}
    (tmp_path / "s.yml").write_text(json.dumps({"tasks": {"churn": about}}))
    task = Suite.load(tmp_path / "s.yml")["churn"]
    assert types(task) == ["number", "category", "date"]
    assert task.definition.columns[1].categories == ("00123", "01123", "02123")
    assert sum(row[0] is None and row[2] is None for s in SPLITS for row in task.splits[s].inputs) == 1
