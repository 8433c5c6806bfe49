"""TAME: experts that are switched by their loss, the network that tells them apart, and weights that are pruned."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from allround.continual.grow.switch import Switch
from allround.continual.learner import begin
from allround.continual.parts import Part
from allround.continual.pruning import KeptZeros
from allround.continual.strategy import strategy_of
from allround.continual.stream import Arrival, renamed, split_labels
from allround.core.errors import AllroundError
from allround.core.progress import Progress
from allround.models.encoders.small_image import SmallImage
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.suite import Suite
from allround.training.settings import Settings
from allround.training.trainer import train

QUICK = Settings(epochs=8, batch_size=16, learning_rate=4e-3, device="cpu", precision="fp32")


def made(encoder: SmallImage, **values: object) -> Switch:
    learner = begin(copy.deepcopy(encoder), strategy_of("tame", values))
    assert isinstance(learner, Switch)
    return learner


def test_thresholds_and_smoothed_losses_by_hand(small_image: SmallImage) -> None:
    learner, part = made(small_image, window=3, smoothing=0.5), Part("digit", 0, 0, "digit-0")
    learner.watched["losses 0"] = torch.tensor([2.0, 1.0, 1.0])
    assert learner.threshold(part) == pytest.approx(4 / 3 + 3 * math.sqrt(2 / 9))
    learner.watch(part, 1.0)
    learner.watch(part, 2.0)
    assert float(learner.watched["smoothed 0"]) == 1.5 and learner.next_smoothed(part, 3.5) == 2.5
    assert learner.watched["losses 0"].tolist() == [1.0, 1.0, 2.0], "the last three"
    learner.watched["losses 0"] = torch.tensor([0.5, 0.5])
    assert learner.threshold(part) == pytest.approx(0.5 + 3 * 0.005), "the least deviation"


@pytest.fixture(scope="module")
def switched(digits_suite: Suite, small_image: SmallImage) -> tuple[Switch, list[int], list[Arrival]]:
    """Low digits, high ones, and low ones again, each in two pieces; the expert that each piece went to."""
    low, high = split_labels(digits_suite["digit"], 5, "free").arrivals
    pieces = [one for number, arrival in enumerate((low, high, low)) for one in arrival.pieces(2, 2 * number)]
    learner, found = made(small_image, batch=8, window=2), []
    for one in pieces:
        learner.learn(one, learner.strategy, QUICK)
        found.append(int(learner.watched["current"]))
    return learner, found, pieces


def test_experts_are_switched_where_rows_change(switched: tuple[Switch, list[int], list[Arrival]]) -> None:
    learner, found, pieces = switched
    assert found == [0, 0, 1, 1, 0, 0], "rows that come again go to the expert that knows them"
    assert [part.name for part in learner.grown.parts] == ["digit-0", "digit-1"]
    digit = pieces[0].tasks[0]
    assert learner.grown.picked("digit", [*pieces[0].tasks[0].splits["train"].inputs,
                                          *pieces[2].tasks[0].splits["train"].inputs]) == (
        [0] * len(digit.splits["train"]) + [1] * len(pieces[2].tasks[0].splits["train"])
    )  # fmt: skip


def test_an_expert_that_was_left_is_pruned_and_stays_so(switched: tuple[Switch, list[int], list[Arrival]]) -> None:
    learner, _, _ = switched
    zeros = [[float((p == 0).float().mean()) for p in body.encoder.parameters() if p.dim() > 1]
             for body in learner.grown.bodies]  # fmt: skip
    assert all(share == pytest.approx(0.5, abs=0.01) for share in zeros[0]), "after it learned on, too"
    assert all(share < 0.01 for share in zeros[1]), "never left for a new one"
    network = learner.grown.select.state["hidden digit"]
    assert float((network == 0).float().mean()) == pytest.approx(0.5, abs=0.01)


def test_zeros_are_kept_in_training(small_image: SmallImage, digits_suite: Suite) -> None:
    model = MultiTaskModel(copy.deepcopy(small_image), {})
    model.add_task(digits_suite["digit"].definition)
    weight = dict(model.encoder.named_parameters())["layers.0.weight"]
    with torch.no_grad():
        weight[:16] = 0
    before = weight.detach().clone()
    train(model, [digits_suite["digit"]], QUICK.with_(epochs=1, keep="last", heads="tuned"), terms=[KeptZeros()])
    assert bool((weight[:16] == 0).all()) and not torch.equal(weight[16:], before[16:])


def test_what_cannot_be_switched_is_said(small_image: SmallImage, digits_suite: Suite) -> None:
    with pytest.raises(AllroundError, match="window 0"):
        made(small_image, window=0)
    learner, digit = made(small_image), digits_suite["digit"]
    with pytest.raises(AllroundError, match="2 tasks arrived at once"):
        learner.learn(Arrival("two", (digit, renamed(digit, "again"))), learner.strategy, QUICK)
    learner = made(small_image)
    learner.strategy = replace(learner.strategy, memory="none")
    low, high = split_labels(digit, 5, "free").arrivals
    learner.learn(low, learner.strategy, QUICK)
    with pytest.raises(AllroundError, match="no row of it is remembered"):
        learner.learn(high, learner.strategy, QUICK)


def test_a_stream_without_boundaries(digits_suite: Suite, small_image: SmallImage, tmp_path: Path) -> None:
    from allround.building.stream import stream

    (tmp_path / "base").mkdir()
    small_image.save(tmp_path / "base")
    found = stream(digits_suite, out=tmp_path / "out", task="digit", labels=5, scenario="free", strategies=["tame"],
                   base=tmp_path / "base", settings=QUICK.with_(epochs=1), workers=1,
                   progress=Progress(quiet=True))  # fmt: skip
    (course,) = found.of("tame")
    assert found.scenario == "free" and len(course.arrivals) == 2 and not course.picks, "nothing says what was picked"
    assert np.isfinite(course.ahead[1]), "all labels are known from the start"
    assert course.steps[0] == 4 * 1, "four pieces of one batch each"
