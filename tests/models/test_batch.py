"""What passes between a model's parts: features of some rows, losses, answers put together and in another order."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from allround.models.batch import Answers, Batch, Features, Targets, TaskLoss, per_row, positions


@st.composite
def rows_of(draw: st.DrawFn) -> tuple[list[int], list[int]]:
    """Words of each row, and some of the rows, ascending."""
    lengths = draw(st.lists(st.integers(0, 4), min_size=1, max_size=8))
    return lengths, sorted(draw(st.sets(st.integers(0, len(lengths) - 1))))


@given(rows_of())
def test_features_of_some_rows_are_those_of_their_words(given_: tuple[list[int], list[int]]) -> None:
    lengths, rows = given_
    values = torch.arange(2.0 * sum(lengths)).view(-1, 2)
    parts = per_row(values, lengths)
    assert [len(part) for part in parts] == lengths
    found = Features(values, tuple(lengths)).take(rows, len(lengths))
    assert torch.equal(found.values, torch.cat([values[:0], *(parts[row] for row in rows)]))
    assert found.lengths == tuple(lengths[row] for row in rows)
    places = positions(rows, lengths)
    assert torch.equal(values[places], found.values) and places.tolist() == sorted(places.tolist())


@given(rows_of())
def test_features_with_one_vector_a_row_have_no_lengths(given_: tuple[list[int], list[int]]) -> None:
    count, rows = len(given_[0]), given_[1]
    found = Features(torch.arange(3.0 * count).view(-1, 3)).take(rows, count)
    assert found.values[:, 0].tolist() == [3.0 * row for row in rows] and found.lengths == ()


def test_all_rows_are_taken_as_they_are() -> None:
    features = Features(torch.randn(3, 2), (2, 0, 1))
    assert features.take([0, 1, 2], 3) is features


def test_gradients_go_to_the_rows_that_are_taken_alone() -> None:
    values = torch.randn(4, 2, requires_grad=True)
    Features(values, (1, 2, 1)).take([1], 3).values.sum().backward()
    assert values.grad is not None and values.grad[:, 0].tolist() == [0, 1, 1, 0]


def test_a_loss_is_a_mean_and_its_extra_terms_are_added_once() -> None:
    mean = torch.tensor(2.0, requires_grad=True)
    plain = TaskLoss(mean, 5)
    assert plain.value is mean and plain.sum.item() == 10
    more = TaskLoss(mean, 5, {"penalty": 3 * mean, "other": torch.tensor(0.5)})
    assert more.value.item() == 8.5 and more.sum.item() == 10, "the sum is of the single losses"
    more.value.backward()
    assert mean.grad is not None and mean.grad.item() == 4


ROWS = {
    "arrays": Answers(np.array([3, 1, 2]), [0.3, 0.1, 0.2], np.arange(6.0).reshape(3, 2)),
    "lists": Answers([np.array([1]), np.array([0, 2]), np.array([], dtype=np.int64)], [0.1, 0.2, 1.0],
                     [np.ones((1, 3)), np.zeros((2, 3)), np.ones((0, 3))]),
    "numbers": Answers(np.array([0.5, -1.0, 2.0])),
}  # fmt: skip


def alike(one: Answers, other: Answers) -> bool:
    def same(first: object, second: object) -> bool:
        if isinstance(first, list) and isinstance(second, list):
            return len(first) == len(second) and all(map(np.array_equal, first, second))
        return np.array_equal(np.asarray(first), np.asarray(second)) if first is not None else second is None

    assert len(one) == len(other)
    return (same(one.predictions, other.predictions) and one.confidence == other.confidence
            and same(one.scores, other.scores))  # fmt: skip


@pytest.mark.parametrize("sort", list(ROWS))
def test_answers_that_are_taken_apart_join_to_what_they_were(sort: str) -> None:
    whole = ROWS[sort]
    assert len(whole) == 3
    parts = [whole.take([row]) for row in range(3)]
    assert [len(part) for part in parts] == [1, 1, 1]
    assert alike(Answers.join(parts), whole)
    turned = whole.take([2, 0, 1])
    assert not alike(turned, whole) and alike(turned.take([1, 2, 0]), whole)
    assert alike(Answers.join([turned.take([1, 2]), turned.take([0])]), whole)
    assert Answers.join([whole]) is whole


def test_answers_joined_have_confidence_and_scores_where_their_parts_have() -> None:
    joined = Answers.join([ROWS["numbers"], ROWS["numbers"]])
    assert joined.confidence is None and joined.scores is None and len(joined) == 6
    joined = Answers.join([ROWS["lists"], ROWS["lists"]])
    assert joined.confidence == [0.1, 0.2, 1.0] * 2 and joined.scores is not None and len(joined.scores) == 6


def test_a_batch_knows_its_task_where_it_is_one() -> None:
    rows = {"a": (0, 1), "b": (1,)}
    targets = {"a": Targets((0, 1), torch.tensor([1.0, 2.0]))}
    batch = Batch({"x": torch.ones(2, 3)}, 2, rows=rows, targets=targets)
    assert batch.task is None, "rows of two tasks"
    assert Batch({}, 2, rows={"a": (0, 1)}).task == "a" and Batch({}, 2).task is None
    moved = batch.to(torch.device("meta"))
    assert moved.rows == rows and moved.size == 2
    assert moved.tensors["x"].is_meta and moved.targets["a"].values.is_meta and moved.targets["a"].rows == (0, 1)
