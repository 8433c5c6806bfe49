"""Joint models of groups of tasks in a build."""

from __future__ import annotations

import random

import numpy as np
import pytest

from allround.building import Build, Options, build
from allround.building.stages import groups as stage
from allround.building.stages.estimates import Estimated
from allround.core.errors import AllroundError
from allround.core.progress import Progress
from allround.evaluation.scoreboard.words import answer
from allround.tasks.make import make_task
from allround.tasks.suite import Suite
from allround.training.settings import Settings
from allround.transfer.matrix import TaskMatrix

TASKS = ("a0", "b", "a1")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """A build of three tasks, of which the estimates say that a0 and a1 help each other."""
    draw = random.Random(0)
    points = [(draw.gauss(0, 1), draw.gauss(0, 1)) for _ in range(90)]
    signs = {"a0": lambda x, y: x > 0, "b": lambda x, y: x * y > 0, "a1": lambda x, y: x > 0.3}
    tasks = []
    for name in TASKS:
        rows = [{"x": x, "y": y, "said": str(signs[name](x, y))} for x, y in points]
        data = {"train": rows[:50], "validation": rows[50:70], "test": rows[70:]}
        tasks.append(make_task(name, kind="classification", inputs=["x", "y"], target="said", data=data))
    expected = np.array([[np.nan, 1.0, 2.0], [1.0, np.nan, 1.0], [2.0, 0.0, np.nan]])
    options = Options(settings=Settings(epochs=1), groups=2, methods=(), balance=(), baselines=False, resamples=100)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "estimate", lambda *_: Estimated([TaskMatrix("planted", TASKS, TASKS, expected)], {}, 0.0))
        return build(Suite("groups", tasks), base="small_table", out=tmp_path_factory.mktemp("groups") / "run",
                     options=options, encoder={"width": 8}, progress=Progress(quiet=True))  # fmt: skip


def test_tasks_that_help_each_other_share_a_model(made: Build) -> None:
    board = made.scoreboard
    groups = board.system("groups")
    assert groups.title == "a joint model for each of 2 groups: a0 and a1; b" and not groups.single
    one, two, three = (board.system(name).cost.parameters_stored or 0 for name in ("joint", "groups", "specialists"))
    assert three - two == two - one > 0, "one encoder, two, and three"
    assert board.cells["groups"]["b"].score == board.cells["specialists"]["b"].score, "alone: its specialist"


def test_the_board_says_whether_grouping_paid(made: Build) -> None:
    (found,) = [one for one in made.scoreboard.comparisons if (one.system, one.other) == ("groups", "joint")]
    assert any(f"Against joint: {found.mean_words}." in line for line in answer(made.scoreboard))


def test_a_number_of_groups_that_there_cannot_be() -> None:
    for groups in (1, 0, "many"):
        with pytest.raises(AllroundError, match="it must be a number above 1, or auto") as caught:
            Options(groups=groups)
        assert caught.value.asked == f"build joint models for {groups} groups of tasks"
