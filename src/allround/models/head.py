"""Fitting a linear head on frozen features: before tuning, or on a merged encoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from allround.models.encoder import Encoder
from allround.models.model import Outputs, by_length
from allround.tasks.definition import Definition
from allround.tasks.kind import kind
from allround.tasks.metric import better, metric
from allround.tasks.task import Task

#: Strengths of the penalty that are tried; the best on validation is taken.
PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)


@dataclass(frozen=True)
class Head:
    """A fitted head, and how it was chosen: penalty -> validation score."""

    weight: Tensor
    bias: Tensor
    tried: dict[float, float]
    chosen: float


@torch.inference_mode()
def features_of(encoder: Encoder, prepared: list[Any], definition: Definition, batch_size: int = 64) -> Outputs:
    """Features of prepared rows, in their order: (n, d), or (words, d) with the words of each row."""
    encoder.eval()
    return by_length(encoder, definition, prepared, batch_size, encoder)


def fit_head(encoder: Encoder, task: Task) -> Head:
    """Fit a linear head for a task on the encoder as it is (Kumar et al., ICLR 2022, arXiv:2202.10054).

    Minimises the kind's own loss plus penalty / 2 * ||W||^2 on standardised features by L-BFGS, once for each of
    `PENALTIES`, and keeps the one with the best validation score (the larger penalty on a tie).
    """
    definition = task.definition
    rules, scorer = kind(definition.kind), metric(definition.metric)
    train, validation = task.splits["train"], task.splits["validation"]
    x = features_of(encoder, encoder.prepare(train.inputs, definition), definition).logits
    held = features_of(encoder, encoder.prepare(validation.inputs, definition), definition)
    mean = x.mean(0)
    std = x.std(0).clamp_min(1e-4) if len(x) > 1 else torch.ones_like(mean)
    x = ((x - mean) / std).clone()
    y = rules.tensor(train.targets)
    sign = 1 if better(definition.metric) == "higher" else -1
    weight = torch.zeros(rules.outputs(definition), x.shape[1])
    bias = torch.zeros(len(weight))
    tried: dict[float, float] = {}
    best: tuple[float, Tensor, Tensor, float] | None = None
    for penalty in sorted(PENALTIES, reverse=True):
        # From strong to weak, each from where the last ended: the path is short.
        weight, bias = _minimise(x, y, weight, bias, penalty, definition)
        folded = weight / std, bias - weight @ (mean / std)
        logits = held.logits @ folded[0].T + folded[1]
        score = scorer.score(validation.targets, rules.predict(logits, held.lengths), definition)
        tried[penalty] = score
        if best is None or sign * score > best[0]:
            best = (sign * score, *folded, penalty)
    assert best is not None
    return Head(best[1], best[2], tried, best[3])


def _minimise(
    x: Tensor, y: Tensor, weight: Tensor, bias: Tensor, penalty: float, definition: Definition
) -> tuple[Tensor, Tensor]:
    rules = kind(definition.kind)
    weight, bias = weight.clone().requires_grad_(), bias.clone().requires_grad_()
    optimiser = torch.optim.LBFGS(
        [weight, bias], max_iter=100, tolerance_grad=1e-5, tolerance_change=1e-7, line_search_fn="strong_wolfe"
    )

    def closure() -> float:
        optimiser.zero_grad()
        loss = rules.loss(x @ weight.T + bias, y, definition) + 0.5 * penalty * weight.square().sum()
        loss.backward()
        return loss.item()

    optimiser.step(closure)
    return weight.detach(), bias.detach()
