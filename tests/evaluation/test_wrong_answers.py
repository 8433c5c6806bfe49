"""What a system gets wrong: counts, scores of labels, worst rows and slices, by hand; and their files."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import precision_recall_fscore_support

from allround.core.errors import AllroundError
from allround.evaluation.error_files import error_files, write_error_files
from allround.evaluation.errors import Mistake, TaskErrors, errors_of
from allround.evaluation.predictions import Predictions, score
from allround.tasks.make import make_task
from allround.tasks.task import Task

LABELS = ("a", "b", "c")


def task(kind: str, target: str, rows: int = 30, **more: Any) -> Task:
    """Texts of 1 to 30 words; every third row is German, the others English or of no language."""
    data = [
        {
            "text": " ".join(["word"] * (i + 1)),
            "label": LABELS[i % 3],
            "several": LABELS[: i % 4],
            "number": float(i),
            "language": [None, "de", "en"][i % 3],
        }
        for i in range(rows)
    ]
    splits = dict.fromkeys(("train", "validation", "test"), data)
    return make_task("t", kind=kind, inputs="text", target=target, data=splits, slices="language", **more)


def answered(one: Task, wrong: dict[int, int]) -> Predictions:
    """Right answers but for some rows; the system is the surer the later a row is."""
    targets = one.splits["test"].targets
    said = targets.copy()
    for row, answer in wrong.items():
        said[row] = answer
    return Predictions(one.definition, "test", targets, said, [row / 30 for row in range(30)])


def test_a_task_of_one_label() -> None:
    one = task("classification", "label")
    made = answered(one, {0: 1, 3: 1, 4: 2, 25: 0})  # a a b b are answered b b c a
    found = errors_of(one, made)
    assert (found.metric, found.rows, found.wrong, found.labels) == ("accuracy", 30, 4, LABELS)
    assert found.confusion == ((8, 2, 0), (1, 8, 1), (0, 0, 10))
    wanted = precision_recall_fscore_support(made.targets, made.predictions)
    for name, values in zip(("precision", "recall", "f1", "support"), wanted, strict=True):
        assert [getattr(label, name) for label in found.per_label] == pytest.approx(values.tolist())
    assert [m.row for m in found.worst] == [25, 4, 3, 0], "the surest first"
    assert found.worst[2] == Mistake(3, "word word word word", "a", "b", 0.1, None, 4)
    parts = {(s.column, s.value): (s.rows, s.score) for s in found.slices}
    assert parts == {
        ("language", None): (10, 0.8),
        ("language", "de"): (10, 0.8),
        ("language", "en"): (10, 1.0),
        ("length", "up to 10 words"): (10, 0.7),
        ("length", "11 to 20 words"): (10, 1.0),
        ("length", "21 words and more"): (10, 0.9),
    }
    assert next(s.value for s in found.slices if s.column == "length") == "up to 10 words"
    assert all(s.low is not None and s.low <= s.score <= s.high for s in found.slices if s.high is not None)


def test_tasks_of_several_labels_and_of_numbers() -> None:
    several = task("multilabel", "several")
    targets = several.splits["test"].targets
    said = targets.copy()
    said[5, 0], said[7, 2] = 0, 0
    found = errors_of(several, Predictions(several.definition, "test", targets, said))
    assert found.confusion == () and found.wrong == 2 and [m.row for m in found.worst] == [5, 7]
    assert (found.worst[0].target, found.worst[0].answer) == ("a", "")
    assert found.per_label[0].recall == pytest.approx(21 / 22) and found.per_label[0].precision == 1.0
    number = task("regression", "number", metric="mae")
    made = answered(number, {2: 0.0, 9: 9.0})
    found = errors_of(number, made)
    assert found.per_label == () and found.confusion == () and found.wrong == 2
    first = found.worst[0]
    assert first.row == 9 and first.error == pytest.approx(abs(9 - (9 * number.definition.scale + 14.5)))
    assert sum(s.score * s.rows for s in found.slices if s.column == "length") / 30 == pytest.approx(score(made))


def test_texts_are_ordered_by_their_own_scores() -> None:
    rows = [{"text": "word " * (i + 1), "answer": answer} for i, answer in enumerate(["a b", ["x", "a c"], "d", "e f"])]
    one = make_task("t", kind="text", inputs="text", target="answer", data=dict.fromkeys(("train", "test"), rows))
    made = Predictions(one.definition, "test", one.splits["test"].targets, [("b a",), ("A, c!",), ("",), ("e f",)])
    found = errors_of(one, made)
    assert (found.wrong, found.labels, found.confusion, found.per_label) == (2, (), (), ())
    assert [(m.row, m.target, m.answer, m.score) for m in found.worst] == [(0, "a b", "b a", 0.0), (2, "d", "", 0.0)]
    assert [(m.row, m.target, m.answer, m.score) for m in found.right] == [
        (1, "x / a c", "A, c!", 1.0), (3, "e f", "e f", 1.0),
    ]  # fmt: skip
    assert error_files({"t": found})["errors/t.csv"].splitlines()[0].endswith("length,score")
    near = replace(one.definition, metric="token_f1")  # "b" of "b" and of "z b"; the others share none
    made = Predictions(near, "test", one.splits["test"].targets, [("z b",), ("z",), ("",), ("z",)])
    assert [(m.row, m.score) for m in errors_of(one, made).right] == [(0, pytest.approx(2 / 3))], (
        "the best, where none is right"
    )


def test_files_are_replaced_only_where_they_are_ours(tmp_path: Path) -> None:
    one = task("classification", "label")
    found = errors_of(one, answered(one, {0: 1}))
    write_error_files(tmp_path, {"t": found, "u": found}, "build", force=False)
    write_error_files(tmp_path, {"t": found}, "build", force=False)
    assert sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.csv")) == sorted(
        ["confusion/t.csv", "errors/t.csv", "per_class.csv", "slices.csv"]
    )
    with (tmp_path / "errors" / "t.csv").open(encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert (row["row"], row["text"], row["target"], row["answer"], row["error"]) == ("0", "word", "a", "b", "")
    assert (tmp_path / "confusion" / "t.csv").read_text().splitlines()[1] == "a,9,1,0"
    (tmp_path / "slices.csv").write_text("mine")
    with pytest.raises(AllroundError, match=r"slices\.csv"):
        write_error_files(tmp_path, {"t": found}, "build", force=False)
    texts = error_files({"t": TaskErrors("mae", 3, 0)})
    assert set(texts) == {"errors/t.csv", "per_class.csv", "slices.csv"}
    assert np.isclose(found.slices[0].score, 0.9)
