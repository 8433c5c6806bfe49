"""Saved models, and tasks of a suite, ranked as starts for a new task."""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

import allround
from allround import sources
from allround.cli.app import app
from allround.core.errors import AllroundError
from allround.models.encoders.small_image import SmallImage
from allround.models.fitting import fit_head
from allround.models.systems.ensemble import Ensemble
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.suite import Suite
from allround.transfer.blending import blend
from allround.transfer.files import read_matrices
from allround.transfer.starts import Starts


@pytest.fixture(scope="module")
def digits() -> Suite:
    limit = {"train": 120, "validation": 20, "test": 20}
    return Suite.load("digits", only=["digit", "parity", "large", "ink"], limit=limit)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, digits: Suite, small_image: SmallImage) -> dict[str, Path]:
    """A model of one task, the same spoilt by noise, the same of a constant, and one of two tasks."""
    folder = tmp_path_factory.mktemp("models")

    def save(name: str, tasks: list[str], change: float = 0.0, keep: float = 1.0) -> Path:
        encoder = deepcopy(small_image)
        torch.manual_seed(0)
        with torch.no_grad():
            for parameter in encoder.parameters():
                parameter.mul_(keep).add_(change * torch.randn_like(parameter))
        model = MultiTaskModel(encoder, {})
        for task in tasks:
            model.add_task(digits[task].definition, fit_head(encoder, digits[task]).state)
        model.save(folder / name)
        return folder / name

    return {
        "good": save("good", ["digit"]),
        "spoilt": save("spoilt", ["digit"], change=2.0),
        "dead": save("dead", ["digit"], keep=1e-6),
        "joint": save("joint", ["digit", "ink"], change=0.02),
    }


@pytest.fixture(scope="module")
def found(models: Mapping[str, Path], digits: Suite) -> Starts:
    return sources(list(models.values()), digits["parity"], rows=100)


def test_models_are_ranked_by_what_they_make_of_the_new_rows(found: Starts, models: Mapping[str, Path]) -> None:
    assert found.task == "parity" and list(found.starts) == ["good", "spoilt", "dead", "joint"]
    assert {"logme", "leep", "nce", "h_score", "transrate"} <= {one.name for one in found.estimates}
    assert "sizes" in found.left_out and "features of a base" in found.left_out["text_embedding"]
    order = found.best()
    assert set(order[:2]) == {str(models["good"]), str(models["joint"])}
    assert order[-1] == str(models["dead"])
    assert found.best(1) == order[:1]


def test_one_by_one_models_get_what_they_get_together(found: Starts, models: Mapping[str, Path], digits: Suite) -> None:
    alone = sources([models["spoilt"]], digits["parity"], rows=100)
    assert list(alone.starts) == ["spoilt"]
    for one in alone.estimates:
        whole = next(other for other in found.estimates if other.name == one.name)
        assert one.values[0, 0] == pytest.approx(whole.value("spoilt", "parity"), rel=1e-9), one.name
    assert np.array_equal(found.together.values, blend("rank_sum", found.estimates).values, equal_nan=True)


def test_a_model_of_several_tasks_counts_with_its_best(
    found: Starts, models: Mapping[str, Path], digits: Suite, tmp_path: Path
) -> None:
    whole = allround.load(models["joint"])
    assert isinstance(whole, MultiTaskModel)
    alone = []
    for task in ("digit", "ink"):
        one = MultiTaskModel(whole.encoder, {})
        one.add_task(whole.definition(task), whole.head(task).stored())
        one.save(tmp_path / task)
        alone.append(tmp_path / task)
    apart = sources(alone, digits["parity"], rows=100)
    for one in apart.estimates:
        joint = next(other for other in found.estimates if other.name == one.name).value("joint", "parity")
        assert joint == pytest.approx(np.nanmax(one.values) if one.higher_is_better else np.nanmin(one.values)), (
            one.name
        )


def test_the_order_of_models_does_not_matter(found: Starts, models: Mapping[str, Path], digits: Suite) -> None:
    turned = sources(list(models.values())[::-1], digits["parity"], rows=100)
    for name in found.starts:
        assert turned.together.value(name, "parity") == found.together.value(name, "parity")


def test_only_training_rows_of_the_new_task_are_looked_at(
    found: Starts, models: Mapping[str, Path], digits: Suite
) -> None:
    task = digits["parity"]
    blind = replace(task, splits={**dict.fromkeys(task.splits, task.splits["test"]), "train": task.splits["train"]})
    again = sources(list(models.values()), blind, rows=100)
    assert np.array_equal(again.together.values, found.together.values, equal_nan=True)


def test_a_model_is_told_from_another_and_from_the_task(
    models: Mapping[str, Path], digits: Suite, tmp_path: Path
) -> None:
    for place in ("a/best", "b/best", "c/parity"):
        (tmp_path / place).parent.mkdir()
        (tmp_path / place).symlink_to(models["good"])
    some = sources([tmp_path / "a" / "best", tmp_path / "b" / "best"], digits["parity"], estimators=["logme"])
    assert list(some.starts) == ["a/best", "b/best"]
    # a folder that is called as the task is a source like any other
    same = sources([tmp_path / "c" / "parity"], digits["parity"], estimators=["logme"])
    assert list(same.starts) == ["c/parity"] and not np.isnan(same.together.values).any()


def test_the_tasks_of_a_suite_are_sources_too(digits: Suite, small_image: SmallImage, tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    small_image.save(tmp_path / "base")
    found = sources(digits, digits["parity"], base=tmp_path / "base", rows=60, estimators=["sizes", "logme", "cka"])
    assert list(found.starts) == ["digit", "large", "ink"] and len(found.estimates) == 3
    assert "parity of 'digits' is left out" in found.notes[0]


def test_a_model_that_cannot_read_the_rows_is_named(
    found: Starts, models: Mapping[str, Path], table_suite: Suite, small_table: Any, digits: Suite, tmp_path: Path
) -> None:
    definition = table_suite.tasks["species"].definition
    MultiTaskModel(small_table, {"species": definition}).save(tmp_path / "table")
    some = sources([models["good"], tmp_path / "table"], digits["parity"], rows=60)
    assert some.best() == [str(models["good"])]
    assert "Nothing can be said of table" in " ".join(some.words())
    assert some.table()[1][-1][:2] == ["table", ""]
    with pytest.raises(AllroundError, match="says anything"):
        sources([tmp_path / "table"], digits["parity"], rows=60)


def test_what_is_printed_is_ascii_within_the_console(found: Starts) -> None:
    console = Console(file=StringIO(), width=50, color_system=None)
    found.print(2, console)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert printed.isascii() and max(map(len, printed.splitlines())) <= 50
    assert "Try first for parity:" in printed


def test_the_command(models: Mapping[str, Path], tmp_path: Path) -> None:
    words = ["sources", str(models["good"]), str(models["dead"]), "--for", "digits", "--task", "parity", "--top", "1"]
    out = tmp_path / "estimates.parquet"
    result = CliRunner().invoke(
        app, [*words, "--rows", "60", "--estimators", "logme,h_score", "--out", str(out), "--json"]
    )
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    assert said["best"] == [str(models["good"]), str(models["dead"])] and said["sources"][0]["all"] == "1"
    assert list(read_matrices(out)) == ["rank_sum", "logme", "h_score"]


def test_what_cannot_be_ranked_is_said(
    models: Mapping[str, Path], digits: Suite, small_image: SmallImage, tmp_path: Path
) -> None:
    def refused(found: str, do: str, *given: Any, **more: Any) -> None:
        with pytest.raises(AllroundError) as caught:
            sources(*given, **more)
        assert found in caught.value.found and do in caught.value.do, caught.value

    task = digits["parity"]
    refused("there is no model", "folders of models", [], task)
    refused("no such folder", "that allround saved", [models["good"], tmp_path / "none"], task)
    refused("4 tasks: digit, parity", "--task NAME", [models["good"]], digits)
    refused("no estimator of transfer", "logme", [models["good"]], task, estimators=["logm"])
    refused("rows is 0", "1 or more", [models["good"]], task, rows=0)
    refused("no base was given", "--base", Suite("mine", list(digits)), task)
    refused("no other task", "other tasks", digits.part(["parity"]), task, base="small_image")
    model = MultiTaskModel(small_image, {"digit": digits["digit"].definition})
    Ensemble([model, model]).save(tmp_path / "several")
    refused("sort 'ensemble'", "leave it out", [tmp_path / "several"], task)
