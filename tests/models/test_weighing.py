"""Weights of labels and the focal loss: numbers by hand, and what they do to rare labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from allround.core.errors import AllroundError
from allround.models.batch import Features
from allround.models.boosting import fit_trees
from allround.models.encoders.small_table import SmallTable
from allround.models.fitting import fit_head
from allround.models.head import make_head
from allround.tasks.definition import Definition
from allround.tasks.make import make_task
from allround.tasks.suite import Suite
from allround.tasks.task import Task


def task(kind: str, target: str, seed: int = 0) -> Task:
    """One of ten rows has the rare label; x says which, with noise."""
    rng = np.random.default_rng(seed)

    def rows(count: int) -> list[dict[str, Any]]:
        rare = np.arange(count) % 10 == 0
        x = rare + 0.6 * rng.normal(size=count)
        return [
            {"x": float(a), "y": "rare" if r else "usual", "many": ["rare"] * bool(r) + ["usual"] * (i % 2)}
            for i, (a, r) in enumerate(zip(x, rare, strict=True))
        ]

    data = {"train": rows(300), "validation": rows(200), "test": rows(200)}
    return make_task(target, kind=kind, inputs="x", target=target, data=data)


def loss(definition: Definition, outputs: torch.Tensor, encoded: Any) -> float:
    head = make_head("linear", definition, outputs.shape[1])
    with torch.no_grad():
        head.weight.copy_(torch.eye(outputs.shape[1]))
    return head.loss(Features(outputs), head.tensor(encoded)).mean.item()


def test_losses_are_those_of_torch_and_of_the_formula() -> None:
    one = task("classification", "y").weighed("balanced")
    (weights,) = one.definition.weights
    assert one.definition.labels == ("rare", "usual") and weights == pytest.approx((5.0, 5 / 9))
    outputs, targets = torch.randn(6, 2, generator=torch.Generator().manual_seed(0)), np.array([0, 1, 1, 0, 1, 1])
    wanted = cross_entropy(outputs, torch.tensor(targets), torch.tensor(weights), reduction="none").mean()
    assert loss(one.definition, outputs, targets) == pytest.approx(float(wanted))
    focal = task("classification", "y").weighed(focal=2.0).definition
    p = outputs.softmax(-1).gather(1, torch.tensor(targets)[:, None])
    assert loss(focal, outputs, targets) == pytest.approx(float(((1 - p) ** 2 * -p.log()).mean()))
    many = task("multilabel", "many").weighed("balanced")
    assert np.asarray(many.definition.weights) == pytest.approx(np.array([[5 / 9, 5.0], [1.0, 1.0]]))
    table = np.array([[1, 0], [0, 1], [0, 0], [1, 1], [0, 0], [0, 1]], dtype=np.int8)
    by_hand = torch.where(torch.tensor(table) == 1, torch.tensor([5.0, 1.0]), torch.tensor([5 / 9, 1.0]))
    wanted = binary_cross_entropy_with_logits(outputs, torch.tensor(table).float(), by_hand)
    assert loss(many.definition, outputs, table) == pytest.approx(float(wanted))


def test_weights_by_label_have_a_mean_of_one_over_the_training_rows() -> None:
    (weights,) = task("classification", "y").weighed({"rare": 4.0}).definition.weights
    assert weights[0] / weights[1] == pytest.approx(4) and 0.1 * weights[0] + 0.9 * weights[1] == pytest.approx(1)


def test_rare_labels_are_found_by_heads_and_trees_with_weights() -> None:
    plain = task("classification", "y")
    weighed = plain.weighed("balanced")
    encoder = SmallTable.create(plain.splits["train"].inputs, plain.definition, seed=0)
    targets = plain.splits["test"].targets
    recall: dict[str, list[float]] = {"head": [], "trees": []}
    for one in (plain, weighed):
        head = make_head("linear", one.definition, encoder.features(one.definition), fit_head(encoder, one).state)
        with torch.no_grad():
            ready = encoder.prepare(one.splits["test"].inputs, one.definition)
            features = encoder(encoder.collate(ready, one.definition))
            said = head.answer(features).predictions
        recall["head"].append(float((said == 0)[targets == 0].mean()))
        said = fit_trees(one)[0].answer(one.splits["test"].inputs).predictions
        recall["trees"].append(float((said == 0)[targets == 0].mean()))
    for before, after in recall.values():
        assert after > before + 0.1 and after > 0.5


def test_a_definition_without_weights_is_written_as_before(tmp_path: Path) -> None:
    plain = task("classification", "y")
    assert {"weights", "focal"}.isdisjoint(plain.definition.to_json())
    other = plain.weighed("balanced", 2.0)
    assert Definition.from_json(other.definition.to_json()) == other.definition
    assert other.content != plain.content
    other.save(tmp_path / "task")
    assert Task.load(tmp_path / "task").definition == other.definition
    number = make_task(
        "n", kind="regression", inputs="x", target="y", data={"train": [{"x": i, "y": i} for i in range(9)]}
    )
    suite = Suite("two", [plain, number]).weighed("balanced", 2.0)
    assert suite["y"].definition == other.definition and suite["n"].definition == number.definition
    for asked, words in (
        ({"class_weights": "balance"}, "give balanced"),
        ({"class_weights": {"rar": 2.0}}, "did you mean 'rare'"),
        ({"class_weights": {"rare": 0.0}}, "give a number above 0"),
        ({"focal": -1.0}, "give an exponent from 0 to 10"),
    ):
        with pytest.raises(AllroundError, match=words):
            plain.weighed(**asked)  # type: ignore[arg-type]
    with pytest.raises(AllroundError, match="a task of the kind regression has no labels"):
        number.weighed("balanced")
