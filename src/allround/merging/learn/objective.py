"""What objectives are given, and the parts they share."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from allround.core.errors import AllroundError
from allround.models.likelihood import likelihood
from allround.tasks.definition import Definition


@dataclass(frozen=True)
class Response:
    """What a model gives for a batch: features (n, d), and logits (n, outputs) where it has a head for the task."""

    features: Tensor
    logits: Tensor | None = None


def logits_of(answers: Response, definition: Definition) -> Tensor:
    """The logits; an error where there is no head."""
    if answers.logits is None:
        raise AllroundError(
            f"learn from the answers to task '{definition.name}'",
            "the models have no head for it, so that there are features only",
            "give models that allround saved, or learn by features: --objective features",
        )
    return answers.logits.float()


def log_probabilities(answers: Response, definition: Definition) -> Tensor:
    """Log-probabilities (n, choices, outcomes): one choice for an example or word, one a label in a multilabel task.

    A task of numbers has none.
    """
    found = likelihood(definition).log_probabilities(logits_of(answers, definition))
    if found is None:
        raise AllroundError(
            f"look at the probabilities of answers to task '{definition.name}'",
            f"a task of the kind {definition.kind} has none",
            "choose an objective for numbers, such as divergence",
        )
    return found
