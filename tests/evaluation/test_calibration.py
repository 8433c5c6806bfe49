"""Calibration fitted on one sample holds on another; sets cover as often as they say; folders keep both."""

from __future__ import annotations

import numpy as np
import pytest

from allround.core.errors import AllroundError
from allround.evaluation.calibration import (
    Reliability,
    calibrated,
    facts_of,
    fit,
    fit_sets,
    fit_temperature,
    reliability,
    set_facts,
)
from allround.evaluation.predict import predict_split
from allround.evaluation.predictions import Predictions
from allround.models.boosting import fit_trees
from allround.models.calibration import Calibration, Curve, Threshold, read_calibrations
from allround.models.systems.trees import Trees
from allround.tasks.definition import Definition
from allround.tasks.kind import kind
from allround.tasks.make import make_task

THREE = Definition("t", "classification", ("x",), "text", "accuracy", ("a", "b", "c"))
SCALE = Definition("t", "ordinal", ("x",), "text", "mae", ("1", "2", "3"))
MANY = Definition("t", "multilabel", ("x",), "text", "macro_f1", ("a", "b", "c"))
NUMBER = Definition("t", "regression", ("x",), "text", "pearson", center=10.0, scale=2.0)
CASES = pytest.mark.parametrize("definition", [THREE, SCALE, MANY], ids=lambda d: d.kind)


def make(definition: Definition, seed: int, sharper: float = 3.0, rows: int = 2000) -> Predictions:
    """Targets drawn from true probabilities; the scores are too sure of them: their temperature is 1 / sharper."""
    rng = np.random.default_rng(seed)
    rules = kind(definition.kind)
    if rules.lists:
        true = rng.beta(1.0, 2.0, (rows, 3))
        targets = (rng.random((rows, 3)) < true).astype(np.int8)
    else:
        true = rng.dirichlet(np.ones(3), rows)
        targets = (rng.random((rows, 1)) > np.cumsum(true, 1)[:, :-1]).sum(1)
    scores = rules.tempered(true, 1 / sharper)
    predictions, sure = rules.decide(scores)
    return Predictions(definition, "test", targets, predictions, sure, scores=scores.astype(np.float32))


@CASES
def test_the_temperature_is_found_and_halves_the_error_on_other_rows(definition: Definition) -> None:
    fitted, test = fit(make(definition, 0), "temperature"), make(definition, 1)
    assert fitted is not None and fitted.temperature == pytest.approx(3.0, rel=0.08)
    after = calibrated(test, fitted)
    assert reliability(after).ece < reliability(test).ece / 4
    np.testing.assert_array_equal(after.predictions, test.predictions)
    again, _ = kind(definition.kind).decide(after.scores.astype(np.float64))  # type: ignore[union-attr]
    assert (again == test.predictions).mean() > 0.999, "a temperature changes no answer"
    facts = facts_of(test, fitted, "temperature")
    assert (facts.before, facts.after) == (reliability(test), reliability(after)) and facts.rows == 2000


@CASES
def test_isotonic_curves_mend_single_labels(definition: Definition) -> None:
    """Scores of the first label are cubed, so too low; rows then add up to one again."""

    def bent(seed: int) -> Predictions:
        made = make(definition, seed, sharper=1.0)
        scores = np.array(made.scores, dtype=np.float64)
        scores[:, 0] **= 3
        scores /= 1.0 if definition.kind == "multilabel" else scores.sum(1, keepdims=True)
        return Predictions(definition, "test", made.targets, kind(definition.kind).decide(scores)[0], scores=scores)

    test = bent(1)
    found = {way: reliability(calibrated(test, fit(bent(0), way))).ece for way in ("none", "isotonic")}
    assert found["isotonic"] < found["none"] / 2


def test_reliability_by_hand() -> None:
    """Confidences 0.5, 0.55 (one bin of 15, 0.4667 to 0.5333, and the next), and 1 twice, of which one is wrong."""
    scores = np.array([[0.5, 0.3, 0.2], [0.55, 0.25, 0.2], [1, 0, 0], [1, 0, 0]])
    made = Predictions(THREE, "test", np.array([0, 1, 0, 2]), np.zeros(4, dtype=np.int64), scores=scores)
    found = reliability(made)
    assert [(one.count, one.right) for one in found.bins] == [(1, 1.0), (1, 0.0), (2, 0.5)]
    assert found.ece == pytest.approx((0.5 + 0.55 + 2 * 0.5) / 4)
    # Of several labels each is a decision: sure by 0.9, 0.8 and 0.6, all right.
    several = Predictions(
        MANY, "test", np.array([[1, 0, 1]]), np.array([[1, 0, 1]]), scores=np.array([[0.9, 0.2, 0.6]])
    )
    assert reliability(several).ece == pytest.approx((0.1 + 0.2 + 0.4) / 3)


def test_a_sample_without_errors_leaves_a_finite_temperature() -> None:
    scores = np.tile([0.9, 0.06, 0.04], (50, 1))
    fitted = fit_temperature(Predictions(THREE, "validation", np.zeros(50, int), np.zeros(50, int), scores=scores))
    assert fitted.temperature is not None and 0.15 < fitted.temperature < 0.8


@pytest.mark.parametrize("definition", [THREE, SCALE, MANY, NUMBER], ids=lambda d: d.kind)
def test_sets_cover_what_was_asked(definition: Definition) -> None:
    if definition is NUMBER:
        rng = np.random.default_rng(0)
        validation, test = (
            Predictions(NUMBER, "test", y := rng.normal(size=n), y + rng.normal(size=n)) for n in (500, 4000)
        )
    else:
        validation, test = make(definition, 0, rows=500), make(definition, 1, rows=4000)
    found = set_facts(test, fit_sets(validation, 0.9))
    assert found.covered == pytest.approx(0.9, abs=0.03) and found.asked == 0.9
    if definition is NUMBER:
        assert found.size == pytest.approx(2 * 1.645 * 2.0, rel=0.1), "1.645 deviations, in units of the target"
    assert fit_sets(validation, 0.9999) == Threshold(0.9999, None), "no 500 rows can say that"
    assert set_facts(test, Threshold(0.9999, None)).covered == 1.0


def test_quantiles_of_sets_by_hand() -> None:
    """Nine targets with the scores 0.1 to 0.9: eight tenths of ten is the eighth strangest, whose score is 0.2."""
    scores = np.array([[s, 1 - s, 0] for s in np.arange(1, 10) / 10])
    nine = Predictions(THREE, "validation", np.zeros(9, int), np.zeros(9, int), scores=scores)
    assert fit_sets(nine, 0.8).limit == pytest.approx(0.2)


def test_what_a_manifest_may_say() -> None:
    known = {"t": THREE, "n": NUMBER}
    made = {"t": Calibration(curves=(Curve((0.1, 0.9), (0.0, 1.0)),) * 3, sets=Threshold(0.9, None)),
            "n": Calibration(sets=Threshold(0.9, 1.5))}  # fmt: skip
    assert read_calibrations({"calibration": {n: one.to_json() for n, one in made.items()}}, known) == made
    for wrong in (
        {"other": {"temperature": 1.0}},
        {"t": {"temperature": 0.0}},
        {"n": {"temperature": 1.0}},
        {"t": {"curves": [{"x": [0.0], "y": [0.0]}]}},
        {"t": {"curves": [{"x": [1.0, 0.0], "y": [0.0, 1.0]}] * 3}},
        {"t": {"heat": 1.0}},
        [],
    ):
        with pytest.raises(ValueError, match=r"."):
            read_calibrations({"calibration": wrong}, known)
    with pytest.raises(AllroundError, match="did you mean 'isotonic'"):
        from allround.building.options import Options

        Options(calibrate="isotonc")


def test_an_empty_curve_and_a_task_without_scores_are_left_alone() -> None:
    numbers = Predictions(NUMBER, "validation", np.ones(3), np.ones(3))
    assert fit(numbers, "temperature") is None and calibrated(numbers, None) is numbers
    zeros = Calibration(curves=(Curve((0.0, 1.0), (0.0, 0.0)),) * 3).apply(np.array([[0.2, 0.3, 0.5]]), THREE)
    assert zeros.tolist() == [[0.2, 0.3, 0.5]]
    assert isinstance(reliability(make(THREE, 0)), Reliability)


def test_a_system_gives_sets_of_labels_and_intervals() -> None:
    rows = [{"x": float(i), "y": "no" if i % 3 else "yes", "z": float(i)} for i in range(60)]
    data = {"train": rows, "validation": rows, "test": rows}
    tasks = [make_task("word", kind="classification", inputs="x", target="y", data=data),
             make_task("number", kind="regression", inputs="x", target="z", data=data)]  # fmt: skip
    system = Trees({task.name: fit_trees(task)[0] for task in tasks})
    with pytest.raises(AllroundError, match=r"saved without them.*\n.*--coverage 0\.9"):
        system.predict_sets("word", [(1.0,)])
    fitted = {task.name: fit(predict_split(system, task, "validation"), "temperature", 0.9) for task in tasks}
    system.facts["calibration"] = {name: one.to_json() for name, one in fitted.items() if one is not None}
    scores, sets = system.predict("word", [(4.0,), (9.0,)], scores=True), system.predict_sets("word", [(4.0,), (9.0,)])
    limit = fitted["word"].sets.limit  # type: ignore[union-attr]
    assert sets == [[label for label, score in one.items() if score >= limit - 1e-6] for one in scores]
    ((low, high),) = system.predict_sets("number", [(30.0,)])
    (middle,) = system.predict("number", [(30.0,)])
    width = 2 * fitted["number"].sets.limit * tasks[1].definition.scale  # type: ignore[union-attr]
    assert (low + high) / 2 == pytest.approx(middle) and high - low == pytest.approx(width)
    assert system.predict_sets("word", []) == []
