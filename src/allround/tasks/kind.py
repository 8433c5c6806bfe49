"""What a kind of task must say: how targets become numbers and back, and what a trivial answer is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from allround.core import registry
from allround.tasks.definition import Definition
from allround.tasks.values import Target

#: Encoded targets: one entry an example. int64 (n,), float64 (n,), int8 (n, k), a list of int64 (words,), a list of
#: tuples of texts, or a list of dictionaries of grades.
Encoded = Any


class Kind(ABC):
    """The rules of one kind. Kinds hold no state; what they learn from data stands in the definition.

    A kind says what a task is. How a model answers it is the matter of the model: of its head, and of the likelihood
    that reads the head's outputs (allround.models.likelihood).
    """

    metric: ClassVar[str]
    per_token: ClassVar[bool] = False
    #: Whether a target is a number, not a label.
    numeric: ClassVar[bool] = False
    #: Whether a target is a list of labels or tags.
    lists: ClassVar[bool] = False
    #: Whether the labels are steps of a scale, in the order of the definition.
    ordered: ClassVar[bool] = False
    #: Whether labels exclude each other, so that their probabilities add up to 1.
    exclusive: ClassVar[bool] = True
    #: Whether targets may be given as columns of 0 and 1, one for each label.
    indicators: ClassVar[bool] = False
    #: Whether the answer is a text of the model's own, which only a language model can give.
    written: ClassVar[bool] = False
    #: Whether the answer ranks passages, which are the last input of each row.
    ranked: ClassVar[bool] = False
    #: Whether each row has choices of its own, in a column of the inputs; only a language model can read them.
    own_choices: ClassVar[bool] = False
    #: The smallest number of labels that leaves something to tell apart.
    least_labels: ClassVar[int] = 2

    @property
    def labelled(self) -> bool:
        """Whether targets consist of labels of the definition: they are no numbers, texts or ranked passages."""
        return not self.numeric and not self.written and not self.ranked

    @property
    def fixed_labels(self) -> bool:
        """Whether all rows have the same labels, which training rows must show."""
        return self.labelled and not self.own_choices

    @property
    def for_language_models(self) -> bool:
        """Whether only language models answer tasks of this kind."""
        return self.written or self.own_choices

    @abstractmethod
    def facts(self, values: Sequence[Any]) -> dict[str, Any]:
        """Fields of the definition that training targets decide (labels; centre and scale)."""

    @abstractmethod
    def encode(self, values: Sequence[Any], definition: Definition) -> Encoded:
        """Readable targets -> encoded targets. Labels that the definition lacks are a KeyError naming them."""

    @abstractmethod
    def decode(self, encoded: Encoded, definition: Definition) -> list[Target]:
        """Encoded targets or predictions -> readable ones (the inverse of `encode`)."""

    def decide(self, scores: np.ndarray | list[np.ndarray]) -> tuple[Encoded, list[float]]:
        """Encoded answers from the probability of each label, and how probable each answer is.

        Shapes: scores (n, labels), or for kinds per word one (words, labels) a row. Kinds without labels have none.
        """
        raise NotImplementedError(f"{type(self).__name__} has no labels to decide between")

    def spoken(self, target: Target) -> str:
        """A readable target as a text: what a language model should say, where its label has no other words."""
        return ", ".join(target) if isinstance(target, list) else str(target)

    @abstractmethod
    def floor(self, train: Encoded, count: int, lengths: Sequence[int]) -> Encoded:
        """`count` trivial predictions from the training targets: the majority class, or the mean."""

    def tempered(self, scores: np.ndarray, temperature: float) -> np.ndarray:
        """Probabilities of the labels (n, labels) as they are when logits are divided by a temperature.

        A temperature above 1 makes them less sure. Kinds with labels only; of kinds per word, n words.
        """
        with np.errstate(divide="ignore"):
            logits = np.log(np.asarray(scores, dtype=np.float64)) / temperature
        powers = np.exp(logits - logits.max(1, keepdims=True))
        return np.asarray(powers / powers.sum(1, keepdims=True))

    def shifted(self, scores: np.ndarray, biases: np.ndarray) -> np.ndarray:
        """Probabilities of the labels (n, labels) as they are when a bias for each label is added to its logit."""
        powers = np.asarray(scores, dtype=np.float64) * np.exp(biases - np.max(biases))
        return np.asarray(powers / powers.sum(1, keepdims=True))

    def sureness(self, scores: np.ndarray, predictions: Encoded) -> np.ndarray:
        """The probability of each decision that predictions consist of, (n, decisions): one for each row or word, or
        for each label of a row where there may be several. Kinds with labels only."""
        return np.asarray(scores[np.arange(len(scores)), np.asarray(predictions)][:, None])

    def shares(self, train: Encoded, labels: int) -> np.ndarray | None:
        """How often each of the labels occurs among the training targets: (labels,); None for kinds without labels, and
        for kinds per word."""
        return None

    def strata(self, encoded: Encoded) -> list[object] | None:
        """A group for each example, of which a smaller sample must keep at least one; or None."""
        return None


def kind(name: str) -> Kind:
    """The kind called `name`."""
    made: Kind = registry.stateless("kind", name)
    return made


def scale_odds(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities with their logits divided by a temperature; those of 0 and 1 are taken as single precision ends.

    >>> scale_odds(np.array([0.8]), 2.0).round(4).tolist()
    [0.6667]
    """
    least = float(np.finfo(np.float32).eps) / 2
    p = np.clip(np.asarray(probabilities, dtype=np.float64), least, 1 - least)
    logits = (np.log(p) - np.log1p(-p)) / temperature
    return np.asarray(0.5 * (1 + np.tanh(0.5 * logits)))
