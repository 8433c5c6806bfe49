"""TAG: steps are smaller where the gradients of earlier trainings were large and point elsewhere."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from allround.core.registry import method
from allround.training.term import Term, followed, padded

if TYPE_CHECKING:
    from allround.models.model import Model
    from allround.tasks.task import Task

#: Those of AdamW, which takes the step.
BETAS, EPS = (0.9, 0.999), 1e-8


@method(
    source="Malviya et al., CoLLAs 2022, arXiv:2105.05155; tag_update.py of pranshu28/TAG (TAG-Adam)",
    paper="TAG: Task-based Accumulated Gradients for Lifelong learning",
)
class Tag(Term):
    """Multiplies each step of AdamW by the square root of v over the square root of the sum below, weight by weight.

    Formula: a_now v + sum over earlier trainings i of a_i v_i, with a_i = exp(-focus * cos(m, m_i)) and a_now = 1; v
    and m are AdamW's second and first moments in this training, v_i and m_i those in the end of an earlier one. cos
    and a_i are of whole tensors

    focus: how much directions count. matched: divide all a by the one of this training, as the formula says. The
    authors' code leaves it at exp(-focus), which makes steps up to exp(focus / 2) times longer from the second
    training on: 12 times at 5, so that a part of what it gains is a higher rate.

    Differs: `matched`. With other optimisers than AdamW the same factor is on their steps, which is not the paper's.
    Remembers two numbers for each weight and training. Of a model that was finished without this object it has none,
    and holds nothing.
    """

    holds_weights: ClassVar[bool] = True

    def __init__(self, *, focus: float = 5.0, matched: bool = True) -> None:
        super().__init__()
        self.focus, self.matched = focus, matched
        self._tasks: list[Task] = []
        self._old: dict[str, Tensor] = {}

    def before(self, model: Model, tasks: Sequence[Task]) -> None:
        self._tasks = list(tasks)
        shapes = {name: p.detach() for name, p in followed(model, tasks).items()}
        self.state |= {what: {name: torch.zeros_like(p) for name, p in shapes.items()} for what in ("m", "v")}
        self.state["steps"] = {name: torch.zeros(1) for name in shapes}

    def edit(self, model: Model) -> None:
        self._old = {name: p.detach().clone() for name, p in followed(model, self._tasks).items() if p.grad is not None}

    @torch.no_grad()
    def stepped(self, model: Model) -> None:
        parameters = followed(model, self._tasks)
        for name, old in self._old.items():
            p = parameters[name]
            assert p.grad is not None
            m, v, steps = (self.state[what][name] for what in ("m", "v", "steps"))
            m.copy_(BETAS[0] * m.to(p) + (1 - BETAS[0]) * p.grad)
            v.copy_(BETAS[1] * v.to(p) + (1 - BETAS[1]) * p.grad.square())
            steps += 1
            p.copy_(old + (p - old) * self.factor(name, m.to(p), v.to(p), int(steps)))

    def factor(self, name: str, m: Tensor, v: Tensor, steps: int) -> Tensor:
        """What the step of a weight is multiplied by. m, v: of this training, in the same shape."""
        before = self.state.get("directions", {}).get(name)
        if before is None:
            return torch.ones_like(v)
        shape = (len(before), *v.shape)
        directions, squares = (padded(self.state[what][name].to(v), shape) for what in ("directions", "squares"))
        cosines = (directions * m).flatten(1).sum(1) / m.norm().clamp_min(1e-30)
        alphas = (self.focus * ((1.0 if self.matched else 0.0) - cosines)).exp()
        found = v * (1.0 if self.matched else math.exp(-self.focus)) + torch.tensordot(alphas, squares, 1)
        bias = math.sqrt(1 - BETAS[1] ** steps)
        factor: Tensor = (v.sqrt() / bias + EPS) / (found.sqrt() / bias + EPS)
        return factor

    def after(self, model: Model) -> None:
        self._old = {}
        moments = {what: self.state.pop(what) for what in ("m", "v")}
        del self.state["steps"]
        for what, kept in (("directions", moments["m"]), ("squares", moments["v"])):
            known = self.state.setdefault(what, {})
            for name, value in kept.items():
                value = value / value.norm().clamp_min(1e-30) if what == "directions" else value
                old = known.get(name, value.new_zeros(0, *value.shape))
                known[name] = torch.cat([padded(old.to(value), (len(old), *value.shape)), value[None]]).cpu()
