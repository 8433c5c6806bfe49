"""What is said of answers that rank passages: which are wrong, how they are shown, what changed between versions."""

from __future__ import annotations

from typing import Any

import pytest

from allround.core.errors import AllroundError
from allround.evaluation.errors import errors_of
from allround.evaluation.flips import flips_of
from allround.evaluation.predictions import Predictions, score
from allround.tasks.make import make_task

CORPUS = {f"p{i}": f"text {i}" for i in range(20)}
ROWS = [{"query": f"query {i}", "relevant": {f"p{i}": 2, f"p{i + 1}": 1}} for i in range(4)]
TASK = make_task("find", kind="retrieval", inputs="query", target="relevant", passages=CORPUS,
                 data=dict.fromkeys(("train", "validation", "test"), ROWS))  # fmt: skip


def predictions(*ranked: tuple[str, ...]) -> Predictions:
    return Predictions(TASK.definition, "test", TASK.splits["test"].targets, list(ranked))


def test_an_answer_is_wrong_where_its_first_passage_is_not_relevant() -> None:
    every = tuple(CORPUS)
    made = predictions(("p0", "p1"), ("p5", "p1"), every[10:], ("p4", "p3"))
    found = errors_of(TASK, made, resamples=20)
    assert found.wrong == 2 and [one.row for one in found.worst] == [2, 1]
    worst = found.worst[0]
    assert (worst.text, worst.target, worst.score) == ("query 2", "p2 (2) / p3", 0.0)
    assert worst.answer == " / ".join(every[10:20]) and worst.length == 2
    assert [one.row for one in found.right] == [0, 3]


def test_versions_differ_in_the_rows_whose_first_passage_became_relevant_or_not() -> None:
    before = predictions(("p0",), ("p9",), ("p2",), ("p8",))
    after = predictions(("p1",), ("p1",), ("p7",), ("p9",))
    found = flips_of(before, after)
    assert found is not None and (found.lost, found.gained, found.changed) == (1, 1, 1)
    assert score(before) == pytest.approx((2 + 0 + 2 + 0) / (2 + 1 / 1.584962500721156) / 4)


@pytest.mark.parametrize(
    ("targets", "said", "found"),
    [([{}], [("a",)], "the target of row 0 is {}"), ([("a",)], [("a",)], "the target of row 0"),
     ([{"a": 1.0}], [("a", "a")], "the prediction of row 0"), ([{"a": 1.0}], [["a"]], "the prediction of row 0"),
     ([{"a": float("nan")}], [("a",)], "the target of row 0"), ([{"a": 1.0}], [(1,)], "the prediction of row 0")],
)  # fmt: skip
def test_what_is_no_ranking_is_refused(targets: Any, said: Any, found: str) -> None:
    with pytest.raises(AllroundError, match=found):
        Predictions(TASK.definition, "test", targets, said)
