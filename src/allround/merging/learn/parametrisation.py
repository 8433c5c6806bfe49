"""What every parametrisation of a merge is: few numbers to learn, and merged weights that follow from them."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from allround.core.errors import AllroundError, suggestion

LEVELS = ("none", "task", "layer", "block")
BOUNDS = ("none", "unit", "tanh", "simplex")


class Parametrisation(nn.Module, ABC):
    """Merged weights as a function of `parameters()`.

    base, start: name -> weight (*s); deltas: name -> changes (k, *s) of k models. All three are frozen. Called, it
    gives name -> merged weight, for the names of `deltas`; as made, those of the start, exactly. In training mode it
    may draw at random.
    """

    def __init__(self, base: Mapping[str, Tensor], start: Mapping[str, Tensor], deltas: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.base, self.start, self.deltas = base, start, deltas

    @abstractmethod
    def forward(self) -> dict[str, Tensor]:
        """The merged weights, in float32 or wider."""

    @abstractmethod
    def parts(self) -> dict[str, list[nn.Parameter]]:
        """What can be learned, by name, for phases."""

    @abstractmethod
    def describe(self) -> dict[str, object]:
        """What was learned, for people and for JSON."""

    def rates(self) -> dict[str, float]:
        """Factors of the learning rate, for parts whose numbers are of another size than coefficients."""
        return {}


class Coefficients(Parametrisation):
    """A coefficient for each model and group of weights: S + sum_t (c_t - scale) e_t.

    level: "task" has one group, "layer" one for each layer, "block" one for each weight; "none" learns nothing.
    bound: "none"; "unit" cuts c to [0, 1]; "tanh" makes it tanh(w); "simplex" makes the c of a group a learned size
    times a softmax over the models, the size cut to what lies between the base and the models: from 0 to 1, or to where
    it starts if that is more.
    """

    def __init__(
        self,
        base: Mapping[str, Tensor],
        start: Mapping[str, Tensor],
        deltas: Mapping[str, Tensor],
        *,
        level: str,
        scale: float,
        bound: str,
    ) -> None:
        super().__init__(base, start, deltas)
        for what, value, known in (("level", level, LEVELS), ("bound", bound, BOUNDS)):
            if value not in known:
                raise AllroundError(f"learn coefficients with {what} '{value}'", f"there is no such {what}",
                                    suggestion(value, known))  # fmt: skip
        first = next(iter(deltas.values()))
        names = groups(list(deltas), level)
        self.titles = list(dict.fromkeys(names.values()))
        self.group = {name: self.titles.index(title) for name, title in names.items()}
        self.scale, self.bound, self.learned = scale, bound, level != "none"
        dtype = torch.promote_types(first.dtype, torch.float32)
        shape = len(self.titles), len(first)
        if bound == "tanh" and not abs(scale) < 1:
            raise AllroundError(f"start tanh(w) at {scale}", "it lies between -1 and 1", "give a scale such as 0.3")
        if bound == "unit" and not 0 <= scale <= 1:
            raise AllroundError(f"start a coefficient in [0, 1] at {scale}", "it is not in there",
                                "give 0.3, or another bound")  # fmt: skip
        begun = torch.full(shape, float(scale), dtype=dtype, device=first.device)
        raw = torch.atanh(begun) if bound == "tanh" else torch.zeros_like(begun) if bound == "simplex" else begun
        self.raw = nn.Parameter(raw, requires_grad=self.learned)
        self.size = nn.Parameter(begun.sum(1, keepdim=True), requires_grad=self.learned) if bound == "simplex" else None
        self.most = max(1.0, float(scale) * len(first))
        self._first = self._bounded().detach().clone()

    def _bounded(self) -> Tensor:
        if self.bound == "unit":
            return self.raw.clamp(0, 1)
        if self.bound == "tanh":
            return self.raw.tanh()
        if self.size is not None:
            return self.size.clamp(0, self.most) * self.raw.softmax(1)
        return self.raw

    def coefficients(self) -> Tensor:
        """(groups, k)."""
        return self._bounded()

    def moved(self) -> Tensor:
        """How far each coefficient is from where it began; exactly zero as made. (groups, k)"""
        return self._bounded() - self._first

    def sums(self, names: Iterable[str]) -> dict[str, Tensor]:
        """S + sum_t (c_t - scale) e_t of some weights."""
        moved = self.moved()
        return {n: weighted_sum(moved[self.group[n]], self.deltas[n], self.start[n]) for n in names}

    def forward(self) -> dict[str, Tensor]:
        return self.sums(self.deltas)

    def parts(self) -> dict[str, list[nn.Parameter]]:
        found = [self.raw, *([self.size] if self.size is not None else [])]
        return {"coefficients": found} if self.learned else {}

    def describe(self) -> dict[str, object]:
        listed = self.coefficients().detach().double().tolist()
        return {"coefficients": {t: [round(c, 6) for c in row] for t, row in zip(self.titles, listed, strict=True)}}


class _Sum(torch.autograd.Function):
    """start + sum_t c_t d_t. Of the changes nothing is kept but a reference."""

    @staticmethod
    def forward(ctx: Any, column: Tensor, deltas: Tensor, start: Tensor) -> Tensor:
        ctx.save_for_backward(column, deltas)
        found = start.to(column.dtype, copy=True, memory_format=torch.contiguous_format)
        if deltas.dtype == column.dtype:
            found.view(-1).addmv_(deltas.reshape(len(deltas), -1).t(), column)
        else:
            for number, delta in zip(column.tolist(), deltas, strict=True):
                found.add_(delta, alpha=number)
        return found

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        column, deltas = ctx.saved_tensors
        grad = grads[0].reshape(-1)
        if deltas.dtype == column.dtype:
            return deltas.reshape(len(deltas), -1) @ grad, None, None
        return torch.stack([delta.flatten().to(grad.dtype) @ grad for delta in deltas]), None, None


def weighted_sum(column: Tensor, deltas: Tensor, start: Tensor) -> Tensor:
    """start + sum_t column_t deltas_t, differentiable in the column, in its dtype.

    Shapes: column (k,), deltas (k, *s), start (*s) -> (*s)

    >>> weighted_sum(torch.tensor([1.0, 2.0]), torch.ones(2, 3), torch.zeros(3))
    tensor([3., 3., 3.])
    """
    found: Tensor = _Sum.apply(column, deltas.contiguous(), start)
    return found


_NUMBERED = re.compile(r"(?<![^.])\d+(?![^.])")


def groups(names: Sequence[str], level: str) -> dict[str, str]:
    """The group of each weight: the weight itself, its layer, or one for all.

    A layer is a numbered member of a list of modules, of the longest list that the name goes through; what is in no
    list of two or more is taken together by the first part of the name that tells such weights apart.

    >>> list(groups(["net.embed.weight", "net.h.0.w", "net.h.0.b", "net.h.1.w", "net.norm.w"], "layer").values())
    ['net.embed', 'net.h.0', 'net.h.0', 'net.h.1', 'net.norm']
    """
    if level == "block":
        return {name: name for name in names}
    if level != "layer":
        return dict.fromkeys(names, "all")
    members: dict[str, set[str]] = {}
    for name in names:
        for found in _NUMBERED.finditer(name):
            members.setdefault(name[: found.start()], set()).add(found.group())
    result: dict[str, str] = {}
    for name in names:
        places = [(len(members[name[: f.start()]]), name[: f.end()]) for f in _NUMBERED.finditer(name)]
        size, title = max(places, default=(0, ""), key=lambda place: place[0])
        if size > 1:
            result[name] = title
    rest = [name.split(".") for name in names if name not in result]
    shared = 0
    while len({tuple(parts[: shared + 1]) for parts in rest}) == 1 and all(len(parts) > shared + 2 for parts in rest):
        shared += 1
    result.update({".".join(parts): ".".join(parts[: shared + 1]) for parts in rest})
    return {name: result[name] for name in names}
