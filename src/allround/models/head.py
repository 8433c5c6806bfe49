"""What a head is: the part of a model that turns an encoder's features into answers to one task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from allround.core import registry
from allround.core.errors import AllroundError
from allround.models.batch import Answers, Features, TaskLoss, per_row, taken
from allround.models.encoder import LINEAR
from allround.models.likelihood import likelihood
from allround.models.weighing import training_loss
from allround.tasks.definition import Definition
from allround.tasks.kind import Encoded, kind

if TYPE_CHECKING:
    from typing_extensions import Self


class HeadState(dict[str, Tensor]):
    """A head's tensors by name, and its sort. Names hold no dots."""

    def __init__(self, tensors: Mapping[str, Tensor], sort: str = LINEAR) -> None:
        super().__init__(tensors)
        self.sort = sort


class NotFinite(ArithmeticError):
    """Outputs that hold NaN or infinity. rows: of the batch, ascending."""

    def __init__(self, rows: list[int]) -> None:
        super().__init__(f"NaN or infinity in {len(rows)} rows")
        self.rows = rows


class Head(nn.Module, ABC):
    """Answers one task from features of `width` numbers. A head begins untrained, as `reset` makes it.

    sort: the name of its file.

    Its tensors have names without dots, so that they can be stored as `<task>.<name>`.
    """

    sort: ClassVar[str]

    def __init__(self, definition: Definition, width: int) -> None:
        super().__init__()
        self.definition = definition
        self.width = width

    @classmethod
    def of_size(cls, definition: Definition, width: int, state: Mapping[str, Tensor]) -> Self:
        """An untrained head of the size that these tensors have, for sorts whose size does not follow from the task and
        the features alone."""
        return cls(definition, width)

    @property
    def across(self) -> bool:
        """Whether its loss compares rows of a batch with each other, so that it is no sum over parts of a batch."""
        return False

    @abstractmethod
    def reset(self) -> None:
        """Make the head untrained, always in the same way."""

    def stored(self) -> HeadState:
        """Its tensors, on the CPU."""
        return HeadState({name: value.detach().cpu() for name, value in self.state_dict().items()}, self.sort)

    def narrowed(self, places: Tensor) -> HeadState:
        """Its tensors for features of which only these places are left; the others are taken for zeros."""
        return self.stored()

    @abstractmethod
    def tensor(self, encoded: Encoded) -> Tensor:
        """Encoded targets of rows -> the tensor that `loss` takes."""

    @abstractmethod
    def loss(self, features: Features, targets: Tensor) -> TaskLoss:
        """The loss on rows that all have a target."""

    def each(self, features: Features, targets: Encoded) -> Tensor:
        """The loss on each of some rows, (rows,); a row's loss looks at the others where the head compares rows."""
        found = []
        for row in range(len(targets)):
            own = self.tensor(taken(targets, [row])).to(features.values.device)
            one = self.loss(features.take([row], len(targets)), own)
            found.append(one.mean.float() if one.count else features.values.new_zeros(()))
        return torch.stack(found)

    @abstractmethod
    def answer(self, features: Features, *, scores: bool = False) -> Answers:
        """The answers to rows. scores: give the probability of each label too. Errors: NotFinite."""

    def fit(self, train: Features, targets: Encoded, score: Callable[[], float]) -> dict[float, float]:
        """Fit the head on features of training rows, all else being frozen; validation chooses what is to be chosen.

        score: the validation score of the head as it is, higher being better. Returns what was tried: the strength of
        a penalty -> its score; the head is left as the best of them. Errors: a head that cannot be fitted alone.
        """
        raise AllroundError(
            f"fit the head of task '{self.definition.name}' on a frozen encoder",
            f"a head of the sort {type(self).__name__} cannot be fitted alone",
            "use a linear head",
        )


class OutputHead(Head):
    """A head that gives numbers for each row or word, which the likelihood of the task's kind reads.

    `forward` maps feature vectors (n, width) to outputs (n, outputs).
    """

    def __init__(self, definition: Definition, width: int) -> None:
        super().__init__(definition, width)
        self.likelihood = likelihood(definition)
        self.outputs = self.likelihood.outputs(definition)
        self.per_token = kind(definition.kind).per_token

    @abstractmethod
    def forward(self, values: Tensor) -> Tensor: ...

    def tensor(self, encoded: Encoded) -> Tensor:
        return self.likelihood.tensor(encoded)

    def loss(self, features: Features, targets: Tensor) -> TaskLoss:
        return TaskLoss(self.training_loss(self(features.values), targets), len(targets))

    def training_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The mean loss as the task trains it."""
        return training_loss(self.likelihood, outputs, targets, self.definition)

    def answer(self, features: Features, *, scores: bool = False) -> Answers:
        check_outputs(features.values, features.lengths)  # an activation may make something finite of infinity
        return self.from_outputs(self(features.values), features.lengths, scores=scores)

    def from_outputs(self, outputs: Tensor, lengths: tuple[int, ...] = (), *, scores: bool = False) -> Answers:
        """The answers that outputs stand for. lengths: words of each row, for tasks per word. Errors: NotFinite."""
        outputs = outputs.float().cpu()
        check_outputs(outputs, lengths)
        rules = self.likelihood
        predictions, confidence = rules.predict(outputs), rules.confidence(outputs)
        found = rules.scores(outputs) if scores else None
        if not self.per_token:
            return Answers(
                predictions,
                None if confidence is None else confidence.tolist(),
                None if found is None else found.numpy(),
            )
        return Answers(
            np.split(predictions, np.cumsum(lengths)[:-1]),
            None if confidence is None else [float(c.mean()) if len(c) else 1.0 for c in per_row(confidence, lengths)],
            None if found is None else [part.numpy() for part in per_row(found, lengths)],
        )


def check_outputs(outputs: Tensor, lengths: tuple[int, ...]) -> None:
    """NotFinite for the rows whose outputs hold NaN or infinity."""
    fine = torch.isfinite(outputs).flatten(1).all(1) if outputs.dim() > 1 else torch.isfinite(outputs)
    if bool(fine.all()):
        return
    parts = per_row(fine, lengths) if lengths else list(fine)
    raise NotFinite([row for row, part in enumerate(parts) if not bool(part.all())])


def make_head(name: str, definition: Definition, width: int, state: Mapping[str, Tensor] | None = None) -> Head:
    """A head of the sort called `name`, untrained or with the given tensors.

    Errors: an unknown sort; tensors of other names or shapes.
    """
    sort: type[Head] = registry.find("head", name).load()  # type: ignore[assignment]
    made = sort(definition, width) if state is None else sort.of_size(definition, width, state)
    if state is not None:
        own = made.state_dict()
        wrong = [k for k, v in own.items() if k not in state or state[k].shape != v.shape]
        if wrong:
            shape = tuple(state[wrong[0]].shape) if wrong[0] in state else "missing"
            raise AllroundError(
                f"use the head of task '{definition.name}'",
                f"its {wrong[0]} is {shape}, and the encoder and the task's labels need {tuple(own[wrong[0]].shape)}",
                "use the head with the encoder and labels that it was made for",
            )
        odd = [k for k in state if k not in own]
        if odd:
            raise AllroundError(
                f"use the head of task '{definition.name}'",
                f"it holds '{odd[0]}', which a head of the sort '{name}' does not have",
                "use the head with the encoder and labels that it was made for",
            )
        made.load_state_dict(dict(state))
    return made
