"""Contrast: how vectors of queries and passages are compared, and what a step of training compares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from allround.core import registry
from allround.core.errors import AllroundError
from allround.core.schema import STRICT

#: How two texts are compared: by the vectors of their tokens, or by one vector of each.
TOKENS = "tokens"
COMPARE = ("cosine", "dot", TOKENS)
#: The family of methods that losses belong to.
FAMILY = "contrast"


@dataclass(frozen=True)
class Contrast:
    """How the head `ranking` compares a query with passages, and how it learns.

    loss: of training, with its parameters, such as "infonce:temperature=0.02". compare: "cosine" or "dot" of one
    vector of each text, or "tokens": those of all tokens (`allround.models.late`), at `token_temperature`. positives,
    negatives: relevant passages, and such as are known not to be relevant, of a row that a step looks at, the first
    ones of its target; the passages of the other rows of a step are negatives too. mined: how many more of each
    training row are looked for among the passages that the model ranks highest before training; such as score less than
    `margin` below the best relevant one are left out, since they may be relevant too. passage_instruction: what stands
    before each passage, as the task's instruction does before queries.
    """

    __pydantic_config__ = STRICT

    loss: str = "infonce"
    compare: str = "cosine"
    token_temperature: float = 0.1
    positives: int = 3
    negatives: int = 4
    mined: int = 0
    margin: float = 0.05
    passage_instruction: str = ""

    def problem(self) -> tuple[str, str] | None:
        """What makes no sense, and what to do; None where all does.

        >>> Contrast(compare="angle").problem()
        ("`contrast` compares by 'angle'", 'use one of: cosine, dot, tokens')
        """
        if self.compare not in COMPARE:
            return f"`contrast` compares by {self.compare!r}", f"use one of: {', '.join(COMPARE)}"
        if not 0 < self.token_temperature < float("inf"):
            return (
                f"`contrast` weighs tokens at the temperature {self.token_temperature}",
                "give a token_temperature above 0, such as 0.1",
            )
        if self.positives < 1 or self.negatives < 0:
            return (
                f"`contrast` looks at {self.positives} positives and {self.negatives} negatives of a row",
                "give at least 1 positive, and 0 or more negatives",
            )
        if self.mined < 0 or not -2 <= self.margin <= 2:
            return (
                f"`contrast` looks for {self.mined} negatives with a margin of {self.margin}",
                "give 0 or more, and a margin of cosines such as 0.05",
            )
        try:
            name, values = registry.spelled(FAMILY, self.loss)
            entry = registry.find(FAMILY, name)
            entry.resolve(values)
        except AllroundError as error:
            return f"the loss of `contrast` is {self.loss!r}, and {error.found}", error.do
        if "teacher" in entry.needs:
            return f"the loss {name!r} of `contrast` needs a teacher's scores", "use another, such as infonce"
        return None


def of_row(target: Mapping[str, float], contrast: Contrast) -> Sequence[str]:
    """The passages of a row that a step of training looks at: the first relevant ones, then the first others that the
    target names.

    >>> of_row({"a": 1.0, "b": 0.0, "c": 2.0, "d": 1.0}, Contrast(positives=2))
    ['a', 'c', 'b']
    """
    positives = [one for one, grade in target.items() if grade > 0][: contrast.positives]
    return [*positives, *[one for one, grade in target.items() if grade <= 0][: contrast.negatives]]
