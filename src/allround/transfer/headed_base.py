"""A base with a head for each task, fitted on its features: losses, gradients, and losses after a step of the base."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace

import torch
from torch import Tensor

from allround.models.batch import Batch, taken
from allround.models.encoder import LINEAR, Encoder
from allround.models.fitting import minimise
from allround.models.head import HeadState, OutputHead, make_head
from allround.models.running import by_length
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.definition import Definition
from allround.tasks.kind import Encoded
from allround.transfer.task_rows import TaskRows

#: Penalty on the squared weights of a head that is fitted on the base, on standardised features.
PENALTY = 0.1


class HeadedBase:
    """A copy of a base with heads; nothing of it is trained, and a step is taken back at once.

    heads: by task, linear and fitted. rows: of each of these tasks. All losses and gradients are
    means over the single losses of a task's rows, so that they do not depend on the size of batches; without dropout.
    """

    def __init__(
        self,
        encoder: Encoder,
        heads: Mapping[str, OutputHead],
        rows: Mapping[str, TaskRows],
        batch_size: int,
    ) -> None:
        self.model = MultiTaskModel(deepcopy(encoder), {})
        for head in heads.values():
            self.model.add_task(head.definition, HeadState(head.state_dict()))
        self.model.eval()
        frozen = self.model.frozen()
        self.parameters = [p for p in self.model.shared().values() if id(p) not in frozen and p.is_floating_point()]
        self.rows = rows
        self.batch_size = batch_size

    def gradient(self, task: str) -> list[Tensor]:
        """The gradient of a task's loss with respect to each shared parameter; zeros where it has none."""
        for parameter in self.parameters:
            parameter.requires_grad_(True)
        found = [torch.zeros_like(parameter) for parameter in self.parameters]
        total = 0
        for batch in self._batches(task):
            loss = self.model.losses(batch)[task]
            parts = torch.autograd.grad(loss.sum, self.parameters, allow_unused=True)
            for sum_, part in zip(found, parts, strict=True):
                if part is not None:
                    sum_ += part
            total += loss.count
        for sum_ in found:
            sum_ /= max(total, 1)
        return found

    @torch.no_grad()
    def loss(self, task: str) -> float:
        """The loss of a task."""
        losses = [self.model.losses(batch)[task] for batch in self._batches(task)]
        return sum(float(one.sum) for one in losses) / max(sum(one.count for one in losses), 1)

    @contextmanager
    def moved(self, gradient: Sequence[Tensor], rate: float) -> Iterator[None]:
        """The base after a step against a gradient."""
        before = [parameter.detach().clone() for parameter in self.parameters]
        with torch.no_grad():
            for parameter, part in zip(self.parameters, gradient, strict=True):
                parameter.sub_(part, alpha=rate)
        try:
            yield
        finally:
            with torch.no_grad():
                for parameter, value in zip(self.parameters, before, strict=True):
                    parameter.copy_(value)

    def _batches(self, task: str) -> Iterator[Batch]:
        targets = self.rows[task].targets
        ready = self.model.prepare(task, self.rows[task].inputs, targets)
        for places in by_length([self.model.size(row) for row in ready], self.batch_size):
            some = [ready[place] for place in places]
            yield self.model.collate(some, {task: range(len(some))}, {task: taken(targets, places)})


def fit_linear(definition: Definition, features: Tensor, targets: Encoded, penalty: float = PENALTY) -> OutputHead:
    """A linear head that minimises the task's loss on some features, plus penalty / 2 * squared weights.

    Shapes: features (n, d), standardised before the fit.
    """
    head = make_head(LINEAR, replace(definition, head=""), features.shape[1])
    assert isinstance(head, OutputHead)
    mean, spread = features.mean(0), features.std(0, correction=0).clamp_min(1e-4)
    x = (features - mean) / spread
    start = [x.new_zeros(head.outputs, x.shape[1]), x.new_zeros(head.outputs)]
    weight, bias = minimise(head, lambda w, b: x @ w.T + b, start, head.tensor(targets), penalty)
    head.load_state_dict({"weight": weight / spread, "bias": bias - weight @ (mean / spread)})
    return head.eval()


def norm_of(tensors: Sequence[Tensor]) -> float:
    """The norm of all tensors together."""
    return (
        float(torch.stack([tensor.detach().double().square().sum() for tensor in tensors]).sum().sqrt())
        if tensors
        else 0.0
    )


def product_of(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    """The inner product of all tensors together."""
    return sum(float((a.double() * b.double()).sum()) for a, b in zip(one, other, strict=True))


def fisher(head: OutputHead, features: Tensor, targets: Encoded | None = None) -> Tensor:
    """The Fisher information of each feature, mean over rows: the squared derivative of log p(y | x), for the rows'
    targets; or expected over the head's own answers where these are None. Shapes: features (n, d) -> (d,). Each row's
    gradient is squared by itself."""
    features = features.float().requires_grad_(True)
    outputs = head(features)
    if targets is not None:
        loss = head.likelihood.loss(outputs, head.tensor(targets)) * len(features)
        return torch.autograd.grad(loss, features)[0].double().square().mean(0)
    logs = head.likelihood.log_probabilities(outputs)
    if logs is None:  # a normal distribution of variance one
        terms = [(outputs[:, place], torch.ones(len(outputs))) for place in range(outputs.shape[1])]
    else:
        flat = logs.flatten(1)
        terms = [(flat[:, place], flat[:, place].detach().exp()) for place in range(flat.shape[1])]
    found = torch.zeros(features.shape[1], dtype=torch.float64)
    for values, weights in terms:
        slopes = torch.autograd.grad(values.sum(), features, retain_graph=True)[0].double()
        found += (weights.double()[:, None] * slopes.square()).sum(0)
    return found / max(len(features), 1)
