"""One build with several seeds: one scoreboard of means, intervals over seeds and rows, one model."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import allround
from allround.building import Build, Options, build
from allround.building.repeats import choose
from allround.building.run import forecast_build
from allround.building.runs.cleaning import clean
from allround.building.runs.folder import find_runs, read_run
from allround.building.runs.report import report
from allround.cli.build import forecast_lines
from allround.core.errors import AllroundError
from allround.core.progress import Progress
from allround.evaluation.intervals import Bootstrap, widening
from allround.evaluation.predictions import Predictions
from allround.evaluation.scoreboard import Scoreboard, ScoredSystem
from allround.evaluation.scoreboard.pool import RepeatedRun, pool
from allround.models.encoders.small_table import SmallTable
from allround.tasks.definition import Definition
from allround.tasks.suite import Suite
from allround.training.callback import Callback
from allround.training.course import Evaluation
from allround.training.settings import Settings

SETTINGS = Settings(epochs=1, precision="fp32")


class Recorder(Callback):
    """Counts what it is told of each training."""

    def __init__(self) -> None:
        self.evaluations: Counter[str] = Counter()
        self.scores: list[Mapping[str, Mapping[str, float]]] = []

    def evaluated(self, training: str, evaluation: Evaluation) -> None:
        self.evaluations[training] += 1

    def scored(self, scores: Mapping[str, Mapping[str, float]]) -> None:
        self.scores.append(scores)


TOLD = Recorder()


def run(suite: Suite, base: Path, out: Path, seeds: int, folds: int = 0) -> Build:
    options = Options(
        SETTINGS,
        seed=3,
        seeds=seeds,
        folds=folds,
        workers=1,
        joint=not folds,
        trees=False,
        methods=(),
        balance=(),
        resamples=100,
    )
    return build(suite, out=out, base=base, options=options, progress=Progress(out / "log.txt", quiet=True),
                 callbacks=[] if folds else [TOLD])  # fmt: skip


@pytest.fixture(scope="module")
def made(table_suite: Suite, small_table: SmallTable, tmp_path_factory: pytest.TempPathFactory) -> Build:
    folder = tmp_path_factory.mktemp("seeds")
    (folder / "base").mkdir()
    small_table.save(folder / "base")
    return run(table_suite, folder / "base", folder / "run", 2)


def test_scores_are_means_over_the_seeds(made: Build, table_suite: Suite) -> None:
    board = made.scoreboard
    single = [Scoreboard.load(made.folder / "seeds" / str(seed)) for seed in (3, 4)]
    assert [one.seed for one in single] == [3, 4] and board.repeats is not None
    assert board.repeats.names == ["seed 3", "seed 4"]
    for system in board.systems:
        for task in table_suite.tasks:
            scores = [one.cells[system.name][task].score for one in single]
            assert board.repeats.scores[system.name][task] == scores
            assert board.cells[system.name][task].score == pytest.approx(sum(scores) / 2)
            assert board.cells[system.name][task].n == 35
        seconds = [one.system(system.name).cost.training_seconds for one in single]
        assert board.system(system.name).cost.training_seconds == pytest.approx(sum(seconds) / 2)
    assert single[0].cells["joint"] != single[1].cells["joint"], "seeds differ"
    assert "hierarchical bootstrap" in board.method() and "once for each seed" in board.method()
    assert Scoreboard.load(made.folder).fingerprint() == board.fingerprint()
    assert "repeats" not in single[0].to_json()


def test_callbacks_are_told_of_every_training(made: Build) -> None:
    """Before the first step and after each of one epoch, with two seeds; what was found is told as what was made."""
    times = len(TOLD.scores) // 2
    assert times and TOLD.evaluations == dict.fromkeys(("joint", "specialist-species", "specialist-petal"), 4 * times)
    single = Scoreboard.load(made.folder / "seeds" / "4")
    assert TOLD.scores[1]["joint"]["petal"] == single.cells["joint"]["petal"].score


def test_it_leaves_one_model_and_one_report(made: Build) -> None:
    board = made.scoreboard
    assert "as a mean over 2 seeds" in board.notes["choice"] and "as a mean over 2 seeds" in made.report.read_text()
    kept = [seed for seed in (3, 4) if f"that is kept is that of seed {seed}" in board.notes["choice"]]
    one = made.folder / "seeds" / str(kept[0])
    rows = [(5.1, 3.5, 1.4, "small"), (6.9, 3.1, 5.4, "large")]
    assert allround.load(made.best).predict("species", rows) == allround.load(one / "best").predict("species", rows)
    assert Scoreboard.load(one).best == board.best
    (found,) = find_runs(made.folder.parent / "run")
    assert found.state == "finished" and found.best == board.best
    before = made.report.read_bytes()
    report(made.folder)
    assert made.report.read_bytes() == before


def test_again_it_makes_nothing_and_clean_empties_all_seeds(made: Build, table_suite: Suite) -> None:
    again = run(table_suite, made.folder.parent / "base", made.folder, 2)
    assert again.scoreboard.fingerprint() == made.scoreboard.fingerprint()
    log = (made.folder / "log.txt").read_text().split("seed 3 (1 of 2)")[-1]
    assert "have  specialist-petal" in log and "made  " not in log
    assert len(clean(made.folder).pieces) > 20
    assert read_run(made.folder).pieces == 0 and (made.folder / "seeds" / "4" / "best").is_dir()


def test_folds_test_every_row_once_and_keep_a_model_of_the_usual_splits(
    made: Build, table_suite: Suite, tmp_path: Path
) -> None:
    suite, out = table_suite.part(["species"]), tmp_path / "run"
    folded = run(suite, made.folder.parent / "base", out, 1, folds=2)
    board, single = folded.scoreboard, [Scoreboard.load(out / "folds" / str(number)) for number in (1, 2)]
    rows = sum(len(split) for split in suite["species"].splits.values())
    tested = [one.cells["specialists"]["species"].n for one in single]
    assert sum(tested) == rows == board.cells["specialists"]["species"].n and min(tested) > 0.4 * rows
    scores = [one.cells["specialists"]["species"].score for one in single]
    assert board.cells["specialists"]["species"].score == pytest.approx(sum(scores) / 2)
    assert board.repeats is not None and board.repeats.of == "fold" and board.repeats.names == ["fold 1", "fold 2"]
    words = board.notes["choice"]
    assert "Every row was tested once, by models that did not see it, in 2 folds. The model that is kept is" in words
    final = out / "folds" / "final"
    row = [(5.1, 3.5, 1.4, "small")]
    assert allround.load(folded.best).predict("species", row) == allround.load(final / "best").predict("species", row)
    usual = len(suite["species"].splits["test"])
    assert Scoreboard.load(final).cells["specialists"]["species"].n == usual
    assert "fold 1 of 2" not in str(board.notes), "notes are those of the suite"
    page = folded.report.read_text(encoding="utf-8")
    assert "2 folds" in page and "What the check of the data found" in page
    facts = json.loads((out / "report.json").read_text(encoding="utf-8"))["tasks"][0]
    assert facts["test"] == usual and [one["code"] for one in facts["findings"]] == ["repeated_rows"]
    alone = json.loads((final / "report.json").read_text(encoding="utf-8"))["tasks"][0]["findings"]
    assert [one["code"] for one in alone] == ["few_test_rows", "repeated_rows"], "each build has its own rows"
    log = (out / "log.txt").read_text(encoding="utf-8")
    assert log.count("repeat the input of another row") == 1, "said once, and not in every fold"


def test_folds_and_seeds_or_given_specialists_are_refused(made: Build, table_suite: Suite, tmp_path: Path) -> None:
    for folds, seeds, words in ((1, 1, "at least 2 folds"), (3, 2, "each build everything again")):
        with pytest.raises(AllroundError, match=words):
            Options(folds=folds, seeds=seeds)
    options = Options(SETTINGS, folds=2, workers=1, specialists={"species": str(made.best)})
    with pytest.raises(AllroundError, match="may have seen the rows"):
        build(table_suite, out=tmp_path / "x", base=made.folder.parent / "base", options=options)
    assert not (tmp_path / "x").exists()


def test_a_dry_run_says_what_a_build_would_make_and_writes_nothing(
    made: Build, table_suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    options = Options(SETTINGS, seeds=2, workers=1, trees=False, methods=("average", "ties"), balance=("uw",), trials=5)
    found = forecast_build(table_suite, base=made.folder.parent / "base", options=options)
    assert list(tmp_path.iterdir()) == []
    assert found.rows == {"train": 160, "validation": 70, "test": 70} and (found.seeds, found.workers) == (2, 1)
    assert found.trainings == ["specialist of species", "specialist of petal", "joint", "joint-uw"]
    assert found.merges == {"average": 1, "ties": 5}
    assert found.seconds > 0 and found.disk > found.pieces > 0
    assert f"{found.rows['train']}" in "\n".join(forecast_lines(found, tmp_path))
    lines = "\n".join(forecast_lines(found, tmp_path / "run"))
    assert "4, each with 2 seeds: specialist of species" in lines and "ties (5 settings at most)" in lines


def bootstrap(score: float, rows: list[float]) -> Bootstrap:
    return Bootstrap({("s", "t"): score, ("r", "t"): 1.0}, {("s", "t"): np.array(rows), ("r", "t"): np.ones(len(rows))},
                     {"t": "higher"}, "r")  # fmt: skip


def test_intervals_cover_seeds_and_rows() -> None:
    """Against Student's interval, which is exact for normal seeds, and against the rows alone where seeds agree."""
    count = 4000
    rows = np.random.default_rng(0).normal(0.5, 0.01, count)
    alike = Bootstrap.pooled([bootstrap(0.5, list(rows))] * 4)
    low, high = np.quantile(rows, [0.025, 0.975])
    found = alike.score("s", "t")
    assert (found.value, found.low, found.high) == pytest.approx((0.5, low, high))
    scores = np.random.default_rng(1).normal(0.5, 0.02, 8)
    seeds = Bootstrap.pooled([bootstrap(float(score), [float(score)] * count) for score in scores])
    half = 2.3646 * scores.std(ddof=1) / math.sqrt(8)  # Student's quantile at 7 degrees of freedom
    found = seeds.score("s", "t")
    assert found.low is not None and found.high is not None
    assert (found.high - found.low) / (2 * half) == pytest.approx(1, abs=0.06)
    assert seeds.retention("s", "t") == found, "retention is that of the mean scores"
    assert widening(8) == pytest.approx(math.sqrt(8 / 7) * 2.3646 / 1.95996, rel=1e-4)


def parts(seed: int, *, right: float, name: str = "ties") -> RepeatedRun:
    """A run of three systems on 200 rows that belong to it."""
    definition = Definition("t", "classification", ("x",), "text", "accuracy", ("no", "yes"))
    targets = np.random.default_rng(seed).integers(0, 2, 200)
    rank = np.random.default_rng(7).permutation(200) / 200
    made = {}
    for system, share in (("specialists", 0.9), ("joint", 0.8), (name, right)):
        made[system, "t"] = Predictions(definition, "test", targets, np.where(rank < share, targets, 1 - targets))
    systems = [
        ScoredSystem("specialists", "specialists", single=False),
        ScoredSystem("joint", "joint", settings={"seed": seed}),
        ScoredSystem(name, "merge"),
    ]
    validation = {("specialists", "t"): 0.9, ("joint", "t"): 0.8, (name, "t"): right}
    best = name if right > 0.8 else "joint"
    board = Scoreboard.make({"t": definition}, systems, made, validation=validation, best=best, resamples=200)
    return RepeatedRun(board, made)


def test_folds_have_rows_of_their_own() -> None:
    runs = {f"fold {k}": parts(k, right=0.85 + 0.01 * k) for k in range(3)}
    board = pool(runs, of="fold", best="ties", notes={}, provenance={})
    assert board.cells["ties"]["t"].n == 600 and board.cells["ties"]["t"].score == pytest.approx(0.86)
    assert board.system("joint").settings == {f"fold {k}": {"seed": k} for k in range(3)}
    assert board.comparison("ties", "specialists") is not None
    assert "once for each fold" in board.method()
    assert Scoreboard.from_json(board.to_json()).fingerprint() == board.fingerprint()


def test_the_choice_is_by_validation_over_all_runs() -> None:
    runs = {"seed 0": parts(0, right=0.82), "seed 1": parts(0, right=0.7), "seed 2": parts(0, right=0.81)}
    boards = {name: run.board for name, run in runs.items()}
    best, model, words = choose(boards, ["specialists", "joint", "ties"], "seed")
    assert (best, model) == ("joint", "seed 1"), "0.8 beats the mean of 0.82, 0.7 and 0.81"
    assert "joint, mean retention 88.9%" in words
    lacking = {**runs, "seed 1": parts(0, right=0.7, name="average")}
    board = pool(lacking, of="seed", best="joint", notes={}, provenance={})
    assert [system.name for system in board.systems] == ["specialists", "joint"]
    damaged = replace(board, repeats=replace(board.repeats, scores={}))  # type: ignore[type-var]
    with pytest.raises(allround.AllroundError, match="it is damaged"):
        Scoreboard.from_json(damaged.to_json())
