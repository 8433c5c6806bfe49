"""A task of the lm-evaluation-harness: its own prompts, filters and metrics."""

from __future__ import annotations

from collections.abc import Sequence

from allround.core.registry import method
from allround.tasks.kind import Encoded
from allround.tasks.kinds.text import Text


@method(source="lm-evaluation-harness, github.com/EleutherAI/lm-evaluation-harness")
class LmEval(Text):
    """A document as JSON an example, and as the answer what the model gave to each request about it, as JSON.

    The trivial answer is an empty one, which is scored as a guess.

    >>> from allround.tasks.definition import Definition
    >>> LmEval().floor([], 2, [])
    [('',), ('',)]
    """

    metric = "lm_eval"

    def floor(self, train: Encoded, count: int, lengths: Sequence[int]) -> Encoded:
        return [("",)] * count
