"""What a way to choose demonstrations is: it picks labelled rows that a language model is shown before a question."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from allround.composition.examples import Bank
from allround.composition.presenting import Presenter
from allround.composition.text_reading import TextReader
from allround.core import registry
from allround.core.errors import AllroundError
from allround.tasks.task import Split


class Demonstrations(ABC):
    """Chooses `count` examples of a bank for each row.

    It is made with its settings and given a bank; then it is fitted on the rows that the bank is made of, or given the
    state that it had. What it chooses for a row depends on that row, its task and the bank alone.

    encoder: a text encoder that reads texts in place of the language model, where a way has this setting.
    """

    name: ClassVar[str]
    encoder: str = ""
    bank: Bank
    reader: TextReader

    def __init__(self, count: int) -> None:
        if count < 1:
            raise AllroundError(f"show {count} examples", "there must be one at least", "give 1 or more, such as 4")
        self.count = count

    def pool(self, task: str) -> list[int]:
        """The examples that may be shown before rows of a task; where there are none, nothing is chosen."""
        return self.bank.of(task)

    def begin(self, bank: Bank, reader: TextReader) -> None:
        """Take up a bank. reader: of the texts of rows."""
        self.bank, self.reader = bank, reader

    def fit(self, presenter: Presenter, rows: Mapping[str, Split], seed: int) -> None:  # noqa: B027
        """Fit it, where it has something to fit; it may put another bank in the place of the one that it was given.

        presenter: the language model. rows: of each task of the bank, those of training that its examples were made
        from, in the same order.
        """

    @abstractmethod
    def choose(self, task: str, texts: Sequence[str]) -> list[list[int]]:
        """The numbers of the examples for each row of a task, the best first. texts: as from `row_text`."""

    def state(self) -> dict[str, Tensor]:
        """What was fitted, as tensors."""
        return {}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take up a state. Errors: ValueError for tensors that are none of its own."""
        if state:
            raise ValueError(f"it holds {', '.join(sorted(state))}, and '{self.name}' has learned nothing")


def make_demonstrations(name: str, values: Mapping[str, object] | None = None) -> Demonstrations:
    """A way to choose demonstrations by its name, with its settings, without a bank."""
    entry = registry.find("demonstrations", name)
    made: Demonstrations = entry.load()(**entry.resolve(values or {}))
    return made


def best(scores: NDArray[np.float32], numbers: Sequence[int], count: int) -> list[int]:
    """The numbers with the largest scores, the largest first; of equal ones the first. Scores that differ by less than
    1e-5 are equal, as batches may change them so much.

    >>> best(np.array([0.1, 0.9, 0.9], dtype=np.float32), [4, 5, 6], 2)
    [5, 6]
    """
    order = np.argsort(-np.round(scores, 5), kind="stable")[:count]
    return [numbers[place] for place in order]
