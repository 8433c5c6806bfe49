"""What passes between a model's parts: batches of rows, features, targets, answers and losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from allround.tasks.kind import Encoded

#: Probabilities of the labels, row by row: (n, labels), or for tasks per word one (words, labels) for each row.
Scores = np.ndarray | list[np.ndarray]


class Features(NamedTuple):
    """What an encoder gives for a batch.

    values: (n, d), a vector for each row. Where `lengths` is not empty, row i has `lengths[i]` vectors, and those of
    all rows follow each other: (sum of lengths, d). There are no vectors for padding, so none can enter a loss. texts:
    what a language model wrote for each row, where its task is answered by writing. tasks: where an encoder gives each
    task features of its own and the batch asks several of the same rows, these tasks; a vector then is those of the
    tasks one after the other. tokens: where a row has the vectors of its texts' tokens, how many each of its texts has.
    """

    values: Tensor
    lengths: tuple[int, ...] = ()
    texts: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    tokens: tuple[tuple[int, ...], ...] = ()

    def of(self, task: str) -> Features:
        """The features that are a task's own; all of them, where tasks share theirs.

        >>> Features(torch.tensor([[1.0, 2.0]]), tasks=("a", "b")).of("b").values.tolist()
        [[2.0]]
        """
        if not self.tasks:
            return self
        width = self.values.shape[1] // len(self.tasks)
        place = self.tasks.index(task) * width
        return self._replace(values=self.values[:, place : place + width], tasks=())

    def take(self, rows: Sequence[int], of: int) -> Features:
        """The features of some rows, in ascending order, of the `of` rows that there are.

        >>> Features(torch.arange(3.0)[:, None], (2, 1)).take([1], 2).values.tolist()
        [[2.0]]
        """
        if len(rows) == of:
            return self
        lengths = self.lengths or (1,) * of
        places = positions(rows, lengths).to(self.values.device)
        texts = tuple(self.texts[row] for row in rows) if self.texts else ()
        kept = tuple(lengths[row] for row in rows) if self.lengths else ()
        tokens = tuple(self.tokens[row] for row in rows) if self.tokens else ()
        return Features(self.values[places], kept, texts, self.tasks, tokens)


def positions(rows: Sequence[int], lengths: Sequence[int] | np.ndarray) -> Tensor:
    """The places of the vectors of some rows, ascending, where row i has `lengths[i]` of them.

    >>> positions([0, 2], [2, 1, 3]).tolist()
    [0, 1, 3, 4, 5]
    """
    chosen = np.zeros(len(lengths), dtype=bool)
    chosen[list(rows)] = True
    return torch.from_numpy(np.flatnonzero(np.repeat(chosen, lengths)))


def per_row(values: Tensor, lengths: Sequence[int]) -> list[Tensor]:
    """Entries by the row that they belong to."""
    return list(values.split(list(lengths)))


class Targets(NamedTuple):
    """The targets of one task in a batch. rows: the rows that have one, ascending. values: as the task's head takes
    them, one for each row, or for each word of each row."""

    rows: tuple[int, ...]
    values: Tensor


@dataclass(frozen=True)
class Batch:
    """Prepared rows, stacked.

    tensors: what the encoder or network reads. size: the number of rows. lengths: words of each row where the tasks
    are per word, else empty. rows: for each task that is asked, the rows that it is asked of; a batch may hold rows of
    several tasks, and a row may belong to several. targets: of the tasks whose losses are wanted. numbers: in training,
    of each task, the numbers of these rows in its training split.
    """

    tensors: dict[str, Tensor]
    size: int
    lengths: tuple[int, ...] = ()
    rows: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    targets: Mapping[str, Targets] = field(default_factory=dict)
    numbers: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def task(self) -> str | None:
        """The task of all rows, where there is one."""
        return next(iter(self.rows)) if len(self.rows) == 1 else None

    def to(self, device: torch.device) -> Batch:
        targets = {name: Targets(one.rows, one.values.to(device)) for name, one in self.targets.items()}
        return replace(self, tensors={k: v.to(device) for k, v in self.tensors.items()}, targets=targets)


@dataclass(frozen=True)
class TaskLoss:
    """A task's loss on a batch: the mean over its `count` single losses (rows, or words), with its graph.

    extra: further terms that are added to it, by name, such as a penalty of a model's own.
    """

    mean: Tensor
    count: int
    extra: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def sum(self) -> Tensor:
        """The sum of the single losses, without the extra terms."""
        return self.mean * self.count

    @property
    def value(self) -> Tensor:
        """What is differentiated: the mean and the extra terms."""
        return self.mean if not self.extra else self.mean + torch.stack(list(self.extra.values())).sum()


@dataclass(frozen=True)
class Answers:
    """What a system answers for rows of a task, in their order.

    predictions: encoded as the task's kind does. confidence: the probability of each answer, where the kind has one.
    scores: the probability of each label, where they were asked for and the kind has labels.
    """

    predictions: Encoded
    confidence: list[float] | None = None
    scores: Scores | None = None

    def __len__(self) -> int:
        return len(self.predictions)

    def take(self, order: Sequence[int]) -> Answers:
        """The answers in another order, or some of them."""
        return Answers(
            taken(self.predictions, order),
            None if self.confidence is None else [self.confidence[i] for i in order],
            None if self.scores is None else taken(self.scores, order),
        )

    @staticmethod
    def join(parts: Sequence[Answers]) -> Answers:
        """Answers one after the other. At least one part is needed.

        >>> Answers.join([Answers(np.array([1])), Answers(np.array([0, 2]))]).predictions.tolist()
        [1, 0, 2]
        """
        if len(parts) == 1:
            return parts[0]
        confidence = [part.confidence for part in parts if part.confidence is not None]
        scores = [part.scores for part in parts if part.scores is not None]
        return Answers(
            _joined([part.predictions for part in parts]),
            list(chain.from_iterable(confidence)) if confidence else None,
            _joined(scores) if scores else None,
        )


def taken(values: Encoded, order: Sequence[int]) -> Encoded:
    """Encoded values of some rows, in an order.

    >>> taken([[1], [2, 3]], [1]), taken(np.array([4, 5]), [1, 0]).tolist()
    ([[2, 3]], [5, 4])
    """
    return [values[i] for i in order] if isinstance(values, list) else values[list(order)]


def _joined(parts: Sequence[Encoded]) -> Encoded:
    if isinstance(parts[0], list):
        return list(chain.from_iterable(parts))
    return np.concatenate(list(parts))
