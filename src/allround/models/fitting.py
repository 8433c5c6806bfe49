"""Fitting a head on frozen features: before tuning, or on a merged encoder."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from allround.core.errors import AllroundError
from allround.models.encoder import Encoder
from allround.models.head import HeadState, NotFinite, OutputHead, make_head
from allround.models.running import features_of
from allround.models.searching import Searcher, VectorReader
from allround.tasks.kind import kind
from allround.tasks.metric import better, needs_scores, score_of
from allround.tasks.task import Task

#: Strengths of the penalty that are tried; the best on validation is taken.
PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)


@dataclass(frozen=True)
class Fitted:
    """A fitted head, and how it was chosen. tried: penalty -> validation score."""

    state: HeadState
    tried: dict[float, float]
    chosen: float


def fit_head(encoder: Encoder, task: Task, sort: str | None = None) -> Fitted:
    """Fit a head for a task on the encoder as it is (Kumar et al., ICLR 2022, arXiv:2202.10054).

    Minimises the head's own loss with each of `PENALTIES` on features of the training rows, and keeps the one with
    the best validation score (the larger penalty on a tie). sort: None is what the encoder would choose. A head without
    weights of its own is scored as it is.
    """
    sort = sort or encoder.head(task.definition)
    definition = encoder.headed(task.definition, sort)
    if kind(definition.kind).ranked:  # nothing is fitted: the base answers as it is
        head = make_head(sort, definition, encoder.features(definition))
        split = task.splits["validation"]
        made = Searcher().answers(VectorReader.of(encoder, head), encoder.prepare(split.inputs, definition))
        return Fitted(head.stored(), {0.0: score_of(definition, split.targets, made.predictions)}, 0.0)
    scores = needs_scores(definition.metric)
    train, validation = task.splits["train"], task.splits["validation"]
    held = features_of(encoder, encoder.prepare(validation.inputs, definition), definition)
    head = make_head(sort, definition, encoder.features(definition)).to(held.values.device)
    features = held
    if next(head.parameters(), None) is not None:
        features = features_of(encoder, encoder.prepare(train.inputs, definition), definition)
    sign = 1 if better(definition.metric) == "higher" else -1

    @torch.no_grad()
    def score() -> float:
        try:
            made = head.answer(held, scores=scores)
            return sign * score_of(definition, validation.targets, made.predictions, made.scores)
        except NotFinite:  # this penalty is too weak to end at finite weights
            return -math.inf

    tried = head.fit(features, train.targets, score)
    chosen = max(tried, key=lambda penalty: (tried[penalty], penalty))
    if tried[chosen] == -math.inf:
        raise AllroundError(
            f"fit the head of task '{definition.name}'",
            "its answers are not finite with any penalty",
            "check the base, and the task's inputs and targets",
        )
    return Fitted(head.stored(), {penalty: sign * found for penalty, found in tried.items()}, chosen)


def fit_outputs(
    head: OutputHead,
    outputs: Callable[..., Tensor],
    start: Sequence[Tensor],
    targets: Tensor,
    keep: Callable[..., None],
    score: Callable[[], float],
    *,
    anew: bool = False,
) -> dict[float, float]:
    """Minimise a head's loss plus penalty / 2 * sum of squares by L-BFGS, for each of `PENALTIES`.

    outputs: of the training rows, from the tensors that are fitted, which begin at `start`; the penalty is on those of
    two dimensions. keep: puts fitted tensors into the head. anew: begin each fit at `start`, for heads that a strong
    penalty takes to where no gradient leads away. The head is left as it scored best.
    """
    tried: dict[float, float] = {}
    best = [value.clone() for value in head.state_dict().values()]
    values = list(start)
    for penalty in sorted(PENALTIES, reverse=True):
        # From strong to weak, each from where the last ended: the path is short.
        values = minimise(head, outputs, start if anew else values, targets, penalty)
        with torch.no_grad():
            keep(*values)
        tried[penalty] = score()
        if tried[penalty] > max((s for p, s in tried.items() if p != penalty), default=-torch.inf):
            best = [value.clone() for value in head.state_dict().values()]
    head.load_state_dict(dict(zip(head.state_dict(), best, strict=True)))
    return tried


def minimise(
    head: OutputHead, outputs: Callable[..., Tensor], start: Sequence[Tensor], targets: Tensor, penalty: float
) -> list[Tensor]:
    """The tensors that minimise a head's loss plus penalty / 2 * sum of squares, by L-BFGS. See `fit_outputs`."""
    values = [value.clone().requires_grad_() for value in start]
    optimiser = torch.optim.LBFGS(
        values, max_iter=100, tolerance_grad=1e-5, tolerance_change=1e-7, line_search_fn="strong_wolfe"
    )

    def closure() -> float:
        optimiser.zero_grad()
        squares = [value.square().sum() for value in values if value.dim() > 1]
        loss = head.training_loss(outputs(*values), targets) + 0.5 * penalty * torch.stack(squares).sum()
        loss.backward()
        return loss.item()

    optimiser.step(closure)
    return [value.detach() for value in values]
