"""The reference of a build: the specialists, or the better of specialist and base on each task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from allround.building.candidates import ModelCandidate
from allround.building.options import Options
from allround.building.stages.data import Data
from allround.building.stages.reference import make_reference
from allround.building.workshop import Workshop
from allround.core.errors import AllroundError
from allround.core.progress import Progress
from allround.tasks.suite import Suite
from allround.tasks.task import Task


def candidate(name: str, tasks: list[str], *, alone: bool) -> ModelCandidate:
    places = {task: Path(name if alone else f"{name}-{task}") for task in tasks}
    return ModelCandidate(name, name, name, places, places, {task: str(place) for task, place in places.items()}, 10)


@pytest.fixture
def data(table_suite: Suite) -> Data:
    """A task of accuracy, one of pearson, and one of rmse, where lower is better."""
    tasks: dict[str, Task] = dict(table_suite.tasks)
    petal = tasks["petal"]
    error = Task(petal.definition.with_facts({"metric": "rmse", "name": "error"}), petal.splits)
    return Data({**tasks, "error": error}, {})


def made(data: Data, tmp_path: Path, sort: str, base: tuple[float, ...]) -> Any:
    names = list(data.tasks)
    shop = Workshop(tmp_path, Progress(tmp_path / "log.txt", quiet=True), workers=1)
    validation = {"base": dict(zip(names, base, strict=True)), "specialists": dict.fromkeys(names, 0.5)}
    one, many = candidate("base", names, alone=True), candidate("specialists", names, alone=False)
    return make_reference(shop, sort, one, many, data, validation), validation


def test_on_each_task_it_is_the_better_one(data: Data, tmp_path: Path) -> None:
    reference, validation = made(data, tmp_path, "best", (0.6, 0.5, 0.4))
    assert reference.name == "reference"
    assert reference.of == {"species": "base", "petal": "specialists", "error": "base"}, "of equals the specialist"
    assert reference.scores(validation) == {"reference": {"species": 0.6, "petal": 0.5, "error": 0.4}}
    (own,) = reference.candidates
    assert own.title.endswith("the base on species and error, specialists elsewhere") and not own.single
    assert own.keys == {"species": "base", "petal": "specialists-petal", "error": "base"}
    assert [str(path) for path in own.encoders.values()] == ["base", "specialists-petal", "base"]


def test_it_is_one_of_the_candidates_where_it_can_be(data: Data, tmp_path: Path) -> None:
    for sort, base, name in (
        ("best", (0.5, 0.4, 0.6), "specialists"),
        ("specialists", (0.9, 0.9, 0.1), "specialists"),
        ("best", (0.9, 0.9, 0.1), "base"),
    ):
        reference, validation = made(data, tmp_path, sort, base)
        assert (reference.name, set(reference.of.values())) == (name, {name})
        assert reference.candidates == [] and reference.scores(validation) == {}


def test_another_reference_is_refused() -> None:
    with pytest.raises(AllroundError, match="measure retention against 'bset'"):
        Options(reference="bset")
