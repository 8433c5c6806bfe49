"""CoTASP: units of shared layers that a description chooses, weights that are held, and dictionaries that learn."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from allround.continual.dictionaries import drawn_atoms, sparse_code, updated
from allround.continual.grow.masks import HeldWeights, Masks
from allround.continual.learner import begin
from allround.continual.strategy import strategy_of
from allround.continual.stream import split_labels
from allround.core.errors import AllroundError
from allround.models.encoders.masked import Masked, step
from allround.models.encoders.small_image import SmallImage
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.suite import Suite
from allround.training.settings import Settings

QUICK = Settings(epochs=4, batch_size=16, learning_rate=5e-3, keep="last", device="cpu", precision="fp32")


def made(encoder: SmallImage, **values: object) -> Masks:
    learner = begin(copy.deepcopy(encoder), strategy_of("cotasp", {"units": [64, 32], **values}))
    assert isinstance(learner, Masks)
    return learner


def test_a_unit_that_a_code_leaves_out_counts_for_nothing(small_image: SmallImage) -> None:
    """By hand: one layer whose weights are those of the identity, and gelu(x) = x Phi(x)."""
    encoder = Masked(small_image, 3, [3], ["a"])
    with torch.no_grad():
        encoder.linear[0].weight.copy_(torch.eye(3))
        encoder.of_task("a")[0].copy_(torch.tensor([0.5, 0.0, 2.0]))
    x = torch.tensor([[1.0, 1.0, -1.0]])
    assert torch.allclose(encoder.read(x, "a"), torch.tensor([[0.841345, 0.0, -0.158655]]), atol=1e-6)
    code = torch.tensor([-1.0, 0.0, 0.2, 1.0, 3.0], requires_grad=True)
    step(code).sum().backward()
    assert code.grad is not None and code.grad.tolist() == [0.0, 0.0, 1.0, 0.0, 0.0]


def test_a_dictionary_learns_to_write_what_was_written() -> None:
    random = np.random.default_rng(0)
    atoms = drawn_atoms(24, 8, 1.0, random)
    assert np.linalg.norm(atoms, axis=1).max() <= 1
    vectors = random.normal(size=(3, 8))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    codes = np.stack([sparse_code(one, atoms, 0.05) for one in vectors])
    assert ((codes != 0).sum(1) <= 8).all() and np.linalg.norm(vectors - codes @ atoms, axis=1).max() < 0.5
    codes *= 1.3  # as if they had been learned
    after = updated(atoms, vectors, codes, 1.0, random)
    assert np.linalg.norm(vectors - codes @ after) < 0.7 * np.linalg.norm(vectors - codes @ atoms)
    unused = (codes == 0).all(0)
    cosines = after[unused] @ vectors[-1] / np.linalg.norm(after[unused], axis=1)
    assert unused.any() and cosines.mean() > 0.5, "drawn anew around the last vector"


def test_like_descriptions_share_units(small_image: SmallImage, digits_suite: Suite) -> None:
    learner, digit = made(small_image, units=[512]), digits_suite["digit"].definition

    def units(name: str) -> np.ndarray:
        code: np.ndarray = learner.written(learner.described(name, replace(digit, labels=())), 0)
        return code > 0

    def shared(one: str, other: str) -> float:
        return float((units(one) & units(other)).sum() / (units(one) | units(other)).sum())

    assert shared("is the fruit ripe", "is the fruit sweet") > shared("is the fruit ripe", "how many cars pass") + 0.05


def test_weights_between_units_of_earlier_tasks_are_held(small_image: SmallImage, digits_suite: Suite) -> None:
    low, high = split_labels(digits_suite["digit"], 5, "class").arrivals
    learner = made(small_image)
    learner.learn(low, learner.strategy, QUICK)
    (body,) = learner.grown.bodies
    masked = body.encoder
    assert isinstance(masked, Masked)
    before = {name: p.detach().clone() for name, p in masked.layers.named_parameters()}
    used = masked.masks("digit-0")
    learner.learn(high, learner.strategy, QUICK)
    after = dict(masked.layers.named_parameters())
    between = used[1][:, None] & used[0][None]
    assert torch.equal(after["0.weight"][used[0]], before["0.weight"][used[0]]), "the first layer reads all features"
    assert torch.equal(after["1.weight"][between], before["1.weight"][between])
    assert torch.equal(after["1.bias"][used[1]], before["1.bias"][used[1]])
    own = masked.masks("digit-1")
    new = own[1][:, None] & own[0][None] & ~between
    assert bool(new.any()) and bool((after["1.weight"][new] != before["1.weight"][new]).any()), "others learn"
    assert learner.bytes > 0 and set(learner.remembered) == {f"{what} {layer}" for what in ("atoms", "codes", "vectors")
                                                             for layer in (0, 1)}  # fmt: skip


def test_weights_and_codes_learn_in_turns(small_image: SmallImage, digits_suite: Suite) -> None:
    masked = Masked(small_image, 128, [8], ["digit"])
    model = MultiTaskModel(masked, {})
    model.add_task(digits_suite["digit"].definition)
    term = HeldWeights(Masked(small_image, 128, [8]), (2, 1))
    term.before(model, [digits_suite["digit"]])
    moved = []
    for _ in range(6):
        for p in (masked.linear[0].weight, masked.of_task("digit")[0]):
            p.grad = torch.ones_like(p)
        term.edit(model)
        moved.append((masked.linear[0].weight.grad is not None, masked.of_task("digit")[0].grad is not None))
    assert moved == [(True, False), (True, False), (False, True)] * 2


def test_what_cannot_be_masked_is_said(small_image: SmallImage) -> None:
    with pytest.raises(AllroundError, match=r"units is \(0,\)"):
        made(small_image, units=[0])
