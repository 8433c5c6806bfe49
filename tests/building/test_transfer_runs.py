"""Transfer that is measured by short trainings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from allround.building.stages.base import make_base
from allround.building.stages.data import keep_rows
from allround.building.stages.heads import fit_heads
from allround.building.stages.transfer import Runs, measure_transfer
from allround.building.workshop import Workshop
from allround.core.errors import AllroundError
from allround.core.progress import Progress
from allround.evaluation.predictions import score
from allround.tasks.suite import Suite
from allround.training.settings import Settings
from allround.transfer.matrix import TaskMatrix
from allround.transfer.measures import Run, find_measure


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("transfer")


def opened(folder: Path, suite: Suite) -> Runs:
    shop = Workshop(folder, Progress(quiet=True), in_process=True)
    shop.__enter__()
    data = keep_rows(shop, suite.tasks)
    base = make_base(shop, "small_image", data, {}, 0)
    start = fit_heads(shop, data, base, "cpu")
    return Runs(
        shop, start, Settings(epochs=2, batch_size=8, learning_rate=3e-3, keep="last", device="cpu", precision="fp32")
    )


@pytest.fixture(scope="module")
def runs(folder: Path, digits_suite: Suite) -> Runs:
    return opened(folder, digits_suite)


def test_a_gain_is_the_score_after_another_task_less_that_alone(runs: Runs) -> None:
    found = measure_transfer(runs, "pairs")
    assert found.kind == "measured" and found.higher_is_better and not found.symmetric
    assert np.isnan(np.diag(found.values)).all() and np.isfinite(found.values[~np.eye(3, dtype=bool)]).all()
    after, alone = (runs.work(run)[0] for run in (Run(("digit",), "ink"), Run(("digit",))))
    gained = after.facts["validation"]["digit"] - alone.facts["validation"]["digit"]
    assert found.value("ink", "digit") == pytest.approx(gained)
    # ink is scored by a correlation.
    after, alone = (runs.work(run)[0] for run in (Run(("ink",), "digit"), Run(("ink",))))
    gained = after.facts["validation"]["ink"] - alone.facts["validation"]["ink"]
    assert found.value("digit", "ink") == pytest.approx(gained)
    assert found.errors is not None and np.nanmin(found.errors) >= 0 and np.nanmax(found.errors) > 0
    assert not any((runs.work(Run((task,)))[0].folder / "encoder").exists() for task in ("digit", "ink"))


def test_what_was_measured_is_not_measured_again(runs: Runs, folder: Path, digits_suite: Suite) -> None:
    measure_transfer(runs, "pairs")
    before = {path: path.stat().st_mtime_ns for path in (folder / "pieces").rglob("piece.json")}
    again = opened(folder, digits_suite)
    measure_transfer(again, "pairs")
    assert {path: path.stat().st_mtime_ns for path in (folder / "pieces").rglob("piece.json")} == before


def test_a_run_of_several_tasks_serves_all_of_them(runs: Runs) -> None:
    together, rest = measure_transfer(runs, "joint"), measure_transfer(runs, "leave-one-out")
    both, alone = (runs.work(run)[0].facts["validation"] for run in (Run(("digit", "segments")), Run(("segments",))))
    assert together.value("digit", "segments") == pytest.approx(both["segments"] - alone["segments"])
    whole, left = (
        runs.work(run)[0].facts["validation"] for run in (Run(("digit", "ink", "segments")), Run(("ink", "segments")))
    )
    assert rest.value("digit", "segments") == pytest.approx(whole["segments"] - left["segments"])


def test_in_subsets_each_member_has_its_part(runs: Runs) -> None:
    """With three tasks the groups are all pairs. The scores of digit are fitted by hand: alone, and with each other."""
    found = measure_transfer(runs, "subsets")
    scores = [runs.work(Run(tasks))[0].facts["validation"]["digit"]
              for tasks in (("digit",), ("digit", "segments"), ("digit", "ink"))]  # fmt: skip
    present = np.array([[0, 0], [1, 0], [0, 1]]) - 1 / 3
    parts = np.linalg.solve(present.T @ present + 0.1 * np.eye(2), present.T @ scores)
    assert [found.value("segments", "digit"), found.value("ink", "digit")] == pytest.approx(parts.tolist())
    assert found.errors is not None and np.isfinite(found.errors[~np.eye(3, dtype=bool)]).all()


def test_with_little_time_the_most_promising_pair_is_measured_first(tmp_path: Path, digits_suite: Suite) -> None:
    runs = opened(tmp_path, digits_suite.part(["digit", "segments"]))
    promising = TaskMatrix("guess", ("digit", "segments"), ("digit", "segments"), [[np.nan, 1.0], [0.0, np.nan]])
    nothing = measure_transfer(runs, "pairs", estimates=promising, minutes=0)
    assert np.isnan(nothing.values).all() and runs.done(Run(("digit",)))
    found = measure_transfer(runs, "pairs", estimates=promising, minutes=1e-9 + 60)
    assert np.isfinite(found.value("digit", "segments"))


def test_answers_of_a_run_are_those_that_its_score_is_of(runs: Runs) -> None:
    from allround.building.jobs.transfer import measured_answers

    measure_transfer(runs, "pairs")
    piece = runs.work(Run(("digit",)))[0]
    assert score(measured_answers(piece, "digit")) == piece.facts["validation"]["digit"]


@pytest.mark.parametrize(
    ("measure", "tasks", "found"), [("pair", ["a", "b"], "no such measure"), ("leave-one-out", ["a", "b"], "takes 3")]
)
def test_what_cannot_be_measured_is_said(measure: str, tasks: list[str], found: str) -> None:
    with pytest.raises(AllroundError, match=found):
        find_measure(measure, tasks)
