"""What prediction asks of a system, and how a user wants the answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from allround.core.errors import AllroundError
from allround.models.batch import Answers
from allround.models.calibration import Calibration
from allround.tasks.definition import Definition
from allround.tasks.passages import Passages
from allround.tasks.values import Row


@dataclass(frozen=True)
class TaskFound:
    """Which task a row is of, for a system that can tell. task: None where it is too uncertain. shares: of each task
    that the row may be of; they sum to one."""

    task: str | None
    confidence: float
    shares: Mapping[str, float]


class Answerer(Protocol):
    """The part of a system that prediction uses."""

    definitions: dict[str, Definition]
    passages: Mapping[str, Passages]

    @property
    def finds_tasks(self) -> bool: ...

    def find_tasks(self, rows: Sequence[Row], tasks: Sequence[str] | None = None) -> list[TaskFound]: ...

    def definition(self, task: str) -> Definition: ...

    def calibration(self, task: str) -> Calibration | None: ...

    def answer_tasks(
        self, tasks: Sequence[str], rows: Sequence[Row], *, batch_size: int = 64, scores: bool = False
    ) -> dict[str, Answers]: ...


def own_inputs(system: Answerer, task: str) -> tuple[str, ...]:
    """The input columns of a task that rows must have: the query alone, where the system has passages for it."""
    inputs = system.definition(task).inputs
    return inputs[:1] if task in system.passages else inputs


@dataclass(frozen=True)
class Asking:
    """What is asked.

    tasks: None for all whose columns are there. scores: the probability of each label too. top: only of the most
    probable ones. strict: an empty or broken cell is an error. prefix: what the names of new columns begin with. sets:
    the labels, or the interval, that hold the right answer as often as was asked for when the system was made. find: a
    system that can tell which task a row is of answers that one alone. instruction: what stands before the queries of
    the task that ranks passages, in place of its own.
    """

    tasks: tuple[str, ...] | None = None
    scores: bool = False
    top: int | None = None
    strict: bool = False
    prefix: str = ""
    batch_size: int = 64
    sets: bool = False
    find: bool = False
    instruction: str | None = None

    def __post_init__(self) -> None:
        if self.top is not None and self.top < 1:
            raise AllroundError(f"give the top {self.top} labels", "top must be at least 1", "give 1 or more")

    @property
    def ranked(self) -> bool:
        """Whether labels are wanted with their probabilities."""
        return self.scores or self.top is not None
