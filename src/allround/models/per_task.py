"""Systems whose tasks share nothing: each is answered by a part of its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from allround.models.batch import Answers
from allround.models.cost import Cost
from allround.models.system import System, check_rows, windows
from allround.tasks.definition import Definition
from allround.tasks.values import Row

if TYPE_CHECKING:
    from typing_extensions import Self


class Part(Protocol):
    """What answers one task."""

    @property
    def definition(self) -> Definition:
        """The task."""

    @property
    def size(self) -> int:
        """How many numbers it keeps."""

    def answer(self, rows: Sequence[Row]) -> Answers:
        """Predictions, confidences and scores of rows."""


P = TypeVar("P", bound=Part)


class PerTask(System, Generic[P]):
    """A system that is the sum of its parts, so that those of several systems can be put together."""

    def __init__(self, tasks: Mapping[str, P]) -> None:
        self.tasks = dict(tasks)
        self.definitions = {name: one.definition for name, one in self.tasks.items()}
        self.facts: dict[str, object] = {}

    @classmethod
    def joined(cls, systems: Sequence[Self]) -> Self:
        """One system with the tasks of all of these; each task is in one of them."""
        return cls({name: one for system in systems for name, one in system.tasks.items()})

    def answer(
        self, task: str | None, rows: Iterable[Row], *, batch_size: int = 64, scores: bool = False
    ) -> Iterator[Answers]:
        task = self.only_task() if task is None else task
        definition, part = self.definition(task), self.tasks[task]
        for some in windows(rows, 1024):
            check_rows(definition, some)
            made = self.finished(task, part.answer(some), scores)
            yield made if scores else Answers(made.predictions, made.confidence)

    def cost(self, tasks: Iterable[str] | None = None) -> Cost:
        """A parameter is a number that a part keeps."""
        sizes = [self.tasks[name].size for name in (self.tasks if tasks is None else tasks)]
        return Cost(parameters_stored=sum(sizes), parameters_used=max(sizes, default=0))
