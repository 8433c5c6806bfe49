"""Ratings from rows to answers: labels in order, answers in range, and systems that learn them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from allround.building.single import floor
from allround.core.errors import AllroundError
from allround.evaluation.predict import predict_split
from allround.evaluation.predictions import score
from allround.models.boosting import fit_trees
from allround.models.encoders.small_table import SmallTable
from allround.models.fitting import fit_head
from allround.models.likelihoods.ordinal import Ordinal
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.models.systems.trees import Trees
from allround.tasks.make import make_task
from allround.tasks.task import Task

WORDS = ["poor", "fair", "good", "great"]


def rows(count: int, seed: int) -> list[dict[str, Any]]:
    """A rating of 1 to 4 by x, with noise; 2 of 5 rows are a 1."""
    rng = np.random.default_rng(seed)
    x = rng.random(count)
    stars = np.searchsorted([0.4, 0.6, 0.8], x + 0.05 * rng.normal(size=count)) + 1
    return [{"x": float(a), "stars": int(n), "words": WORDS[n - 1]} for a, n in zip(x, stars, strict=True)]


DATA = {"train": rows(300, 0), "validation": rows(100, 1), "test": rows(200, 2)}


def task(target: str, labels: Any = None, metric: str | None = None, data: Any = None) -> Task:
    return make_task("t", kind="ordinal", inputs="x", target=target, labels=labels, metric=metric, data=data or DATA)


def test_the_order_of_labels_is_that_of_numbers_or_of_the_list() -> None:
    eleven = {"train": [{"x": float(n), "stars": n % 11} for n in range(44)]}
    assert task("stars", data=eleven).definition.labels == tuple(str(n) for n in range(11)), "10 after 9, not after 1"
    assert task("words", WORDS).definition.labels == tuple(WORDS)
    assert task("stars", {4: "d", 3: "c", 2: "b", 1: "a"}).definition.labels == ("d", "c", "b", "a")
    assert task("words", [*WORDS, "best"]).definition.labels[-1] == "best", "a step that no row has"
    with pytest.raises(AllroundError, match="labels that are not numbers, such as"):
        task("words")
    with pytest.raises(AllroundError, match=r"spells one number in several ways: 1, 1\.0"):
        task("stars", data={"train": [{"x": 0.0, "stars": s} for s in ("1", "1.0", "2")] * 5})
    with pytest.raises(AllroundError, match="`labels` is a list, and the kind is classification"):
        make_task("t", kind="classification", inputs="x", target="words", labels=WORDS, data=DATA)


def test_heads_and_trees_learn_ratings_and_beat_the_floor() -> None:
    one = task("stars")
    encoder = SmallTable.create(one.splits["train"].inputs, one.definition, seed=0)
    network = MultiTaskModel(encoder, {})
    network.add_task(one.definition, fit_head(encoder, one).state)
    assert network.head("t").weight.shape[0] == 3, "one output for each step between labels"
    trees = Trees({"t": fit_trees(one)[0]})
    always = floor(one)
    assert set(always.predictions) == {1}, "the median: 2 of 5 training rows are a 1, and 1 of 5 a 2"
    assert score(always) == 0.0
    for system in (network, trees):
        made = predict_split(system, one, "test")
        assert score(made) > 0.85 and made.scores is not None
        assert set(system.predict("t", [(-50.0,), (50.0,)])) <= {"1", "2", "3", "4"}
        upto = np.cumsum(made.scores, axis=1)
        assert np.array_equal(made.predictions, (upto[:, :-1] < 0.5).sum(1)), "the median of its probabilities"


def test_probabilities_of_steps_by_hand() -> None:
    """Going on from 1 with 0.8, and from 2 with 0.5: 0.2, 0.4 and 0.4; the median is the second."""
    outputs = torch.logit(torch.tensor([[0.8, 0.5]]))
    assert Ordinal().scores(outputs)[0].tolist() == pytest.approx([0.2, 0.4, 0.4])
    assert Ordinal().predict(outputs).tolist() == [1]
    assert Ordinal().loss(outputs, torch.tensor([2])).item() == pytest.approx(-np.log(0.4))
