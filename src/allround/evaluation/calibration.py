"""Fitting of calibrations on validation predictions, and how far scores can be trusted on test."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from allround.core.errors import AllroundError, suggestion
from allround.core.schema import STRICT
from allround.evaluation.calibrators import WAYS, Sample, way_of
from allround.evaluation.predictions import Predictions, one_table
from allround.models.calibration import ROUNDING, Calibration, Threshold, confidence
from allround.tasks.kind import kind

Array = NDArray[np.float64]

#: Bins of equal width that confidences are sorted into.
BINS = 15
#: Draws of right and wrong answers that the error of perfect confidences is the mean of.
_DRAWS = 200


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
    al., ICML 2017, arXiv:1706.04599, equation 3). bins: those that are not empty, by ascending confidence. chance: the
    ECE that is expected on as many rows if each confidence is the very probability to be right; it is above 0, for in
    a bin of few rows the share of right answers is off by chance. None in scoreboards of before.
    """

    __pydantic_config__ = STRICT

    ece: float
    bins: tuple[Bin, ...]
    chance: float | None = None


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
    """What calibration did for a system on a task, measured on test. method: none where it was not fitted; what was
    chosen, of `auto`.

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
    scores = one_table(predictions.scores, predictions.definition).astype(np.float64)
    targets, said = (np.concatenate(v) if rules.per_token else np.asarray(v)
                     for v in (predictions.targets, predictions.predictions))  # fmt: skip
    sure = rules.sureness(scores, said)
    right = (targets == said).reshape(sure.shape).ravel()
    sure = sure.ravel()
    place = _place(sure)
    bins = [
        Bin(int((place == one).sum()), float(sure[place == one].mean()), float(right[place == one].mean()))
        for one in np.unique(place)
    ]
    ece = sum(one.count * abs(one.right - one.confidence) for one in bins) / max(1, len(sure))
    return Reliability(ece, tuple(bins), float(errors_by_chance(sure).mean()))


def errors_by_chance(sure: Array) -> Array:
    """The ECE of answers that are right just as often as their confidences `sure` say, in 200 draws of which are
    (consistency resampling: Broecker and Smith, Weather and Forecasting 22, 2007)."""
    draw, place = np.random.default_rng(0), _place(sure)
    off = [np.bincount(place, (draw.random(len(sure)) < sure) - sure, BINS) for _ in range(_DRAWS)]
    return np.asarray(np.abs(off).sum(1) / max(1, len(sure)))


def _place(sure: Array) -> NDArray[np.int_]:
    """The bin of each confidence."""
    return np.asarray(np.clip(np.ceil(sure * BINS).astype(int) - 1, 0, BINS - 1))


def check_method(name: str) -> str:
    """The name of a way to calibrate, or an error that suggests one."""
    if name not in WAYS:
        raise AllroundError(f"calibrate by '{name}'", "there is no such way", suggestion(name, WAYS))
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
    fitter, made = WAYS[method], Calibration()
    if fitter is not None and validation.scores is not None and len(held := Sample.of(validation)):
        made = fitter(held)
    rules = kind(validation.definition.kind)
    if coverage is not None and not (rules.per_token or rules.written or rules.ranked):
        made = replace(made, sets=fit_sets(calibrated(validation, made), coverage))
    return made if made != Calibration() else None


def calibrated(predictions: Predictions, calibration: Calibration | None) -> Predictions:
    """The same predictions with corrected scores and confidences."""
    if calibration is None or predictions.scores is None:
        return predictions
    table = calibration.correct(predictions.scores, predictions.definition)
    sure = confidence(table, predictions.predictions, predictions.definition)
    return replace(predictions, scores=table, confidence=sure)


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
    scores = one_table(predictions.scores, predictions.definition).astype(np.float64)
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
    sizes = (one_table(test.scores, test.definition) >= limit - ROUNDING).sum(1)
    return SetFacts(sets.coverage, held, float(sizes.mean()))


def facts_of(test: Predictions, calibration: Calibration | None) -> CalibrationFacts:
    """What a calibration does on test. test: as the system gave it, not corrected yet."""
    known: dict[str, Any] = {}
    corrected = calibrated(test, calibration)
    if test.scores is not None and corrected.scores is not None:
        known = {"before": reliability(test), "after": reliability(corrected)}
    if calibration is not None and calibration.sets is not None:
        known["sets"] = set_facts(corrected, calibration.sets)
    temperature = calibration.temperature if calibration is not None else None
    return CalibrationFacts(way_of(calibration), len(test), temperature, **known)
