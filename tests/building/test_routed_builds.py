"""Builds with routed systems: they stand beside merges, say where rows go, and answer without a task's name."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tests.models.language import save_model
from typer.testing import CliRunner

from allround.building import Build, Constraints, Options, build
from allround.building.options import RouterChoice
from allround.building.stages.routed import Module, RoutedCandidate
from allround.cli.app import app
from allround.composition.library.library import Library
from allround.composition.systems.routed import Routed
from allround.core.errors import AllroundError
from allround.core.pieces import Piece
from allround.core.progress import Progress
from allround.models.system import load
from allround.tasks.make import make_task
from allround.tasks.suite import Suite
from allround.tasks.task import Task
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
    modules = {task: Module(one, (task,)) for task in tasks if (one := _module(pieces, task)) is not None}
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


# -- with a library ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def library(built: Build, hf_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Library:
    """The specialist of mood with its head, an adapter alone that was tuned on topics, and one of no task."""
    made = Library.create(tmp_path_factory.mktemp("library") / "lib", hf_folder)
    mood, topics, alike = (next((built.folder / "pieces").glob(f"specialist-{name}-*"))
                           for name in ("mood", "topics", "alike"))  # fmt: skip
    made.add(mood, "feeling")
    made.add(topics / "adapter", "themes", tasks=["topics"])
    made.add(alike / "adapter", "pairs")
    return made


def test_modules_of_a_library_are_specialists_and_members(
    built: Build, some: Suite, library: Library, hf_folder: Path, tmp_path: Path
) -> None:
    settings = Settings(epochs=1, keep="last", device="cpu", precision="fp32")
    options = Options(settings=settings, methods=("average",), library=str(library.folder), joint=False, balance=(),
                      routers=("task_id", "arrow"), baselines=False, trials=1, workers=1, resamples=100)  # fmt: skip
    made = build(some, out=tmp_path / "run", options=options, progress=Progress(None))
    notes = made.scoreboard.notes["tasks"]
    assert "a module of the library: feeling; its head is kept" in notes["mood"][0]
    assert "a module of the library: themes, a PEFT adapter; a head is fitted anew" in notes["topics"][0]
    assert "alike" not in notes, "no card names that task, so that the build tunes its specialist"
    cells, before = made.scoreboard.cells, built.scoreboard.cells
    assert cells["specialists"]["mood"].score == pytest.approx(before["specialists"]["mood"].score)
    for task, cell in cells["specialists"].items():
        assert cells["routed-task_id"][task].score == pytest.approx(cell.score, abs=1e-6), "modules taken as they are"
    facts = json.loads((made.folder / "report.json").read_text())["routing"]
    assert [one["further"] for one in facts] == [["pairs"]]
    assert "1 module of the library that is of none of the tasks: pairs" in made.report.read_text()
    given = json.loads(next((made.folder / "pieces").glob("specialist-mood-*/piece.json")).read_text())["facts"]
    assert given["examples"] == {"mood": 0} and given["head"] == "its own"


def test_libraries_that_do_not_fit(some: Suite, library: Library, tmp_path: Path) -> None:
    from allround.building.run import forecast_build

    options = Options(library=str(library.folder), methods=())
    with pytest.raises(AllroundError, match="small_text has other weights") as error:
        save_model(tmp_path / "small_text", "llama")
        forecast_build(some, base=tmp_path / "small_text", options=options)
    assert "leave --base out" in error.value.do
    with pytest.raises(AllroundError, match="is made anew by each build"):
        forecast_build(some, base="small_image", options=options)
    with pytest.raises(AllroundError, match="in 2 folds with a library"):
        forecast_build(some, options=Options(library=str(library.folder), folds=2))
    again = Library.create(tmp_path / "lib", library.base_folder)
    for name in ("feeling", "themes"):
        again.add(library.folder / "modules" / name, tasks=["mood"])
    with pytest.raises(AllroundError, match="the modules feeling and themes were both tuned on the task 'mood'"):
        forecast_build(some, options=Options(library=str(again.folder)))


# -- routers that find nothing to decide by ----------------------------------------------------------------------------


def test_modules_of_convolutions_are_whole_tensors(digits_suite: Suite, tmp_path: Path) -> None:
    settings = Settings(epochs=2, keep="last", device="cpu", precision="fp32")
    options = Options(settings=settings, methods=(), routers=("task_id", "classifier:steps=20", "learned_gate:steps=2"),
                      joint=False, balance=(), baselines=False, trials=1, workers=1, resamples=100)  # fmt: skip
    suite = Suite("shapes", [digits_suite["digit"], digits_suite["ink"]])
    made = build(suite, out=tmp_path / "run", base="small_image", options=options, progress=Progress(None))
    cells = made.scoreboard.cells
    assert {"routed-task_id", "routed-classifier-steps=20", "routed-learned_gate-steps=2"} <= set(cells)
    for task, cell in cells["specialists"].items():
        assert cells["routed-task_id"][task].score == pytest.approx(cell.score, abs=1e-6), "nothing was cut away"
    assert next((made.folder / "pieces").glob("module-digit-*/module/replaced.safetensors")).is_file()
    asked = Options(settings=settings, methods=(), routers=("arrow",), workers=1)
    with pytest.raises(AllroundError, match="the encoder has no linear layer"):
        build(suite, out=tmp_path / "other", base="small_image", options=asked, progress=Progress(None))
    assert not list((tmp_path / "other" / "pieces").glob("specialist-*")), "refused before anything is tuned"


def test_a_router_that_cannot_route_is_left_out(some: Suite, hf_folder: Path, tmp_path: Path) -> None:
    from tests.composition.library import write_adapter

    from allround.models.base import load_encoder

    library = Library.create(tmp_path / "lib", hf_folder)
    network = load_encoder(hf_folder).backbone
    for seed, task in enumerate(("mood", "topics")):
        write_adapter(network, tmp_path / task, rank=2, seed=seed, targets=("query",))
        library.add(tmp_path / task, task, tasks=[task])
    settings = Settings(epochs=1, keep="last", device="cpu", precision="fp32")
    options = Options(settings=settings, methods=(), library=str(library.folder), joint=False, balance=(),
                      routers=("uniform", "entropy_gate"), baselines=False, trials=1, workers=1,
                      resamples=100)  # fmt: skip
    suite = Suite("words", [some["mood"], some["topics"]])
    made = build(suite, out=tmp_path / "run", options=options, progress=Progress(None))
    assert "routed-uniform" in made.scoreboard.cells and "routed-entropy_gate" not in made.scoreboard.cells
    words = "routed-entropy_gate is left out: no module changes a feed-forward part of the encoder"
    assert made.scoreboard.notes["routing"] == [words]
    assert words in made.report.read_text() and words in (made.folder / "scoreboard.md").read_text()


def test_searches_are_routed(hf_folder: Path, tmp_path: Path) -> None:
    settings = Settings(tune="lora", epochs=2, learning_rate=0.02, keep="last", device="cpu", precision="fp32")
    options = Options(settings=settings, methods=("fisher", "regmean", "regmean_pp"),
                      routers=("task_id", "classifier:steps=20+logits"),
                      joint=False, balance=(), baselines=False, trials=1, workers=1, resamples=100,
                      constraints=Constraints(single=False))  # fmt: skip
    suite = Suite("searches", [search("animals", ("cat", "dog", "owl")), search("foods", ("soup", "plum", "bread"))])
    with pytest.raises(AllroundError, match="an answer to task 'animals' is a list of passages"):
        build(suite, out=tmp_path / "run", base=hf_folder, options=replace(options, routers=("scorer",)),
              progress=Progress(None))  # fmt: skip
    made = build(suite, out=tmp_path / "run", base=hf_folder, options=options, progress=Progress(None))
    cells = made.scoreboard.cells
    assert {"fisher", "regmean", "regmean_pp"} <= set(cells), "their statistics are of queries and passages"
    for task, cell in cells["specialists"].items():
        assert cells["routed-task_id"][task].score == pytest.approx(cell.score), "modules of LoRA are the specialists"
    facts = json.loads((made.folder / "report.json").read_text())["routing"]
    assert [(one["system"], set(one["found"])) for one in facts] == [
        ("routed-classifier-steps=20-logits", {"animals", "foods"})
    ]


def search(name: str, words: tuple[str, ...]) -> Task:
    rows = [{"query": f"{before} {word}", "relevant": [word]} for word in words for before in ("the", "a", "was", "at")]
    passages = {word: f"{word} is today" for word in words}
    return make_task(name, kind="retrieval", data={"train": rows, "validation": rows[:6], "test": rows[:6]},
                     inputs="query", target="relevant", passages=passages)  # fmt: skip
