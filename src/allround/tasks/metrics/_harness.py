"""Metrics of the lm-evaluation-harness."""

from __future__ import annotations

from allround.tasks.definition import Definition
from allround.tasks.harness import scoring
from allround.tasks.kind import Encoded
from allround.tasks.metric import Metric, Resampler


class HarnessMetric(Metric):
    """A metric that the harness computes and aggregates."""

    def __init__(self, metric: str | None, filter: str | None) -> None:
        self.metric, self.filter = metric, filter

    def check(self, definition: Definition) -> None:
        scoring.task_of(definition)

    def score(self, targets: Encoded, predictions: Encoded, definition: Definition) -> float:
        found = scoring.values(definition, targets, predictions)
        key = scoring.chosen(definition, found, self.metric, self.filter)
        return scoring.score(definition, key, found[key])

    def resampler(self, targets: Encoded, predictions: Encoded, definition: Definition) -> Resampler:
        found = scoring.values(definition, targets, predictions)
        key = scoring.chosen(definition, found, self.metric, self.filter)
        return scoring.resampler(definition, key, found[key])
