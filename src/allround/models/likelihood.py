"""What the outputs of a head mean: a probability distribution over a task's targets.

A kind says what a task is; a likelihood says how numbers that a network gives answer it. It is found by the kinds that
its file declares.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cache

import torch
from torch import Tensor

from allround.core import registry
from allround.core.errors import AllroundError, suggestion
from allround.tasks.definition import Definition
from allround.tasks.kind import Encoded

#: Whose labels the gradients of `fisher_terms` are of: those of the data, or the model's own predictions.
LABELS = ("given", "own")
#: With up to so many outcomes the expectation over them is exact; of more, one is drawn for each entry.
EXACT = 8


class Likelihood(ABC):
    """The distribution of one entry (a row, or a word of it) given a head's outputs. Likelihoods hold no state.

    Shapes: outputs (n, `outputs(definition)`), targets as from `tensor` with n entries.
    """

    @abstractmethod
    def outputs(self, definition: Definition) -> int:
        """How many numbers a head gives for an entry."""

    @abstractmethod
    def tensor(self, encoded: Encoded) -> Tensor:
        """Encoded targets of rows -> targets of their entries, one after the other."""

    @abstractmethod
    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The mean of -log p(target) over all numbers of the targets, up to a constant."""

    @abstractmethod
    def predict(self, outputs: Tensor) -> Encoded:
        """The most probable target of each entry, or the median of a scale; encoded."""

    @abstractmethod
    def confidence(self, outputs: Tensor) -> Tensor | None:
        """The probability of each prediction: (n,); None where it is a density."""

    @abstractmethod
    def scores(self, outputs: Tensor) -> Tensor | None:
        """The probability of each label: (n, labels); None where there are no labels."""

    @abstractmethod
    def log_probabilities(self, outputs: Tensor) -> Tensor | None:
        """Log-probabilities (n, choices, outcomes) of each entry's choices; None for densities."""

    @abstractmethod
    def draws(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        """Targets drawn from the distribution, whose squared gradients are the Fisher information on average."""

    def expected(self, outputs: Tensor) -> list[Tensor] | None:
        """Terms (each summed over the entries, which must not depend on each other) whose squared gradients add up to
        the exact Fisher information; None where there are too many outcomes."""
        return None

    def log_likelihood(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """log p of all targets together, up to a constant."""
        return -self.loss(outputs, targets) * targets.numel()


@cache
def _by_kind(names: tuple[str, ...]) -> dict[str, str]:
    """Kind -> the likelihood of its targets. names: of all likelihoods, as plug-ins may add some."""
    return {kind: name for name in names for kind in registry.find("likelihood", name).facts["kinds"]}


def likelihood(definition: Definition) -> Likelihood:
    """The likelihood of a task's targets. Errors: a kind for which there is none.

    >>> d = Definition("t", "classification", ("x",), "text", "accuracy", ("no", "yes"))
    >>> likelihood(d).outputs(d)
    2
    """
    known = _by_kind(tuple(registry.names("likelihood")))
    name = known.get(definition.kind)
    if name is None:
        raise AllroundError(
            f"answer task '{definition.name}' with the outputs of a head",
            f"there is no likelihood for tasks of the kind '{definition.kind}'",
            f"use tasks of the kinds {', '.join(known)}",
        )
    made: Likelihood = registry.stateless("likelihood", name)
    return made


def fisher_terms(
    outputs: Tensor, targets: Tensor, definition: Definition, labels: str, generator: torch.Generator
) -> list[Tensor]:
    """What is differentiated for a batch; the squared gradients of all terms add up to the Fisher information.

    Shapes: outputs (n, outputs), targets (n, ...).
    labels: `given`: log p(target), the empirical Fisher information. `own`: the expectation over the model's own
    predictions; exact for up to 8 classes where entries are rows and for numbers (a Gaussian of the standard deviation
    of the training targets), else one answer drawn for each entry.
    """
    rules = likelihood(definition)
    if labels not in LABELS:
        raise AllroundError(f"take the labels '{labels}'", "there are no such", suggestion(labels, LABELS))
    if labels == "given":
        return [rules.log_likelihood(outputs, targets)]
    # The words of a row belong to one likelihood, so that taking every tag of each word would be another.
    exact = rules.expected(outputs) if definition.kind != "token_classification" else None
    return exact if exact is not None else [rules.log_likelihood(outputs, rules.draws(outputs, generator))]
