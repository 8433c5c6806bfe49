"""Relations from the command on: one small run whose pairs are measured, taken up again, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from allround.building.relate import relate
from allround.core.errors import AllroundError
from allround.core.progress import Progress
from allround.models.encoders.small_image import SmallImage
from allround.tasks.suite import Suite
from allround.training.settings import Settings
from allround.transfer.relations import FILES, Relations, matrices_of

ESTIMATORS = ("sizes", "logme", "divergence:kind=coral", "delta_cosine")
QUICK = Settings(epochs=1, batch_size=8, learning_rate=3e-3, keep="last", device="cpu", precision="fp32")


def related(suite: Suite, base: Path, out: Path, **more: Any) -> Relations:
    given = {"estimators": ESTIMATORS, "rows": 40, "settings": QUICK, "workers": 1} | more
    return relate(suite, out=out, base=base, progress=Progress(quiet=True), **given)


def made(folder: Path) -> Mapping[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in (folder / "pieces").rglob("piece.json")}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, small_image: SmallImage) -> Path:
    folder = tmp_path_factory.mktemp("base") / "base"
    folder.mkdir()
    small_image.save(folder)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, digits_suite: Suite, base: Path) -> tuple[Path, Relations]:
    folder = tmp_path_factory.mktemp("related")
    return folder, related(digits_suite, base, folder, measure="pairs")


def test_pairs_are_measured_and_every_estimate_is_judged(run: tuple[Path, Relations]) -> None:
    folder, found = run
    assert found.measured is not None and found.measure == "pairs" and len(found.effects) == 6
    assert found.tasks == ("digit", "ink", "segments") and found.metrics["digit"] == "accuracy"
    # the base has no specialists, and those that the measuring made are looked at afterwards
    assert [one.name for one in found.estimates][:3] == list(ESTIMATORS[:3])
    assert "delta_cosine" in found.left_out and "delta_cosine-by-specialists" in [one.name for one in found.estimates]
    assert {"random", "popularity", "rank_sum", *ESTIMATORS[:3]} <= {one.score.name for one in found.judged}
    assert {*FILES} <= {path.name for path in folder.iterdir()}
    back = matrices_of(folder)
    assert np.array_equal(back["pairs"].values, found.measured.values, equal_nan=True)
    assert "estimators look at up to 40 of each" in found.facts["training rows"]


def test_run_again_it_makes_nothing_anew(run: tuple[Path, Relations], digits_suite: Suite, base: Path) -> None:
    folder, found = run
    before = made(folder)
    again = related(digits_suite, base, folder, measure="pairs")
    assert made(folder) == before
    assert again.measured is not None and found.measured is not None
    assert np.array_equal(again.measured.values, found.measured.values, equal_nan=True)
    assert again.words() == found.words()


def test_other_measures_and_less_take_up_what_is_there(
    run: tuple[Path, Relations], digits_suite: Suite, base: Path, tmp_path: Path
) -> None:
    folder, _ = run
    before = made(folder)
    less = related(digits_suite, base, folder)
    assert less.measured is None and made(folder) == before, "nothing is trained, and nothing is lost"
    # no time is left for any pair after the runs alone; what was made before counts
    found = related(digits_suite.part(["digit", "ink"]), base, tmp_path, measure="pairs", budget=1e-9)
    assert found.effects == [] and found.words()[0] == "The time was too short to measure any pair of tasks."
    assert found.judged == [] and (tmp_path / "relations.html").is_file()


def test_what_cannot_be_related_is_said_before_anything_is_made(
    digits_suite: Suite, base: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"

    def refused(found: str, do: str, suite: Suite = digits_suite, **more: Any) -> None:
        given = {"out": out, "base": base} | more
        with pytest.raises(AllroundError) as caught:
            relate(suite, **given)
        assert found in caught.value.found and do in caught.value.do, caught.value
        assert caught.value.asked and not out.exists()

    refused("only one task: digit", "two tasks or more", digits_suite.part(["digit"]))
    refused("no such measure", "did you mean 'pairs'", measure="pair")
    refused("nothing to measure", "--measure pairs", budget=3.0)
    refused("budget is 0", "above 0", budget=0.0, measure="pairs")
    refused("rows is -1", "above 0", rows=-1)
    refused("no estimator of transfer", "logme", estimators=["logm"])
    refused("it takes 3", "give 3 tasks", digits_suite.part(["digit", "ink"]), measure="leave-one-out")
    refused("no base was given", "--base", Suite("mine", list(digits_suite.tasks.values())), base=None)
