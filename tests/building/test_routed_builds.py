"""Builds with routed systems: they stand beside merges, say where rows go, and answer without a task's name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from allround.building import Build, Constraints, Options, build
from allround.building.options import RouterChoice
from allround.building.stages.routed import RoutedCandidate
from allround.cli.app import app
from allround.composition.systems.routed import Routed
from allround.core.errors import AllroundError
from allround.core.pieces import Piece
from allround.core.progress import Progress
from allround.models.system import load
from allround.tasks.suite import Suite
from allround.training.settings import Settings

ROUTERS = ("task_id", "classifier:steps=60", "arrow:top=2+pick", "classifier:steps=60@average")


@pytest.fixture(scope="module")
def some(text_suite: Suite) -> Suite:
    return Suite("words", [text_suite[name] for name in ("mood", "topics", "alike")])


@pytest.fixture(scope="module")
def built(some: Suite, hf_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Build:
    settings = Settings(tune="lora", epochs=4, learning_rate=0.02, keep="last", device="cpu", precision="fp32")
    options = Options(settings=settings, methods=("average",),
                      routers=ROUTERS, joint=False, balance=(), baselines=False, trials=1, workers=1,
                      resamples=100, constraints=Constraints(single=False))  # fmt: skip
    return build(some, out=tmp_path_factory.mktemp("routed") / "run", base=hf_folder, options=options,
                 progress=Progress(None))  # fmt: skip


def test_routed_systems_stand_on_the_scoreboard(built: Build) -> None:
    systems = {one.name: one for one in built.scoreboard.systems}
    assert {"routed-task_id", "routed-classifier-steps=60", "routed-arrow-top=2-pick"} <= set(systems)
    told = built.scoreboard.cells["routed-task_id"]
    for task, cell in built.scoreboard.cells["specialists"].items():
        assert told[task].score == pytest.approx(cell.score), "told the task, it answers as the specialists"
    base, routed = systems["base"].cost, systems["routed-task_id"].cost
    assert base.parameters_stored < routed.parameters_stored < systems["specialists"].cost.parameters_stored


def test_the_report_says_where_rows_go(built: Build) -> None:
    page = built.report.read_text()
    assert "Where rows are routed" in page and "routed-classifier-steps=60" in page
    facts = json.loads((built.folder / "report.json").read_text())["routing"]
    assert [one["system"] for one in facts] == [
        "routed-classifier-steps=60", "routed-arrow-top=2-pick", "routed-classifier-steps=60-average"
    ]  # fmt: skip
    assert all(set(one["found"]) == {"mood", "topics", "alike"} for one in facts)
    assert set(facts[0]["alone"]) == {"mood", "alike"}, "topics is not scored by accuracy"
    assert all(0 <= share <= 1 for one in facts for share in one["found"].values())
    assert all(one["alone"][task] <= one["found"][task] for one in facts for task in one["alone"])


def test_saved_it_answers_without_a_task(built: Build, some: Suite, tmp_path: Path) -> None:
    pieces = built.folder / "pieces"

    def piece(name: str) -> Piece:
        (found,) = (path for path in pieces.glob(f"{name}-*") if (path / "piece.json").is_file())
        return Piece(found, {})

    tasks = list(some.tasks)
    routers = [path for path in pieces.glob("router-routed-classifier-steps=60-*") if "average" not in path.name]
    modules = {task: one for task in tasks if (one := _module(pieces, task)) is not None}
    made = RoutedCandidate(
        "routed", "", piece("base"), modules, Piece(routers[0], {}), RouterChoice.read("classifier:steps=60"),
        {task: piece(f"specialist-{task}").folder for task in tasks},
        {task: str(next(pieces.glob(f"data-{task}-*"))) for task in tasks},
    )  # fmt: skip
    (tmp_path / "saved").mkdir()
    made.write(tmp_path / "saved", {name: task.definition for name, task in some.tasks.items()}, {})
    system = load(tmp_path / "saved")
    assert isinstance(system, Routed)
    lines = [{"text": "the cat is fine", "one": None, "two": None}, {"text": None, "one": "a cat", "two": "a dog"}]
    first, second = system.predict_rows(lines)
    assert second["task"] == "alike" and second["task_confidence"] == 1.0, "no other task reads a pair"
    assert second["alike_prediction"] == system.predict("alike", [("a cat", "a dog")])[0]
    assert second["mood_prediction"] is None and second["note"] is None
    found = first["task"]
    assert found in ("mood", "topics")
    assert first[f"{found}_prediction"] == system.predict(found, ["the cat is fine"])[0]
    result = CliRunner().invoke(app, ["predict", str(tmp_path / "saved"), "the cat is fine"])
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(f"{found} ({100 * first['task_confidence']:.1f}%): ")


def _module(pieces: Path, task: str) -> Piece | None:
    """The module of a task that changes the base, not a merge."""
    base = next(pieces.glob("base-*")).name
    for path in pieces.glob(f"module-{task}-*"):
        if json.loads((path / "piece.json").read_text())["made_from"]["base"] == base and (path / "module").is_dir():
            return Piece(path, {})
    return None


def test_asked_for_wrongly() -> None:
    with pytest.raises(AllroundError, match="no router of that name"):
        Options(routers=("arow",))
    with pytest.raises(AllroundError, match="not among those that are tried"):
        Options(routers=("arrow@ties",), methods=("average",))
