"""Multiple choice: for each example, one out of choices of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from allround.core.registry import method
from allround.tasks.kinds.classification import Classification
from allround.tasks.prompt import letters

#: More choices than any row has.
MOST = 10_000


@method(source="softmax over the choices of a row; the floor is the commonest place of the training rows")
class MultipleChoice(Classification):
    """The place of the right choice; encoded as int64 (n,), and shown as its letter.

    The choices of a row stand in the input column that the prompt's `options` names. The labels are the letters of as
    many choices as any row has; what a row does not have gets the score 0.

    >>> from allround.tasks.definition import Definition
    >>> kind = MultipleChoice()
    >>> d = Definition("t", "multiple_choice", ("q", "c"), "fields", "accuracy", **kind.facts(["B", "C"]))
    >>> d.labels, kind.encode(["C", "A"], d).tolist(), kind.decode([1], d)
    (('A', 'B', 'C'), [2, 0], ['B'])
    """

    own_choices = True
    least_labels = 1

    def facts(self, values: Sequence[Any]) -> dict[str, Any]:
        seen = set(map(str, values))
        return {"labels": letters(next(count for count in range(1, MOST) if seen <= set(letters(count))))}
