"""Metrics of sacrebleu, whose score of a corpus follows from sums of statistics of its rows."""

from __future__ import annotations

from abc import abstractmethod
from itertools import zip_longest
from typing import TYPE_CHECKING

import numpy as np

from allround.tasks.definition import Definition
from allround.tasks.kind import Encoded
from allround.tasks.metric import Array, Parts, PartsMetric
from allround.tasks.metrics._texts import answers

if TYPE_CHECKING:
    from sacrebleu.metrics.base import Metric as Corpus


class CorpusMetric(PartsMetric):
    """A metric of sacrebleu, divided by 100."""

    @abstractmethod
    def corpus(self) -> Corpus:
        """The metric of sacrebleu."""

    def score(self, targets: Encoded, predictions: Encoded, definition: Definition) -> float:
        said, accepted = _streams(targets, predictions, definition)
        return float(self.corpus().corpus_score(said, accepted).score) / 100

    def parts(self, targets: Encoded, predictions: Encoded, definition: Definition) -> Parts:
        said, accepted = _streams(targets, predictions, definition)
        return np.array(self.corpus()._extract_corpus_statistics(said, accepted), dtype=np.float64)

    def value(self, sums: Array, definition: Definition) -> Array:
        corpus = self.corpus()
        return np.array([corpus._compute_score_from_stats(row).score / 100 for row in sums.tolist()])


def _streams(
    targets: Encoded, predictions: Encoded, definition: Definition
) -> tuple[list[str], list[tuple[str | None, ...]]]:
    """The answers, and the first accepted answer of each row, the second of each, and so on; Nones fill up."""
    pairs = list(answers(targets, predictions, definition))
    return [said for _, said in pairs], list(zip_longest(*(accepted for accepted, _ in pairs)))
