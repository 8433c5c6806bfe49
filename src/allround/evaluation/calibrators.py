"""The ways to calibrate: what is fitted on validation predictions, and how one way is chosen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from allround.evaluation.predictions import Predictions, one_table
from allround.models.calibration import Calibration, Curve, even
from allround.tasks.definition import Definition
from allround.tasks.kind import kind

Array = NDArray[np.float64]

#: The temperatures that are looked among.
_TEMPERATURES = (0.05, 20.0)
_LEAST = 1e-12
#: How far a probability of 0 is from 0 where ways are compared: as single precision ends.
_SINGLE = float(np.finfo(np.float32).eps) / 2
#: The standard deviation of the prior of a bias, and the strength of the prior that keeps noise small.
_BIAS, _QUIET = 0.5, 9.0
#: Parts of the validation rows, each of which is held out once to compare ways.
_FOLDS = 5
#: A difference in log-likelihood a row that is not worth another way.
_ALIKE = 1e-3


@dataclass(frozen=True)
class Sample:
    """Scores (n, labels) with what was right. targets: as the kind encodes them; of kinds per word, of each word.
    has: (n, labels), 1 where the label is right."""

    definition: Definition
    scores: Array
    targets: NDArray[np.integer]
    has: Array

    @classmethod
    def of(cls, validation: Predictions) -> Sample:
        assert validation.scores is not None
        definition = validation.definition
        scores = one_table(validation.scores, definition).astype(np.float64)
        per_word = kind(definition.kind).per_token
        targets = np.concatenate(validation.targets) if per_word else np.asarray(validation.targets)
        has = targets == 1 if targets.ndim == 2 else np.arange(scores.shape[1]) == targets[:, None]
        return cls(definition, scores, targets, has.astype(np.float64))

    def __len__(self) -> int:
        return len(self.scores)

    def take(self, chosen: NDArray[np.bool_]) -> Sample:
        """Some rows."""
        return Sample(self.definition, self.scores[chosen], self.targets[chosen], self.has[chosen])

    def losses(self, scores: NDArray[np.floating], least: float = _LEAST) -> Array:
        """-log p of each row, summed over its decisions."""
        sure = kind(self.definition.kind).sureness(scores, self.targets)
        return np.asarray(-np.log(np.maximum(sure, least)).sum(1))


Fitter = Callable[[Sample], Calibration]


def fit_temperature(held: Sample) -> Calibration:
    """The temperature with the least negative log-likelihood on validation (Guo et al. 2017).

    A prior keeps it finite where validation is answered without an error: log T is normal with a deviation of 1, which
    weighs as much as a fraction of one row.
    """
    from scipy.optimize import minimize_scalar

    rules = kind(held.definition.kind)

    def cost(log: float) -> float:
        return float(held.losses(rules.tempered(held.scores, float(np.exp(log)))).sum() + 0.5 * log**2)

    found = minimize_scalar(cost, bounds=np.log(_TEMPERATURES), method="bounded", options={"xatol": 1e-4})
    return Calibration(temperature=float(np.exp(found.x)))


def fit_vector(held: Sample) -> Calibration:
    """A temperature, and then a bias for each label (vector scaling with one factor, Guo et al. 2017; with two labels
    that is Platt scaling). A normal prior draws biases to 0, so to a temperature alone."""
    from scipy.optimize import minimize

    rules, start = kind(held.definition.kind), fit_temperature(held).temperature
    assert start is not None

    def cost(values: Array) -> tuple[float, Array]:
        log, biases = values[0], values[1:]

        def scores(log: float) -> Array:
            return rules.shifted(rules.tempered(held.scores, float(np.exp(log))), biases)

        now, step = scores(log), 1e-5
        up, down = (float(held.losses(scores(log + way)).sum()) for way in (step, -step))
        slopes = [(up - down) / (2 * step) + log, *((now - held.has).sum(0) + biases / _BIAS**2)]
        prior = 0.5 * log**2 + 0.5 * float((biases**2).sum()) / _BIAS**2
        return float(held.losses(now).sum()) + prior, np.array(slopes)

    first = np.array([np.log(start), *np.zeros(held.scores.shape[1])])
    ends = [tuple(np.log(_TEMPERATURES)), *[(-8.0, 8.0)] * held.scores.shape[1]]
    found = minimize(cost, first, jac=True, method="L-BFGS-B", bounds=ends)
    return Calibration(temperature=float(np.exp(found.x[0])), biases=tuple(map(float, found.x[1:])))


def fit_noise(held: Sample) -> Calibration:
    """A temperature, and a share of answers that are drawn without looking, as labels are where people err (the mixture
    of Zhang, Kailkhura and Han, ICML 2020, arXiv:2003.07329, without its third part)."""
    from scipy.optimize import minimize

    rules, start = kind(held.definition.kind), fit_temperature(held).temperature
    assert start is not None

    def cost(values: Array) -> float:
        log, noise = map(float, values)
        scores = (1 - noise) * rules.tempered(held.scores, float(np.exp(log))) + noise * even(held.definition)
        return float(held.losses(scores).sum()) + 0.5 * log**2 - _QUIET * float(np.log1p(-noise))

    ends = [tuple(np.log(_TEMPERATURES)), (0.0, 0.9)]
    found = minimize(cost, np.array([np.log(start), 0.02]), method="L-BFGS-B", bounds=ends)
    return Calibration(temperature=float(np.exp(found.x[0])), noise=float(found.x[1]))


def fit_isotonic(held: Sample) -> Calibration:
    """A rising curve for each label against the rest (Zadrozny and Elkan, KDD 2002); rows are then divided by their
    sum, where labels exclude each other. It needs more rows than a temperature."""
    from sklearn.isotonic import IsotonicRegression

    curves = []
    for scores, has in zip(held.scores.T, held.has.T, strict=True):
        fitted = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip").fit(scores, has)
        x, y = fitted.X_thresholds_.tolist(), fitted.y_thresholds_.tolist()
        curves.append(Curve(tuple(map(float, x)), tuple(map(float, y))))
    return Calibration(curves=tuple(curves))


#: What `auto` chooses from, the simplest first.
OFFERED: Mapping[str, Fitter] = {
    "temperature": fit_temperature,
    "vector": fit_vector,
    "noise": fit_noise,
    "isotonic": fit_isotonic,
}


def fit_auto(held: Sample) -> Calibration:
    """A way chosen by its log-likelihood on validation rows that it was not fitted on, in five folds; then fitted on
    all rows.

    It is the simplest one that is no worse than the best by more than the standard error of their difference (Breiman
    et al. 1984). With fewer rows than folds, a temperature.
    """
    if len(held) < _FOLDS:
        return fit_temperature(held)
    losses = {name: held_out_losses(held, fitter) for name, fitter in OFFERED.items()}
    best = min(losses.values(), key=lambda one: float(one.sum()))
    for name, one in losses.items():
        worse = one - best
        if worse.mean() <= max(_ALIKE, worse.std(ddof=1) / np.sqrt(len(held))):
            return OFFERED[name](held)
    raise AssertionError("the best way is no worse than itself")


def held_out_losses(held: Sample, fitter: Fitter) -> Array:
    """-log p of each row, by what was fitted on the folds that the row is not in."""
    places = np.random.default_rng(0).permutation(len(held))
    if held.targets.ndim == 1:  # each label is spread over the folds
        places = places[np.argsort(held.targets[places], kind="stable")]
    fold = np.empty(len(held), dtype=np.int64)
    fold[places] = np.arange(len(held)) % _FOLDS
    losses = np.empty(len(held))
    for one in range(_FOLDS):
        rest = held.take(fold == one)
        losses[fold == one] = rest.losses(fitter(held.take(fold != one)).apply(rest.scores, held.definition), _SINGLE)
    return losses


#: How scores may be calibrated.
WAYS: Mapping[str, Fitter | None] = {**OFFERED, "auto": fit_auto, "none": None}


def way_of(calibration: Calibration | None) -> str:
    """The way that a calibration was fitted.

    >>> way_of(Calibration(temperature=2.0, biases=(0.1, 0.0))), way_of(None)
    ('vector', 'none')
    """
    if calibration is None or not calibration.corrects:
        return "none"
    if calibration.curves:
        return "isotonic"
    return "noise" if calibration.noise is not None else "vector" if calibration.biases else "temperature"
