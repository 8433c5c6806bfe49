"""Calibration: scores turned into probabilities that hold, by what was fitted on validation rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from allround.core.schema import STRICT, fitted
from allround.tasks.definition import Definition
from allround.tasks.kind import Encoded, Kind, kind

if TYPE_CHECKING:
    from allround.models.batch import Answers, Scores

#: How far a score may be below the least of a set by rounding alone: scores are kept in single precision.
ROUNDING = 1e-6
#: How far a bias may be from 0.
BIASES = 100.0
#: The key of a manifest under which calibrations stand by task.
KEY = "calibration"


@dataclass(frozen=True)
class Curve:
    """A function from a score to a probability: straight between points of ascending x, constant outside."""

    __pydantic_config__ = STRICT

    x: tuple[float, ...]
    y: tuple[float, ...]


@dataclass(frozen=True)
class Threshold:
    """What sets of answers need to hold the right one as often as `coverage` says.

    limit: the least score of a label in the set, or the largest distance of a number from its prediction, encoded;
    None where validation had too few rows, so that sets hold everything.
    """

    __pydantic_config__ = STRICT

    coverage: float
    limit: float | None


@dataclass(frozen=True)
class Calibration:
    """How the scores of one task are corrected: by a temperature with what may follow it, or by a curve for each label.

    temperature: logits are divided by it. biases: are then added to the logits of the labels. noise: the share of
    answers that are taken to be drawn without looking, each label as likely as any other. curves: of each label
    (isotonic regression); where labels exclude each other, rows are divided by their sum. sets: of the corrected
    scores, where sets are wanted. Answers never change. Of tasks per word, each word is a row.
    """

    __pydantic_config__ = STRICT

    temperature: float | None = None
    biases: tuple[float, ...] = ()
    noise: float | None = None
    curves: tuple[Curve, ...] = ()
    sets: Threshold | None = None

    @property
    def corrects(self) -> bool:
        """Whether it changes scores."""
        return replace(self, sets=None) != Calibration()

    def apply(self, scores: NDArray[np.floating], definition: Definition) -> NDArray[np.floating]:
        """Corrected scores (n, labels).

        >>> d = Definition("t", "classification", ("x",), "text", "accuracy", ("no", "yes"))
        >>> Calibration(temperature=2.0).apply(np.array([[0.2, 0.8]]), d).round(3).tolist()
        [[0.333, 0.667]]
        >>> Calibration(biases=(np.log(4), 0.0), noise=0.2).apply(np.array([[0.2, 0.8]]), d).round(3).tolist()
        [[0.5, 0.5]]
        >>> Calibration(noise=0.2).apply(np.array([[0.2, 0.8]]), d).round(3).tolist()
        [[0.26, 0.74]]
        """
        rules = kind(definition.kind)
        table = self._corrected(scores, rules, definition)
        if not rules.own_choices:
            return table
        table = np.where(np.asarray(scores) > 0, table, 0.0)  # a row has no other choices
        return np.asarray(table / table.sum(1, keepdims=True))

    def _corrected(self, scores: NDArray[np.floating], rules: Kind, definition: Definition) -> NDArray[np.floating]:
        if self.temperature is not None:
            scores = rules.tempered(scores, self.temperature)
        if self.biases:
            scores = rules.shifted(scores, np.array(self.biases))
        if self.noise is not None:
            scores = (1 - self.noise) * scores + self.noise * even(definition)
        if not self.curves:
            return scores
        columns = zip(np.asarray(scores, dtype=np.float64).T, self.curves, strict=True)
        table = np.stack([np.interp(column, curve.x, curve.y) for column, curve in columns], 1)
        if not rules.exclusive:
            return table
        total = table.sum(1, keepdims=True)
        # Where every curve says 0, the scores are left as they are.
        return np.where(total > 0, table / np.where(total > 0, total, 1.0), scores)

    def correct(self, scores: Scores, definition: Definition) -> NDArray[np.floating] | list[NDArray[np.floating]]:
        """Corrected scores as a system gives them: (n, labels), or for tasks per word one (words, labels) a row."""
        if not isinstance(scores, list):
            return self.apply(np.asarray(scores), definition)
        if not scores:
            return []
        return np.split(self.apply(np.concatenate(scores), definition), np.cumsum([len(row) for row in scores])[:-1])

    def answers(self, made: Answers, definition: Definition, *, scores: bool) -> Answers:
        """The same answers with corrected confidences, and corrected scores where they are wanted."""
        if made.scores is None or not kind(definition.kind).labelled:
            return made if scores else replace(made, scores=None)
        table = self.correct(made.scores, definition)
        sure = confidence(table, made.predictions, definition)
        return replace(made, confidence=sure, scores=table if scores else None)

    def to_json(self) -> dict[str, object]:
        """Plain data, without what is not set."""
        return {name: value for name, value in asdict(self).items() if value not in (None, ())}

    def check(self, definition: Definition) -> None:
        """A ValueError unless it fits the task."""
        labels = len(definition.labels)
        if self.temperature is not None and not self.temperature > 0:
            raise ValueError("a temperature is not above 0")
        if self.noise is not None and not 0 <= self.noise < 1:
            raise ValueError("a share of noise is not between 0 and 1")
        if self.corrects and not kind(definition.kind).labelled:
            raise ValueError("a task without scores has a calibration of them")
        if self.biases and len(self.biases) != labels:
            raise ValueError("there is not one bias for each label")
        if not all(abs(bias) <= BIASES for bias in self.biases):
            raise ValueError(f"a bias is beyond {BIASES:g}")
        if self.curves and len(self.curves) != labels:
            raise ValueError("there is not one curve for each label")
        for curve in self.curves:
            if not curve.x or len(curve.x) != len(curve.y) or list(curve.x) != sorted(curve.x):
                raise ValueError("a curve does not ascend")
            if not all(0 <= value <= 1 for value in curve.y):
                raise ValueError("a curve leaves 0 to 1")


def even(definition: Definition) -> float:
    """The probability of each label where none is more likely than another."""
    return 1 / len(definition.labels) if kind(definition.kind).exclusive else 0.5


def confidence(
    scores: NDArray[np.floating] | list[NDArray[np.floating]], predictions: Encoded, definition: Definition
) -> list[float]:
    """The probability of each answer: of several labels, that of all decisions together; for tasks per word the mean
    of those of the words."""
    rules = kind(definition.kind)
    if isinstance(scores, list):
        rows = zip(scores, predictions, strict=True)
        return [float(rules.sureness(table, row).mean()) if len(row) else 1.0 for table, row in rows]
    found: list[float] = rules.sureness(np.asarray(scores), predictions).prod(1).tolist()
    return found


def sets_of(made: Answers, sets: Threshold, definition: Definition) -> list[list[str]] | list[tuple[float, float]]:
    """For each answer the labels that its set holds, the most probable first; of numbers the ends of an interval.

    made: with corrected scores, where the kind has them.
    """
    rules = kind(definition.kind)
    if rules.numeric:
        half = float("inf") if sets.limit is None else sets.limit * definition.scale
        middles = [float(value) for value in rules.decode(made.predictions, definition)]  # type: ignore[arg-type]
        return [(middle - half, middle + half) for middle in middles]
    assert made.scores is not None
    limit = 0.0 if sets.limit is None else sets.limit - ROUNDING
    own = rules.own_choices
    order = [sorted(range(len(row)), key=lambda label: (-row[label], label)) for row in np.asarray(made.scores)]
    return [
        [definition.labels[label] for label in places if row[label] >= limit and (row[label] > 0 or not own)]
        for places, row in zip(order, np.asarray(made.scores), strict=True)
    ]


def read_calibrations(facts: Mapping[str, object], definitions: Mapping[str, Definition]) -> dict[str, Calibration]:
    """The calibrations that the facts of a manifest hold, by task. A ValueError where they are damaged."""
    found = fitted(dict[str, Calibration], facts.get(KEY, {}))
    for name, one in found.items():
        if name not in definitions:
            raise ValueError(f"a calibration is of '{name}', which is no task of the system")
        one.check(definitions[name])
    return found
