"""Heads that are computed from sums: pinned by hand, and the same in whatever order rows come."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from allround.continual.features import row_features
from allround.continual.head.ridge import solve
from allround.continual.heads import HeadPolicy, make_policy
from allround.continual.learning import parted
from allround.continual.rows import Memory
from allround.continual.stream import split_labels
from allround.core.errors import AllroundError
from allround.models.encoders.small_image import SmallImage
from allround.models.head import HeadState
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.suite import Suite
from allround.tasks.task import Task


@pytest.fixture(scope="module")
def model(small_image: SmallImage, digits_suite: Suite) -> MultiTaskModel:
    return MultiTaskModel(copy.deepcopy(small_image), {"digit": digits_suite["digit"].definition}).eval()


def made(policy: HeadPolicy, model: MultiTaskModel, digit: Task, order: list[int]) -> HeadState:
    """The head after the labels came two at a time, in an order of these pairs; all labels are known from the start."""
    parts = [one.tasks[0].as_defined(digit.definition) for one in split_labels(digit, 2, "class").arrivals]
    for place in order:
        head = policy.make(model, parts[place], Memory())
    return head


@pytest.mark.parametrize("name", ["ridge", "gaussian"])
def test_the_order_of_arrivals_does_not_matter(name: str, model: MultiTaskModel, digits_suite: Suite) -> None:
    digit, values = digits_suite["digit"], {"units": 60} if name == "ridge" else {}
    one, other = (made(make_policy(name, values), model, digit, order) for order in ([0, 1, 2, 3, 4], [3, 0, 4, 2, 1]))
    at_once = make_policy(name, values).make(model, digit, Memory())
    for key, value in one.items():
        assert torch.allclose(value, other[key], rtol=1e-4, atol=1e-5), key
        assert torch.allclose(value, at_once[key], rtol=1e-4, atol=1e-5), key


def test_ridge_solves_its_equations(model: MultiTaskModel, digits_suite: Suite) -> None:
    """Against a dense solution with the penalty of the least generalised cross-validation error."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 6)), rng.normal(size=(40, 2))
    found = solve(x.T @ x, x.T @ y, float((y**2).sum()), 40)
    mean = np.linalg.eigvalsh(x.T @ x).mean()
    errors = {}
    for power in range(-8, 3):
        hat = x @ np.linalg.solve(x.T @ x + 10.0**power * mean * np.eye(6), x.T)
        errors[power] = 40 * ((y - hat @ y) ** 2).sum() / (40 - np.trace(hat)) ** 2
    best = min(errors, key=errors.__getitem__)
    wanted = np.linalg.solve(x.T @ x + 10.0**best * mean * np.eye(6), x.T @ y)
    assert np.allclose(found, wanted)


def test_gaussian_is_linear_discriminant_analysis(model: MultiTaskModel, digits_suite: Suite) -> None:
    """Log odds against those of scikit-learn with the same shrunk covariance, by hand from its parts."""
    digit = digits_suite["digit"]
    head = make_policy("gaussian", {"ridge": 0.1}).make(model, digit, Memory())
    x, y = row_features(model, "digit", digit.splits["train"].inputs), np.asarray(digit.splits["train"].targets)
    means = np.stack([x[y == label].mean(0) for label in range(10)])
    within = (x - means[y]).T @ (x - means[y]) / len(x)
    within += 0.1 * within.trace() / len(within) * np.eye(len(within))
    gaps = x[:5, None] - means[None]
    logs = -np.einsum("ncj,jk,nck->nc", gaps, np.linalg.inv(within), gaps) / 2 + np.log(np.bincount(y) / len(y))
    mine = x[:5] @ head["weight"].double().numpy().T + head["bias"].double().numpy()
    assert np.allclose(mine - mine[:, :1], logs - logs[:, :1], rtol=1e-2, atol=1e-2)


def test_prototypes_are_means_of_what_is_remembered(model: MultiTaskModel, digits_suite: Suite) -> None:
    digit = digits_suite["digit"]
    memory = Memory().with_arrival([digit], model, "balanced", None, seed=0, name="all")
    head = make_policy("prototype").make(model, digit, memory)
    x = row_features(model, "digit", digit.splits["train"].inputs)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    mean = x[np.asarray(digit.splits["train"].targets) == 3].mean(0)
    assert np.allclose(head["weight"][3].numpy(), mean / np.linalg.norm(mean), atol=1e-5)
    small = split_labels(digit, 5, "class").arrivals[0].tasks[0]
    few = Memory().with_arrival([small], model, "balanced", None, seed=0, name="few")
    with pytest.raises(AllroundError, match="no row of '5' is remembered"):
        make_policy("prototype").make(model, digit, few)


@pytest.mark.parametrize("name", ["gaussian", "prototype"])
def test_kinds_that_cannot_be_computed_are_refused(name: str, small_image: SmallImage, digits_suite: Suite) -> None:
    ink = digits_suite["ink"]
    model = MultiTaskModel(copy.deepcopy(small_image), {"ink": ink.definition}).eval()
    with pytest.raises(AllroundError, match="use a strategy that trains heads"):
        make_policy(name).make(model, ink, Memory())
    assert make_policy("ridge", {"units": 8}).make(model, ink, Memory())["weight"].shape == (1, 8)


def test_a_fifth_of_remembered_rows_chooses_the_penalty(digits_suite: Suite) -> None:
    """A head that begins anew must not be judged by the rows that it is fitted on."""
    task = digits_suite["digit"]
    rows, made = task.splits["train"].inputs, parted(task).splits
    assert made["validation"].inputs == rows[::5] and len(made["train"]) == len(rows) - len(rows[::5])
    assert made["train"].inputs == [row for place, row in enumerate(rows) if place % 5]
    few = task.limit({"train": 9})
    assert parted(few).splits["validation"] is parted(few).splits["train"]
