"""The steps in which a merge is learned."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from allround.core import registry
from allround.core.errors import AllroundError
from allround.core.progress import Progress
from allround.core.seeds import seed_everything, seed_of
from allround.merging.learn.guard import ROWS, Guard, distance
from allround.merging.learn.learning import Learning
from allround.merging.learn.material import Rows
from allround.merging.learn.objective import Response
from allround.merging.learn.parametrisation import Parametrisation
from allround.models.device import products
from allround.models.encoder import Encoder

#: Steps in a row without a finite loss or gradient that are an error.
MOST_BAD = 10


def to_device(weights: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """The same weights on a device."""
    return {n: t.to(device) for n, t in weights.items()}


@dataclass(frozen=True)
class Execution:
    """How a merge is computed: seed, device, precision of matrix products, and where progress is shown."""

    seed: int
    device: torch.device
    precision: str
    progress: Progress


class LearningSteps:
    """The loop: in each step the weights are merged once, every task's loss is computed with them, and one backward
    pass leads from all losses to what is learned.

    shell: the encoder that computes with merged weights. made: gives them. begun: all weights and buffers at the start.
    """

    def __init__(
        self,
        shell: Encoder,
        made: Parametrisation,
        begun: Mapping[str, Tensor],
        rows: Mapping[str, Rows],
        learning: Learning,
        execution: Execution,
    ) -> None:
        device = execution.device
        self.shell, self.made, self.rows, self.learning = shell.to(device).eval(), made, rows, learning
        self.execution = execution
        self.fixed = to_device({n: t for n, t in begun.items() if n not in made.deltas}, device)
        self.dtypes = {n: begun[n].dtype for n in made.deltas}
        given = {name: r.head for name, r in rows.items() if r.head is not None}
        free = learning.heads == "learned"
        self.heads = {name: deepcopy(head).to(device).requires_grad_(free) for name, head in given.items()}
        objective = registry.find("objective", learning.objective)
        settings = objective.resolve(learning.objective_settings)
        function = objective.load()
        self.objective = lambda *given: function(*given, **settings)
        self.skipped = self.skipped_in_a_row = 0
        learned = [*made.parameters(), *(p for h in self.heads.values() for p in h.parameters() if p.requires_grad)]
        self.guard = Guard(learned) if learning.guard and learning.all_steps else None

    def run(self) -> dict[str, object]:
        """Take all steps, and leave the best state where there is a guard. Returns what happened, for the record."""
        seed_everything(seed_of(self.execution.seed, "learn"))
        parts = self.made.parts()
        phases = self.learning.phases or (("", self.learning.steps),)
        losses: list[float] = []
        batches = {n: r.batches(self.learning.step_rows, self.learning.all_steps) for n, r in self.rows.items()}
        looks = {round(quarter * self.learning.all_steps / 4) for quarter in range(1, 5)}
        self._look(0)
        with self.execution.progress.stage("learning", self.learning.all_steps) as stage:
            for phase, steps in phases:
                if phase and phase not in parts:
                    known = ", ".join(parts) or "nothing"
                    raise AllroundError(f"learn '{phase}'", f"'{self.learning.parametrisation}' has: {known}",
                                        "use the phases that it has")  # fmt: skip
                chosen = {phase: parts[phase]} if phase else parts
                for name, part in parts.items():
                    for parameter in part:
                        parameter.requires_grad_(name in chosen)
                optimiser = self._optimiser(chosen)
                for number in range(steps):
                    if self.learning.decay:
                        for group in optimiser.param_groups:
                            group["lr"] = group["initial_lr"] * 0.5 * (1 + math.cos(math.pi * number / steps))
                    losses.append(self.step(optimiser, {n: b[len(losses)] for n, b in batches.items()}))
                    stage.advance()
                    if len(losses) in looks:
                        self._look(len(losses))
        if losses and self.skipped == len(losses):
            raise self._no_number()
        self.made.eval()
        return {
            **(self.guard.take_back() if self.guard else {}),
            "steps": len(losses),
            "skipped": self.skipped,
            "rows_seen": sum(len(b) for listed in batches.values() for b in listed),
            "losses": [round(loss, 6) for loss in losses if math.isfinite(loss)],
        }

    def _optimiser(self, parts: Mapping[str, Sequence[nn.Parameter]]) -> torch.optim.Optimizer:
        rates = self.made.rates()
        groups = [{"params": p, "lr": self.learning.rate * rates.get(name, 1.0)} for name, p in parts.items()]
        if self.learning.heads == "learned":
            heads = [p for head in self.heads.values() for p in head.parameters()]
            groups.append({"params": heads, "lr": self.learning.head_rate})
        if not groups:
            raise AllroundError(f"learn '{self.learning.parametrisation}'", "nothing in it is free", "give it a level")
        for group in groups:
            group["initial_lr"] = group["lr"]
        if self.learning.optimiser == "sgd":
            return torch.optim.SGD(groups, weight_decay=self.learning.weight_decay)
        kind = torch.optim.Adam if self.learning.optimiser == "adam" else torch.optim.AdamW
        return kind(groups, weight_decay=self.learning.weight_decay)

    def weights(self) -> dict[str, Tensor]:
        """The merged weights as they are now, with the graph to what is learned."""
        found: dict[str, Tensor] = self.made()
        return found

    def step(self, optimiser: torch.optim.Optimizer, batches: Mapping[str, list[int]]) -> float:
        """Take one step on a batch of each task, given by row numbers; the mean loss over the tasks."""
        self.made.train()
        merged = self.weights()
        leaves = {n: t.detach().to(self.dtypes[n]).requires_grad_() for n, t in merged.items()}
        optimiser.zero_grad()
        total = 0.0
        for name, numbers in batches.items():
            loss = self.loss(name, numbers, leaves)
            loss.backward()
            total += float(loss.detach()) / len(batches)
        grads = {n: leaf.grad for n, leaf in leaves.items() if leaf.grad is not None and merged[n].requires_grad}
        if grads:
            torch.autograd.backward([merged[n] for n in grads], [g.to(merged[n].dtype) for n, g in grads.items()])
        free = [p for group in optimiser.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.nn.utils.get_total_norm([p.grad for p in free])
        if math.isfinite(total) and bool(torch.isfinite(norm)):
            if self.learning.clip:
                torch.nn.utils.clip_grads_with_norm_(free, self.learning.clip, norm)
            optimiser.step()
            self.skipped_in_a_row = 0
        else:
            self._skip()
        return total

    def _answers(
        self, name: str, numbers: Sequence[int], weights: Mapping[str, Tensor]
    ) -> tuple[Response, Response, Tensor]:
        """The merged model's answers to rows of a task, the specialist's, and the targets."""
        batch, given, targets = self.rows[name].batch(self.shell, numbers, self.execution.device)
        with products(self.execution.precision, self.execution.device.type):
            features = functional_call(self.shell, {**self.fixed, **weights}, (batch,), strict=False).values
            logits = None
            if name in self.heads:
                head = self.heads[name]
                alike = {n: p.to(features.dtype) for n, p in head.named_parameters()}
                logits = functional_call(head, alike, (features,))
        return Response(features, logits), given, targets

    def loss(self, name: str, numbers: Sequence[int], leaves: Mapping[str, Tensor]) -> Tensor:
        """The objective on rows of a task, with these merged weights."""
        merged, given, targets = self._answers(name, numbers, leaves)
        loss: Tensor = self.objective(merged, given, targets, self.rows[name].definition)
        return loss

    @torch.no_grad()
    def _look(self, step: int) -> None:
        """Show the guard how far the merged model's answers are from the specialists', summed over the tasks."""
        if self.guard is None:
            return
        self.made.eval()
        merged = {n: t.to(self.dtypes[n]) for n, t in self.weights().items()}
        total = 0.0
        for name, rows in self.rows.items():
            count = len(rows.prepared)
            chosen = range(0, count, math.ceil(count / ROWS))
            for first in range(0, len(chosen), self.learning.step_rows):
                numbers = chosen[first : first + self.learning.step_rows]
                answers, given, _ = self._answers(name, numbers, merged)
                total += float(distance(answers, given, rows.definition)) * len(numbers) / len(chosen)
        self.guard.see(step, total)

    def _skip(self) -> None:
        self.skipped += 1
        self.skipped_in_a_row += 1
        if self.skipped_in_a_row >= MOST_BAD:
            raise self._no_number()

    def _no_number(self) -> AllroundError:
        return AllroundError(
            f"learn a merge by '{self.learning.objective}'",
            f"the loss or its gradient was not finite in {self.skipped_in_a_row} steps in a row",
            "lower the rate or the scale, and check the models",
        )
