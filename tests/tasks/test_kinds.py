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
    "multilabel": [["a"], ["a", "c"], [], ["a", "b", "c"], ["a"]],
    "regression": [1.0, -2.0, 0.5, 4.0, 1.5],
    "token_classification": [["O", "B-X"], ["B-X"], ["O", "O", "I-X"], ["O"], ["O", "B-X"]],
}
FLOORS = {
    "classification": ["b"] * 5,
    "multilabel": [["a"]] * 5,
    "regression": [1.0] * 5,
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
    assert decoded == (pytest.approx(SAMPLES[name]) if name == "regression" else SAMPLES[name])


def test_floor_is_the_trivial_answer_and_has_the_shape_of_targets(name: str) -> None:
    definition = define(name)
    encoded = kind(name).encode(SAMPLES[name], definition)
    floor = kind(name).floor(encoded, 5, lengths(name))
    if isinstance(encoded, np.ndarray):
        assert floor.shape == encoded.shape
    decoded = kind(name).decode(floor, definition)
    assert decoded == (pytest.approx(FLOORS[name]) if name == "regression" else FLOORS[name])


def test_predictions_have_the_shape_and_type_of_targets(name: str) -> None:
    torch = pytest.importorskip("torch")
    definition = define(name)
    encoded = kind(name).encode(SAMPLES[name], definition)
    outputs = kind(name).outputs(definition)
    logits = torch.randn(sum(lengths(name)), outputs, generator=torch.Generator().manual_seed(0))
    predicted = kind(name).predict(logits, lengths(name))
    assert len(predicted) == 5
    for one, target in zip(predicted, encoded, strict=True):
        assert np.shape(one) == np.shape(target)
        assert np.asarray(one).dtype == np.asarray(target).dtype
    confidence = kind(name).confidence(logits, lengths(name))
    assert confidence is None or (len(confidence) == 5 and all(0 <= c <= 1 for c in confidence))


def test_right_outputs_are_predicted_and_cost_less(name: str) -> None:
    torch = pytest.importorskip("torch")
    definition = define(name)
    encoded = kind(name).encode(SAMPLES[name], definition)
    targets = kind(name).tensor(encoded)
    outputs = kind(name).outputs(definition)
    if targets.dtype == torch.long:
        right = 10 * torch.nn.functional.one_hot(targets, outputs).float()
    elif targets.ndim == 2:
        right = 20 * targets - 10
    else:
        right = targets[:, None]
    wrong = right.roll(1, 0)
    predicted = kind(name).predict(right, lengths(name))
    assert kind(name).decode(predicted, definition) == (
        pytest.approx(SAMPLES[name], rel=1e-5) if name == "regression" else SAMPLES[name]
    )
    assert kind(name).loss(right, targets, definition) < kind(name).loss(wrong, targets, definition)


def test_strata_are_one_a_row(name: str) -> None:
    strata = kind(name).strata(kind(name).encode(SAMPLES[name], define(name)))
    assert strata is None or len(strata) == 5


def test_the_default_metric_scores_the_kind(name: str) -> None:
    kinds = registry.find("metric", kind(name).metric).facts["kinds"]
    assert name in kinds
