"""Predictions come back from disk exactly as they were, and read well there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from allround.core.errors import AllroundError
from allround.core.files import MANIFEST
from allround.evaluation.predictions import Predictions, score
from allround.tasks.definition import Definition

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
