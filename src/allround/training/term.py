"""The fourth contract: a term changes how a model is trained, beside the losses of its tasks.

Regularisers, guards against forgetting, distillation, losses that balance load, and steps that look for flat regions
are terms. A term is one file in `training/terms`, or an object given to `train(..., terms=[...])`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from allround.core import registry

if TYPE_CHECKING:
    from allround.models.batch import Batch, Features
    from allround.models.model import Model
    from allround.tasks.task import Task


class Term:
    """Does nothing; a term overrides what it needs. One object serves one training at a time.

    What a term must remember stands in `state`: name -> task -> tensor, with "" for what belongs to no task. It is kept
    with unfinished training, and given back when the training goes on, after `before` was called again.
    """

    #: Whether `task_loss` is to be given the features of the batch, whatever the balancer looks at.
    reads_features: ClassVar[bool] = False
    #: Whether it remembers weights by their names from one training to the next; LoRA trains others each time.
    holds_weights: ClassVar[bool] = False
    #: Rows of earlier trainings that the term may look at, as training rows of their tasks. Who trains gives them, such
    #: as the learner of a stream.
    remembered: Sequence[Task] = ()

    def __init__(self) -> None:
        self.state: dict[str, dict[str, Tensor]] = {}

    def before(self, model: Model, tasks: Sequence[Task]) -> None:
        """Called once, before the first step, with the model on its device and its trained parameters chosen."""

    def task_loss(self, model: Model, task: str, batch: Batch, features: Features | None) -> Tensor | None:
        """What to add to the loss of a task on a batch: () with a graph, or None. The balancer weighs it with the loss.

        features: of the batch, where the balancer or a term looks at them.
        """
        return None

    def own_loss(self, task: str) -> float:
        """Factor on a task's own loss, which comes from its rows' targets: below 1 where the term teaches in their
        place."""
        return 1.0

    def progressed(self, share: float) -> None:
        """Told before each step how much of the training is done, from 0 on."""

    def penalty(self, model: Model) -> Tensor | None:
        """What to add to the step's loss, whatever tasks it holds: () with a graph, or None. No balancer weighs it."""
        return None

    def edit(self, model: Model) -> None:
        """Change the gradients of a step in place (`parameter.grad`), before they are clipped."""

    def stepped(self, model: Model) -> None:
        """Called after each step of the optimiser."""

    def after(self, model: Model) -> None:
        """Called once, after the last step, with the model in the state that training leaves.

        What this changes in the model is not scored on validation: the scores of the training are those before.
        """


def followed(model: Model, tasks: Sequence[Task]) -> dict[str, nn.Parameter]:
    """The parameters that a training on these tasks moves, by name: trained ones that tasks share, and the tasks' own.
    Heads of other tasks stay as they are."""
    found = [model.shared(), *(model.own(task.name) for task in tasks)]
    return {name: p for some in found for name, p in some.items() if p.requires_grad}


def known_part(value: Tensor, kept: Tensor) -> Tensor:
    """The part of a tensor that was there when `kept` was made: heads grow by rows as labels come."""
    return value[tuple(slice(size) for size in kept.shape)]


def padded(kept: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A tensor in a larger shape, with zeros where nothing was kept."""
    found = kept.new_zeros(shape)
    known_part(found, kept).copy_(kept)
    return found


def make_terms(named: Mapping[str, Mapping[str, Any]]) -> list[Term]:
    """Terms by the names of their files, with their parameters.

    >>> [type(term).__name__ for term in make_terms({"l2_sp": {"weight": 0.1}})]
    ['L2Sp']
    """
    made: list[Term] = []
    for name, values in named.items():
        entry = registry.find("term", name)
        made.append(entry.load()(**entry.resolve(values)))
    return made
