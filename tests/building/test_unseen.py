"""Builds with tasks that nothing is trained on: held-out ones, and guards that may rule a system out."""

from __future__ import annotations

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
from allround.core import plugins
from allround.core.errors import AllroundError
from allround.core.plugins import use_plugin
from allround.core.progress import Progress
from allround.evaluation.scoreboard import Scoreboard
from allround.models.encoders.small_image import SmallImage
from allround.models.system import load
from allround.tasks.suite import Suite
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
        yield build(suite, out=out, base=base, options=options(), progress=Progress(out / "log.txt", quiet=True))


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
