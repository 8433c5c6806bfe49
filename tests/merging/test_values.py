"""Pinned numbers of every merge method, by hand or from the authors' own code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from allround.core import registry
from allround.merging.methods.average import average
from allround.merging.methods.task_arithmetic import task_arithmetic
from allround.merging.methods.ties import ties

BASE = torch.tensor([1.0, -2.0, 0.5, 0.0])
DELTAS = torch.tensor([[0.5, 1.0, -1.0, 0.0], [1.5, -1.0, -0.5, 0.25]])


def test_every_method_is_pinned() -> None:
    """Each has a test named after it, here or in a file beside this one."""
    texts = [path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_values*.py")]
    tests = {name for text in texts for name in re.findall(r"^def test_(\w+)", text, re.MULTILINE)}
    missing = [m for m in registry.names("merge") if not any(f"{t}_".startswith(f"{m}_") for t in tests)]
    assert not missing


def test_average() -> None:
    assert average(BASE, DELTAS).tolist() == [2.0, -2.0, -0.25, 0.125]
    tuned = BASE + DELTAS
    assert torch.allclose(average(BASE, DELTAS), tuned.mean(0))


def test_average_of_one_is_that_one() -> None:
    assert torch.equal(average(BASE, DELTAS[:1]), BASE + DELTAS[0])


def test_task_arithmetic() -> None:
    assert task_arithmetic(BASE, DELTAS, scale=0.5).tolist() == [2.0, -2.0, -0.25, 0.125]
    assert task_arithmetic(BASE, DELTAS, scale=1.0).tolist() == [3.0, -2.0, -1.0, 0.25]
    assert task_arithmetic(BASE, DELTAS, scale=0.0).tolist() == BASE.tolist()
    assert task_arithmetic(BASE, DELTAS).tolist() == pytest.approx([1.6, -2.0, 0.05, 0.075])


def test_task_arithmetic_negates_a_task() -> None:
    """The paper's negation: the change of one task, taken away."""
    assert task_arithmetic(BASE, DELTAS[:1], scale=-1.0).tolist() == [0.5, -3.0, 1.5, 0.0]


def test_task_arithmetic_at_one_over_k_is_the_average() -> None:
    assert torch.allclose(task_arithmetic(BASE, DELTAS, scale=0.5), average(BASE, DELTAS))


def test_ties_by_hand() -> None:
    """keep 1/2 of four: the two largest of each row stay.

    rows        4   .1  -2   0        2   .2   3   0
    trimmed     4    0  -2   0        2    0   3   0
    elected     +    0   +   0
    agree     4, 2   -   3   -   ->   3    0   3   0
    """
    deltas = torch.tensor([[4.0, 0.1, -2.0, 0.0], [2.0, 0.2, 3.0, 0.0]])
    assert ties(torch.zeros(4), deltas, keep=0.5).tolist() == [3.0, 0.0, 3.0, 0.0]
    assert ties(BASE, deltas, keep=0.5, scale=2.0).tolist() == [7.0, -2.0, 6.5, 0.0]


def test_ties_keeps_all_when_told() -> None:
    deltas = torch.tensor([[1.0, -1.0, 3.0], [3.0, -2.0, -1.0], [-1.0, 0.0, -1.0]])
    # sums 3, -3, 1; those that agree: 1 and 3, -1 and -2, 3 alone
    assert ties(torch.zeros(3), deltas, keep=1.0).tolist() == [2.0, -1.5, 3.0]


def test_ties_trims_each_model_on_its_own_and_within_one_tensor() -> None:
    deltas = torch.tensor([[100.0, 90.0, 80.0, 70.0], [0.1, 0.4, 0.3, 0.2]]).reshape(2, 2, 2)
    # one of four each: 100, and 0.4
    assert ties(torch.zeros(2, 2), deltas, keep=0.25).flatten().tolist() == pytest.approx([100.0, 0.4, 0.0, 0.0])


@pytest.mark.parametrize(("keep", "count"), [(0.01, 1), (0.1, 1), (0.19, 1), (0.2, 2), (0.7, 7), (0.95, 9), (1.0, 10)])
def test_ties_keeps_the_share_rounded_down_and_at_least_one(keep: float, count: int) -> None:
    delta = torch.arange(1.0, 11.0)[None]
    assert int((ties(torch.zeros(10), delta, keep=keep) != 0).sum()) == count


def test_ties_keeps_equals_at_the_threshold() -> None:
    assert ties(torch.zeros(4), torch.tensor([[1.0, -1.0, 1.0, 0.5]]), keep=0.25).tolist() == [1.0, -1.0, 1.0, 0.0]


def test_ties_with_signs_that_cancel_elects_plus() -> None:
    """As mergekit does; the authors' code would elect the majority sign of the other weights, here plus as well."""
    deltas = torch.tensor([[1.0, 5.0], [-1.0, 5.0]])
    assert ties(torch.tensor([3.0, 0.0]), deltas, keep=1.0).tolist() == [4.0, 5.0]


# Three changes of ten weights, merged by the authors' own code (`ties_merging` of src/ties_minimal.ipynb in
# github.com/prateeky2806/ties-merging, merge_func "dis-mean"). That code keeps int(K * 10) + 1 weights of each
# change where it is asked for a share K, so our `keep` is (int(K * 10) + 1) / 10.
AUTHORS_DELTAS = torch.tensor(
    [
        [1.50, -0.25, 0.75, -2.00, 0.10, 0.05, 3.00, -0.60, 0.00, 0.40],
        [-1.00, 0.50, 2.25, -1.75, 0.20, -0.90, 0.30, 1.25, 0.15, -0.35],
        [0.80, -1.10, -2.50, 0.45, 1.60, 0.70, -0.05, 0.65, 2.00, 0.55],
    ]
)
AUTHORS_MERGED = {
    0.3: [1.5, 0.0, -2.5, -1.875, 1.6, 0.0, 3.0, 1.25, 2.0, 0.0],  # K = 0.2
    0.5: [1.15, -1.1, 1.5, -1.875, 1.6, -0.9, 3.0, 1.25, 2.0, 0.0],  # K = 0.4
    0.8: [1.15, -0.675, 1.5, -1.875, 0.85, -0.9, 1.65, 0.95, 2.0, 0.475],  # K = 0.7
}


@pytest.mark.parametrize(("keep", "merged"), AUTHORS_MERGED.items())
def test_ties_equals_the_authors_code(keep: float, merged: list[float]) -> None:
    assert ties(torch.zeros(10), AUTHORS_DELTAS, keep=keep).tolist() == pytest.approx(merged, abs=1e-6)
    base = torch.linspace(-1, 1, 10)
    expected = base + 0.4 * torch.tensor(merged)
    assert torch.allclose(ties(base, AUTHORS_DELTAS, keep=keep, scale=0.4), expected, atol=1e-6)
    square = ties(base.reshape(2, 5), AUTHORS_DELTAS.reshape(3, 2, 5), keep=keep, scale=0.4)
    assert torch.allclose(square, expected.reshape(2, 5), atol=1e-6), "the shape of a weight does not matter"
