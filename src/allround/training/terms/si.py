"""SI: hold each weight the more, the more its path lowered the loss of earlier tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from allround.core.registry import method
from allround.training.term import Term, known_part

if TYPE_CHECKING:
    from allround.models.model import Model
    from allround.tasks.task import Task


@method(source="Zenke, Poole and Ganguli, ICML 2017, arXiv:1703.04200, equations 3 to 5")
class Si(Term):
    """Formula: penalty = weight * sum over weights i of O_i (w_i - w'_i)^2, w' being the weights after the last
    training with this object, and O_i the sum over trainings of path_i / ((w_i - start_i)^2 + damping)

    path_i is the sum over steps of minus the gradient of the tasks' loss times the change of w_i, and counts where it
    is above 0. With AdamW the penalty is scaled as every gradient is.
    """

    holds_weights: ClassVar[bool] = True

    def __init__(self, *, weight: float = 100.0, damping: float = 0.1) -> None:
        super().__init__()
        self.weight, self.damping = weight, damping
        self._slopes: dict[str, Tensor] = {}
        self._old: dict[str, Tensor] = {}

    def before(self, model: Model, tasks: Sequence[Task]) -> None:
        trained = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
        self.state["start"] = {name: p.clone() for name, p in trained.items()}
        self.state["path"] = {name: torch.zeros_like(p) for name, p in trained.items()}

    def penalty(self, model: Model) -> Tensor | None:
        found = []
        self._slopes, self._old = {}, {}
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue
            # Called before penalties are differentiated: the gradients are those of the tasks alone.
            if parameter.grad is not None:
                self._slopes[name], self._old[name] = parameter.grad.clone(), parameter.detach().clone()
            kept = self.state.get("importance", {}).get(name)
            if kept is not None:
                gap = known_part(parameter, kept) - self.state["centre"][name].to(parameter)
                found.append((kept.to(parameter) * gap.square()).sum())
        return self.weight * torch.stack(found).sum() if found else None

    def stepped(self, model: Model) -> None:
        for name, parameter in model.named_parameters():
            if name in self._slopes:
                path = self.state["path"][name]
                path -= (self._slopes[name] * (parameter.detach() - self._old[name])).to(path)

    def after(self, model: Model) -> None:
        parameters = dict(model.named_parameters())
        importance, centres = self.state.setdefault("importance", {}), self.state.setdefault("centre", {})
        for name, start in self.state.pop("start").items():
            here = parameters[name].detach()
            path = self.state["path"][name].to(here).clamp_min(0)
            new = path / ((here - start.to(here)).square() + self.damping)
            if name in importance:
                known_part(new, importance[name]).add_(importance[name].to(new))
            importance[name], centres[name] = new.cpu(), here.cpu().clone()
        del self.state["path"]
        self._slopes, self._old = {}, {}
