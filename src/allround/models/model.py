"""The second contract: a model is a system that can be trained."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from allround.core.errors import AllroundError
from allround.models.batch import Answers, Batch, Features, TaskLoss
from allround.models.system import System, check_rows, windows
from allround.tasks.kind import Encoded, kind
from allround.tasks.task import Task
from allround.tasks.values import Row

if TYPE_CHECKING:
    from typing_extensions import Self

#: A row as a model has prepared it, once, for all that follows.
Prepared = Any


class Model(nn.Module, System):
    """A system with weights that the trainer, learned merging, statistics and alignment can work on.

    Rows are prepared once, and collated into batches that know their tasks. Weights are shared by all tasks, or a
    task's own; the trainer knows no more of them.
    """

    #: What the trainer takes where its settings do not say.
    learning_rate: float
    epochs: int
    #: Learning rate of low-rank changes; None for four times that of all weights.
    lora_rate: float | None = None
    #: Rank of low-rank changes.
    lora_rank: int = 8
    #: Steps that a training has at least, where nobody says how many epochs.
    least_steps: int = 0

    @abstractmethod
    def prepare(self, task: str, inputs: Sequence[Row], targets: Encoded | None = None) -> list[Prepared]:
        """What is done once for each row. targets: encoded, for models whose rows hold them, such as those that
        generate; others leave them out."""

    def with_instruction(self, task: str, instruction: str) -> Self:
        made = copy(self)
        told = replace(self.definition(task), instruction=instruction or None, rewordings=())
        made.definitions = {**self.definitions, task: told}
        return made

    @property
    @abstractmethod
    def preparation(self) -> object:
        """Plain data, all that `prepare` depends on beside its arguments: models with equal ones prepare alike."""

    @abstractmethod
    def reading(self, task: str) -> Hashable:
        """What a row becomes depends on this alone: tasks with equal readings can share prepared rows and batches."""

    def entries(self, task: str, rows: Sequence[Prepared], targets: Encoded) -> list[int]:
        """How many single losses each of these prepared rows with targets has."""
        per_token = kind(self.definition(task).kind).per_token
        return [len(target) for target in targets] if per_token else [1] * len(rows)

    @abstractmethod
    def size(self, row: Prepared) -> int:
        """How much work a prepared row is; rows of like size are batched together."""

    @abstractmethod
    def collate(
        self,
        rows: Sequence[Prepared],
        tasks: Mapping[str, Sequence[int]],
        targets: Mapping[str, Encoded] | None = None,
    ) -> Batch:
        """Prepared rows as a batch, on the CPU.

        tasks: for each task, the rows of the batch that it is asked of, ascending. targets: encoded, of those rows, for
        tasks whose losses are wanted.
        """

    @abstractmethod
    def losses(self, batch: Batch, features: Features | None = None) -> dict[str, TaskLoss]:
        """The loss of every task that has targets in the batch. features: as from `features`, where the caller has
        them."""

    def features(self, batch: Batch) -> Features:
        """What the shared part of the model gives for a batch, before any task's own part.

        Errors: a model without such a place.
        """
        raise self._no_features()

    def width(self, task: str) -> int:
        """The length of a feature vector for a task. Errors: as `features`."""
        raise self._no_features()

    def _no_features(self) -> AllroundError:
        return AllroundError(
            f"look at the features of a {self.noun}",
            f"a model of the sort '{self.sort}' has no features that all its tasks share",
            "choose a method that does not look at features",
        )

    @property
    def backbone(self) -> nn.Module:
        """The network that adapters are added to."""
        return self

    def adapted_layers(self) -> list[str]:
        """The layers of the backbone that low-rank changes are added to."""
        return [n for n, m in self.backbone.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]

    def frozen(self) -> set[int]:
        """The ids of parameters that training leaves as they are."""
        return set()

    def added(self) -> dict[int, float]:
        """The ids of parameters that were put into the network for several tasks, and of each the factor on the
        learning rate. They are trained whatever else is."""
        return {}

    def head_factor(self) -> float:
        """Factor on the learning rate for heads."""
        return 1.0

    def chunk(self, rows: int) -> None:
        """Let so many sequences pass the network at a time in training, and compute them again for the gradient; 0 lets
        all of a batch. Errors: a model that cannot."""
        if rows:
            raise AllroundError(
                f"train a {self.noun} with chunk={rows}",
                f"a model of the sort '{self.sort}' computes batches whole",
                "leave chunk out, or save memory by accumulate",
            )

    def progressed(self, share: float) -> None:
        """Told before each step of a training how much of it is done, from 0 on; and 1 when all is done."""

    @abstractmethod
    def shared(self) -> dict[str, nn.Parameter]:
        """The parameters that several tasks share, by name."""

    @abstractmethod
    def own(self, task: str) -> dict[str, nn.Parameter]:
        """The parameters that belong to one task alone, by name."""

    def of_head(self, task: str) -> dict[str, nn.Parameter]:
        """Those of a task's own parameters that are its head, by name: the setting `heads` is about them."""
        return self.own(task)

    def across(self, task: str) -> bool:
        """Whether a task's loss compares rows of a batch with each other, so that it is no sum over parts."""
        return False

    def mined(self, task: Task) -> Task:
        """The task with the negatives that it asks for among its training targets, as the model is now."""
        return task

    def untrained(self, task: str) -> bool:
        """Whether a task's own part is as it began, so that no gradient passes through it while it is frozen."""
        return False

    @abstractmethod
    def answer_prepared(
        self, task: str, rows: Sequence[Prepared], *, batch_size: int = 64, scores: bool = False
    ) -> Answers:
        """The answers to rows that are prepared already; at least one."""

    @abstractmethod
    def validate(
        self, task: str, rows: Sequence[Prepared], targets: Encoded, batch_size: int = 64, *, scores: bool = False
    ) -> tuple[Answers, float]:
        """The answers to prepared rows, and the mean loss on them. scores: give the probability of each label too."""

    def answer(
        self, task: str | None, rows: Iterable[Row], *, batch_size: int = 64, scores: bool = False
    ) -> Iterator[Answers]:
        if task is None:
            task = self.only_task()
        definition = self.definition(task)
        for some in windows(rows):
            check_rows(definition, some)
            yield self.answer_prepared(task, self.prepare(task, some), batch_size=batch_size, scores=scores)


def parameters_of(module: nn.Module) -> int:
    """How many parameters a module has."""
    return sum(p.numel() for p in module.parameters())


def device_of(module: nn.Module) -> torch.device:
    """The device that a module's weights are on; the CPU where it has none."""
    return next((p.device for p in module.parameters()), torch.device("cpu"))
