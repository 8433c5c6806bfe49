"""A linear model of one task: what it consists of, and what it answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from allround.models.batch import Answers
from allround.models.plain.columns import Columns
from allround.models.plain.pixels import Pixels
from allround.models.plain.reader import Matrix, Reader
from allround.models.plain.texts import Texts
from allround.models.plain.words import Words
from allround.tasks.definition import Definition
from allround.tasks.kind import kind
from allround.tasks.values import Row

#: The reader of each modality.
READERS: dict[str, type[Reader]] = {"table": Columns, "text": Texts, "image": Pixels}


def reader_of(definition: Definition) -> type[Reader] | None:
    """What reads the rows of a task; None where nothing does.

    >>> d = Definition("t", "token_classification", ("words",), "text", "span_f1", ("O", "B"))
    >>> reader_of(d).__name__, reader_of(Definition("t", "regression", ("x",), "sound", "rmse"))
    ('Words', None)
    """
    rules = kind(definition.kind)
    if rules.per_token:
        return Words if definition.modality == "text" and definition.labels else None
    if rules.for_language_models or not (rules.numeric or definition.labels):
        return None
    return READERS.get(definition.modality)


@dataclass(frozen=True)
class TaskLinear:
    """outputs = numbers @ weight.T + bias, float32; softmax, sigmoid or nothing makes answers of them.

    Shapes: weight (outputs, width), bias (outputs,). classes: of a task with one label for each target, the labels that
    training showed, ascending; two of them have one output, and one of them none.
    """

    definition: Definition
    reader: Reader
    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    classes: tuple[int, ...] = ()

    @property
    def size(self) -> int:
        """How many numbers it keeps."""
        return self.weight.size + self.bias.size + self.reader.stored

    def check(self) -> None:
        """A ValueError unless its parts fit each other and the definition."""
        rules, labels = kind(self.definition.kind), len(self.definition.labels)
        allowed: tuple[int, ...] = ()
        if rules.numeric or (rules.lists and not rules.per_token):
            outputs = 1 if rules.numeric else labels
        else:
            outputs = {1: 0, 2: 1}.get(len(self.classes), len(self.classes))
            allowed = tuple(sorted({label for label in self.classes if 0 <= label < labels}))
            if not allowed:
                raise ValueError("it has no labels")
        if self.classes != allowed:
            raise ValueError("it has outputs for labels that are not there")
        if self.weight.shape != (outputs, self.reader.width) or self.bias.shape != (outputs,):
            raise ValueError(f"its weight is {self.weight.shape}, and not {(outputs, self.reader.width)}")

    def answer(self, rows: Sequence[Row]) -> Answers:
        """Predictions, confidences and scores of rows."""
        found = self.read(self.reader.numbers(rows))
        if not kind(self.definition.kind).per_token:
            return found
        assert isinstance(found.scores, np.ndarray)
        ends = np.cumsum([len(row[0]) for row in rows])[:-1]  # type: ignore[arg-type]
        scores = np.split(found.scores, ends)
        return Answers(*kind(self.definition.kind).decide(scores), scores)

    def read(self, numbers: Matrix) -> Answers:
        """What the numbers of targets say; of a task for each word, without the rows that the words belong to."""
        rules = kind(self.definition.kind)
        outputs = np.asarray(numbers @ self.weight.T, np.float64) + self.bias
        if rules.numeric:
            return Answers(outputs[:, 0])
        if rules.lists and not rules.per_token:
            scores = _sigmoid(outputs)
        else:
            scores = np.zeros((outputs.shape[0], len(self.definition.labels)))
            scores[:, list(self.classes)] = self._shares(outputs)
            if rules.per_token:
                return Answers(scores.argmax(1), None, scores)
        return Answers(*rules.decide(scores), scores)

    def _shares(self, outputs: NDArray[np.float64]) -> NDArray[np.float64]:
        if len(self.classes) == 1:
            return np.ones((len(outputs), 1))
        if len(self.classes) == 2:
            second = _sigmoid(outputs)
            return np.concatenate([1 - second, second], 1)
        powers = np.exp(outputs - outputs.max(1, keepdims=True))
        found: NDArray[np.float64] = powers / powers.sum(1, keepdims=True)
        return found


def _sigmoid(outputs: NDArray[np.float64]) -> NDArray[np.float64]:
    found: NDArray[np.float64] = 0.5 * (1 + np.tanh(0.5 * outputs))
    return found
