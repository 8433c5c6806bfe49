"""Calibration: scores turned into probabilities that hold, by what was fitted on validation rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from allround.core.schema import STRICT, fitted
from allround.tasks.definition import Definition
from allround.tasks.kind import Encoded, kind

if TYPE_CHECKING:
    from allround.models.batch import Answers

#: How far a score may be below the least of a set by rounding alone: scores are kept in single precision.
ROUNDING = 1e-6
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
    """How the scores of one task are corrected: by a temperature, or by a curve for each label.

    temperature: logits are divided by it. curves: of each label (isotonic regression); where labels exclude each other,
    rows are divided by their sum. sets: of the corrected scores, where sets are wanted. Answers never change.
    """

    __pydantic_config__ = STRICT

    temperature: float | None = None
    curves: tuple[Curve, ...] = ()
    sets: Threshold | None = None

    def apply(self, scores: NDArray[np.floating], definition: Definition) -> NDArray[np.floating]:
        """Corrected scores (n, labels).

        >>> d = Definition("t", "classification", ("x",), "text", "accuracy", ("no", "yes"))
        >>> Calibration(temperature=2.0).apply(np.array([[0.2, 0.8]]), d).round(3).tolist()
        [[0.333, 0.667]]
        """
        rules = kind(definition.kind)
        if self.temperature is not None:
            return rules.tempered(scores, self.temperature)
        if not self.curves:
            return scores
        columns = zip(np.asarray(scores, dtype=np.float64).T, self.curves, strict=True)
        table = np.stack([np.interp(column, curve.x, curve.y) for column, curve in columns], 1)
        if rules.lists:
            return table
        total = table.sum(1, keepdims=True)
        # Where every curve says 0, the scores are left as they are.
        return np.where(total > 0, table / np.where(total > 0, total, 1.0), scores)

    def answers(self, made: Answers, definition: Definition, *, scores: bool) -> Answers:
        """The same answers with corrected confidences, and corrected scores where they are wanted."""
        if made.scores is None or not kind(definition.kind).has_scores:
            return made if scores else replace(made, scores=None)
        table = self.apply(np.asarray(made.scores), definition)
        sure = confidence(table, made.predictions, definition)
        return replace(made, confidence=sure, scores=table if scores else None)

    def to_json(self) -> dict[str, object]:
        """Plain data, without what is not set."""
        return {name: value for name, value in asdict(self).items() if value not in (None, ())}

    def check(self, definition: Definition) -> None:
        """A ValueError unless it fits the task."""
        rules = kind(definition.kind)
        if self.temperature is not None and not self.temperature > 0:
            raise ValueError("a temperature is not above 0")
        if (self.temperature is not None or self.curves) and not rules.has_scores:
            raise ValueError("a task without scores has a calibration of them")
        if self.curves and len(self.curves) != len(definition.labels):
            raise ValueError("there is not one curve for each label")
        for curve in self.curves:
            if not curve.x or len(curve.x) != len(curve.y) or list(curve.x) != sorted(curve.x):
                raise ValueError("a curve does not ascend")
            if not all(0 <= value <= 1 for value in curve.y):
                raise ValueError("a curve leaves 0 to 1")


def confidence(scores: NDArray[np.floating], predictions: Encoded, definition: Definition) -> list[float]:
    """The probability of each answer; of several labels, that of all decisions together."""
    found: list[float] = kind(definition.kind).sureness(np.asarray(scores), predictions).prod(1).tolist()
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
    order = [sorted(range(len(row)), key=lambda label: (-row[label], label)) for row in np.asarray(made.scores)]
    return [
        [definition.labels[label] for label in places if row[label] >= limit]
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
