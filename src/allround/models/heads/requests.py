"""Requests: what a language model answers to the requests of a benchmark; the head has no weights of its own."""

from __future__ import annotations

import json
from collections.abc import Callable

import torch
from torch import Tensor

from allround.core.registry import method
from allround.models.batch import Answers, Features, TaskLoss, per_row
from allround.models.head import Head, NotFinite
from allround.tasks.kind import Encoded


@method(source="lm-evaluation-harness, lm_eval/api/model.py", reads="texts")
class Requests(Head):
    """The answers to all requests of a row, as JSON: the logarithm of a text's likelihood and whether greedy writing
    would give the text; or the texts that the model wrote.

    Features are log-likelihood and greediness of each request, with the number of requests of each row; or texts. In
    training they are log-probabilities of the right answer's tokens, whose mean is the loss.

    >>> from allround.tasks.definition import Definition
    >>> d = Definition("t", "lm_eval", ("requests",), "text", "lm_eval")
    >>> Requests(d, 2).answer(Features(torch.tensor([[-1.5, 1.0], [-2.0, 0.0]]), (2,))).predictions
    [('[[-1.5, true], [-2.0, false]]',)]
    """

    sort = "requests"

    def reset(self) -> None:
        return None

    def tensor(self, encoded: Encoded) -> Tensor:
        return torch.zeros(len(encoded))

    def loss(self, features: Features, targets: Tensor) -> TaskLoss:
        if features.lengths and features.values.shape[-1] == 1:  # of the tokens of right answers
            return TaskLoss(-features.values.mean(), len(features.values))
        return TaskLoss(features.values.new_zeros(()), len(targets))

    def answer(self, features: Features, *, scores: bool = False) -> Answers:
        if features.texts:
            return Answers([(json.dumps([text], ensure_ascii=False),) for text in features.texts])
        rows = per_row(features.values.double().cpu(), features.lengths)
        odd = [row for row, values in enumerate(rows) if not bool(values.isfinite().all())]
        if odd:
            raise NotFinite(odd)
        return Answers([(json.dumps([[value, greedy > 0] for value, greedy in row.tolist()]),) for row in rows])

    def fit(self, train: Features, targets: Encoded, score: Callable[[], float]) -> dict[float, float]:
        return {0.0: score()}
