"""Further joint models in a build: by balancers that the user names, within a budget, chosen like all others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from allround.building import Build, Options, build
from allround.building.stages.data import Data
from allround.building.stages.plan import whole_scope
from allround.core.errors import AllroundError
from allround.core.progress import Progress
from allround.models.encoders.small_image import SmallImage
from allround.tasks.suite import Suite
from allround.training.settings import Settings


@pytest.fixture(scope="module")
def base(small_image: SmallImage, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "small_image"
    folder.mkdir()
    small_image.save(folder)
    return folder


def run(suite: Suite, out: Path, base: Path, **changes: Any) -> Build:
    settings = Settings(epochs=2, batch_size=20)
    plain = {
        "settings": settings,
        "workers": 1,
        "trials": 1,
        "resamples": 200,
        "methods": (),
        "baselines": False,
    }
    return build(suite, out=out, base=base, options=Options(**{**plain, **changes}), progress=Progress(quiet=True))


def test_joint_models_by_balancers_are_scored_beside_the_others(
    digits_suite: Suite, base: Path, tmp_path: Path
) -> None:
    board = run(digits_suite, tmp_path / "a", base, balance=("uw", "cagrad:c=0.2")).scoreboard
    names = [s.name for s in board.systems]
    assert names == ["floor", "base", "specialists", "joint", "joint-uw", "joint-cagrad-c=0.2"]
    plain, *further = (board.system(n) for n in names[3:])
    assert [s.role for s in further] == ["joint", "joint"] and all("in every step" in s.title for s in further)
    for system in further:
        assert system.cost.training_examples == plain.cost.training_examples, "the same rows as often"
        assert set(board.cells[system.name]) == set(digits_suite.tasks)
    validation = {n: board.validation_mean(n) for n in names if n not in ("floor", "specialists")}
    assert board.best == max(validation, key=lambda n: validation[n] or 0)


def test_no_time_for_a_further_joint_model_is_said(
    digits_suite: Suite, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a budget it is an extra like the others: the words name it where it is left out."""
    from allround.building.stages import plan as module

    monkeypatch.setattr(module, "joint_time", lambda *_, **__: 1e6)
    found = run(digits_suite, tmp_path / "a", base, balance=("uw",), budget=60.0)
    assert "joint-uw" not in [s.name for s in found.scoreboard.systems]
    assert "No time for joint-uw (about 16666.7 min)" in found.scoreboard.notes["budget"]
    monkeypatch.undo()
    found = run(digits_suite, tmp_path / "b", base, balance=("uw",), budget=60.0)
    assert "joint-uw" in [s.name for s in found.scoreboard.systems]
    assert "Beside that: joint-uw" in found.scoreboard.notes["budget"]


def test_without_a_joint_model_there_is_no_further_one(digits_suite: Suite) -> None:
    assert Options(joint=False, balance=("uw",)).joints() == []
    assert [j.name for j in Options(balance=("uw:rate=0.1", "mgda")).joints()] == ["uw:rate=0.1", "mgda"]
    assert Options(balance=()).joints() == []


@pytest.mark.parametrize(
    ("name", "words"), [("uww", "there is no balancer of that name"), ("tuned", "come from a sweep")]
)
def test_who_cannot_balance(name: str, words: str) -> None:
    with pytest.raises(AllroundError, match=words):
        Options(balance=(name,))


def test_one_task_has_nothing_to_balance(digits_suite: Suite) -> None:
    for names, joints in (("digit", 0), ("digit ink", 1)):
        tasks = {name: digits_suite.tasks[name] for name in names.split()}
        data = Data(tasks, dict.fromkeys(tasks, ""))
        assert len(whole_scope(Options(balance=("uw",)), data, Settings()).joints) == joints
