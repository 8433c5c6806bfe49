"""What is drawn together: the training rows of one task, or of several tasks labelled on one table."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from allround.core.seeds import seed_of
from allround.models.batches import draw_batches
from allround.models.model import Model, Prepared
from allround.tasks.task import Split, Task


@dataclass
class Feed:
    """Prepared rows, and which of them each task has a label for.

    tasks: their numbers. rows: as the model prepared them. places: for each task, the place of a row in the
    task's own training split, or -1 where it has no label there. lengths: words of each row, where the tasks are per
    word (else 1): how many features a row has. use: the rows that are drawn. wordings: rows and lengths with each of
    the task's instructions, where it has several; each row has one of them, drawn anew in each epoch.
    """

    name: str
    tasks: tuple[int, ...]
    rows: list[Prepared]
    places: dict[int, np.ndarray]
    lengths: np.ndarray
    batch_size: int
    seed: int
    weights: list[int]
    wordings: Sequence[tuple[list[Prepared], np.ndarray]] = ()
    use: list[int] = field(default_factory=list)
    _epoch: tuple[int, list[list[int]]] | None = None

    def __post_init__(self) -> None:
        self.use = list(range(len(self.rows)))

    def __len__(self) -> int:
        return len(self.use)

    @property
    def batches(self) -> int:
        """How many batches an epoch has."""
        return -(-len(self) // self.batch_size)

    def batch(self, number: int) -> list[int]:
        """The rows of the batch with this number, counted from the start of training.

        An epoch visits every row once; its last batch may be smaller.
        """
        epoch, index = divmod(number, self.batches)
        if self._epoch is None or self._epoch[0] != epoch:
            lengths = [self.weights[i] for i in self.use]
            drawn = draw_batches(lengths, self.batch_size, seed_of(self.seed, "rows", self.name, epoch))
            self._epoch = epoch, [[self.use[i] for i in batch] for batch in drawn]
            self._reword(epoch)
        return self._epoch[1][index]

    def _reword(self, epoch: int) -> None:
        """Give each row one of the wordings."""
        if len(self.wordings) < 2:
            return
        generator = np.random.default_rng(seed_of(self.seed, "wordings", self.name, epoch))
        turns = generator.integers(len(self.wordings), size=len(self.rows)).tolist()
        self.rows = [self.wordings[turn][0][row] for row, turn in enumerate(turns)]
        self.lengths = np.array([self.wordings[turn][1][row] for row, turn in enumerate(turns)])


def make_feeds(
    tasks: Sequence[Task],
    model: Model,
    *,
    batch_size: int,
    batch_sizes: Mapping[str, int],
    seed: int,
    split: str = "train",
) -> list[Feed]:
    """A feed for each task, and one for all tasks of a table that the model reads alike.

    batch_sizes: by the name of a task or table, or by kind; the first that is there is taken.
    """
    together: dict[Hashable, list[int]] = {}
    for index, task in enumerate(tasks):
        alone = task.table is None or task.splits[split].rows is None
        key = (index,) if alone else (task.table, model.reading(task.name), task.definition.rewordings)
        together.setdefault(key, []).append(index)
    feeds: list[Feed] = []
    for numbers in together.values():
        first = tasks[numbers[0]]
        name = first.name if len(numbers) == 1 else str(first.table)
        if len(numbers) > 1 and name in {*(feed.name for feed in feeds), *(task.name for task in tasks)}:
            name = "+".join(tasks[i].name for i in numbers)
        sizes = [batch_sizes[k] for i in numbers for k in (tasks[i].name, tasks[i].table, tasks[i].definition.kind)
                 if k is not None and k in batch_sizes]  # fmt: skip
        splits = {i: tasks[i].splits[split] for i in numbers}
        models = _worded(model, first.name) if split == "train" else [model]
        feeds.append(_feed(name, splits, tasks, models, sizes[0] if sizes else batch_size, seed))
    return feeds


def _feed(
    name: str, splits: Mapping[int, Split], tasks: Sequence[Task], models: Sequence[Model], batch_size: int, seed: int
) -> Feed:
    """The feed of some tasks. models: one for each instruction, which prepare the rows."""
    numbers = tuple(splits)
    if len(numbers) == 1:
        ids = {i: np.arange(len(split)) for i, split in splits.items()}
    else:
        ids = {i: np.asarray(split.rows) for i, split in splits.items()}
    every = np.unique(np.concatenate(list(ids.values())))
    places = {i: np.full(len(every), -1) for i in numbers}
    inputs: list[Any] = [None] * len(every)
    for i in numbers:
        where = np.searchsorted(every, ids[i])
        places[i][where] = np.arange(len(where))
        for at, row in zip(where.tolist(), splits[i].inputs, strict=True):
            inputs[at] = row
    targets = splits[numbers[0]].targets if len(numbers) == 1 else None
    wordings = []
    for model in models:
        prepared, lengths = model.prepare(tasks[numbers[0]].name, inputs, targets), np.ones(len(every), dtype=np.int64)
        for i in numbers:
            where = np.searchsorted(every, ids[i])
            lengths[where] = model.entries(tasks[i].name, [prepared[at] for at in where.tolist()], splits[i].targets)
        wordings.append((prepared, lengths))
    prepared, lengths = wordings[0]
    weights = [models[0].size(row) for row in prepared]
    return Feed(name, numbers, prepared, places, lengths, batch_size, seed, weights, wordings)


def _worded(model: Model, task: str) -> list[Model]:
    """The model with each instruction of a task, which it has with equal chances in training."""
    return [model, *(model.with_instruction(task, one) for one in model.definition(task).rewordings)]


def enough_epochs(model: Model, feeds: Sequence[Feed]) -> int:
    """The model's own number of epochs, or more where its least number of steps needs them."""
    return epochs_for(model.epochs, model.least_steps, sum(feed.batches for feed in feeds))


def epochs_for(epochs: int, least_steps: int, batches: int) -> int:
    """A number of epochs, or more where so many steps need them. batches: of one epoch.

    >>> epochs_for(3, 80, 16), epochs_for(3, 80, 100)
    (5, 3)
    """
    return max(epochs, -(-least_steps // max(1, batches)))
