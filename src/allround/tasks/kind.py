"""What a kind of task must say: how targets become numbers, what the loss is, how outputs become answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from allround.core import registry
from allround.tasks.definition import Definition

if TYPE_CHECKING:
    from torch import Tensor

#: Encoded targets: one entry an example. int64 (n,), float64 (n,), int8 (n, k), or a list of int64 (words,).
Encoded = Any


class Kind(ABC):
    """The rules of one kind. Kinds hold no state; what they learn from data stands in the definition.

    A head gives `outputs(definition)` numbers for each example, or for each word of each example where
    `per_token` is set; words of a batch then follow each other in one flat axis.
    """

    metric: ClassVar[str]
    per_token: ClassVar[bool] = False
    #: Whether a target is a number, not a label.
    numeric: ClassVar[bool] = False
    #: Whether a target is a list of labels or tags.
    lists: ClassVar[bool] = False
    #: Whether targets may be given as columns of 0 and 1, one for each label.
    indicators: ClassVar[bool] = False
    #: The smallest number of labels that leaves something to tell apart.
    least_labels: ClassVar[int] = 2

    @abstractmethod
    def facts(self, values: Sequence[Any]) -> dict[str, Any]:
        """Fields of the definition that training targets decide (labels; centre and scale)."""

    @abstractmethod
    def encode(self, values: Sequence[Any], definition: Definition) -> Encoded:
        """Readable targets -> encoded targets. Labels that the definition lacks are a KeyError naming them."""

    @abstractmethod
    def decode(self, encoded: Encoded, definition: Definition) -> list[Any]:
        """Encoded targets or predictions -> readable ones (the inverse of `encode`)."""

    @abstractmethod
    def outputs(self, definition: Definition) -> int:
        """How many numbers a head gives."""

    @abstractmethod
    def tensor(self, encoded: Encoded) -> Tensor:
        """Encoded targets -> the flat tensor that `loss` takes."""

    @abstractmethod
    def loss(self, logits: Tensor, targets: Tensor, definition: Definition) -> Tensor:
        """Mean loss. logits (n, outputs); targets as from `tensor`, n entries."""

    @abstractmethod
    def predict(self, logits: Tensor, lengths: Sequence[int]) -> Encoded:
        """Logits (n, outputs) -> encoded predictions, before the definition's scaling is undone.

        lengths: words of each example, used where `per_token` is set.
        """

    @abstractmethod
    def confidence(self, logits: Tensor, lengths: Sequence[int]) -> list[float] | None:
        """The probability of each answer, where the kind has one."""

    @abstractmethod
    def floor(self, train: Encoded, count: int, lengths: Sequence[int]) -> Encoded:
        """`count` trivial predictions from the training targets: the majority class, or the mean."""

    def strata(self, encoded: Encoded) -> list[Any] | None:
        """A group for each example, of which a smaller sample must keep at least one; or None."""
        return None


def kind(name: str) -> Kind:
    """The kind called `name`."""
    made: Kind = registry.load("kind", name)()
    return made
