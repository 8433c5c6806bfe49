"""What objectives are given, and the parts they share."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from allround.core.errors import AllroundError
from allround.tasks.definition import Definition
from allround.tasks.kind import kind


@dataclass(frozen=True)
class Answers:
    """What a model gives for a batch: features (n, d), and logits (n, outputs) where it has a head for the task."""

    features: Tensor
    logits: Tensor | None = None


def logits_of(answers: Answers, definition: Definition) -> Tensor:
    """The logits; an error where there is no head."""
    if answers.logits is None:
        raise AllroundError(
            f"learn from the answers to task '{definition.name}'",
            "the models have no head for it, so that there are features only",
            "give models that allround saved, or learn by features: --objective features",
        )
    return answers.logits.float()


def log_probabilities(answers: Answers, definition: Definition) -> Tensor:
    """Log-probabilities (n, choices, outcomes): one choice for an example or word, one a label in a multilabel task.

    A task of numbers has none.
    """
    logits = logits_of(answers, definition)
    if kind(definition.kind).indicators:
        logits = torch.stack([torch.zeros_like(logits), logits], -1)
    else:
        logits = logits.unsqueeze(1)
    return logits.log_softmax(-1)
