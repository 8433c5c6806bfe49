"""Log-likelihoods of a task's answers, whose squared gradients are the Fisher information."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from allround.core.errors import AllroundError, suggestion
from allround.tasks.definition import Definition
from allround.tasks.kind import kind

#: Whose labels: those of the data, or the model's own predictions.
LABELS = ("given", "own")
#: With up to so many classes all of them are taken, by their probability; of more, one is drawn for each example.
EXACT = 8

#: Terms of a batch: the squared gradients of all of them add up to the Fisher information of its examples.
Terms = list[Tensor]


def terms(logits: Tensor, targets: Tensor, definition: Definition, labels: str, generator: torch.Generator) -> Terms:
    """What is differentiated for a batch, summed over its examples, which must not depend on each other.

    Shapes: logits (n, outputs), targets (n, ...) as from the kind's `tensor`.
    labels: `given`: log p(target), the empirical Fisher information. `own`: the expectation over the model's own
    predictions; exact for classification with up to 8 classes and for regression (a Gaussian of the standard deviation
    of the training targets), else one answer drawn for each example.
    Errors: a kind of task without a likelihood.
    """
    own = _OWN.get(definition.kind)
    if labels not in LABELS:
        raise AllroundError(f"take the labels '{labels}'", "there are no such", suggestion(labels, LABELS))
    if own is None:
        raise AllroundError(
            f"take the likelihood of task '{definition.name}'",
            f"none is known for tasks of the kind '{definition.kind}'",
            f"use tasks of the kinds {', '.join(_OWN)}, or a statistic that needs no gradients: --kind gram",
        )
    return [_log_likelihood(logits, targets, definition)] if labels == "given" else own(logits, definition, generator)


def _log_likelihood(logits: Tensor, targets: Tensor, definition: Definition) -> Tensor:
    """A kind's loss is the mean of -log p over all entries of its targets, up to a constant."""
    return -kind(definition.kind).loss(logits, targets, definition) * targets.numel()


def _classes(logits: Tensor, definition: Definition, generator: torch.Generator) -> Terms:
    if logits.shape[-1] > EXACT:
        return _words(logits, definition, generator)
    logs = logits.float().log_softmax(-1)
    weighted = logs * logs.detach().exp().sqrt()  # its square is weighted by the probability
    return list(weighted.sum(0))


def _words(logits: Tensor, definition: Definition, generator: torch.Generator) -> Terms:
    # The words of an example belong to one likelihood, so that taking every tag of each would be another.
    shares = logits.detach().float().softmax(-1).cpu()
    drawn = torch.multinomial(shares, 1, generator=generator).squeeze(-1)
    return [_log_likelihood(logits, drawn.to(logits.device), definition)]


def _labels(logits: Tensor, definition: Definition, generator: torch.Generator) -> Terms:
    drawn = torch.bernoulli(logits.detach().float().sigmoid().cpu(), generator=generator)
    return [_log_likelihood(logits, drawn.to(logits.device), definition)]


def _number(logits: Tensor, definition: Definition, generator: torch.Generator) -> Terms:
    # The gradient is the distance of an answer times that of the mean; its expected square is one standard deviation's.
    return [_log_likelihood(logits, logits.detach().float().squeeze(-1) + 1, definition)]


_OWN: dict[str, Callable[[Tensor, Definition, torch.Generator], Terms]] = {
    "classification": _classes,
    "token_classification": _words,
    "multilabel": _labels,
    "regression": _number,
}
