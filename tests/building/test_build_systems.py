"""Builds on tables: boosted trees and ensembles stand beside the networks, and win where they are allowed to."""

from __future__ import annotations

import json
import random
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import allround as ar
from allround.building import Build, Constraints, Options, build
from allround.building.jobs import systems as jobs
from allround.building.judge import Judge
from allround.building.stages import baselines as stage
from allround.building.stages.data import keep_rows
from allround.building.workshop import Workshop
from allround.cli.app import app
from allround.core.errors import AllroundError
from allround.core.progress import Progress
from allround.evaluation.predictions import Predictions
from allround.evaluation.scoreboard import Scoreboard
from allround.evaluation.scoreboard.words import answer
from allround.models import boosting
from allround.models.encoders.small_image import SmallImage
from allround.models.encoders.small_table import SmallTable
from allround.models.systems.ensemble import Ensemble
from allround.models.systems.rmtgb import Rmtgb
from allround.models.systems.trees import Trees
from allround.models.table_inputs import column_for
from allround.tasks.make import make_task
from allround.tasks.sources.scikit_learn import read_sklearn
from allround.tasks.suite import Suite
from allround.training.settings import Settings

QUICK = Settings(epochs=1, batch_size=40, precision="fp32")
LIMIT = {"train": 90, "validation": 40, "test": 40}


@pytest.fixture(autouse=True, scope="module")
def few_rounds_on_one_core() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("allround.core.jobs.available_cores", lambda: 1)
        patch.setattr(boosting, "ROUNDS", 10)
        patch.setattr(stage, "ROUNDS", 10)
        yield


def base_of(suite: Suite, folder: Path) -> Path:
    """A base with random weights: pretraining one takes seconds, and these tests do not ask for good scores. It reads
    numbers whole, not in pieces, so that stripes are hard for it."""
    task = next(iter(suite.tasks.values()))
    rows = task.splits["train"].inputs
    columns = [column_for(name, [row[place] for row in rows]) for place, name in enumerate(task.definition.inputs)]
    for column in columns:
        column.pop("edges", None)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = SmallTable(columns=columns, width=16).eval()
    folder.mkdir(parents=True)
    made.save(folder)
    return folder


def run(suite: Suite, out: Path, base: Path, **changes: Any) -> Build:
    wanted = {"settings": QUICK, "workers": 1, "methods": (), "balance": (), "joint": False, "resamples": 100}
    progress = Progress(out / "log.txt", quiet=True)
    return build(suite, out=out, base=base, options=Options(**{**wanted, **changes}), progress=progress)


def last_log(out: Path) -> str:
    return (out / "log.txt").read_text().split(" s  suite ")[-1]


def made(out: Path) -> list[str]:
    """What the last run made."""
    found = re.findall(r"made  (.+?)(?:  \(|$)", last_log(out), re.M)
    return [re.sub(r"-[0-9a-f]{12}$", "", line) for line in found]


def drawn(count: int, seed: int) -> list[dict[str, Any]]:
    """Rows of two tasks: stripes, which one epoch of a network does not learn and trees do; and a plane, which is the
    other way round."""
    draw, rows = random.Random(seed), []
    for _ in range(count):
        a, b, c = (draw.uniform(-1, 1) for _ in range(3))
        stripe = "on" if int((a + 1) * 4) % 2 else "off"
        rows.append({"a": a, "b": b, "c": c, "stripe": stripe, "plane": 2 * a - 3 * b + c})
    return rows


@pytest.fixture(scope="module")
def drawings() -> Suite:
    data = {"train": drawn(240, 0), "validation": drawn(80, 1), "test": drawn(80, 2)}
    kinds = {"stripe": "classification", "plane": "regression"}
    tasks = [make_task(n, kind=k, inputs=["a", "b", "c"], target=n, data=data) for n, k in kinds.items()]
    return Suite("drawings", tasks)


@pytest.fixture(scope="module")
def base(drawings: Suite, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return base_of(drawings, tmp_path_factory.mktemp("base") / "small_table")


@pytest.fixture(scope="module")
def first(drawings: Suite, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Build:
    """All systems; the best single model wins."""
    return run(drawings, tmp_path_factory.mktemp("run") / "a", base, ensemble=True, joint=True)


NAMES = ["floor", "base", "specialists", "joint", "linear", "trees", "ensemble"]


def text_of(folder: Path) -> str:
    """The report's text without its marks."""
    report = re.sub(r"<[^>]+>", "", (folder / "report.html").read_text())
    return re.sub(r"\s+", " ", report.replace("&#39;", "'").replace("&nbsp;", " "))


# The data that scikit-learn carries.

CARRIED = {
    "wine": (["alcohol", "malic_acid", "hue"], {"target": "classification", "proline": "regression"}),
    "breast_cancer": (["mean texture", "mean area", "mean smoothness"], {"target": "classification"}),
    "diabetes": (["age", "sex", "bmi", "bp", "s5"], {"target": "regression"}),
}


@pytest.mark.parametrize("name", CARRIED)
def test_trees_and_ensemble_stand_in_the_scoreboard(name: str, tmp_path: Path) -> None:
    inputs, kinds = CARRIED[name]
    rows = {"train": read_sklearn(name)["train"]}
    tasks = [make_task(t, kind=k, inputs=inputs, target=t, data=rows, limit=LIMIT) for t, k in kinds.items()]
    suite = Suite(name, tasks)
    made_ = run(suite, tmp_path / "run", base_of(suite, tmp_path / "base"), ensemble=True)
    board = made_.scoreboard
    assert [s.name for s in board.systems] == ["floor", "base", "specialists", "linear", "trees", "ensemble"]
    trees, ensemble, specialists = (board.system(n) for n in ("trees", "ensemble", "specialists"))
    assert trees.title == "boosted trees for each task"
    assert ensemble.title == "the mean of the answers of specialists and trees"
    assert (trees.role, trees.single, ensemble.role, ensemble.single) == ("trees", False, "ensemble", False)
    assert trees.cost.training_seconds > 0 and trees.cost.training_examples == sum(
        len(task.splits["train"]) for task in suite.tasks.values()
    )
    assert 0 < trees.cost.parameters_used <= trees.cost.parameters_stored
    assert (trees.cost.examples_per_second or 0) > 0 < (ensemble.cost.examples_per_second or 0)
    for part in ("parameters_stored", "parameters_used", "training_examples"):
        assert getattr(ensemble.cost, part) == getattr(trees.cost, part) + getattr(specialists.cost, part)
    for system in ("trees", "ensemble"):
        for task in suite.tasks.values():
            kept = Predictions.load(made_.folder / "predictions" / system / f"{task.name}.parquet")
            targets, said = np.asarray(task.splits["test"].targets), np.asarray(kept.predictions)
            assert len(said) == len(targets) == board.cells[system][task.name].n
            score = (
                np.corrcoef(targets, said)[0, 1] if task.definition.metric == "pearson" else (targets == said).mean()
            )
            assert board.cells[system][task.name].score == pytest.approx(score)
    for task_name in suite.tasks:
        assert board.cells["trees"][task_name].score > board.cells["floor"][task_name].score
        (piece,) = (made_.folder / "pieces").glob(f"trees-{task_name}-*")
        facts = json.loads((piece / "piece.json").read_text())["facts"]
        assert set(facts["tried"]) == {"max_leaf_nodes=31, min_samples_leaf=20", "max_leaf_nodes=8, min_samples_leaf=5"}
        assert board.validation["trees"][task_name] == pytest.approx(max(facts["tried"].values()))
    assert board.best in ("base", "specialists") and board.system(str(board.best)).single, "not asked for any system"
    (said_of_trees,) = (line for line in answer(board) if line.startswith("Boosted trees for each task: "))
    assert said_of_trees in text_of(made_.folder)


def test_the_mean_of_the_answers_is_that_of_the_members(first: Build, drawings: Suite) -> None:
    kept = {
        system: Predictions.load(first.folder / "predictions" / system / "plane.parquet")
        for system in ("specialists", "joint", "trees", "ensemble")
    }
    members = np.array([kept[system].predictions for system in ("specialists", "joint", "trees")])
    assert kept["ensemble"].predictions == pytest.approx(members.mean(0), rel=1e-6)
    assert first.scoreboard.system("ensemble").title == "the mean of the answers of specialists, joint and trees"


# Robust trees that tasks share.


def test_robust_trees_stand_in_the_scoreboard_and_name_the_outlier(tmp_path: Path) -> None:
    rng, tasks = np.random.default_rng(0), []
    for number in range(4):
        x = rng.uniform(-1, 1, (120, 3))
        y = (np.sin(3 * x[:, 0]) + x[:, 1]) * (-1 if number == 1 else 1)
        rows = [{"a": a, "b": b, "c": c, "y": t} for (a, b, c), t in zip(x.tolist(), y.tolist(), strict=True)]
        data = {"train": rows[:60], "validation": rows[60:90], "test": rows[90:]}
        tasks.append(make_task(f"task{number}", kind="regression", inputs=["a", "b", "c"], target="y", data=data))
    suite = Suite("planted", tasks)
    found = run(suite, tmp_path / "run", base_of(suite, tmp_path / "base"), baselines=False, rmtgb=True,
                constraints=Constraints(single=False))  # fmt: skip
    board = found.scoreboard
    assert [s.name for s in board.systems] == ["floor", "base", "specialists", "rmtgb"]
    robust = board.system("rmtgb")
    assert (robust.role, robust.single) == ("baseline", False)
    assert robust.title == "robust boosted trees that all tasks share (outliers: task1)"
    assert robust.cost.training_examples == 240 and robust.cost.parameters_stored > 0
    assert board.best == "rmtgb"
    saved = ar.load(found.best)
    assert isinstance(saved, Rmtgb) and saved.outliers == ["task1"]
    kept = Predictions.load(found.folder / "predictions" / "rmtgb" / "task2.parquet")
    assert np.allclose(kept.predictions, saved.answers("task2", tasks[2].splits["test"].inputs).predictions)
    assert board.cells["rmtgb"]["task2"].score > 0.8


def test_robust_trees_are_refused_before_any_work(drawings: Suite, base: Path, tmp_path: Path) -> None:
    with pytest.raises(AllroundError, match="all of numbers or all with two labels"):
        run(drawings, tmp_path / "run", base, rmtgb=True)
    with pytest.raises(AllroundError, match="nothing may be trained on plane"):
        run(drawings.holding_out(["plane"]), tmp_path / "run", base, rmtgb=True)
    assert not list(tmp_path.glob("run/pieces/*"))


# What is said of trees.


def test_the_answer_says_where_trees_win_and_where_they_lose(first: Build) -> None:
    board = first.scoreboard
    assert [s.name for s in board.systems] == NAMES
    assert board.best in ("base", "joint"), "a single model, although trees are better"
    assert board.cells["trees"]["stripe"].score > 0.85 > 0.7 > board.cells[str(board.best)]["stripe"].score
    assert board.cells["trees"]["plane"].score < board.cells[str(board.best)]["plane"].score
    expected = "Boosted trees for each task: they score higher than the best on stripe; score lower on plane."
    assert expected in answer(board)
    assert expected in text_of(first.folder)
    again = Scoreboard.load(first.folder)
    assert answer(again) == answer(board)


@pytest.mark.parametrize(
    ("verdicts", "said"),
    [
        (("better", "better"), "they score higher than the best on stripe and plane."),
        (("worse", "worse"), "they score lower on stripe and plane."),
        (("no difference found", "worse"), "they score lower on plane; no difference was found on stripe."),
        (
            ("better", "no difference found"),
            "they score higher than the best on stripe; no difference was found on plane.",
        ),
        (("no difference found", "no difference found"), "no difference was found on stripe and plane."),
    ],
)
def test_every_verdict_on_trees_has_its_words(first: Build, verdicts: Sequence[str], said: str) -> None:
    board = first.scoreboard
    comparisons = [
        replace(c, tasks=dict(zip(("stripe", "plane"), verdicts, strict=True)))
        if (c.system, c.other) == ("trees", board.best)
        else c
        for c in board.comparisons
    ]
    assert f"Boosted trees for each task: {said}" in answer(replace(board, comparisons=comparisons))
    without = [c for c in board.comparisons if c.system != "trees"]
    assert not any(line.startswith("Boosted trees") for line in answer(replace(board, comparisons=without)))


# Any system may win.


def test_any_system_wins_where_it_may(first: Build, drawings: Suite, base: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(first.folder, out)
    won = run(drawings, out, base, ensemble=True, joint=True, constraints=Constraints(single=False))
    board = won.scoreboard
    means = {name: board.validation_mean(name) or 0.0 for name in NAMES[1:]}
    assert board.best == max(means, key=means.__getitem__) == "trees"
    assert str(board.notes["choice"]).startswith("Chosen on validation: trees, mean retention ")
    assert "out of 6 systems" in str(board.notes["choice"])
    assert answer(board)[0].startswith(
        "The best system, chosen on validation rows, is trees (boosted trees for each task). It keeps "
    )
    assert not any(line.startswith("Boosted trees") for line in answer(board)), "no words of trees beside themselves"
    assert isinstance(ar.load(won.best), Trees)
    asked = run(drawings, out, base, ensemble=True, joint=True, constraints=Constraints(worst=1.5, single=False))
    assert "No system satisfies that on validation" in str(asked.scoreboard.notes["choice"])
    small = board.system("trees").cost.parameters_stored - 1
    few = run(
        drawings, out, base, ensemble=True, joint=True, constraints=Constraints(max_parameters=small, single=False)
    )
    assert few.scoreboard.best != "trees" and "trees is better but stores" in str(few.scoreboard.notes["choice"])


SORTS = {"specialists": Ensemble, "joint": None, "trees": Trees, "ensemble": Ensemble}


@pytest.mark.parametrize("name", SORTS)
def test_whichever_wins_is_saved_as_it_was_scored(
    name: str, first: Build, drawings: Suite, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def choose(self: Judge, scores: Mapping[str, object], *more: object) -> tuple[str, str]:
        assert set(scores) == set(NAMES[1:]), "all of them stand for choice"
        return name, f"Chosen: {name}."

    monkeypatch.setattr(Judge, "choose", choose)
    out = tmp_path / "run"
    shutil.copytree(first.folder, out)
    won = run(drawings, out, base, ensemble=True, joint=True, constraints=Constraints(single=False))
    board = won.scoreboard
    assert board.best == name and made(out) == []
    system = ar.load(won.best)
    sort = SORTS[name]
    assert sort is None or type(system) is sort
    made_by: Any = system.facts["made_by"]
    assert made_by["system"] == name
    scored = ar.evaluate(won.best, drawings)
    (evaluated,) = (s.name for s in scored.systems if s.role != "floor")
    for task, found in drawings.tasks.items():
        rows = list(found.splits["test"].inputs)
        kept = Predictions.load(out / "predictions" / name / f"{task}.parquet")
        assert scored.cells[evaluated][task].score == board.cells[name][task].score, "to the digit"
        assert np.array_equal(np.asarray(system.answers(task, rows).predictions), np.asarray(kept.predictions))
        assert len(system.predict(task, rows[:3])) == 3
    stored = system.cost().parameters_stored
    assert stored == board.system(name).cost.parameters_stored
    card = (won.best / "README.md").read_text()
    assert ("in `encoder/`" in card) == (won.best / "encoder").is_dir() == (name == "joint")
    first_line = answer(board)[0]
    assert f"{'single model' if name == 'joint' else 'system'}, chosen on validation rows, is {name}" in first_line
    assert ("It keeps" in first_line) == (name != "specialists"), "they are what the others are compared with"


# What is made, and what is not made again.


def test_a_repeated_build_makes_nothing_anew(first: Build, drawings: Suite, base: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(first.folder, out)
    again = run(drawings, out, base, ensemble=True, joint=True)
    assert made(out) == [] and "have  trees-stripe" in last_log(out)
    assert again.scoreboard.fingerprint() == first.scoreboard.fingerprint()
    # One piece of trees is lost, and one prediction of the ensemble is damaged.
    (lost,) = (out / "pieces").glob("trees-plane-*")
    shutil.rmtree(lost)
    (damaged,) = (out / "pieces").glob("test-ensemble-stripe-*")
    file = damaged / "predictions.parquet"
    file.write_bytes(file.read_bytes()[:-1] + b"\0")
    more = run(drawings, out, base, ensemble=True, joint=True)
    assert made(out) == ["trees-plane", "test predictions of ensemble (all 2 tasks)"]
    assert more.scoreboard.fingerprint() == first.scoreboard.fingerprint()


def test_a_killed_build_goes_on_from_what_is_finished(
    first: Build, drawings: Suite, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = boosting.fit_trees

    def killed(task: Any, *, seed: int) -> Any:
        if task.name == "plane":
            raise KeyboardInterrupt
        return fit(task, seed=seed)

    monkeypatch.setattr(jobs, "fit_trees", killed)
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        run(drawings, out, base, ensemble=True, joint=True)
    assert "trees-stripe" in made(out)
    monkeypatch.setattr(jobs, "fit_trees", fit)
    again = run(drawings, out, base, ensemble=True, joint=True)
    assert made(out)[0] == "trees-plane" and not any(one.startswith(("special", "joint", "base")) for one in made(out))
    assert again.scoreboard.fingerprint() == first.scoreboard.fingerprint()


def test_trees_are_left_out_on_request(first: Build, drawings: Suite, base: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(first.folder, out)
    without = run(drawings, out, base, joint=True, trees=False, ensemble=True)
    board = without.scoreboard
    assert [s.name for s in board.systems] == [name for name in NAMES if name != "trees"]
    assert board.system("ensemble").title == "the mean of the answers of specialists and joint"
    assert set(made(out)) == {f"{s} predictions of ensemble (all 2 tasks)" for s in ("validation", "test")}
    assert not any("rees" in line for line in answer(board))


def test_images_and_texts_get_no_trees(digits_suite: Suite, text_suite: Suite, drawings: Suite, tmp_path: Path) -> None:
    for number, suite in enumerate((digits_suite, text_suite)):
        shop = Workshop(tmp_path / str(number), Progress(tmp_path / "log.txt", quiet=True), workers=1)
        (linear,) = stage.baseline_candidates(shop, keep_rows(shop, suite.tasks), trees=True)
        assert linear.name == "linear" and linear.title.startswith("a linear model for each task, on ")
        assert not list((tmp_path / str(number) / "pieces").glob("trees-*"))
    mixed = {**{"ink": digits_suite.tasks["ink"]}, **drawings.tasks}
    shop = Workshop(tmp_path / "mixed", Progress(tmp_path / "log.txt", quiet=True), workers=1)
    (linear,) = stage.baseline_candidates(shop, keep_rows(shop, mixed), trees=True)
    assert linear.name == "linear", "a system must answer all tasks"
    assert linear.title == "a linear model for each task, on pixels and standardised columns"


def test_an_ensemble_of_networks_on_images(digits_suite: Suite, small_image: SmallImage, tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    small_image.save(tmp_path / "base")
    rows = {"train": 20, "validation": 10, "test": 10}
    suite = Suite("two", [digits_suite.tasks[name].limit(rows) for name in ("ink", "segments")])
    board = run(suite, tmp_path / "run", tmp_path / "base", ensemble=True, joint=True).scoreboard
    assert [s.name for s in board.systems] == ["floor", "base", "specialists", "joint", "linear", "ensemble"]
    assert board.system("ensemble").cost.parameters_used == sum(
        board.system(name).cost.parameters_used for name in ("specialists", "joint")
    )


# The command.


def asked(words: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> Options:
    found: list[Options] = []

    def build(suite: str, *, options: Options, out: Path, **more: object) -> SimpleNamespace:
        found.append(options)
        board = SimpleNamespace(print=lambda: None, notes={"choice": "Chosen."}, to_json=dict)
        return SimpleNamespace(scoreboard=board, best=out / "best", report=out / "report.html", folder=out)

    monkeypatch.setattr("allround.building.build", build)
    result = CliRunner().invoke(app, ["build", "suite.yml", "--base", "small_table", "-o", "out", *words])
    assert result.exit_code == 0, result.output
    return found[0]


def test_the_command_has_a_word_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = asked([], monkeypatch)
    assert plain.trees and not plain.ensemble and plain.constraints.single
    assert Options() == replace(plain, settings=Options().settings)
    assert not asked(["--no-trees"], monkeypatch).trees and asked(["--trees"], monkeypatch).trees
    assert plain.baselines and not asked(["--no-baselines"], monkeypatch).baselines
    assert plain.reference == "best"
    assert asked(["--reference", "specialists"], monkeypatch).reference == "specialists"
    assert asked(["--ensemble"], monkeypatch).ensemble
    every = asked(["--any-system", "--ensemble", "--no-trees", "--worst", "0.9"], monkeypatch)
    assert every.constraints == Constraints(worst=0.9, single=False) and every.ensemble and not every.trees
    shown = CliRunner().invoke(app, ["build", "--help"], env={"COLUMNS": "200"}).output
    assert all(word in shown for word in ("--no-trees", "--ensemble", "--any-system"))


def test_the_command_builds_with_all_of_them(tmp_path: Path) -> None:
    suite = tmp_path / "suite.yml"
    suite.write_text(
        "name: drawings\ntasks:\n  stripe:\n    source: {train: drawn.csv}\n    kind: classification\n"
        "    modality: table\n    inputs: [a, b, c]\n    target: stripe\n"
    )
    lines = ["a,b,c,stripe", *(f"{r['a']},{r['b']},{r['c']},{r['stripe']}" for r in drawn(300, 3))]
    (tmp_path / "drawn.csv").write_text("\n".join(lines))
    base = base_of(Suite.load(suite), tmp_path / "base")
    words = ["--no-joint", "--methods", "none", "--epochs", 1, "--precision", "fp32", "--workers", 1]
    result = CliRunner().invoke(
        app, ["build", *map(str, [suite, "--base", base, "-o", tmp_path / "run", *words, "--ensemble", "--any-system"])]
    )
    if result.exception is not None:
        raise result.exception
    board = Scoreboard.load(tmp_path / "run")
    assert board.best in ("trees", "ensemble") and "out of 5 systems" in result.output
    rows: list[Any] = [(0.3, 0.0, 0.0), (0.05, 0.0, 0.0)]
    assert ar.load(tmp_path / "run" / "best").predict("stripe", rows) == ["on", "off"]
