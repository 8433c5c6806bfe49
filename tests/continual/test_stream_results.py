"""What is said of a stream's courses, beside computations by hand, and the page about it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from allround.building.jobs import streams
from allround.building.single import floor
from allround.building.stream import stream
from allround.continual.learner import begin
from allround.continual.page import html
from allround.continual.pictures import LINES, curves_svg, drawn
from allround.continual.report import markdown, summary
from allround.continual.results import ArrivalOverlap, Course, StreamResults, overlap
from allround.continual.strategy import strategy_of
from allround.continual.stream import rotated
from allround.core.progress import Progress
from allround.core.seeds import seed_of
from allround.evaluation.predict import predict_split
from allround.evaluation.predictions import score
from allround.models.encoders.small_image import SmallImage
from allround.models.fitting import fit_head
from allround.tasks.suite import Suite
from allround.training.settings import Settings

NAMES = ("a", "b", "c")


def course(strategy: str, rows: list[list[float]], order: int = 0, seed: int = 0, **more: Any) -> Course:
    scores = np.full((3, 3), np.nan)
    for after, row in enumerate(rows):
        scores[after, : after + 1] = row
    return Course(strategy, order, seed, NAMES, scores, [0, 1, 2], [0] * 3, [1.0, 2.0, 3.0], [1, 2, 3], 10, **more)


def results(*courses: Course, **more: Any) -> StreamResults:
    return StreamResults("A <stream>", "class", courses, "accuracy", **more)


JOINT = [[0.9], [0.9, 0.8], [0.9, 0.8, 0.7]]
NONE = [[0.8], [0.5, 0.9], [0.1, 0.7, 0.5]]


def test_behind_is_what_joint_learns_better_by_hand() -> None:
    found = results(course("joint", JOINT), course("none", NONE))
    # (0.9 - 0.8 + 0.8 - 0.9 + 0.7 - 0.5) / 3
    assert found.behind("none").value == pytest.approx(0.2 / 3) and found.behind("joint").value == 0
    assert "forward" not in found.courses[1].measures
    ahead = np.array([np.nan, 0.2, -0.1])
    assert course("none", NONE, ahead=ahead).measures["forward"] == pytest.approx(0.05)


def test_orders_and_seeds_are_told_apart_by_hand() -> None:
    finals = {(0, 0): 0.5, (0, 1): 0.7, (1, 0): 0.9, (1, 1): 0.9}
    courses = [course("er", [[1.0], [1.0, 1.0], [value] * 3], *place) for place, value in finals.items()]
    found = results(*courses).spread("er")
    # over orders 0.6 and 0.9; within them variances 0.02 and 0
    assert found == pytest.approx((0.3 / np.sqrt(2), 0.1))
    assert results(*courses[:2]).spread("er") is None and results(courses[0], courses[2]).spread("er") is None


def test_overlap_is_that_of_principal_angles() -> None:
    """Planes of three dimensions that share a line, the others 60 degrees apart: (1 + 1/4) / 2; SciPy agrees."""
    from scipy.linalg import subspace_angles

    turned = np.array([[1.0, 0, 0], [0, 0.5, np.sqrt(0.75)]])
    flat = np.array([[1.0, 0, 0], [0, 1, 0]])
    draw = np.random.default_rng(0)
    features = [draw.normal(size=(50, 2)) @ plane + 3 for plane in (flat, turned)]
    assert overlap(features) == pytest.approx(np.array([[1, 0.625], [0.625, 1]]))
    loose = [draw.normal(size=(30, 12)) for _ in range(2)]
    spans = [np.linalg.svd(one - one.mean(0))[2][:4].T for one in loose]
    assert overlap(loose, 4)[0, 1] == pytest.approx(float(np.mean(np.cos(subspace_angles(*spans)) ** 2)))


def test_drops_follow_the_order_in_which_arrivals_came() -> None:
    values = np.array([[1.0, 0.2, 0.4], [0.2, 1.0, 0.6], [0.4, 0.6, 1.0]])
    alike = ArrivalOverlap(NAMES, values)
    found = alike.drops([course("none", NONE)])
    # b came and took 0.3 of a; c came and took 0.2 of b
    assert found == [(0.2, pytest.approx(0.3)), (0.6, pytest.approx(0.2))]
    turned = Course("none", 1, 0, ("b", "a", "c"), course("none", NONE).scores, [0], [0], [0.0], [0], 1)
    assert alike.drops([turned]) == [(0.4, pytest.approx(0.2)), (0.2, pytest.approx(0.3))], "by old, then new arrival"
    # (a, b) 0.3 at 0.2; (a, c) 0.2 at 0.4; (b, a) 0.3 at 0.2; (b, c) 0.2 at 0.6: worked by hand with ties
    assert alike.correlation([course("none", NONE), turned]) == pytest.approx(-0.9428, abs=1e-4)
    assert alike.correlation([turned]) is None, "two pairs say nothing"
    other = Course("none", 1, 0, ("x", "y", "z"), course("none", NONE).scores, [0], [0], [0.0], [0], 1)
    assert not alike.drops([other]) and alike.correlation([other]) is None
    found = results(course("none", NONE), turned, course("ridge", JOINT), course("joint", JOINT), kernel=alike)
    assert any("NTK overlap" in line and "-0.94" in line for line in summary(found))


def test_the_page_says_all_of_it_and_escapes_names() -> None:
    many = [course(f"er:bytes={n}", NONE, order, seed) for n in range(9) for order in (0, 1) for seed in (0, 1)]
    rest = [course(name, JOINT, order, seed) for name in ("none", "ridge", "joint") for order in (0, 1)
            for seed in (0, 1)]  # fmt: skip
    found = results(*many, *rest, overlap=ArrivalOverlap(NAMES, np.eye(3)), facts={"base": "<small>"})
    page = html(found)
    assert (
        "A &lt;stream&gt;" in page
        and "&lt;small&gt;" in page
        and "<script" not in page
        and "http" not in page.replace("http://www.w3.org", "")
    )
    assert len(drawn(found)) == LINES and "Not drawn: er:bytes=5" in page
    assert page.count('<table class="heat">') == 12 and 's1">10<' in page, "a fell by 70 points"
    assert any("over the seeds of an order" in line for line in summary(found))
    assert "| behind |" in markdown(found) and curves_svg(found).startswith("<svg")


def test_arrivals_are_answered_ahead_where_they_ask_the_same(
    small_image: SmallImage, digits_suite: Suite, tmp_path: Path
) -> None:
    quick = Settings(epochs=1, batch_size=16, learning_rate=1e-3, device="cpu", precision="fp32")
    folder = tmp_path / "base"
    folder.mkdir()
    small_image.save(folder)
    found = stream(digits_suite, out=tmp_path / "out", strategies=[], task="digit", rotate=2, settings=quick,
                   base=folder, workers=1, progress=Progress(quiet=True))  # fmt: skip
    first, second = rotated(digits_suite["digit"], 2).arrivals
    plan = strategy_of("none")
    learner = begin(copy.deepcopy(small_image), plan)
    learner.learn(first, plan, quick, seed=seed_of(0, "stream"))
    (task,) = second.tasks
    wanted = score(predict_split(learner.system, task, "test")) - score(floor(task))
    (none,) = found.of("none")
    assert np.isnan(none.ahead[0]) and none.ahead[1] == pytest.approx(wanted)
    assert none.measures["forward"] == pytest.approx(wanted)
    assert found.overlap is not None and found.overlap.values[0, 1] == pytest.approx(found.overlap.values[1, 0])
    assert 0 < found.overlap.values[0, 1] < 1
    assert "Forward" in (tmp_path / "out" / "stream.html").read_text()


def test_the_ntk_overlap_is_that_of_gradients_of_the_whole_network(
    small_image: SmallImage, digits_suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against gradients of one output, taken directly; and means count, where those of features are taken off."""
    digit, encoder = digits_suite["digit"], copy.deepcopy(small_image)
    found = streams.network_gradients(encoder, digit, 3)
    assert found is not None and found.shape == (3, sum(p.numel() for p in encoder.parameters()))
    head, split = fit_head(encoder, digit).state, digit.splits["train"]
    batch = encoder.batch(encoder.prepare(split.inputs[1:2], digit.definition), digit.definition)
    (encoder(batch).values[0] @ head["weight"][int(split.targets[1])]).backward()
    wanted = torch.cat([p.grad.flatten() for p in encoder.parameters() if p.grad is not None])
    assert torch.allclose(found[1], wanted, atol=1e-5)
    monkeypatch.setattr(streams, "WEIGHTS", 1000)
    some = streams.network_gradients(encoder, digit, 3)
    assert some is not None and some.shape == (3, 1000) and bool(torch.isin(some[1], found[1]).all())
    ahead, across = np.array([[2.0, 0.1], [2.0, -0.1]]), np.array([[0.1, 2.0], [-0.1, 2.0]])
    assert overlap([ahead, across], 1, centred=False).round(6).tolist() == [[1.0, 0.0], [0.0, 1.0]]
    assert overlap([ahead, ahead], 1, centred=False)[0, 1] == pytest.approx(1)
