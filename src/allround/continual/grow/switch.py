"""switch: an expert for each distribution of rows; that rows come from another one is seen in the loss."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from allround.continual.growing import GrowingLearner
from allround.continual.parts import Part
from allround.continual.pruning import KeptZeros, prune
from allround.continual.rows import ARRIVAL
from allround.continual.strategy import Strategy
from allround.core.errors import AllroundError
from allround.core.registry import method
from allround.models.encoder import Encoder
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.task import Task
from allround.training.settings import Settings

#: The least standard deviation of losses that counts.
LEAST = 0.005


@method(
    source="TAME: Zhu et al., 2022, arXiv:2210.03869; checked against unsigned public code",
    paper="TAME: Task Agnostic Continual Learning using Multiple Experts",
)
class Switch(GrowingLearner):
    """Before an expert learns rows that came, its losses on them are watched, `batch` rows at a time. Where the
    smoothed loss rises above the threshold, the rows go to the first expert that they fit, and if there is none, to a
    new one, which begins as the base. An expert that is left for a new one is pruned, and tuned on what is remembered
    of its rows.

    Formula: threshold = mean + deviations * max(standard deviation, 0.005) of the last `window` losses of an expert, of
    which the first is that of the untrained expert; smoothed loss = smoothing * loss + (1 - smoothing) * smoothed loss.
    Rows fit an expert whose smoothed loss, with their mean loss as the next one, is below its threshold

    prune: the share of each matrix of the encoder that is set to zero, and stays so; 0 for none.
    Differs: all rows of an arrival go to one expert, and are learned in epochs, where the paper goes batch by batch,
    once; only losses of rows that an expert learns enter its smoothed loss, where theirs has all rows since it began.

    Errors: an arrival of several tasks.
    """

    def __init__(
        self,
        encoder: Encoder,
        strategy: Strategy,
        *,
        batch: int = 16,
        window: int = 8,
        smoothing: float = 0.7,
        deviations: float = 3.0,
        prune: float = 0.5,
    ) -> None:
        super().__init__(encoder, strategy)
        if batch < 1 or window < 1 or not 0 < smoothing <= 1 or not 0 <= prune < 1:
            raise AllroundError(
                "switch experts by their loss",
                f"batch is {batch}, window {window}, smoothing {smoothing} and prune {prune}",
                "give a batch and a window of 1 or more, smoothing from above 0 to 1, prune from 0 to below 1",
            )
        self.batch, self.window, self.smoothing, self.deviations, self.share = (
            batch,
            window,
            smoothing,
            deviations,
            prune,
        )
        self.grown.base = self.encoder
        #: "current": the number of the expert that learned last; of each expert its losses, "losses 0", its smoothed
        #: loss, "smoothed 0", and whether it was pruned, "pruned 0".
        self.watched: dict[str, Tensor] = {}

    @property
    def remembered(self) -> dict[str, Tensor]:
        return self.watched

    def recall(self, tensors: Mapping[str, Tensor]) -> None:
        self.watched.update(tensors)

    def extend(
        self, arrived: Mapping[str, Task], number: int, settings: Settings, *, seed: int, scratch: Path | None
    ) -> list[Part]:
        if len(arrived) != 1:
            raise AllroundError("switch experts by their loss", f"{len(arrived)} tasks arrived at once",
                                "let one task arrive at a time")  # fmt: skip
        ((name, task),) = arrived.items()
        part = self.chosen(task, [one for one in self.grown.parts if one.task == name])
        if part is None:
            if self.share and name in {one.task for one in self.grown.parts}:
                self.finish(self.expert(name), settings, seed=seed, scratch=scratch)
            part = self.begin(name, task, number)
        self.watched["current"] = torch.tensor(part.arrival)
        zeros = [KeptZeros()] if f"pruned {part.arrival}" in self.watched else []
        own = replace(task, definition=replace(task.definition, name=part.name))
        # The best state on validation would be the first one where few rows are answered well, or none.
        self.train(self.grown.bodies[part.body], [own], settings.with_(keep="last"), seed=seed, scratch=scratch,
                   terms=zeros)  # fmt: skip
        return [part]

    def expert(self, name: str) -> Part:
        """The part of the expert that learned last."""
        current = int(self.watched["current"])
        return next(one for one in self.grown.parts if one.task == name and one.arrival == current)

    def begin(self, name: str, task: Task, number: int) -> Part:
        """A new expert, and its first loss."""
        body = MultiTaskModel(copy.deepcopy(self.encoder), {})
        body.add_task(task.definition)
        self.grown.bodies.append(body)
        part = Part(name, number, len(self.grown.bodies) - 1, task.name)
        self.watched[f"losses {number}"] = torch.tensor(self.losses(part, task)).mean()[None]
        return part

    def finish(self, part: Part, settings: Settings, *, seed: int, scratch: Path | None) -> None:
        """Prune an expert, and tune it on the remembered rows that it learned."""
        body = self.grown.bodies[part.body]
        prune(dict(body.encoder.named_parameters()), self.share)
        self.watched[f"pruned {part.arrival}"] = torch.ones(1)
        if part.task in self.memory.tasks:
            old = self.memory.tasks[part.task]
            split = old.splits["train"]
            of = [row for row, mark in enumerate(split.slices[ARRIVAL]) if mark and mark.startswith(f"{part.arrival}:")]
            rows = replace(split.take(of), slices={})
            own = replace(old.definition, name=part.name)
            if of:
                few = replace(old, definition=own, splits={**old.splits, "train": rows, "validation": rows})
                self.train(body, [few], settings.with_(keep="last"), seed=seed, scratch=scratch, terms=[KeptZeros()])

    def losses(self, part: Part, task: Task) -> list[float]:
        """The losses of an expert on the rows of a task, batch by batch."""
        body, split = self.grown.bodies[part.body], task.splits["train"]
        rows = body.prepare(part.name, split.inputs)
        starts = range(0, len(rows), self.batch)
        return [
            body.validate(part.name, rows[n : n + self.batch], split.targets[n : n + self.batch])[1] for n in starts
        ]

    def chosen(self, task: Task, parts: Sequence[Part]) -> Part | None:
        """The expert for rows that came; None for a new one."""
        if not parts:
            return None
        current = self.expert(parts[0].task)
        seen = 0
        for loss in self.losses(current, task):
            if self.next_smoothed(current, loss) > self.threshold(current):
                break
            self.watch(current, loss)
            seen += 1
        else:
            return current
        for part in parts:
            rest = self.losses(part, task)[seen:]
            if self.next_smoothed(part, sum(rest) / len(rest)) < self.threshold(part):
                for loss in rest:
                    self.watch(part, loss)
                return part
        return None

    def threshold(self, part: Part) -> float:
        """Above which smoothed loss rows are not those of an expert."""
        losses = self.watched[f"losses {part.arrival}"]
        return float(losses.mean() + self.deviations * losses.std(correction=0).clamp_min(LEAST))

    def next_smoothed(self, part: Part, loss: float) -> float:
        """The smoothed loss of an expert, were this its next loss."""
        before = float(self.watched.get(f"smoothed {part.arrival}", torch.tensor(loss)))
        return self.smoothing * loss + (1 - self.smoothing) * before

    def watch(self, part: Part, loss: float) -> None:
        """Take a loss of an expert into account."""
        self.watched[f"smoothed {part.arrival}"] = torch.tensor(self.next_smoothed(part, loss))
        losses = torch.cat([self.watched[f"losses {part.arrival}"], torch.tensor([loss])])
        self.watched[f"losses {part.arrival}"] = losses[-self.window :]
