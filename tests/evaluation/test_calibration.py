"""Calibration fitted on one sample holds on another; sets cover as often as they say; folders keep both."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import allround
from allround.core.errors import AllroundError
from allround.core.progress import Progress
from allround.evaluation.calibration import (
    Reliability,
    calibrated,
    errors_by_chance,
    facts_of,
    fit,
    fit_sets,
    reliability,
    set_facts,
)
from allround.evaluation.calibrators import Sample, fit_auto, fit_temperature, way_of
from allround.evaluation.predict import predict_split
from allround.evaluation.predictions import Predictions
from allround.models.boosting import fit_trees
from allround.models.calibration import Calibration, Curve, Threshold, read_calibrations
from allround.models.system import load
from allround.models.systems.trees import Trees
from allround.tasks.definition import Definition
from allround.tasks.kind import kind
from allround.tasks.make import make_task
from allround.tasks.suite import Suite
from allround.training.settings import Settings

THREE = Definition("t", "classification", ("x",), "text", "accuracy", ("a", "b", "c"))
SCALE = Definition("t", "ordinal", ("x",), "text", "mae", ("1", "2", "3"))
MANY = Definition("t", "multilabel", ("x",), "text", "macro_f1", ("a", "b", "c"))
NUMBER = Definition("t", "regression", ("x",), "text", "pearson", center=10.0, scale=2.0)
WORDS = Definition("t", "token_classification", ("x",), "text", "span_f1", ("O", "B-X", "I-X"))
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
    facts = facts_of(test, fitted)
    assert (facts.before, facts.after) == (reliability(test), reliability(after)) and facts.rows == 2000


@CASES
def test_biases_and_noise_are_found_beside_the_temperature(definition: Definition) -> None:
    """Scores are made from what is right by the correction's inverse, so the fit must end near the correction."""
    rules, true = kind(definition.kind), make(definition, 0, sharper=1.0, rows=6000)
    assert true.scores is not None and not isinstance(true.scores, list)
    bent = rules.tempered(rules.shifted(true.scores, np.array([-0.8, 0.0, 0.8])), 0.5)
    found = fit(replace(true, scores=bent), "vector")
    assert found is not None and found.temperature == pytest.approx(2.0, rel=0.08) and way_of(found) == "vector"
    # Where labels exclude each other only differences of biases count.
    middle = np.mean(found.biases) if rules.exclusive else 0.0
    np.testing.assert_allclose(np.array(found.biases) - middle, [0.8, 0.0, -0.8], atol=0.15)
    # Every fifth label is drawn anew, so noise is a fifth.
    rng = np.random.default_rng(1)
    drawn = rng.integers(0, 2 if rules.lists else 3, np.shape(true.targets))
    noisy = np.where(rng.random(np.shape(true.targets)) < 0.2, drawn, true.targets)
    mixed = fit(replace(true, targets=noisy), "noise")
    assert mixed is not None and mixed.noise == pytest.approx(0.2, abs=0.05) and way_of(mixed) == "noise"
    assert mixed.temperature == pytest.approx(1.0, abs=0.12)


def test_auto_takes_the_simplest_way_that_held_out_rows_do_not_speak_against() -> None:
    plain = Sample.of(make(THREE, 0, rows=300))
    assert fit_auto(plain) == fit_temperature(plain)
    assert way_of(fit_auto(plain.take(np.arange(300) < 4))) == "temperature"
    shifted = kind("classification").shifted(plain.scores, np.array([-1.5, 0.0, 1.5]))
    assert way_of(fit_auto(replace(plain, scores=shifted))) == "vector"


def test_words_are_calibrated_each_as_a_row(tmp_path: Path) -> None:
    """Those of three rows, one of them empty, as a task with a label a row has them; and a file keeps them."""
    alone = make(THREE, 0, rows=300)
    assert isinstance(alone.scores, np.ndarray)
    cut = [np.split(np.asarray(part), [120, 120]) for part in (alone.targets, alone.predictions, alone.scores)]
    words = Predictions(WORDS, "test", cut[0], cut[1], [0.5, 1.0, 0.5], scores=cut[2])
    words.save(tmp_path / "words.parquet")
    again = Predictions.load(tmp_path / "words.parquet")
    assert isinstance(again.scores, list) and [len(row) for row in again.scores] == [120, 0, 180]
    np.testing.assert_array_equal(np.concatenate(again.scores), alone.scores)
    fitted = fit(again, "vector", coverage=0.9)
    assert fitted is not None and fitted == fit(alone, "vector") and fitted.sets is None
    after, wanted = calibrated(again, fitted), calibrated(alone, fitted)
    assert wanted.scores is not None and wanted.confidence is not None and isinstance(after.scores, list)
    np.testing.assert_allclose(np.concatenate(after.scores), wanted.scores)
    mean = [np.mean(wanted.confidence[:120]), 1.0, np.mean(wanted.confidence[120:])]
    assert after.confidence == pytest.approx(mean, rel=1e-6), "a row's confidence is the mean over its words"
    assert facts_of(again, fitted) == replace(facts_of(alone, fitted), rows=3)
    with pytest.raises(AllroundError, match="not one row of scores for each word"):
        replace(words, scores=cut[2][::-1])


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


def test_the_error_by_chance_is_what_perfect_confidences_get() -> None:
    """One bin of n answers at one half: the mean distance of a share from 1/2 is sqrt(2 / pi) 0.5 / sqrt(n), nearly."""
    draws = errors_by_chance(np.full(400, 0.5))
    assert draws.mean() == pytest.approx(np.sqrt(2 / np.pi) * 0.5 / 20, rel=0.1)
    assert not errors_by_chance(np.ones(50)).any()
    perfect = reliability(make(THREE, 0, sharper=1.0))
    assert perfect.chance is not None and perfect.ece == pytest.approx(perfect.chance, rel=0.5)


def test_a_sample_without_errors_leaves_a_finite_temperature() -> None:
    scores = np.tile([0.9, 0.06, 0.04], (50, 1))
    made = Predictions(THREE, "validation", np.zeros(50, int), np.zeros(50, int), scores=scores)
    fitted = fit_temperature(Sample.of(made))
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
    known = {"t": THREE, "n": NUMBER, "w": WORDS}
    made = {"t": Calibration(curves=(Curve((0.1, 0.9), (0.0, 1.0)),) * 3, sets=Threshold(0.9, None)),
            "w": Calibration(temperature=2.0, biases=(0.5, -0.5, 0.0), noise=0.125),
            "n": Calibration(sets=Threshold(0.9, 1.5))}  # fmt: skip
    assert read_calibrations({"calibration": {n: one.to_json() for n, one in made.items()}}, known) == made
    for wrong in (
        {"other": {"temperature": 1.0}},
        {"t": {"temperature": 0.0}},
        {"n": {"temperature": 1.0}},
        {"t": {"temperature": 1.0, "biases": [0.0, 0.0]}},
        {"t": {"temperature": 1.0, "biases": [0.0, 0.0, 1e6]}},
        {"n": {"noise": 0.1}},
        {"t": {"noise": 1.0}},
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


def test_trained_models_are_saved_with_their_calibration(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = [{"x": x, "y": "yes" if x + rng.normal() > 0 else "no", "z": x} for x in rng.normal(size=120)]
    data = {"train": rows[:40], "validation": rows[40:80], "test": rows[80:]}
    suite = Suite("both", [make_task("word", kind="classification", inputs="x", target="y", data=data,
                                     metric="log_loss"),
                           make_task("number", kind="regression", inputs="x", target="z", data=data)])  # fmt: skip
    board = allround.train(suite, base="small_table", out=tmp_path / "out", settings=Settings(epochs=1, device="cpu"),
                           calibrate="vector", progress=Progress(quiet=True))  # fmt: skip
    assert board.calibration is not None and list(board.calibration["tuned"]) == ["word"]
    said, saved = board.calibration["tuned"]["word"], load(tmp_path / "out").calibration("word")
    assert saved is not None and (said.method, said.temperature) == ("vector", saved.temperature)
    # The score on test is that of the corrected probabilities, which the saved model gives.
    made = load(tmp_path / "out").predict("word", [(row["x"],) for row in rows[80:]], scores=True)
    loss = -np.mean([np.log(one[row["y"]]) for one, row in zip(made, rows[80:], strict=True)])
    assert board.cells["tuned"]["word"].score == pytest.approx(loss, abs=1e-4)
    with pytest.raises(AllroundError, match="did you mean 'vector'"):
        allround.train(suite, base="small_table", out=tmp_path / "no", calibrate="vectro")
