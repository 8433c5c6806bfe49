"""What a balancer is: how much each task weighs in a step, and what it may look at to say so."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from allround.core import registry
from allround.core.errors import AllroundError


@dataclass(frozen=True)
class Outline:
    """What a balancer knows of the training before it begins.

    names: of the T tasks, in their order. outputs: how many numbers each task's head gives (classes, labels, 1).
    sizes: training rows of each task. steps: of the whole training; epoch: steps between two evaluations.
    """

    names: tuple[str, ...]
    outputs: tuple[int, ...]
    sizes: tuple[int, ...]
    steps: int = 1
    epoch: int = 1

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class StepView:
    """What a balancer sees of one step: the k tasks that are present, and of each of them, in one order:

    tasks: (k,) their numbers, ascending. losses: (k,) mean loss on the step's rows. rows: (k,) how many rows; terms:
    (k,) how many single losses that mean is over (words, for tasks per word). norms: (k,) Euclidean norms of the
    gradients. gramian: (k, k) inner products of the gradients. gradients: (k, p) the gradients, or a stretch of
    their columns. validation: (k,) inner products of each gradient with that of the validation loss. All of it is of
    the loss by the shared weights, all float64 but `gradients`; what the balancer does not need is None.
    progress: share of the training that is done.
    """

    tasks: Tensor
    losses: Tensor
    rows: Tensor
    terms: Tensor
    norms: Tensor | None = None
    gramian: Tensor | None = None
    gradients: Tensor | None = None
    validation: Tensor | None = None
    progress: float = 0.0

    def __len__(self) -> int:
        return len(self.tasks)


class Balancer:
    """Gives each task of a step its weight. One object for one training; all that it remembers stands in `state`.

    Along which axis of a remembered tensor the tasks lie, `axes` says where it is not the first: another one, two, or
    none. Kept state is by the names of tasks (`by_task`), so that a training can go on with other tasks (`take`).

    A method says in `@method(needs=...)` what it has to see, and implements one of these:

    - nothing, "losses" or "norms": `early`, the weight of one task from its own loss and norm, up to a factor that
      all tasks have in common. Gradients are then added up one by one and never stand side by side.
    - "gramian" or "validation": `weigh`, the weights of all tasks present.
    - "gradients": `combine`, for what is no weighted sum.
    - "features": `weigh`, where norms, gramian and gradients are those of the loss by the features instead of by the
      shared weights; and `penalty`, a term that is added to the sum of the losses.

    `learn` is called after each step; `evaluated` after each evaluation; with "after" among the needs, `stepped` with
    the losses on the same rows once more, after the step. Whatever is drawn at random comes from torch's global
    generator, which is seeded for each call of `weigh`, `early` and `combine`: several processes draw alike.

    The trainer divides by the sum of absolute weights and multiplies by their number, so that one learning rate means
    the same for all balancers; with `raw_scale`, or in the facts of a method `raw=True`, it does not.
    """

    axes: ClassVar[Mapping[str, tuple[int, ...]]] = {}

    def __init__(self, outline: Outline) -> None:
        self.outline = outline
        self.state: dict[str, Tensor] = {}

    def _axes(self, name: str, value: Tensor) -> tuple[int, ...]:
        """The axes of a remembered tensor along which the tasks lie."""
        return self.axes.get(name, (0,) if value.dim() else ())

    def by_task(self) -> dict[str, dict[str, Tensor]]:
        """The state by the names of the tasks; under "" what belongs to no task."""
        found: dict[str, dict[str, Tensor]] = {"": {}, **{task: {} for task in self.outline.names}}
        for name, value in self.state.items():
            axes = self._axes(name, value)
            if not axes:
                found[""][name] = value
                continue
            for task, part in zip(self.outline.names, value.unbind(axes[0]), strict=True):
                if len(axes) == 1:
                    found[task][name] = part
                else:
                    pairs = zip(self.outline.names, part.unbind(axes[1] - 1), strict=True)
                    found[task] |= {f"{name}:{other}": one for other, one in pairs}
        return found

    def take(self, kept: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Remember what `by_task` gave for these tasks, or for others.

        A new task begins as in a new training, and a task that is gone is forgotten. What cannot begin for one task
        alone begins anew for all.
        """
        tasks, first = self.outline.names, self.by_task()
        self.state |= kept.get("", {})
        parts = {task: {**first[task], **kept.get(task, {})} for task in tasks}
        for name in dict.fromkeys(key.partition(":")[0] for task in tasks for key in kept.get(task, {})):
            axes = self.axes.get(name, (0,))
            if len(axes) == 1:
                rows = [parts[task].get(name) for task in tasks]
            else:
                pairs = [[parts[task].get(f"{name}:{other}") for other in tasks] for task in tasks]
                rows = [_stack(row, axes[1] - 1) for row in pairs]
            if axes == (0,):  # what is remembered only after some steps is zero for a new task
                zeros = [torch.zeros_like(row) for row in rows if row is not None][:1]
                rows = [zeros[0] if row is None and zeros else row for row in rows]
            value = _stack(rows, axes[0])
            if value is not None:
                self.state[name] = value

    def early(self, task: int, loss: float, norm: float) -> float:
        """The weight of a task, up to a factor that is the same for all tasks of the step."""
        raise NotImplementedError

    def weigh(self, seen: StepView) -> Tensor:
        """The weights of the tasks present, on their own scale: (k,) float64."""
        norms = seen.norms if seen.norms is not None else torch.full((len(seen),), math.nan)
        triples = zip(seen.tasks.tolist(), seen.losses.tolist(), norms.tolist(), strict=True)
        return torch.tensor([self.early(*each) for each in triples], dtype=torch.float64)

    def everyone(self) -> Tensor | None:
        """The weights of all T tasks where they are known without a step: a step with some of the tasks then keeps
        their relation to the others, and a task that is alone in its step has its weight too. (T,) or None."""
        return None

    def alone(self, raw: bool) -> bool:
        """Whether a step with one task follows anything else than that task's plain gradient. The trainer refuses a
        balancer of which that is not so where every step holds one task. As it stands, the weights of all tasks have to
        be known without a step. raw: whether weights keep the method's own scale."""
        return self.everyone() is not None

    def combine(self, seen: StepView) -> Tensor:
        """One gradient from those of the tasks present: (k, p) -> (p,); columns do not know of each other."""
        raise NotImplementedError

    def penalty(self, features: Sequence[Tensor], saliencies: Sequence[Tensor]) -> Tensor | None:
        """A term to add to the sum of the weighted losses, from each present task's features (n_t, d) and the
        gradients of its loss by them (same shapes; differentiable where the method's facts say `second_order=True`,
        else without graph). None adds nothing."""
        return None

    def learn(self, seen: StepView) -> None:
        """Take in what a step has shown: its losses and whatever else is needed."""

    def stepped(self, seen: StepView, losses: Tensor) -> None:
        """Take in the losses on the same rows after the step: (k,) float64."""

    def evaluated(self, losses: Tensor) -> None:
        """Take in the mean validation losses of all tasks: (T,) float64."""


def _stack(parts: Sequence[Tensor | None], axis: int) -> Tensor | None:
    """The parts along a new axis; None where one is missing, or where their shapes differ."""
    there = [part for part in parts if part is not None]
    if len(there) < len(parts) or any(part.shape != there[0].shape for part in there):
        return None
    return torch.stack(there, axis)


def make_balancer(name: str, settings: Mapping[str, Any], outline: Outline) -> Balancer:
    """The balancer called `name`, for one training."""
    entry = registry.find("balance", name)
    try:
        made: Balancer = entry.load()(outline, **entry.resolve(settings))
    except ImportError as error:
        raise AllroundError(
            f"balance by '{name}'", f"a package that it needs is missing: {error}", "pip install 'allround[balance]'"
        ) from error
    return made


def rescaled(weights: Tensor, everyone: Tensor | None = None) -> Tensor:
    """Weights whose sizes sum to their number, in the same relation.

    everyone: the weights of all tasks, of which `weights` are some: then those of all sum to their number.

    >>> rescaled(torch.tensor([1.0, 3.0]))
    tensor([0.5000, 1.5000])
    >>> rescaled(torch.tensor([3.0]), torch.tensor([1.0, 3.0]))
    tensor([1.5000])
    """
    whole = weights if everyone is None else everyone
    largest = whole.abs().max()
    if not largest > 0:
        return weights
    return weights / largest * (len(whole) / (whole / largest).abs().sum())


def per_task(values: Any, outline: Outline, what: str, default: float = 1.0) -> list[float]:
    """A number for each task, from a list in the order of the tasks, or from a mapping by name (`default` for the
    others), or from nothing.

    >>> per_task({"b": 2.0}, Outline(("a", "b"), (2, 2), (10, 10)), "weights")
    [1.0, 2.0]
    """
    names = outline.names
    if isinstance(values, Mapping):
        unknown = [n for n in values if n not in names]
        if unknown:
            raise AllroundError(
                f"give task '{unknown[0]}' its {what}", "there is no such task", f"use one of: {', '.join(names)}"
            )
        listed = [values.get(n, default) for n in names]
    else:
        listed = (list(values) if isinstance(values, Sequence) else [values]) or [default] * len(names)
    if len(listed) != len(names) or not all(
        isinstance(v, int | float) and not isinstance(v, bool) and 0 <= v < math.inf for v in listed
    ):
        raise AllroundError(
            f"give {len(names)} tasks the {what} {values}",
            "that is not one number for each task, 0 or more",
            "give a list in the order of the tasks, or a mapping by their names",
        )
    return [float(v) for v in listed]


@dataclass
class Adam:
    """Adam for the few numbers that a balancer learns, with its moments in the balancer's own `state`.

    >>> state = {}
    >>> Adam(state, rate=0.1).step("s", torch.zeros(2, dtype=torch.float64), torch.tensor([1.0, -2.0]))
    tensor([-0.1000,  0.1000], dtype=torch.float64)
    """

    state: dict[str, Tensor]
    rate: float
    decay: float = 0.0
    betas: tuple[float, float] = field(default=(0.9, 0.999))

    def step(self, name: str, value: Tensor, gradient: Tensor, times: Tensor | float = 1.0) -> Tensor:
        """The value after one step down the gradient, or after so many steps with one gradient (taken at once: all are
        as long as the last of them)."""
        gradient = gradient.double() + self.decay * value
        first = self.state.get(f"{name}.first", torch.zeros_like(gradient))
        second = self.state.get(f"{name}.second", torch.zeros_like(gradient))
        count = self.state.get(f"{name}.count", torch.zeros((), dtype=torch.float64)) + times
        kept, kept_squares = self.betas[0] ** times, self.betas[1] ** times
        first = kept * first + (1 - kept) * gradient
        second = kept_squares * second + (1 - kept_squares) * gradient**2
        self.state.update({f"{name}.first": first, f"{name}.second": second, f"{name}.count": count})
        corrected = (second / (1 - self.betas[1] ** count)).sqrt() + 1e-8
        return value - self.rate * times * (first / (1 - self.betas[0] ** count)) / corrected
