"""Tasks whose answers are texts: how targets are read, kept and checked, and what cannot answer them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from allround.core.errors import AllroundError
from allround.models.boosting import can_boost
from allround.models.plain.linear import reader_of
from allround.tasks.checks.run import check_task, task_facts
from allround.tasks.definition import Definition
from allround.tasks.folds import fold_suites
from allround.tasks.make import make_task
from allround.tasks.suite import Suite
from allround.tasks.task import Task


def sums(answers, **words) -> Task:
    """Questions whose answers are given by their number."""
    rows = [{"q": f"question {i}", "a": answer, "other": None if i % 2 else "also"} for i, answer in enumerate(answers)]
    words = {"target": "a", "inputs": "q", "kind": "text", **words}
    return make_task("sums", data=dict.fromkeys(("train", "validation", "test"), rows), **words)


def test_targets_are_texts_lists_and_numbers(tmp_path: Path) -> None:
    task = sums(["four", ["4", "four", "4"], 4, 2.5, np.array(["x", "y"])])
    assert task.splits["test"].targets == [("four",), ("4", "four"), ("4",), ("2.5",), ("x", "y")]
    assert task.definition.metric == "exact_match" and task.definition.prompt is not None
    task.save(tmp_path / "t")
    assert Task.load(tmp_path / "t").content == task.content
    assert Task.load(tmp_path / "t").splits["train"].targets == task.splits["train"].targets
    assert task.splits["train"].take([1, 0]).targets == [("4", "four"), ("four",)]
    assert task.content != sums(["four", ["4", "five"], 4, 2.5, ["x", "y"]]).content
    assert sums(["a", "a\0"]).content != sums(["a", "a"]).content


def test_several_target_columns_are_accepted_answers_of_which_some_may_be_empty() -> None:
    assert sums(["x", "y"], target=["a", "other"]).splits["train"].targets == [("x", "also"), ("y",)]


@pytest.mark.parametrize(
    ("answers", "words", "found"),
    [
        (["x", "", "y", None], {}, "target 'a' of train is empty in 2 of 4 rows, first in row 1"),
        (["x", " \n", ["y", ""]], {}, "is empty in 2 of 3 rows, first in row 1"),
        (["x", []], {}, "is empty in 1 of 2 rows, first in row 1"),
        (["x", {"y": 1}], {}, r"neither a text nor a list of texts in 1 of 2 rows, such as \{'y': 1\} in row 1"),
        (["x", "\ud800"], {}, "not valid Unicode in row 1"),
        (["x", "y"], {"labels": {"x": "z"}}, "`labels` is set, and this target has no values to name"),
        (["x", "y"], {"metric": "accuracy"}, "'accuracy' is for"),
    ],
)
def test_what_is_no_answer_is_an_error_that_names_rows(answers, words, found) -> None:
    with pytest.raises(AllroundError, match=found):
        sums(answers, **words)


def test_rows_without_an_answer_can_be_left_out() -> None:
    task = sums(["x", "", ["y"], [], " "], missing="drop")
    assert task.splits["train"].targets == [("x",), ("y",)]
    assert "3 of 5 train rows have no target and are left out" in task.notes


def test_checks_folds_and_draws_take_texts() -> None:
    rows = [{"q": f"question {i}", "a": [f"{i}", "x"]} for i in range(40)]
    task = make_task("sums", kind="text", inputs="q", target="a", data={"train": rows})
    assert {name: len(split) for name, split in task.splits.items()} == {"train": 32, "validation": 4, "test": 4}
    assert [finding.code for finding in check_task(task)] == ["few_test_rows"]
    assert task_facts(task, [])["counts"] == {}
    folds = [fold["sums"] for fold in fold_suites(Suite("s", [task]), 4)]
    tested = [answers[0] for fold in folds for answers in fold.splits["test"].targets]
    assert sorted(map(int, tested)) == list(range(40))
    with pytest.raises(AllroundError, match="has no labels"):
        task.weighed("balanced")
    assert Suite("s", [task]).weighed("balanced", 2.0)["sums"].definition == task.definition


def test_answers_that_hold_their_own_end_are_found() -> None:
    task = sums([["one\nstep", "two"], ["four\nfive", "a\nb"], "six"], stop=["\n"])
    (found,) = [one for one in check_task(task) if one.code == "answers_end_early"]
    assert found.words == (
        "the answers of 1 of 3 train rows, 1 of 3 validation rows and 1 of 3 test rows hold a text of `stop`, which "
        "ends what a model writes: 'four\\nfive', 'four\\nfive' and 1 more"
    )
    assert "answers_end_early" not in [one.code for one in check_task(sums(["one\nstep", "two", "six"], stop=["\t"]))]


def test_trees_and_linear_models_leave_texts_to_language_models() -> None:
    for modality in ("text", "table"):
        definition = Definition("t", "text", ("x",), modality, "exact_match")
        assert reader_of(definition) is None and not can_boost(definition)
