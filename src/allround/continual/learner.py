"""The contract of a stream: whatever learns arrival after arrival, and answers in between."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from allround.continual.rows import Memory
from allround.continual.strategy import Strategy
from allround.continual.stream import Arrival
from allround.core import registry
from allround.core.errors import AllroundError
from allround.models.encoder import Encoder
from allround.models.system import System
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.definition import Definition
from allround.tasks.kind import kind
from allround.tasks.task import Task
from allround.training.settings import Settings


class StreamLearner(ABC):
    """A system and all that a strategy remembers, between two arrivals. A way to grow is a class of these, made as
    `Class(encoder, strategy, **settings)`; the encoder becomes a part of its system.

    What it has is kept between arrivals as its system, its `memory` and what is `remembered`, and taken up by `adopt`
    and `recall`; nothing else may change what it learns next.

    memory: rows of past arrivals, the only ones that it may read again. steps: of the optimiser. seconds: of learning.
    """

    memory: Memory
    steps: int = 0
    seconds: float = 0.0

    @classmethod
    def go_on(
        cls, model: MultiTaskModel, strategy: Strategy, tasks: Sequence[Task] = (), *, seed: int = 0
    ) -> StreamLearner:
        """Before a further arrival of a finished model, which becomes a part of the system.

        tasks: those that the model knows, as far as their rows are at hand; of these is remembered what the strategy
        remembers of tasks that it learned. Errors: what `refusal` says.
        """
        raise AllroundError(f"go on with a {model.noun}", str(cls.refusal(model, strategy)), "use another strategy")

    @classmethod
    def refusal(cls, model: MultiTaskModel, strategy: Strategy) -> str | None:
        """Why a strategy cannot go on with a finished model, in words; None where it can."""
        return "a finished model has no parts for single arrivals"

    @property
    @abstractmethod
    def system(self) -> System:
        """What answers the test rows after each arrival: the tasks of all arrivals so far."""

    @abstractmethod
    def adopt(self, system: System) -> None:
        """Go on with a system that was kept."""

    @abstractmethod
    def learn(
        self,
        arrival: Arrival,
        strategy: Strategy,
        settings: Settings,
        *,
        seed: int = 0,
        scratch: Path | None = None,
        base: Encoder | None = None,
        fit: bool = False,
    ) -> None:
        """Learn what an arrival brings.

        base: the encoder to begin from, where the strategy begins anew. fit: fit the heads of new tasks on the encoder
        as it is before it is tuned. Where labels come later it is better left: a head that is fitted on few labels has
        large weights, which further labels have to outgrow. Strategies that replay rows fit them in any case, on new
        and remembered rows. scratch: where unfinished training is kept.
        """

    @property
    def remembered(self) -> dict[str, Tensor]:
        """The tensors that are remembered beside the system, by name."""
        return {}

    def recall(self, tensors: Mapping[str, Tensor]) -> None:  # noqa: B027
        """Take up what `remembered` gave."""

    @property
    def bytes(self) -> int:
        """Bytes that are remembered: rows, and tensors."""
        return self.memory.bytes + bytes_of(self.remembered)

    @property
    def stored(self) -> int:
        """Numbers in the system."""
        return self.system.parameters_stored


def begin(encoder: Encoder, strategy: Strategy) -> StreamLearner:
    """What a strategy learns with, before the first arrival."""
    entry = registry.find("grow", strategy.grow)
    made: StreamLearner = entry.load()(encoder, strategy, **entry.resolve(strategy.grow_settings))
    return made


def learner_of(strategy: Strategy) -> type[StreamLearner]:
    """The class of what a strategy learns with."""
    found: type[StreamLearner] = registry.load("grow", strategy.grow)  # type: ignore[assignment]
    return found


def bytes_of(tensors: Mapping[str, Tensor]) -> int:
    return sum(value.numel() * value.element_size() for value in tensors.values())


def with_labels(task: Task, known: Definition | None) -> Task:
    """A task that arrived, with the labels that are known of it first, and its new ones behind.

    known: the task as earlier arrivals had it. Errors: a task of another sort under its name.
    """
    if known is None:
        return task
    new = task.definition
    if (known.kind, known.inputs, known.modality) != (new.kind, new.inputs, new.modality):
        raise AllroundError(
            f"learn more of '{task.name}'",
            f"the model knows it as {known.kind} of {', '.join(known.inputs)}, and this is {new.kind} of "
            f"{', '.join(new.inputs)}",
            "give the new task another name",
        )
    if not kind(known.kind).fixed_labels:
        return task.as_defined(replace(new, center=known.center, scale=known.scale))
    labels = (*known.labels, *(label for label in new.labels if label not in known.labels))
    return task.as_defined(replace(new, labels=labels, weights=()))
