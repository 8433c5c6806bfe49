"""Two versions compared: figures by hand, gates, the rows that got worse, and files in and out."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from allround.building.compare_versions import compare_versions
from allround.cli.app import app
from allround.core.errors import AllroundError
from allround.evaluation.intervals import Bootstrap
from allround.evaluation.predictions import Predictions
from allround.evaluation.versions import Gates, LabelFlips, as_defined, compare, mcnemar, new_errors, resampled
from allround.evaluation.versions_report import FILES, answer
from allround.tasks.definition import Definition

MOOD = Definition("mood", "classification", ("x",), "text", "accuracy", ("good", "bad", "so"))
TOPIC = replace(MOOD, name="topic")
STARS = Definition("stars", "regression", ("x",), "text", "pearson")


def said(answers: list[int], targets: list[int], definition: Definition = MOOD) -> Predictions:
    sure = [0.5 + row / 1000 for row in range(len(targets))]
    return Predictions(definition, "test", np.array(targets), np.array(answers), sure)


@pytest.fixture(scope="module")
def versions() -> tuple[dict[str, Predictions], dict[str, Predictions]]:
    """Mood: of 100 rows 12 get worse and 2 better. Topic: 3 and 3."""
    targets = [0, 1, 2, 0] * 25
    old, new = [*targets], [*targets]
    old[20:22] = [(t + 1) % 3 for t in targets[20:22]]
    new[:12] = [(t + 1) % 3 for t in targets[:12]]
    level, other = [*targets], [*targets]
    level[:3], other[50:53] = ([(t + 2) % 3 for t in targets[start : start + 3]] for start in (0, 50))
    numbers = np.linspace(0, 1, 100)
    stars = [Predictions(STARS, "test", numbers, numbers + 0.01 * np.sin(np.arange(100) * k)) for k in (1, 2)]
    before = {"mood": said(old, targets), "topic": said(level, targets, TOPIC), "stars": stars[0]}
    after = {"mood": said(new, targets), "topic": said(other, targets, TOPIC), "stars": stars[1]}
    return before, after


def test_figures_by_hand(versions: tuple[dict[str, Predictions], dict[str, Predictions]]) -> None:
    mood, topic, stars = compare(*versions)
    assert (mood.old.value, mood.new.value) == (0.98, 0.88) and round(mood.difference.value, 3) == -0.1
    assert mood.flips is not None and (mood.flips.lost, mood.flips.gained) == (12, 2)
    raw = mcnemar(12, 2)
    assert raw == pytest.approx(2 * (1 + 14 + 91) / 2**14)
    assert mood.p == pytest.approx(3 * raw) and mood.verdict == "worse", "Holm: three tasks, the least p of them"
    assert topic.p == 1.0 and topic.verdict == "no difference found" and topic.test == "mcnemar"
    assert stars.flips is None and stars.test == "bootstrap"
    assert list(mood.by_label) == [
        LabelFlips("good", 50, 6, 1),
        LabelFlips("bad", 25, 3, 1),
        LabelFlips("so", 25, 3, 0),
    ]
    assert mood.confidence == pytest.approx((0.5495, 0.5495))


def test_gates(versions: tuple[dict[str, Predictions], dict[str, Predictions]]) -> None:
    mood, topic, _ = compare(*versions)
    assert Gates().broken(mood) == []
    assert "12.0% of its rows" in Gates(max_flips=0.1).broken(mood)[0] and not Gates(max_flips=0.1).broken(topic)
    assert not Gates(max_flips=0.1, floor={"mood": 0.12}).broken(mood)
    assert Gates(max_drop=0.05).broken(mood) == ["its score falls by 10.0, more than 5.0"]
    assert Gates(no_worse_task=True).broken(mood) == ["it is worse"] and not Gates(no_worse_task=True).broken(topic)


def test_new_errors_are_those_that_the_new_version_is_surest_of(
    versions: tuple[dict[str, Predictions], dict[str, Predictions]],
) -> None:
    found = new_errors(*versions, count=4)
    assert [(one["task"], one["row"]) for one in found] == [("topic", 52), ("topic", 51), ("topic", 50), ("mood", 11)]
    assert found[3]["target"] == "good" and found[3]["before"] == "good" and found[3]["now"] == "bad"


def test_another_order_of_labels_is_no_difference() -> None:
    targets = [0, 1, 2, 0]
    one = said([0, 1, 2, 1], targets)
    turned = replace(MOOD, labels=("so", "good", "bad"))
    moved = [turned.labels.index(MOOD.labels[t]) for t in targets]
    scores = np.eye(3, dtype=np.float32)[[1, 2, 0, 2]]
    other = Predictions(turned, "test", np.array(moved), np.array([1, 2, 0, 2]), [0.5] * 4, 0.0, scores)
    same = as_defined(other, one)
    assert same.predictions.tolist() == [0, 1, 2, 1]  # type: ignore[union-attr]
    assert same.scores is not None and np.asarray(same.scores).argmax(1).tolist() == [0, 1, 2, 1]
    with pytest.raises(AllroundError, match="their labels are not the same"):
        as_defined(replace(other, definition=replace(turned, labels=("so", "good", "fine"))), one)
    with pytest.raises(AllroundError, match="no task in common"):
        compare({"mood": one}, {"topic": one})


def test_folders_of_predictions_and_the_exit_code(
    tmp_path: Path, versions: tuple[dict[str, Predictions], dict[str, Predictions]]
) -> None:
    for name, made in zip(("old", "new"), versions, strict=True):
        (tmp_path / name).mkdir()
        for task, one in made.items():
            one.save(tmp_path / name / f"{task}.parquet")
    places = [str(tmp_path / name) for name in ("old", "new")]
    ran = CliRunner().invoke(
        app, ["compare", *places, "--no-worse-task", "--max-flips", "20%", "-o", str(tmp_path / "out")]
    )
    assert ran.exit_code == 3 and "The new version: worse on mood" in ran.output
    about = json.loads((tmp_path / "out" / FILES[0]).read_text())
    assert not about["passed"] and about["tasks"]["mood"]["broken"] == ["it is worse"]
    lines = (tmp_path / "out" / FILES[2]).read_text().splitlines()
    assert len(lines) == 15 and json.loads(lines[0])["task"] == "topic"
    assert CliRunner().invoke(app, ["compare", *places]).exit_code == 0
    found = compare_versions(*places, max_flips=0.01, baseline=places[1])
    assert found.passed, "what turns between two that are meant to be alike is allowed"
    assert answer(found).startswith("The new version: worse on mood, no difference found on 2 of 3 tasks. 7.5% of 200")
    one = compare_versions(tmp_path / "old" / "mood.parquet", tmp_path / "new" / "mood.parquet")
    assert [each.task for each in one.tasks] == ["mood"]


@pytest.mark.parametrize("what", ["nothing", "empty", "no suite"])
def test_what_cannot_be_compared(what: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "allround.json").write_text("{}")
    place = {"nothing": "nowhere", "empty": "empty", "no suite": "model"}[what]
    words = {"nothing": "there is nothing there", "empty": "it has no predictions", "no suite": "no rows were given"}
    with pytest.raises(AllroundError, match=words[what]):
        compare_versions(tmp_path / place, tmp_path / place)


def test_counts_are_resampled_as_rows_are() -> None:
    """The draw of four counts against the bootstrap over rows: the same spread, to what 4,000 resamples can tell."""
    targets = [0, 1, 2, 0] * 100
    rng = np.random.default_rng(0)
    made = [said([t if rng.random() < right else (t + 1) % 3 for t in targets], targets) for right in (0.8, 0.85)]
    fast = resampled({"mood": (made[0], made[1])}, resamples=4000)
    slow = Bootstrap.make({("old", "mood"): made[0], ("new", "mood"): made[1]}, resamples=4000)
    assert fast.points == slow.points
    gaps = [drawn.task_difference("new", "old", "mood") for drawn in (fast, slow)]
    for one, other in zip(*gaps, strict=True):
        assert one is not None and other is not None and abs(one - other) < 0.004
