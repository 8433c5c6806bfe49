"""Tasks whose rows have choices of their own, and the fields that they stand in."""

from __future__ import annotations

import datetime
from pathlib import Path

import numpy as np
import pytest

from allround.core.errors import AllroundError
from allround.models.batch import Answers
from allround.models.calibration import Calibration, Curve, Threshold, sets_of
from allround.models.prediction.cells import read_inputs
from allround.models.system import check_rows
from allround.tasks.definition import Definition
from allround.tasks.make import make_task
from allround.tasks.modality import modality
from allround.tasks.sources.stream import Objects
from allround.tasks.suite import Suite
from allround.tasks.task import Task

CHOICES = [["red", "blue"], ["2", "3", "5"], ["a", "b", "c", "d"]]


def quiz(targets, lists=CHOICES, **words) -> Task:
    """Questions with these choices and targets."""
    rows = [{"q": f"q{i}", "c": c, "a": a} for i, (c, a) in enumerate(zip(lists, targets, strict=True))]
    words = {"kind": "multiple_choice", "inputs": ["q", "c"], "target": "a", "choices": "c", **words}
    return make_task("quiz", data=dict.fromkeys(("train", "validation", "test"), rows), **words)


@pytest.mark.parametrize("targets", [[1, 2, 0], ["1", "2", "0"], ["B", "(c)", "a."], ["blue", 5, "a"]])
def test_targets_are_places_letters_or_texts(targets, tmp_path: Path) -> None:
    task = quiz(targets)
    assert task.splits["test"].targets.tolist() == [1, 2, 0] and task.splits["test"].targets.dtype == np.int64
    assert task.definition.labels == ("A", "B", "C", "D") and task.definition.modality == "fields"
    task.save(tmp_path / "t")
    again = Task.load(tmp_path / "t")
    assert again.content == task.content and again.splits["test"].inputs == task.splits["test"].inputs


@pytest.mark.parametrize(
    ("targets", "choices", "found"),
    [
        ([1, 2, 4], CHOICES, "no choice of its row in 3 of 9 rows.*'4' in row 2 of train, which has 4.*its place"),
        (["B", "C", "green"], CHOICES, "names no choice of its row in 3 of 9 rows, such as 'green' in row 2 of train"),
        ([1, 2, 0], [["red"], *CHOICES[1:]], r"in 1 of 3 rows: row 0 has only one choice, \['red'\]"),
        ([1, 2, 0], [["red", "red "], *CHOICES[1:]], "row 0 has the same choice twice"),
        ([1, 2, 0], [["red", " "], *CHOICES[1:]], "row 0 has a blank choice"),
        ([1, 2, 0], [[], *CHOICES[1:]], r"not a list of texts in 1 of 3 rows, such as \[\] in row 0"),
        ([1, 2, 0], ["red", "blue", "green"], "row 0 has no list of choices, 'red'"),
        ([1, 2, 0], ["red", ["a", "b"], ["c", "d"]], "input 'c' of train is not a list of texts in 1 of 3 rows"),
        (["1", "2", "1"], [["1", "2"], ["1", "2", "3"], ["2", "1"]], "can be read in two ways: '1' in row 0 of train"),
    ],
)
def test_what_names_no_choice_is_an_error_with_its_rows(targets, choices, found) -> None:
    with pytest.raises(AllroundError, match=f"(?s){found}"):
        quiz(targets, choices)


def test_words_that_make_no_sense_are_refused() -> None:
    for words, found in (
        ({"choices": None}, "has choices of its own, and nothing says where"),
        ({"choices": "d"}, "names the column 'd', which is no input"),
        ({"kind": "text"}, "names the column 'c', and the kind is text.*use kind: multiple_choice"),
        ({"labels": {1: "x"}}, "`labels` is set"),
        ({"modality": "table"}, "the modality is table, and only language models answer.*one of: fields"),
        ({"metric": "f1"}, "'f1' is for"),
    ):
        with pytest.raises(AllroundError, match=f"(?s){found}"):
            quiz([1, 2, 0], **words)
    plain = quiz([1, 2, 0]).definition.to_json()
    with pytest.raises(ValueError, match="names no column of choices"):
        Definition.from_json({**plain, "prompt": {}})


def test_places_that_seem_to_be_counted_from_one_are_noted() -> None:
    assert "no target 'a' is 0" in " ".join(quiz([1, 2, 3]).notes)
    assert "no target" not in " ".join(quiz([1, 2, 0]).notes)


def test_shots_answer_with_the_text_of_the_right_choice() -> None:
    shots = quiz([1, 2, 0], shots=3).definition.prompt.demonstrations
    assert {shot.inputs: shot.answer for shot in shots} == {
        ("q0", "A. red\nB. blue"): "blue",
        ("q1", "A. 2\nB. 3\nC. 5"): "5",
        ("q2", "A. a\nB. b\nC. c\nD. d"): "a",
    }


def test_a_split_may_have_letters_that_train_lacks() -> None:
    rows = [{"q": f"q{i}", "c": ["x", "y"], "a": i % 2} for i in range(9)]
    test = [{"q": "z", "c": ["x", "y", "w"], "a": 2}]
    words = {"kind": "multiple_choice", "inputs": ["q", "c"], "target": "a", "choices": "c"}
    task = make_task("quiz", data={"train": rows, "test": test}, **words)
    assert task.definition.labels == ("A", "B", "C") and task.splits["test"].targets.tolist() == [2]
    assert Suite("s", [task]).weighed("balanced")["quiz"].definition == task.definition


def test_questions_of_models_are_checked_too() -> None:
    definition = quiz([1, 2, 0]).definition
    check_rows(definition, [("q", ["x", "y"])])
    with pytest.raises(AllroundError, match="input 1 has only one choice"):
        check_rows(definition, [("q", ["x", "y"]), ("q", ["x"])])
    cells = ['["x", "y"]', "x or y", ["x", "x"]]
    window = Objects(0, [{"q": "a", "c": cell} for cell in cells])
    found = read_inputs(definition, window)
    assert found.rows == [("a", ["x", "y"])]
    assert found.broken == {1: "the row has no list of choices", 2: "the row has the same choice twice"}


def test_what_a_row_does_not_have_is_no_answer_of_a_calibrated_system() -> None:
    definition = quiz([1, 2, 0]).definition
    scores = np.array([[0.25, 0.75, 0.0, 0.0]])
    made = Calibration(curves=(Curve((0.0, 1.0), (0.2, 0.8)),) * 4)
    assert made.apply(scores, definition) == pytest.approx(np.array([[0.35 / 1.0, 0.65 / 1.0, 0, 0]]))
    assert sets_of(Answers(np.array([1]), None, scores), Threshold(0.9, None), definition) == [["B", "A"]]


def test_columns_of_fields_are_texts_numbers_or_lists() -> None:
    def refuse(found: str, do: str) -> AllroundError:
        return AllroundError("read", found, do)

    def read(*column, test=()):
        return modality("fields").read("x", {"train": column, "test": list(test) or list(column)}, refuse)["train"]

    assert read(1, 2.5) == [1.0, 2.5] and read(2**53 + 1, 1) == [str(2**53 + 1), "1"]
    assert read(1, "two", True) == ["1", "two", "True"]
    assert read(datetime.date(2024, 2, 29)) == ["2024-02-29"]
    assert read('["a", "b"]', ["c", 1.0]) == [["a", "b"], ["c", "1"]]
    assert read('["a", "b"]', "[1] a note") == ['["a", "b"]', "[1] a note"]  # texts, of which one looks like a list
    for odd, words in (
        (None, "is missing in 1 of 2"),
        ({"a": 1}, r"such as \{'a': 1\} in row 1"),
        ("\ud800", "Unicode"),
    ):
        with pytest.raises(AllroundError, match=words):
            read("a", odd)
    rules = modality("fields")
    assert [rules.parse(cell, 0) for cell in ('["a", "b"]', 3, "3", "[a]", ("x",))] == [
        ["a", "b"],
        3.0,
        "3",
        "[a]",
        ["x"],
    ]
    assert not rules.fits(float("nan")) and not rules.fits([1]) and not rules.fits(True)


@pytest.mark.parametrize(
    ("inputs", "words", "found"),
    [
        (["text"], {"prompt": "{text}"}, "text"),
        (["text", "more"], {"prompt": "{text}"}, "text"),
        (["text", "more", "date"], {"prompt": "{text}"}, "fields"),
        (["text", "size"], {"prompt": "{text}"}, "fields"),
        (["size"], {"prompt": "{size}"}, "fields"),
        (["date"], {"prompt": "{date}"}, "text"),
        (["words"], {"prompt": "{words}"}, "text"),
        (["text", "size"], {}, "table"),
        (["date"], {}, "table"),
        (["text", "size"], {"kind": "text"}, "fields"),
        (["text"], {"kind": "text"}, "text"),
    ],
)
def test_the_modality_of_what_is_put_to_a_language_model(inputs, words, found) -> None:
    row = {"text": "a", "more": "b", "date": "2024-02-29", "size": 3, "words": ["a", "b"]}
    rows = [{**row, "text": f"a {i}", "target": "xy"[i % 2]} for i in range(6)]
    words = {"kind": "classification", **words}
    task = make_task("t", inputs=inputs, target="target", data=dict.fromkeys(("train", "test"), rows), **words)
    assert task.definition.modality == found
