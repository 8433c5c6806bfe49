"""EWC: hold each weight the more, the more the answers to earlier tasks depend on it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from allround.core.registry import method
from allround.core.seeds import seed_of
from allround.models.model import device_of
from allround.tasks.kind import kind
from allround.training.term import Term, known_part

if TYPE_CHECKING:
    from allround.models.model import Model
    from allround.tasks.task import Task


@method(
    source="Kirkpatrick et al., PNAS 2017, arXiv:1612.00796, equation 3; the Fisher information: Martens, JMLR 2020",
    paper="Overcoming catastrophic forgetting in neural networks",
)
class Ewc(Term):
    """After a training the diagonal of the Fisher information F_a at its weights w_a is estimated on its rows; in later
    trainings with the same object

    Formula: penalty = weight / 2 * sum over earlier trainings a and weights i of F_a,i (w_i - w_a,i)^2

    is added. It is kept as two tensors for each weight, however many trainings there were: the sum over a of F_a, and
    the mean of w_a weighted by F_a; the penalty differs from the formula by a constant.

    F is the mean over rows of squared gradients of log p(y | x), row by row. labels: "sampled" draws y from the model's
    own answer, "exact" takes all labels with their probabilities, "true" the target of the row (the empirical Fisher
    information). Tasks without a probability of each label take the target. Strengths do not carry over between these,
    nor from tools that square gradients of batches.

    relative: divide F_a by its mean over weights, so that `weight` is that of a plain L2 pull on a weight of mean
    importance. How large F is as a whole depends on how sure the model is: on small errors it almost vanishes.
    rows: of each task at most. With AdamW the penalty is scaled as every gradient is.
    """

    holds_weights: ClassVar[bool] = True

    def __init__(
        self,
        *,
        weight: float = 1.0,
        relative: bool = True,
        rows: int = 200,
        labels: Literal["sampled", "exact", "true"] = "sampled",
    ) -> None:
        super().__init__()
        self.weight, self.relative, self.rows, self.labels = weight, relative, rows, labels
        self._tasks: list[Task] = []
        self._trained: list[str] = []

    def before(self, model: Model, tasks: Sequence[Task]) -> None:
        self._tasks = list(tasks)
        self._trained = [name for name, p in model.named_parameters() if p.requires_grad]

    def penalty(self, model: Model) -> Tensor | None:
        if not self.state:
            return None
        found = []
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and name in self.state["fisher"]:
                fisher, centre = (self.state[what][name].to(parameter) for what in ("fisher", "centre"))
                found.append((fisher * (known_part(parameter, fisher) - centre).square()).sum())
        return 0.5 * self.weight * torch.stack(found).sum() if found else None

    def after(self, model: Model) -> None:
        fisher = fisher_diagonal(model, self._tasks, self._trained, rows=self.rows, labels=self.labels)
        if self.relative:
            size = sum(parameter.numel() for name, parameter in model.named_parameters() if name in set(self._trained))
            mean = sum(float(value.sum()) for value in fisher.values()) / size
            fisher = {name: value / max(mean, 1e-30) for name, value in fisher.items()}
        sums, centres = self.state.setdefault("fisher", {}), self.state.setdefault("centre", {})
        parameters = dict(model.named_parameters())
        for name, new in fisher.items():
            here = parameters[name].detach().cpu().float()
            old, centre = torch.zeros_like(new), here.clone()
            if name in sums:
                known_part(old, sums[name]).copy_(sums[name])
                known_part(centre, sums[name]).copy_(centres[name])
            sums[name] = old + new
            share = torch.where(sums[name] > 0, new / sums[name].clamp_min(1e-38), 0.0)
            centres[name] = centre + share * (here - centre)


def fisher_diagonal(
    model: Model, tasks: Sequence[Task], names: Sequence[str], *, rows: int, labels: str, seed: int = 0
) -> dict[str, Tensor]:
    """The diagonal of the Fisher information of parameters, the mean over training rows of all tasks: see `Ewc`."""
    parameters = {name: p for name, p in model.named_parameters() if name in set(names)}
    total = {name: torch.zeros_like(p, dtype=torch.float32, device="cpu") for name, p in parameters.items()}
    count = 0
    model.eval()
    for task in tasks:
        split = task.splits["train"]
        generator = np.random.default_rng(seed_of(seed, "fisher", task.name))
        chosen = sorted(generator.permutation(len(split))[:rows].tolist())
        split = split.take(chosen)
        prepared = model.prepare(task.name, split.inputs, split.targets)
        rules = kind(task.definition.kind)
        drawn = labels != "true" and rules.exclusive and rules.fixed_labels and not rules.lists
        scores = model.answer_prepared(task.name, prepared, scores=True).scores if drawn else None
        count += len(split)
        for row, ready in enumerate(prepared):
            if scores is None:
                answers = [(split.take([row]).targets, 1.0)]
            else:
                chances = np.asarray(scores[row], dtype=np.float64)
                chances /= chances.sum()
                picked = range(len(chances)) if labels == "exact" else [int(generator.choice(len(chances), p=chances))]
                answers = [(np.array([y]), chances[y] if labels == "exact" else 1.0) for y in picked]
            for target, share in answers:
                batch = model.collate([ready], {task.name: [0]}, {task.name: target}).to(device_of(model))
                loss = model.losses(batch)[task.name].mean
                slopes = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
                for name, slope in zip(parameters, slopes, strict=True):
                    if slope is not None:
                        total[name] += share * slope.detach().float().cpu().square()
    return {name: value / count for name, value in total.items() if bool(value.any())}
