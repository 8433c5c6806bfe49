"""Builds on tables: a network beside a linear model on real rows, and the size of `small_table` by validation."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.datasets import load_breast_cancer

import allround
from allround.building import Build, Options, build
from allround.core.errors import AllroundError
from allround.core.progress import Progress
from allround.models.base import create_encoder, load_encoder, open_encoder
from allround.models.encoder import hash_tensors
from allround.models.encoders import small_table as module
from allround.models.encoders.small_table import SmallTable
from allround.tasks.make import make_task
from allround.tasks.suite import Suite
from allround.training.settings import Settings

TEXTURE = "worst_texture"


def run(suite: Suite, out: Path, *, encoder: dict[str, Any] | None = None, **changes: Any) -> Build:
    wanted = {"settings": Settings(precision="fp32"), "workers": 1, "joint": False, "trees": False, "resamples": 500}
    progress = Progress(out / "log.txt", quiet=True)
    options = Options(**{**wanted, **changes})
    return build(suite, base="small_table", out=out, options=options, encoder=encoder, progress=progress)


def test_a_network_is_not_worse_than_a_linear_model_on_a_linear_task(tmp_path: Path) -> None:
    """The texture of the worst cells from means over all cells, 120 test rows: an earlier network scored 79.5, and a
    linear model 90.5."""
    cells = load_breast_cancer(as_frame=True).frame.sample(frac=1, random_state=0)
    inputs = [column for column in cells.columns if column.startswith("mean ")]
    data = {"train": cells[:349], "validation": cells[349:449], "test": cells[449:]}
    task = make_task(TEXTURE, kind="regression", inputs=inputs, target="worst texture", data=data)
    board = run(Suite("cells", [task]), tmp_path / "run").scoreboard
    assert board.n(TEXTURE) == 120
    assert board.cells["linear"][TEXTURE].score > 0.88
    for name in ("base", "specialists"):
        found = board.comparison("linear", name)
        assert found is not None and found.tasks[TEXTURE] == "no difference found"
        assert board.cells[name][TEXTURE].score > 0.88
    first = board.answer()[:3]
    assert first[1].startswith("Would a simple way do as well, in mean retention? A linear model for each task, on ")
    assert first[1].endswith("as good, no difference found.")
    scores = [f"{100 * board.cells[name][TEXTURE].score:.1f}" for name in ("specialists", "linear")]
    assert scores[0] < scores[1], "so that there is something to say"
    assert first[2] == (f"The specialist scores below a simple system on {TEXTURE} ({scores[0]}, linear {scores[1]}); "
                        "no difference was found.")  # fmt: skip


@pytest.fixture(scope="module")
def sized(table_suite: Suite, tmp_path_factory: pytest.TempPathFactory) -> Build:
    """A build on two tasks that tries sizes, with next to no pretraining."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "STEPS", 5)
        return run(table_suite, tmp_path_factory.mktemp("sized") / "run", **QUICK)


QUICK: dict[str, Any] = {"sizes": True, "settings": Settings(epochs=1, precision="fp32"), "methods": (),
                         "baselines": False, "resamples": 100}  # fmt: skip


def made(out: Path) -> list[str]:
    """What the last run in a folder made, by the names of the pieces without their keys."""
    log = (out / "log.txt").read_text().split(" s  suite ")[-1]
    return [re.sub(r"-[0-9a-f]{12}$", "", line) for line in re.findall(r"made  (.+?)(?:  \(|$)", log, re.M)]


def test_the_size_that_is_best_on_validation_is_taken(sized: Build, table_suite: Suite) -> None:
    counted = made(sized.folder)
    assert counted.count("base") == 3 and counted.count("head-species") == counted.count("head-petal") == 3
    heads: dict[str, dict[str, float]] = {}
    for task in table_suite.tasks:
        for piece in (sized.folder / "pieces").glob(f"head-{task}-*/piece.json"):
            about = json.loads(piece.read_text())
            heads.setdefault(about["made_from"]["base"], {})[task] = about["facts"]["validation"]
    sizes = {}
    for piece in (sized.folder / "pieces").glob("base-*/piece.json"):
        settings = json.loads(piece.read_text())["made_from"].get("encoder", {})
        name = next(n for n, tried in SmallTable.sizes.items() if tried == settings)
        sizes[name] = heads[piece.parent.name]
    own = sizes["128x2"]
    means = {name: sum(scores[t] / own[t] for t in own) / 2 for name, scores in sizes.items()}
    best = max(SmallTable.sizes, key=lambda name: means[name])
    assert sorted(means) == sorted(SmallTable.sizes) and len(set(means.values())) == 3
    words = f"{best} of 3 tried, by validation"
    assert f"size: {words} (mean of scores relative to the first: 128x2: 100.0%, " in (
        sized.folder / "log.txt").read_text()  # fmt: skip
    assert f"<dt>Size of the base</dt><dd>{words}</dd>" in sized.report.read_text()
    chosen = allround.load(sized.best).encoder
    assert {"width": chosen.width, "depth": chosen.depth, "dropout": chosen.dropout} == {
        "width": 128, "depth": 2, "dropout": 0.2,
        **{key: value for key, value in SmallTable.sizes[best].items() if key != "stretches"},
    }  # fmt: skip


def test_again_it_makes_nothing_anew(sized: Build, table_suite: Suite) -> None:
    before = sized.scoreboard.fingerprint()
    again = run(table_suite, sized.folder, **QUICK)
    assert made(sized.folder) == [] and again.scoreboard.fingerprint() == before


def test_a_size_that_is_given_is_taken_and_kept(
    table_suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STEPS", 2)
    task = table_suite.tasks["species"]
    made = open_encoder("small_table", [task], 0, {"width": 8, "depth": 3, "dropout": 0, "stretches": 2})
    made.save(tmp_path)
    read = load_encoder(tmp_path)
    assert isinstance(read, SmallTable) and hash_tensors(read) == hash_tensors(made)
    assert (read.width, read.depth, read.dropout) == (8, 3, 0)
    shapes = [tuple(layer.weight.shape) for layer in read.layers if isinstance(layer, torch.nn.Linear)]
    assert shapes == [(8, read.inputs), (8, 8), (8, 8)]
    assert [len(column["edges"]) for column in read.columns if "edges" in column] == [3, 3, 3]
    with pytest.raises(AllroundError, match="its size is given already: width=8"):
        run(table_suite, tmp_path / "other", encoder={"width": 8}, **QUICK)


def test_hidden_numbers_are_left_out_in_training_alone(small_table: SmallTable, table_suite: Suite) -> None:
    task = table_suite.tasks["species"]
    made = SmallTable(columns=small_table.columns, width=64, dropout=0.5, depth=3)
    batch = made.batch(made.prepare(task.splits["train"].inputs, task.definition), task.definition)
    torch.manual_seed(0)
    training, quiet = made.train()(batch).values[:, :64], made.eval()(batch).values[:, :64]
    assert (training == 0).float().mean() > (quiet == 0).float().mean() + 0.2
    assert torch.equal(quiet, made(batch).values[:, :64]), "the same rows give the same features"


def test_sizes_of_a_base_that_has_one(digits_suite: Suite, tmp_path: Path) -> None:
    with pytest.raises(AllroundError, match="try sizes of the base 'small_image'") as caught:
        build(digits_suite, base="small_image", out=tmp_path / "run", options=Options(sizes=True))
    assert caught.value.do == "leave `sizes` out, or take multitab or small_table as the base"


@pytest.mark.parametrize(
    ("setting", "found"),
    [
        ({"width": 0}, "width must be a whole number of at least 1"),
        ({"depth": 1.5}, "depth must be a whole number of at least 1"),
        ({"dropout": 1}, "dropout must be a share of at least 0 and below 1"),
        ({"stretches": True}, "stretches must be a whole number of at least 0"),
        ({"dropuot": 0.1}, "it has no such settings"),
    ],
)
def test_sizes_that_no_net_can_have(setting: dict[str, Any], found: str, table_suite: Suite) -> None:
    task = table_suite.tasks["species"]
    with pytest.raises(AllroundError, match=found):
        create_encoder("small_table", [task], 0, setting)
