"""L2-SP: pull the weights towards where training began."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from allround.core.registry import method
from allround.training.term import Term

if TYPE_CHECKING:
    from allround.models.model import Model
    from allround.tasks.task import Task


@method(source="Li, Grandvalet and Davoine, ICML 2018, arXiv:1802.01483, equation 2")
class L2Sp(Term):
    """Adds weight / 2 * sum of (w - w0)^2 over the shared weights that are trained, w0 being their values before the
    first step. Heads are left alone: the paper pulls its new layer towards zero instead (beta; here weight decay does
    that).

    weight: 0 is no pull. With AdamW the pull is scaled as every gradient is.
    """

    def __init__(self, *, weight: float = 0.01) -> None:
        super().__init__()
        self.weight = weight

    def before(self, model: Model, tasks: Sequence[Task]) -> None:
        trained = {name: p for name, p in model.shared().items() if p.requires_grad}
        self.state = {name: {"": p.detach().clone()} for name, p in trained.items()}

    def penalty(self, model: Model) -> Tensor | None:
        shared = model.shared()
        pulls = [(shared[name] - kept[""].to(shared[name])).square().sum() for name, kept in self.state.items()]
        return 0.5 * self.weight * torch.stack(pulls).sum() if pulls else None

    def after(self, model: Model) -> None:
        self.state = {}  # the next training begins where this one ended
