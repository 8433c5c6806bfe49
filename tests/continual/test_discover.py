"""Novel classes: parts follow hand computations, ways find classes that lie apart, and no hidden label is seen."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn import functional as F
from typer.testing import CliRunner

from allround.building.discover import discover
from allround.cli.app import app
from allround.continual import discovery_net
from allround.continual.discover.pbn import Pbn
from allround.continual.discover.tabular_ncd import alike, nearest, pair_loss, towards
from allround.continual.discovering import (
    NovelClasses,
    NovelRows,
    estimate_count,
    find_classes,
    group_accuracy,
    group_scores,
    make_discovery,
)
from allround.continual.discovery_net import projection
from allround.continual.discovery_tuning import hide, tuned_settings
from allround.core import registry
from allround.core.errors import AllroundError
from allround.models.encoders.small_image import SmallImage
from allround.tasks.make import make_task
from allround.tasks.suite import Suite
from allround.tasks.task import Task

WAYS = registry.names("discover")
#: Few epochs, so that there are as few steps as there may be.
FAST = {"known_features": ":epochs=10", "pbn": ":epochs=10", "tabular_ncd": ":neighbours=3", "kmeans": ""}


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery_net, "STEPS", 100)


def clouds(classes: int, rows: int = 40, width: int = 6, seed: int = 0) -> tuple[Tensor, np.ndarray]:
    """Rows of classes that lie far apart."""
    draw = torch.Generator().manual_seed(seed)
    places = 6 * F.normalize(torch.randn(classes, width, generator=draw), dim=-1)
    labels = np.arange(classes).repeat(rows)
    return places[labels] + 0.3 * torch.randn(classes * rows, width, generator=draw), labels


@pytest.fixture(scope="module")
def table() -> Task:
    """Handwritten digits as a table of 64 numbers: 200 rows."""
    frame = load_digits(as_frame=True).frame.iloc[:200]
    frame["digit"] = [f"d{int(target)}" for target in frame.pop("target")]
    rows = frame.to_dict("records")
    inputs = [name for name in rows[0] if name != "digit"]
    splits = {"train": rows, "validation": rows[:20], "test": rows[:20]}
    return make_task("digit", data=splits, inputs=inputs, target="digit", kind="classification", modality="table")


# -- scores ------------------------------------------------------------------------------------------------------------


def test_scores_of_groups_by_hand() -> None:
    truth, groups = np.array([0, 0, 0, 1, 1, 1]), np.array([2, 2, 0, 0, 0, 1])
    # groups 2 -> 0 (2 rows) and 0 -> 1 (2 rows); 1 gets no class
    assert group_accuracy(truth, groups) == pytest.approx(4 / 6)
    assert group_accuracy(truth, np.zeros(6, dtype=np.int64)) == 0.5, "one group is given to one class alone"
    perfect = group_scores(np.array([5, 5, 9]), np.array([1, 1, 0]))
    assert perfect == {"accuracy": 1.0, "nmi": pytest.approx(1.0), "ari": 1.0}


def test_the_number_of_classes_is_estimated() -> None:
    for classes in (2, 4, 7):
        assert estimate_count(clouds(classes, 12, seed=classes)[0].numpy(), 0) == classes


# -- the parts of tabular_ncd ------------------------------------------------------------------------------------------


def test_pairs_by_hand() -> None:
    """Two rows of even odds are of one group with probability 1/2; -log of that for each of the three pairs."""
    assert float(pair_loss(torch.zeros(3, 2), torch.ones(3, 3))) == pytest.approx(np.log(2))
    sure = torch.tensor([[50.0, 0.0], [50.0, 0.0], [0.0, 50.0]])
    same = torch.tensor([[1.0, 1, 0], [1, 1, 0], [0, 0, 1]])
    assert float(pair_loss(sure, same)) < 1e-6 < 5 < float(pair_loss(sure, 1 - same))
    # One link is enough: the third row's nearest is the second, whose nearest is the first.
    rows = torch.tensor([[1.0, 0.0], [1.0, 0.1], [1.0, 1.0], [-1.0, 0.0]])
    found = alike(rows, 0.25)
    assert found[2, 1] == found[1, 2] == 1 and found[0, 2] == 0 and found.diagonal().sum() == 0


def test_rows_move_towards_neighbours_and_categories_to_what_most_have() -> None:
    rows = torch.tensor([[1.0, 0.0, 1.0], [1.0, 0.2, 0.0], [1.0, 0.1, 0.0], [0.0, 5.0, 1.0]])
    near = nearest(rows[:, :2], 2)
    assert near[0].tolist() == [2, 1] and near[1].tolist() == [2, 0]
    torch.manual_seed(0)
    moved = towards(rows, near, torch.tensor([0, 0, 0, 0]), torch.tensor([False, False, True]))
    assert (moved[:, 1] >= 0).all() and (moved[:, 1] <= 0.2).all() and len(set(moved[:, 1].tolist())) > 1
    assert moved[:, 2].tolist() == [0.0] * 4, "both neighbours have 0"


# -- ways --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_a_way_finds_classes_that_lie_apart_and_leaves_the_draw_alone(way: str) -> None:
    rows, labels = clouds(6, seed=3)
    known = labels < 3
    before = torch.get_rng_state()
    found = find_classes(rows[known], labels[known] + 7, rows[~known], f"{way}{FAST[way]}", count=3, seed=1)
    assert torch.equal(before, torch.get_rng_state())
    least = 0.7 if way == "known_features" else 0.9  # which forgets what does not tell the known classes
    assert found.count == 3 and group_accuracy(labels[~known], found.groups) > least
    again = find_classes(rows[known], labels[known], rows[~known], f"{way}{FAST[way]}", count=3, seed=1)
    assert np.array_equal(found.groups, again.groups), "the names of known classes do not matter"
    assert found.groups[0] == 0


def test_what_is_known_helps_where_rows_alone_mislead() -> None:
    """Classes differ in two numbers, and rows by far more in six others: only known classes say what counts."""
    draw = torch.Generator().manual_seed(0)
    corners = torch.tensor([[a, b] for a in (-2.0, 0.0, 2.0) for b in (-2.0, 0.0, 2.0)])
    labels = np.arange(9).repeat(60)
    rows = torch.cat([corners[labels] + 0.2 * torch.randn(540, 2, generator=draw),
                      4 * torch.randn(540, 6, generator=draw).sign()], 1)  # fmt: skip
    known = ~np.isin(labels, (4, 8))
    plain, taught = (
        group_accuracy(labels[~known], find_classes(rows[known], labels[known], rows[~known], way, count=2).groups)
        for way in ("kmeans", "known_features:epochs=60;rate=0.005")
    )
    assert plain < 0.65 < 0.8 < taught


def test_weight_says_what_the_space_of_pbn_is_for() -> None:
    rows, labels = clouds(4)
    known = labels < 2
    given = NovelRows(rows[known], labels[known], rows[~known])
    made = [projection(given, 0, weight=weight, width=3, epochs=5, rate=1e-3, dropout=0.0) for weight in (0.1, 1.0)]
    assert made[0].shape == (80, 3) and torch.allclose(made[0].norm(dim=1), torch.ones(80), atol=1e-5)
    assert not torch.allclose(made[0], made[1])
    with pytest.raises(AllroundError, match="weight must be above 0"):
        make_discovery("pbn", {"weight": 0.0}).find(given, 2, 0)


def test_settings_are_tuned_by_known_classes_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, labels = clouds(6)
    given = NovelRows(rows, labels, torch.full((5, 6), torch.nan))
    folds = list(hide(given, 3, 0))
    assert [len(set(truth)) for _, truth in folds] == [2, 2, 2]
    assert all(seen.classes == 4 and not seen.novel.isnan().any() for seen, _ in folds), "no novel row is looked at"
    hidden = [frozenset(map(tuple, seen.novel.tolist())) for seen, _ in folds]
    assert not hidden[0] & hidden[1] and not hidden[1] & hidden[2], "each class once"

    # By a stand-in that is right with the weight 0.9 alone.
    monkeypatch.setattr(Pbn, "find", lambda self, rows, count, seed: NovelClasses(
        np.repeat([0, 1], 40) if self.weight == 0.9 else np.zeros(80, dtype=np.int64), count))  # fmt: skip
    settings, accuracy = tuned_settings("pbn", given, {"width": 4})
    assert settings["weight"] == 0.9 and settings["width"] == 4 and accuracy == 1.0
    assert tuned_settings("kmeans", given) == ({}, None)
    with pytest.raises(AllroundError, match="four known classes"):
        tuned_settings("pbn", NovelRows(rows[:120], labels[:120], rows))


# -- what users do -----------------------------------------------------------------------------------------------------


def test_hidden_labels_are_found_and_never_looked_at(table: Task) -> None:
    found = discover(table, ["d7", "d0", "d4"], ways=["kmeans", "pbn:epochs=5"], seeds=2)
    assert {one.way for one in found.found} == {"kmeans", "pbn:epochs=5"} and found.hidden == ("d7", "d0", "d4")
    labels = table.definition.labels
    split = table.splits["train"]
    away = np.isin(split.targets, [labels.index(name) for name in found.hidden])
    assert found.rows == {"known": int((~away).sum()), "novel": int(away.sum())}
    assert found.found[0].mean("accuracy").value > 0.8 and found.found[0].mean("nmi").low is not None
    # The same with the hidden labels shuffled: the same groups, so that accuracy falls to what chance gives.
    mixed = np.array(split.targets)
    mixed[away] = np.random.default_rng(0).permutation(mixed[away])
    other = replace(table, splits={**table.splits, "train": replace(split, targets=mixed)})
    chance = discover(other, ["d7", "d0", "d4"], ways=["kmeans", "pbn:epochs=5"])
    assert max(one.scores["accuracy"][0] for one in chance.found) < 0.6


def test_refusals(table: Task, digits_suite: Suite) -> None:
    for words, more in (("no label 'd11'", {"hide": ["d11", "d1"]}), ("1 of 10 labels", {"hide": ["d1"]}),
                        ("9 of 10 labels", {"hide": [f"d{n}" for n in range(9)]}),
                        ("is to be estimated", {"count": 3, "estimate": True}), ("--seeds is 0", {"seeds": 0}),
                        ("did you mean 'pbn'", {"ways": ["pbm"]})):  # fmt: skip
        with pytest.raises(AllroundError) as caught:
            discover(table, **({"hide": ["d1", "d2"]} | more))  # type: ignore[arg-type]
        assert words in str(caught.value), caught.value
    with pytest.raises(AllroundError, match="give --base"):
        discover(digits_suite["digit"], ["1", "2"])
    with pytest.raises(AllroundError, match="the kind regression"):
        discover(digits_suite["ink"], ["1", "2"])
    with pytest.raises(AllroundError, match="1 class is known"):
        find_classes(torch.zeros(3, 2), np.zeros(3, dtype=np.int64), torch.zeros(4, 2))
    with pytest.raises(AllroundError, match="9 classes are to be found"):
        find_classes(torch.zeros(4, 2), np.array([0, 1, 0, 1]), torch.zeros(4, 2), count=9)
    with pytest.raises(AllroundError, match="rows of one width"):
        find_classes(torch.zeros(4, 2), np.array([0, 1, 0, 1]), torch.zeros(4, 3))


def test_the_command_takes_vectors_of_a_base(small_image: SmallImage, tmp_path: Path) -> None:
    small_image.save(tmp_path)
    ran = CliRunner().invoke(app, ["discover", "digits", "--task", "digit", "--hide", "0,1,7", "--base", str(tmp_path),
                                   "--ways", "kmeans", "--estimate", "--limit", "train=200", "--json"])  # fmt: skip
    assert ran.exit_code == 0, ran.output
    made = json.loads(ran.stdout)
    assert made["hidden"] == ["0", "1", "7"] and made["ways"][0]["groups"][0] >= 2
