"""chrF: how many runs of one to six characters answers and accepted ones share, over all rows together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from allround.core.errors import AllroundError
from allround.core.registry import method
from allround.tasks.definition import Definition
from allround.tasks.metrics._corpus import CorpusMetric
from allround.tasks.metrics._texts import need

if TYPE_CHECKING:
    from sacrebleu.metrics.base import Metric as Corpus


@method(source="sacrebleu, corpus_chrf divided by 100; Popovic, WMT 2015", kinds=("text",), better="higher")
class Chrf(CorpusMetric):
    """chrF of all rows together, 0 to 1; sacrebleu prints a hundred times as much.

    word_order: with 2, runs of one and two words count too (chrF++).

    >>> d = Definition("t", "text", ("x",), "text", "chrf")
    >>> round(Chrf().score([("the cat",)], [("the cats",)], d), 4)
    0.9326
    """

    def __init__(self, *, word_order: int = 0) -> None:
        self.word_order = word_order

    def corpus(self) -> Corpus:
        from sacrebleu.metrics import CHRF

        return CHRF(word_order=self.word_order)

    def check(self, definition: Definition) -> None:
        need("sacrebleu", "chrf", definition)
        if not 0 <= self.word_order <= 4:
            raise AllroundError(
                f"score the task '{definition.name}' by 'chrf:word_order={self.word_order}'",
                "word_order is from 0 to 4",
                "give 0 for chrF or 2 for chrF++",
            )
