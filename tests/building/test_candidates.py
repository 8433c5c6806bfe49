"""What a build asks of a candidate: a system that is no encoder with heads stands among the others."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from allround.building.candidates import Answerer, Candidate, ModelCandidate
from allround.building.jobs.rows import stored_task
from allround.building.options import Constraints, Options
from allround.building.saving import save_best
from allround.building.stages.choice import choose, make_judge
from allround.building.stages.data import Data, keep_rows
from allround.building.stages.plan import Scope
from allround.building.stages.predicting import predict, prediction_pieces, validation_scores
from allround.building.stages.reference import Reference
from allround.building.stages.scoring import Scored, score
from allround.building.workshop import Workshop
from allround.core.pieces import Piece
from allround.core.progress import Progress
from allround.evaluation.predictions import Predictions
from allround.evaluation.predictions import score as scored
from allround.models.cost import Cost
from allround.tasks.definition import Definition
from allround.tasks.suite import Suite
from allround.training.settings import Settings

TASKS = ("digit", "segments")


def answer(
    pieces: Sequence[Mapping[str, Piece]],
    source: str,
    own: Sequence[Mapping[str, str]],
    tasks: Mapping[str, str],
    split: str,
    device: str,
) -> None:
    """A job: the right answers, but for as many rows as the candidate's own file says for the task."""
    with Path(source, "calls").open("a") as file:
        file.write(f"{split} {','.join(tasks)} {len(pieces)}\n")
    for made, wrong in zip(pieces, own, strict=True):
        for name, folder in tasks.items():
            task = stored_task(folder)
            targets = np.array(task.splits[split].targets)
            found = targets.copy()
            found[: int(wrong[name])] = 1 - found[: int(wrong[name])] if targets.ndim > 1 else (
                (targets[: int(wrong[name])] + 1) % 10
            )  # fmt: skip
            predicted = Predictions(task.definition, split, targets, found, None, 0.5)
            with made[name].make() as (place, facts):
                predicted.write(place / "predictions.parquet")
                facts.update({"score": scored(predicted), "seconds": 0.5, "rows": len(predicted)})


@dataclass(frozen=True)
class Nearly:
    """A candidate that is wrong on the first rows of each task."""

    name: str
    folder: Path
    wrong: int
    role: str = "joint"
    title: str = "right, mostly"
    single: bool = True
    stored: int = 3

    @property
    def settings(self) -> Mapping[str, object]:
        return {"wrong": self.wrong}

    @property
    def keys(self) -> Mapping[str, object]:
        return {name: ["nearly", self.wrong] for name in TASKS}

    def answerers(self) -> list[Answerer]:
        return [Answerer(answer, str(self.folder), dict.fromkeys(TASKS, str(self.wrong)))]

    def cost(self, examples_per_second: float | None = None) -> Cost:
        return Cost(parameters_stored=self.stored, parameters_used=1, examples_per_second=examples_per_second)

    def write(self, folder: Path, definitions: Mapping[str, Definition], facts: Mapping[str, object]) -> None:
        (folder / "nearly.json").write_text(json.dumps([self.wrong, list(definitions), facts["made_by"]]))


@pytest.fixture
def data(digits_suite: Suite, tmp_path: Path) -> tuple[Workshop, Data]:
    shop = Workshop(tmp_path, Progress(tmp_path / "log.txt", quiet=True), workers=1)
    return shop, keep_rows(shop, {name: digits_suite.tasks[name] for name in TASKS})


def test_any_system_is_scored_chosen_and_saved(data: tuple[Workshop, Data], tmp_path: Path) -> None:
    shop, kept = data
    reference = Nearly("specialists", tmp_path, 2, role="specialists", single=False)
    candidates: list[Candidate] = [reference, Nearly("few", tmp_path, 5), Nearly("none", tmp_path, 0, stored=9),
                                   Nearly("many", tmp_path, 0, single=False)]  # fmt: skip
    validation = validation_scores(shop, candidates, kept, "cpu")
    assert validation["none"]["digit"] == 1.0 > validation["specialists"]["digit"] > validation["few"]["digit"]
    judge = make_judge(shop, kept, "specialists", validation)
    assert choose(shop, candidates, validation, judge, Constraints(), 0).best.name == "none", "many is no single model"
    small = choose(shop, candidates, validation, judge, Constraints(max_parameters=5), 0)
    assert small.best.name == "few" and "none is better but stores 9 parameters" in small.words

    scope = Scope(kept, Data({}, {}), Settings(), 1, (), (), False, ())
    options, against = Options(resamples=100), Reference("specialists", dict.fromkeys(TASKS, "specialists"))
    found: Scored = score(shop, candidates, scope, validation, small, against, options, provenance={"base": "none"})
    system = found.board.system("few")
    assert system.settings == {"wrong": 5} and system.cost.parameters_stored == 3
    assert system.cost.examples_per_second == pytest.approx(60), "two tasks of 30 rows in half a second each"
    assert found.board.cells["few"]["digit"].score == pytest.approx(25 / 30)
    save_best(tmp_path / "best", small.best, found.board, force=False)
    made_by = {"system": "few", "settings": {"wrong": 5}, "title": "right, mostly"}
    assert json.loads((tmp_path / "best" / "nearly.json").read_text()) == [5, list(TASKS), made_by]
    assert "right, mostly" in (tmp_path / "best" / "README.md").read_text()


def test_candidates_that_share_what_they_load_are_answered_by_one_job(
    data: tuple[Workshop, Data], tmp_path: Path
) -> None:
    shop, kept = data
    (tmp_path / "other").mkdir()
    first, second, third = Nearly("a", tmp_path, 1), Nearly("b", tmp_path, 2), Nearly("c", tmp_path / "other", 3)
    predict(shop, [first], kept, "test", "cpu")
    tally = predict(shop, [first, second, third, Nearly("d", tmp_path, 4)], kept, "test", "cpu")
    assert (tally.made, tally.found) == (2, 1), "b and d together, c; a was there"
    whole = "test digit,segments "
    assert (tmp_path / "calls").read_text().split("\n")[:2] == [whole + "1", whole + "2"]
    assert (tmp_path / "other" / "calls").read_text() == whole + "1\n"
    log = (tmp_path / "log.txt").read_text()
    assert "have  test predictions of a (all 2 tasks)" in log
    assert "made  test predictions of b and d (all 2 tasks)" in log
    pieces = prediction_pieces(shop.pieces, second, kept, "test")
    assert pieces["digit"].made_from["system"] == ["nearly", 2], "known by what it was made from"


def test_models_with_one_encoder_are_single() -> None:
    def of(*folders: str) -> ModelCandidate:
        places = {f"t{i}": Path(folder) for i, folder in enumerate(folders)}
        return ModelCandidate("m", "joint", "", places, places, {}, 10)

    assert of("a", "a").single and not of("a", "b").single and of("a").single
    assert [list(one.own) for one in of("a", "b", "a").answerers()] == [["t0", "t2"], ["t1"]]
