"""What every kind must hold, whichever kinds there are."""

from __future__ import annotations

import numpy as np
import pytest

from allround.core import registry
from allround.tasks.definition import Definition
from allround.tasks.kind import kind

#: Readable targets of five examples. A new kind adds its own here.
SAMPLES = {
    "classification": ["b", "a", "b", "b", "c"],
    "lm_eval": ["{}", "{}", "[]", "{}", "{}"],
    "multilabel": [["a"], ["a", "c"], [], ["a", "b", "c"], ["a"]],
    "multiple_choice": ["B", "A", "B", "B", "C"],
    "ordinal": ["2", "10", "2", "1", "10"],
    "regression": [1.0, -2.0, 0.5, 4.0, 1.5],
    "retrieval": [{"p": 1.0}, {"q": 2.0, "p": 1.0}, {"p": 1.0, "r": 0.0}, {"q": 1.0}, {"s": 3.0, "r": 0.0}],
    "similarity": [1.0, -2.0, 0.5, 4.0, 1.5],
    "text": ["four", ["4", "four"], "b", "b", "é"],
    "token_classification": [["O", "B-X"], ["B-X"], ["O", "O", "I-X"], ["O"], ["O", "B-X"]],
}
FLOORS = {
    "classification": ["b"] * 5,
    "lm_eval": [""] * 5,
    "multilabel": [["a"]] * 5,
    "multiple_choice": ["B"] * 5,
    "ordinal": ["2"] * 5,
    "regression": [1.0] * 5,
    "retrieval": [["p", "q", "s"]] * 5,
    "similarity": [1.0] * 5,
    "text": ["b"] * 5,
    "token_classification": [["O"] * 2, ["O"], ["O"] * 3, ["O"], ["O"] * 2],
}


def define(name: str) -> Definition:
    rules = kind(name)
    return Definition("t", name, ("x",), "text", rules.metric, **rules.facts(SAMPLES[name]))


def lengths(name: str) -> list[int]:
    return [len(v) for v in SAMPLES[name]] if kind(name).per_token else [1] * 5


@pytest.fixture(params=registry.names("kind"))
def name(request: pytest.FixtureRequest) -> str:
    assert request.param in SAMPLES, f"add sample targets of '{request.param}' to SAMPLES and FLOORS"
    return str(request.param)


def test_decode_undoes_encode(name: str) -> None:
    definition = define(name)
    encoded = kind(name).encode(SAMPLES[name], definition)
    assert len(encoded) == 5
    decoded = kind(name).decode(encoded, definition)
    assert decoded == (pytest.approx(SAMPLES[name]) if kind(name).numeric else SAMPLES[name])


def test_floor_is_the_trivial_answer_and_has_the_shape_of_targets(name: str) -> None:
    definition = define(name)
    encoded = kind(name).encode(SAMPLES[name], definition)
    floor = kind(name).floor(encoded, 5, lengths(name))
    if isinstance(encoded, np.ndarray):
        assert floor.shape == encoded.shape
    decoded = kind(name).decode(floor, definition)
    assert decoded == (pytest.approx(FLOORS[name]) if kind(name).numeric else FLOORS[name])


def test_what_is_decided_has_the_shape_and_type_of_targets(name: str) -> None:
    """Where each label is all but sure; kinds without labels have nothing to decide between."""
    definition = define(name)
    encoded = kind(name).encode(SAMPLES[name], definition)
    if not definition.labels:
        with pytest.raises(NotImplementedError):
            kind(name).decide(np.ones((5, 1)))
        return
    sure = np.eye(len(definition.labels)) * 0.9 + 0.05
    rows: list[np.ndarray] = [sure[target] if name != "multilabel" else 0.9 * target + 0.05 for target in encoded]
    decided, confidence = kind(name).decide(rows if kind(name).per_token else np.stack(rows))
    assert len(decided) == len(confidence) == 5
    for one, target in zip(decided, encoded, strict=True):
        assert np.array_equal(one, target) and np.asarray(one).dtype == np.asarray(target).dtype
    assert kind(name).decode(decided, definition) == SAMPLES[name]
    expected = 0.95 ** len(definition.labels) if name == "multilabel" else 0.95
    assert confidence == pytest.approx([expected] * 5) and all(isinstance(one, float) for one in confidence)


def test_strata_are_one_a_row(name: str) -> None:
    strata = kind(name).strata(kind(name).encode(SAMPLES[name], define(name)))
    assert strata is None or len(strata) == 5


def test_the_default_metric_scores_the_kind(name: str) -> None:
    kinds = registry.find("metric", kind(name).metric).facts["kinds"]
    assert name in kinds
