"""Fitting of calibrations on validation predictions, and how far scores can be trusted on test."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from allround.core.errors import AllroundError, suggestion
from allround.core.schema import STRICT
from allround.evaluation.predictions import Predictions
from allround.models.calibration import ROUNDING, Calibration, Curve, Threshold, confidence
from allround.tasks.kind import kind

Array = NDArray[np.float64]

#: Bins of equal width that confidences are sorted into.
BINS = 15
#: The temperatures that are looked among.
_TEMPERATURES = (0.05, 20.0)
_LEAST = 1e-12


@dataclass(frozen=True)
class Bin:
    """Decisions of like confidence: how many, their mean confidence, and the share of them that is right."""

    __pydantic_config__ = STRICT

    count: int
    confidence: float
    right: float


@dataclass(frozen=True)
class Reliability:
    """How confidence and success go together.

    ece: the expected calibration error, the mean distance of the two over bins, each weighted by its count (Guo et
    al., ICML 2017, arXiv:1706.04599, equation 3). bins: those that are not empty, by ascending confidence.
    """

    __pydantic_config__ = STRICT

    ece: float
    bins: tuple[Bin, ...]


@dataclass(frozen=True)
class SetFacts:
    """Sets of answers on test: the coverage that was asked for, the share of rows whose target was in its set, and the
    mean size of the sets (labels; for numbers the width of the interval in units of the target, None if infinite)."""

    __pydantic_config__ = STRICT

    asked: float
    covered: float
    size: float | None


@dataclass(frozen=True)
class CalibrationFacts:
    """What calibration did for a system on a task, measured on test. method: none where it was not fitted.

    before, after: reliability; None where the task has no scores.
    """

    __pydantic_config__ = STRICT

    method: str
    rows: int
    temperature: float | None = None
    before: Reliability | None = None
    after: Reliability | None = None
    sets: SetFacts | None = None


def reliability(predictions: Predictions) -> Reliability:
    """How far the confidences of predictions can be trusted. A decision is an answer, or one label of several.

    >>> from allround.tasks.definition import Definition
    >>> d = Definition("t", "classification", ("x",), "text", "accuracy", ("no", "yes"))
    >>> scores = np.array([[0.1, 0.9], [0.1, 0.9], [0.4, 0.6]])
    >>> found = reliability(Predictions(d, "test", np.array([1, 0, 1]), np.array([1, 1, 1]), scores=scores))
    >>> round(found.ece, 4), [(one.count, round(one.right, 2)) for one in found.bins]
    (0.4, [(1, 1.0), (2, 0.5)])
    """
    assert predictions.scores is not None
    rules = kind(predictions.definition.kind)
    sure = rules.sureness(predictions.scores.astype(np.float64), predictions.predictions)
    targets, said = np.asarray(predictions.targets), np.asarray(predictions.predictions)
    right = (targets == said).reshape(sure.shape).ravel()
    sure = sure.ravel()
    place = np.clip(np.ceil(sure * BINS).astype(int) - 1, 0, BINS - 1)
    bins = [
        Bin(int((place == one).sum()), float(sure[place == one].mean()), float(right[place == one].mean()))
        for one in np.unique(place)
    ]
    total = sum(one.count for one in bins)
    return Reliability(sum(one.count * abs(one.right - one.confidence) for one in bins) / total, tuple(bins))


def fit_temperature(validation: Predictions) -> Calibration:
    """The temperature with the least negative log-likelihood on validation (Guo et al. 2017).

    A prior keeps it finite where validation is answered without an error: log T is normal with a deviation of 1, which
    weighs as much as a fraction of one row.
    """
    from scipy.optimize import minimize_scalar

    assert validation.scores is not None
    rules, scores = kind(validation.definition.kind), validation.scores

    def cost(log: float) -> float:
        return _loss(validation, rules.tempered(scores, float(np.exp(log)))) + 0.5 * log**2

    found = minimize_scalar(cost, bounds=np.log(_TEMPERATURES), method="bounded", options={"xatol": 1e-4})
    return Calibration(temperature=float(np.exp(found.x)))


def fit_isotonic(validation: Predictions) -> Calibration:
    """A rising curve for each label against the rest (Zadrozny and Elkan, KDD 2002); rows are then divided by their
    sum, where labels exclude each other. It needs more rows than a temperature."""
    from sklearn.isotonic import IsotonicRegression

    assert validation.scores is not None
    targets, labels = np.asarray(validation.targets), len(validation.definition.labels)
    has = targets == 1 if targets.ndim == 2 else np.eye(labels)[targets] == 1
    curves = []
    for place in range(labels):
        fitted = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip")
        fitted.fit(validation.scores[:, place].astype(np.float64), has[:, place].astype(np.float64))
        x, y = fitted.X_thresholds_.tolist(), fitted.y_thresholds_.tolist()
        curves.append(Curve(tuple(map(float, x)), tuple(map(float, y))))
    return Calibration(curves=tuple(curves))


#: How scores may be calibrated.
METHODS: Mapping[str, Callable[[Predictions], Calibration] | None] = {
    "temperature": fit_temperature,
    "isotonic": fit_isotonic,
    "none": None,
}


def check_method(name: str) -> str:
    """The name of a way to calibrate, or an error that suggests one."""
    if name not in METHODS:
        raise AllroundError(f"calibrate by '{name}'", "there is no such way", suggestion(name, METHODS))
    return name


def check_coverage(coverage: float | None) -> float | None:
    """A share of rows that sets must cover, or None for no sets."""
    if coverage is not None and not 0 < coverage < 1:
        raise AllroundError(
            f"make sets that cover {coverage} of the rows", "coverage is a share of rows between 0 and 1", "give 0.9"
        )
    return coverage


def fit(validation: Predictions, method: str, coverage: float | None = None) -> Calibration | None:
    """What corrects the scores of a system on a task, and makes sets of the wanted coverage; None for neither."""
    fitter, made = METHODS[method], Calibration()
    if fitter is not None and validation.scores is not None and len(validation):
        made = fitter(validation)
    rules = kind(validation.definition.kind)
    if coverage is not None and not rules.per_token and not rules.written:
        made = replace(made, sets=fit_sets(calibrated(validation, made), coverage))
    return made if made != Calibration() else None


def calibrated(predictions: Predictions, calibration: Calibration | None) -> Predictions:
    """The same predictions with corrected scores and confidences."""
    if calibration is None or predictions.scores is None:
        return predictions
    table = calibration.apply(predictions.scores, predictions.definition)
    sure = confidence(table, predictions.predictions, predictions.definition)
    return replace(predictions, scores=np.asarray(table, dtype=np.float32), confidence=sure)


def fit_sets(validation: Predictions, coverage: float) -> Threshold:
    """The threshold of split conformal prediction: the (n + 1) coverage / n quantile of how strange the validation
    targets look.

    A label's strangeness is 1 less its score (least ambiguous sets: Sadinle, Lei and Wasserman, Journal of the American
    Statistical Association 114, 2019), that of a row with several labels its strangest one's, and a number's is its
    distance from the prediction (Lei et al., Journal of the American Statistical Association 113, 2018).
    """
    strange = np.sort(_strangeness(validation))
    rank = int(np.ceil((len(strange) + 1) * coverage))
    if not 1 <= rank <= len(strange):
        return Threshold(coverage, None)
    found = float(strange[rank - 1])
    return Threshold(coverage, found if kind(validation.definition.kind).numeric else 1 - found)


def _strangeness(predictions: Predictions) -> Array:
    targets = np.asarray(predictions.targets)
    if kind(predictions.definition.kind).numeric:
        return np.asarray(np.abs(targets - np.asarray(predictions.predictions)))
    if predictions.scores is None:
        raise AllroundError(
            f"make sets of labels for the task '{predictions.definition.name}'",
            "the system gives no probabilities of the labels",
            "use a system that does, or leave coverage out",
        )
    scores = predictions.scores.astype(np.float64)
    if targets.ndim == 2:
        return np.asarray(1 - np.where(targets == 1, scores, 1.0).min(1))
    return np.asarray(1 - scores[np.arange(len(targets)), targets])


def set_facts(test: Predictions, sets: Threshold) -> SetFacts:
    """How sets do on test. test: with corrected scores."""
    if kind(test.definition.kind).numeric:
        width = None if sets.limit is None else 2 * sets.limit * test.definition.scale
        held = 1.0 if sets.limit is None else float((_strangeness(test) <= sets.limit).mean())
        return SetFacts(sets.coverage, held, width)
    assert test.scores is not None
    limit = -1.0 if sets.limit is None else sets.limit
    held = float((1 - _strangeness(test) >= limit - ROUNDING).mean())
    return SetFacts(sets.coverage, held, float((test.scores >= limit - ROUNDING).sum(1).mean()))


def _loss(predictions: Predictions, scores: Array) -> float:
    """The sum of -log p over rows, or over rows and labels where there may be several."""
    targets = np.asarray(predictions.targets)
    sure = kind(predictions.definition.kind).sureness(scores, targets)
    return float(-np.log(np.maximum(sure, _LEAST)).sum())


def facts_of(test: Predictions, calibration: Calibration | None, method: str) -> CalibrationFacts:
    """What a calibration does on test. test: as the system gave it, not corrected yet."""
    known: dict[str, Any] = {}
    corrected = calibrated(test, calibration)
    if test.scores is not None and corrected.scores is not None:
        known = {"before": reliability(test), "after": reliability(corrected)}
    if calibration is not None and calibration.sets is not None:
        known["sets"] = set_facts(corrected, calibration.sets)
    scored = calibration is not None and (calibration.temperature is not None or bool(calibration.curves))
    temperature = calibration.temperature if calibration is not None else None
    return CalibrationFacts(method if scored else "none", len(test), temperature, **known)
