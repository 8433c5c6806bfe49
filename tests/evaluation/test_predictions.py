"""Predictions come back from disk exactly as they were, and read well there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from allround.building.single import floor
from allround.core.errors import AllroundError
from allround.core.files import MANIFEST
from allround.evaluation.predict import predict_alike, predict_split
from allround.evaluation.predictions import Predictions, score
from allround.models.encoders.small_table import SmallTable
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.definition import Definition
from allround.tasks.make import make_task

RNG = np.random.default_rng(0)
CASES: dict[str, tuple[Definition, Any, Any]] = {
    "classification": (
        Definition("t", "classification", ("x",), "text", "accuracy", ("a|b", "ü <b>")),
        np.array([0, 1, 1]),
        np.array([1, 1, 0]),
    ),
    "multilabel": (
        Definition("t", "multilabel", ("x",), "text", "macro_f1", ("a", "b")),
        np.array([[0, 1], [0, 0], [1, 1]], dtype=np.int8),
        np.array([[0, 0], [1, 0], [1, 1]], dtype=np.int8),
    ),
    "regression": (
        Definition("t", "regression", ("x", "y"), "text", "pearson", center=1 / 3, scale=0.1),
        RNG.normal(size=3),
        np.array([1e-300, -1e300, 1 / 3]),
    ),
    "retrieval": (
        Definition("t", "retrieval", ("q", "passages"), "text", "ndcg"),
        [{"a": 1.0, "ü <b>": 0.5, "c": 0.0}, {"a": 2.0}, {"4\0": 1.0}],
        [("ü <b>", "a"), (), ("4\0",)],
    ),
    "text": (
        Definition("t", "text", ("x",), "text", "exact_match"),
        [("four",), ("4", "ü <b>", "4\0"), (" a\nb ",)],
        [("",), ("4",), ("a\nb",)],
    ),
    "token_classification": (
        Definition("t", "token_classification", ("x",), "text", "span_f1", ("O", "B-X", "I-X")),
        [np.array([0, 1, 2]), np.array([], dtype=np.int64), np.array([1])],
        [np.array([0, 1, 0]), np.array([], dtype=np.int64), np.array([0])],
    ),
}


@pytest.mark.parametrize("kind", CASES)
@pytest.mark.parametrize("confidence", [None, [0.1, 1 / 3, 1.0]])
def test_round_trip_is_exact(kind: str, confidence: list[float] | None, tmp_path: Path) -> None:
    definition, targets, answers = CASES[kind]
    made = Predictions(definition, "test", targets, answers, confidence, seconds=0.1 + 0.2)
    made.save(tmp_path / "p.parquet")
    found = Predictions.load(tmp_path / "p.parquet")
    assert (found.definition, found.split, found.seconds) == (definition, "test", made.seconds)
    assert found.confidence == confidence
    for before, after in ((targets, found.targets), (answers, found.predictions)):
        assert type(before) is type(after) and len(before) == len(after)
        for a, b in zip(before, after, strict=True):
            if isinstance(a, (tuple, dict)):
                assert a == b
                continue
            np.testing.assert_array_equal(a, b)
            assert a.dtype == b.dtype


def test_the_file_is_readable_as_it_is(tmp_path: Path) -> None:
    definition, targets, answers = CASES["classification"]
    Predictions(definition, "test", targets, answers, [0.5, 0.25, 1.0]).save(tmp_path / "p.parquet")
    table = pq.read_table(tmp_path / "p.parquet")
    assert table.to_pydict() == {
        "row": [0, 1, 2],
        "target": ["a|b", "ü <b>", "ü <b>"],
        "prediction": ["ü <b>", "ü <b>", "a|b"],
        "confidence": [0.5, 0.25, 1.0],
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == [MANIFEST, "p.parquet"]


SCORES = {
    "classification": np.array([[0.25, 0.75], [1e-30, 1.0], [0.5, 0.5]], dtype=np.float32),
    "multilabel": np.array([[0.1, 0.2], [0.9, 0.0], [1.0, 1.0]], dtype=np.float32),
}


@pytest.mark.parametrize("kind", SCORES)
def test_scores_come_back_as_they_were_and_stand_in_the_file_by_row(kind: str, tmp_path: Path) -> None:
    definition, targets, answers = CASES[kind]
    Predictions(definition, "test", targets, answers, scores=SCORES[kind]).save(tmp_path / "p.parquet")
    found = Predictions.load(tmp_path / "p.parquet").scores
    assert found is not None and found.dtype == np.float32
    np.testing.assert_array_equal(found, SCORES[kind])
    assert pq.read_table(tmp_path / "p.parquet")["scores"].to_pylist()[1] == SCORES[kind][1].tolist()


@pytest.mark.parametrize(
    ("kind", "scores", "words"),
    [
        ("classification", [[0.5, 0.5]], r"the shape \(1, 2\), and there are 3 rows and 2 labels"),
        ("classification", [[0.5, 0.5], [0.5, np.nan], [1, 0]], "1 of 3 rows are NaN"),
        ("multilabel", [[0.5, 0.5], [0.5, 1.1], [-1, 0]], "2 of 3 rows are not between 0 and 1"),
        ("classification", [[0.5, 0.5], [0.5, 0.6], [1, 0]], "1 of 3 rows do not add up to 1"),
        ("regression", [[1.0], [1.0], [1.0]], "a task of the kind regression has none"),
        ("token_classification", [[1.0, 0, 0]] * 3, "not a list of tables, one for each row"),
    ],
)
def test_scores_that_are_no_probabilities_of_the_labels(kind: str, scores: Any, words: str) -> None:
    definition, targets, answers = CASES[kind]
    with pytest.raises(AllroundError, match=words):
        Predictions(definition, "test", targets, answers, scores=np.array(scores))


def test_score_is_the_metric_of_the_task() -> None:
    definition, targets, answers = CASES["classification"]
    assert score(Predictions(definition, "test", targets, answers)) == pytest.approx(1 / 3)


def test_errors_in_words(tmp_path: Path) -> None:
    definition, targets, answers = CASES["classification"]
    with pytest.raises(AllroundError, match="2 of them for 3 test rows"):
        Predictions(definition, "test", targets, answers[:2])
    with pytest.raises(AllroundError, match="test split has no rows"):
        score(Predictions(definition, "test", targets[:0], answers[:0]))
    with pytest.raises(AllroundError, match="the file is not there"):
        Predictions.load(tmp_path / "none.parquet")
    (tmp_path / "bad.parquet").write_bytes(b"no parquet at all")
    with pytest.raises(AllroundError, match="not a file of predictions"):
        Predictions.load(tmp_path / "bad.parquet")


def test_a_split_is_predicted_with_scores_and_the_floor_has_the_shares_of_the_training_rows() -> None:
    rows = [{"x": float(i), "y": "no" if i % 4 else "yes", "z": float(i % 3)} for i in range(40)]
    data = {split: rows[at : at + 20] for split, at in (("train", 0), ("validation", 10), ("test", 20))}
    tasks = {
        name: make_task(name, kind=kind, inputs="x", target=target, data=data)
        for name, kind, target in (("word", "classification", "y"), ("number", "regression", "z"))
    }
    encoder = SmallTable.create(tasks["word"].splits["train"].inputs, tasks["word"].definition, seed=0)
    model = MultiTaskModel(encoder, {name: task.definition for name, task in tasks.items()})
    word, number = tasks["word"], tasks["number"]
    with torch.no_grad():
        model.head("word").bias[1] = 1.0
    ready = model.prepare("word", word.splits["test"].inputs)
    shares = [1 / (1 + np.e), np.e / (1 + np.e)]
    for made in (
        predict_split(model, word, "test"),
        predict_split(model, word, "test", prepared=ready),
        *predict_alike([model, model], word, "test", prepared=ready),
    ):
        np.testing.assert_allclose(made.scores, [shares] * 20, rtol=1e-6)
    np.testing.assert_allclose(floor(word).scores, [[0.75, 0.25]] * 20)
    assert predict_split(model, number, "test").scores is None and floor(number).scores is None
