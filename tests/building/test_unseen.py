"""Builds with tasks that nothing is trained on: held-out ones, and guards that may rule a system out."""

from __future__ import annotations

import html
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from allround.building import Build, Constraints, Options, build
from allround.building.judge import Judge
from allround.building.run import forecast_build
from allround.building.stages.adapt import lack
from allround.building.stages.scoring import Scored
from allround.core import plugins
from allround.core.errors import AllroundError
from allround.core.plugins import use_plugin
from allround.core.progress import Progress
from allround.evaluation.predictions import Predictions
from allround.evaluation.scoreboard import Scoreboard
from allround.evaluation.scoreboard.adapted import AdaptedPair, adapted_scores
from allround.models.encoders.small_image import SmallImage
from allround.models.system import load
from allround.tasks.definition import Definition
from allround.tasks.few import few_of, few_rows
from allround.tasks.suite import Suite
from allround.tasks.task import Split
from allround.training.settings import Settings

#: A head without weights, as those of language models are: the first features are the outputs.
DIRECT = '''"""Direct: the first features are the outputs."""

import torch

from allround.core.registry import method
from allround.models.head import OutputHead


@method(family="head", source="a test")
class Direct(OutputHead):
    """The first features are the outputs."""

    sort = "direct"

    def __init__(self, definition, width):
        super().__init__(definition, width)
        self.register_buffer("one", torch.ones(1))

    def reset(self):
        self.one.zero_()

    def forward(self, values):
        return values[:, : self.outputs] * self.one

    def fit(self, train, targets, score):
        return {0.0: score()}
'''


@pytest.fixture(scope="module")
def base(small_image: SmallImage, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "small_image"
    folder.mkdir()
    small_image.save(folder)
    return folder


@pytest.fixture(scope="module")
def suite(digits_suite: Suite) -> Suite:
    """Two tasks to train on; a held-out one, and a guard that asks what one of the first two asks."""
    tasks = [task.limit({"train": 30, "validation": 15, "test": 20}) for task in digits_suite]
    guard = replace(tasks[0], definition=replace(tasks[0].definition, name="again", role="guard"))
    return Suite("four", [*tasks, guard]).holding_out("segments")


def options(**changes: object) -> Options:
    settings = Settings(epochs=1, batch_size=20, precision="fp32")
    plain = {"settings": settings, "workers": 1, "methods": ("average",), "balance": (), "trials": 2,
             "resamples": 100, "head": "direct", "baselines": False}  # fmt: skip
    return Options(**{**plain, **changes})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def made(suite: Suite, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Build]:
    folder = tmp_path_factory.mktemp("unseen")
    file = folder / "direct.py"
    file.write_text(DIRECT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plugins, "_named", {})  # no later test of the process is to know the plug-in
        use_plugin(file)
        out = folder / "run"
        yield build(suite, out=out, base=base, options=options(adapt=8), progress=Progress(out / "log.txt", quiet=True))


def pieces(out: Path) -> list[str]:
    log = (out / "log.txt").read_text().split(" s  suite ")[-1]
    return [re.sub(r"-[0-9a-f]{12}$", "", line) for line in re.findall(r"made  (.+?)(?:  \(|$)", log, re.M)]


def test_nothing_is_trained_on_a_task_that_is_held_out(made: Build, suite: Suite, base: Path, tmp_path: Path) -> None:
    names = pieces(made.folder)
    assert {"specialist-digit", "specialist-ink", "joint"} <= set(names)
    assert not {name for name in names if name.startswith("specialist-") and name[11:] not in ("digit", "ink")}
    # A build of the two tasks alone finds what was trained: it follows from nothing else.
    out = tmp_path / "run"
    shutil.copytree(made.folder, out)
    build(suite.to_train, out=out, base=base, options=options(), progress=Progress(out / "log.txt", quiet=True))
    again = pieces(out)
    assert not {name for name in again if re.match("joint|specialist|head|merge|try", name)}, again


def test_means_are_over_what_was_trained_and_held_out_tasks_stand_apart(made: Build) -> None:
    board = made.scoreboard
    assert list(board.trained) == ["digit", "ink"]
    for system in ("joint", "average"):
        kept = [board.cells[system][task].retention or 0.0 for task in ("digit", "ink")]
        assert board.mean[system].value == pytest.approx(np.mean(kept))
        assert board.worst[system].task in ("digit", "ink")
        transfer = (board.transfer or {})[""][system]
        assert transfer.score.value == board.cells[system]["segments"].score
        assert transfer.gain is not None
        gain = board.cells[system]["segments"].score - board.cells["base"]["segments"].score
        assert transfer.gain.value == pytest.approx(gain)
    # It has no specialist: the base answers there, and is the reference.
    assert board.cells["specialists"]["segments"] == board.cells["base"]["segments"]
    assert board.cells["joint"]["segments"].score != board.cells["base"]["segments"].score
    assert "segments" not in board.validation["joint"]
    assert "again" in board.validation["joint"]
    assert Scoreboard.from_json(board.to_json()) == board
    text = board.markdown()
    scores, _, rest = text.partition("## Held-out tasks")
    apart, _, guards = rest.partition("## Guards")
    assert "| segments |" in apart and "| segments |" not in scores
    assert "| again |" in guards and "| again |" not in scores + apart
    assert "1 held-out task (20 test rows), which nothing was trained on" in " ".join(board.answer())
    page = made.report.read_text()
    assert '<h2 id="held_out">Held-out tasks</h2>' in page and '<h2 id="guard">Guards</h2>' in page


def test_the_model_that_is_kept_answers_held_out_tasks(made: Build, suite: Suite) -> None:
    model = load(made.best)
    rows = suite["segments"].splits["test"].inputs[:4]
    (answers,) = model.answer("segments", rows)
    assert len(answers.predictions) == 4
    assert model.definition("segments").role == "held_out"


def test_scores_before_and_after_a_few_rows_stand_side_by_side(made: Build) -> None:
    board = made.scoreboard
    found = {one.system: one for one in board.adapted or ()}
    assert list(found)[:2] == ["base", "joint"] and set(found) == {"base", "joint", board.best}
    for name, one in found.items():
        cell = board.cells[name]["segments"]
        assert one.before is not None and one.gain is not None and (one.task, one.rows, one.held, one.n) == (
            "segments", 8, 8, 20)  # fmt: skip
        assert (one.before.value, one.before.low, one.before.high) == (cell.score, cell.low, cell.high)
        assert one.gain.value == pytest.approx(one.after.value - one.before.value)
    assert any(one.gain.value for one in found.values() if one.gain)
    assert found["base"].over_base is None and found["base"].verdict is None
    joint = found["joint"]
    assert joint.over_base is not None
    assert joint.over_base.value == pytest.approx(joint.after.value - found["base"].after.value)
    page = html.unescape(re.sub("<[^>]+>", " ", made.report.read_text()))
    for text in (page, board.markdown()):
        assert "Held-out tasks after a few rows" in text and "zero-shot" in text and "after 8 rows" in text
    (words,) = (line for line in board.answer() if line.startswith("After 8 rows of the held-out task segments, "))
    assert f", {board.best} scores " in words and " (zero-shot: " in words


def test_what_was_adapted_is_found_again_and_its_models_are_not_kept(
    made: Build, suite: Suite, base: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(made.folder, out)
    kept = list((out / "pieces").glob("adapted-*"))
    assert len(kept) == len(made.scoreboard.adapted or ()) and not list(out.glob("pieces/adapted-*/**/*.safetensors"))
    again = build(suite, out=out, base=base, options=options(adapt=8), progress=Progress(out / "log.txt", quiet=True))
    assert again.scoreboard.fingerprint() == made.scoreboard.fingerprint()
    assert not pieces(out)


def test_an_encoder_gets_new_heads_for_held_out_tasks(suite: Suite, base: Path, tmp_path: Path) -> None:
    two = suite.part(["ink", "segments"])
    asked = options(adapt=12, head=None, methods=(), joint=False)
    found = build(two, out=tmp_path / "run", base=base, options=asked, progress=Progress(quiet=True))
    assert "segments" not in found.scoreboard.definitions, "no system answers it before"
    rows = found.scoreboard.adapted or []
    assert (rows[0].task, rows[0].system, rows[0].before, rows[0].rows, rows[0].held) == (
        "segments", "base", None, 12, 12)  # fmt: skip
    assert "| segments | macro_f1 | base | none | " in found.scoreboard.markdown()
    planned = forecast_build(two, base=base, options=asked)
    assert planned.trainings[-1] == "base, joint model and the best single model adapted to segments"
    with pytest.raises(AllroundError, match="no task of 'four' is held out"):
        forecast_build(suite.part(["digit", "again"]), base=base, options=asked)
    with pytest.raises(AllroundError, match="each build would draw rows of its own"):
        options(adapt=12, seeds=2)
    with pytest.raises(AllroundError, match="at least 1 row"):
        options(adapt=0)


def test_a_task_without_rows_to_adapt_on_is_named(suite: Suite, made: Build) -> None:
    task = suite["segments"]
    assert lack(task) is None
    bare = replace(task, splits={name: split if name == "test" else split.take([]) for name, split in
                                 task.splits.items()})  # fmt: skip
    words = lack(bare)
    assert words == "not adapted to: it has no train and no validation rows"
    board = Scored(made.scoreboard, {}, {}).with_adapted([], {"segments": words}).board
    assert board.adapted is None and f"- segments: {words}" in board.markdown()


def test_differences_after_a_few_rows_by_hand() -> None:
    """Errors, of which less is better: 1 and 3 before, 1 and 1 after; the base has 2 and 2 after."""
    definition = Definition("t", "regression", ("x",), "table", "mae", center=0.0, scale=1.0)

    def of(*values: float) -> Predictions:
        return Predictions(definition, "test", np.zeros(2), np.array(values, dtype=float))

    pairs = {
        ("base", "t"): AdaptedPair(of(4, 4), of(2, 2), 8, 4),
        ("joint", "t"): AdaptedPair(of(1, 3), of(1, 1), 8, 4),
    }
    base, joint = adapted_scores(pairs, "base", seed=0, resamples=100)
    assert (base.before and base.before.value, base.after.value, base.change) == (4.0, 2.0, "better")
    assert joint.gain is not None and (joint.gain.value, joint.gain.low, joint.gain.high) == (1.0, 0.0, 2.0)
    assert joint.change == "no difference found"
    assert joint.over_base is not None and (joint.over_base.value, joint.verdict) == (1.0, "better")
    right = Definition("u", "classification", ("x",), "table", "accuracy", ("a", "b"))
    half = Predictions(right, "test", np.array([0, 1]), np.array([0, 0]))
    both = {**pairs, ("base", "u"): AdaptedPair(None, half, 4, 4), ("joint", "u"): AdaptedPair(None, half, 4, 4)}
    assert [(one.task, one.rows) for one in adapted_scores(both, "base", seed=0, resamples=100)] == [
        ("t", 8), ("t", 8), ("u", 4), ("u", 4)], "no mean: only one of them is higher where better"  # fmt: skip


def test_few_rows_have_each_label_in_its_share(digits_suite: Suite) -> None:
    labels = ["a"] * 60 + ["b"] * 30 + ["c"] * 10
    split = Split([(n,) for n in range(100)], np.array(["abc".index(one) for one in labels]))
    for seed in range(3):
        assert np.bincount(few_rows(split, 20, seed, labels).targets).tolist() == [12, 6, 2]
    assert few_rows(split, 20, 0, labels).inputs != few_rows(split, 20, 1, labels).inputs
    few = few_of(digits_suite["digit"], 10, 0)
    assert sorted(few.splits["train"].targets.tolist()) == list(range(10))
    assert len(few.splits["validation"]) == 10 and few.splits["test"] is digits_suite["digit"].splits["test"]


def test_a_head_with_weights_cannot_answer_what_nothing_is_trained_on(suite: Suite, base: Path, tmp_path: Path) -> None:
    with pytest.raises(AllroundError, match="a linear head needs training rows") as error:
        build(suite, out=tmp_path / "run", base=base, options=options(head="linear"), progress=Progress(quiet=True))
    assert "'segments', which is held out" in error.value.asked
    assert not list((tmp_path / "run").rglob("head-*"))
    with pytest.raises(AllroundError, match="use a language model"):
        forecast_build(suite, base=base, options=options(head="linear"))


def test_a_guard_rules_systems_out_and_counts_for_nothing_else() -> None:
    judge = Judge({"a": "accuracy"}, {"a": 0.8, "g": 0.5}, {"g": "accuracy"})
    scores = {"joint": {"a": 0.8, "g": 0.4}, "ties": {"a": 0.72, "g": 0.5}}
    sizes = {"joint": 1, "ties": 1}
    assert judge.mean(scores["ties"]) == pytest.approx(0.9)
    assert judge.choose(scores, sizes, Constraints(), 0)[0] == "joint"
    best, words = judge.choose(scores, sizes, Constraints(guards=0.95), 0)
    assert best == "ties"
    assert "joint is better but retains 80.0% of g, less than the 95.0% asked for" in words
    assert judge.choose(scores, sizes, Constraints(keep={"g": 0.7}), 0)[0] == "joint"
    assert judge.choose(scores, sizes, Constraints(worst=0.95), 0)[0] == "joint"  # asks nothing of guards
    with pytest.raises(AllroundError, match="no choice may look at it"):
        Constraints(keep={"h": 0.9}).check({"h": "held_out"})
    with pytest.raises(AllroundError, match="no task of the suite has the role guard"):
        Constraints(guards=0.9).check({"a": "train"})
