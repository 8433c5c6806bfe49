"""Generate: a language model writes the answer; the head has no weights of its own."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from allround.core.registry import method
from allround.models.batch import Answers, Features, TaskLoss
from allround.models.head import Head
from allround.tasks.kind import Encoded, kind
from allround.tasks.prompt import extracted

#: A number in a text, with signs that group thousands.
_NUMBER = re.compile(r"[-+]?(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?")


@method(source="text-to-text answers: Raffel et al., JMLR 21, 2020, arXiv:1910.10683", reads="texts")
class Generate(Head):
    """The text that the model wrote is the answer: as it is, or the number or the label that it names.

    Features are log-probabilities of the right answer's tokens in training, whose mean is the loss; to answer they
    carry the texts that the model wrote. A text without a number is answered with the mean of the training targets, one
    that names no label with the first label.

    >>> from allround.tasks.definition import Definition
    >>> d = Definition("t", "regression", ("x",), "text", "rmse", center=2.0, scale=2.0)
    >>> Generate(d, 1).answer(Features(torch.zeros(1, 1), texts=("It is 1,000.",))).predictions.tolist()
    [499.0]
    """

    sort = "generate"

    def reset(self) -> None:
        return None

    def tensor(self, encoded: Encoded) -> Tensor:
        return torch.zeros(len(encoded))

    def loss(self, features: Features, targets: Tensor) -> TaskLoss:
        return TaskLoss(-features.values.mean(), len(features.values))

    def answer(self, features: Features, *, scores: bool = False) -> Answers:
        rules, pattern = kind(self.definition.kind), self.definition.prompt.extract if self.definition.prompt else ""
        if rules.written:
            return Answers(rules.encode(list(features.texts), self.definition))
        said = [extracted(text, pattern) for text in features.texts]
        if rules.numeric:
            return Answers(np.array([self._number(text) for text in said], dtype=np.float64))
        return Answers(rules.encode([self._label(text) for text in said], self.definition))

    def _number(self, text: str) -> float:
        found = _NUMBER.findall(text)
        value = float(found[-1].replace(",", "")) if found else math.nan
        return (value - self.definition.center) / self.definition.scale if math.isfinite(value) else 0.0

    def _label(self, text: str) -> str:
        prompt, labels = self.definition.prompt, self.definition.labels
        words = prompt.choices if prompt is not None and prompt.choices else labels
        low = text.lower()
        named = {label: low.find(word.lower()) for label, word in zip(labels, words, strict=True)}
        there = [label for label, place in named.items() if place >= 0]
        longest = {label: len(word) for label, word in zip(labels, words, strict=True)}
        return min(there, key=lambda label: (named[label], -longest[label])) if there else labels[0]

    def fit(self, train: Features, targets: Encoded, score: Callable[[], float]) -> dict[float, float]:
        return {0.0: score()}
