"""Contrast: how vectors of queries and passages are compared, and what a step of training compares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from allround.core import registry
from allround.core.families import FAMILIES
from allround.core.schema import STRICT

#: How two vectors are compared.
COMPARE = ("cosine", "dot")
#: The family of methods that losses belong to, and the loss that needs none.
FAMILY, INFONCE = "contrast", "infonce"


@dataclass(frozen=True)
class Contrast:
    """How the head `ranking` compares a query with passages, and how it learns.

    loss: the loss of training, by name. compare: "cosine" or "dot". temperature: scores are divided by it in the loss.
    positives, negatives: relevant passages, and such as are known not to be relevant, of a row that a step looks at,
    the first ones of its target; the passages of the other rows of a step are negatives too.
    """

    __pydantic_config__ = STRICT

    loss: str = "infonce"
    compare: str = "cosine"
    temperature: float = 0.05
    positives: int = 3
    negatives: int = 4

    def problem(self) -> tuple[str, str] | None:
        """What makes no sense, and what to do; None where all does.

        >>> Contrast(temperature=0.0).problem()
        ('the temperature of `contrast` is 0.0', 'give a number above 0, such as 0.05')
        """
        if self.compare not in COMPARE:
            return f"`contrast` compares by {self.compare!r}", f"use one of: {', '.join(COMPARE)}"
        if not 0 < self.temperature < float("inf"):
            return f"the temperature of `contrast` is {self.temperature}", "give a number above 0, such as 0.05"
        if self.positives < 1 or self.negatives < 0:
            return (
                f"`contrast` looks at {self.positives} positives and {self.negatives} negatives of a row",
                "give at least 1 positive, and 0 or more negatives",
            )
        if self.loss.partition(":")[0] not in losses():
            return f"`contrast` names the loss {self.loss!r}", f"use one of: {', '.join(losses())}"
        return None


def of_row(target: Mapping[str, float], contrast: Contrast) -> Sequence[str]:
    """The passages of a row that a step of training looks at: the first relevant ones, then the first others that the
    target names.

    >>> of_row({"a": 1.0, "b": 0.0, "c": 2.0, "d": 1.0}, Contrast(positives=2))
    ['a', 'c', 'b']
    """
    positives = [one for one, grade in target.items() if grade > 0][: contrast.positives]
    return [*positives, *[one for one, grade in target.items() if grade <= 0][: contrast.negatives]]


def losses() -> tuple[str, ...]:
    """The names of losses that compare scores with grades."""
    return tuple(dict.fromkeys((INFONCE, *(registry.names(FAMILY) if FAMILY in FAMILIES else ()))))
