"""A layer of the base that rows go through with the modules that each of them is given."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from allround.composition.modules.changes import Change, LowRankChange, WholeChange, stacked
from allround.core.errors import AllroundError
from allround.models.share.insert import Replaced

#: So many low-rank changes of a layer are computed as one. More would take memory, and no less time.
TOGETHER = 64


class Holder(Protocol):
    """What a layer asks for weights and for changes: the bank."""

    #: Whether the two factors of low-rank changes are averaged each by itself.
    apart: bool

    def weigh(self, layer: str, values: Tensor) -> Tensor | None: ...

    def read(self, module: int, layer: str, parameter: str) -> Change | None: ...


class ModularLayer(Replaced, ABC):
    """A layer, and what each module changes of it.

    It gives what the layer with the sum of the modules' changes in it would give, each times the weight that a row (or
    a place of a row) has for it. Rows that use the same module go through it together.

    users: the modules that change the layer.
    """

    def __init__(self, name: str, layer: nn.Module, users: Sequence[int], bank: Holder) -> None:
        super().__init__(layer)
        self.name, self.bank = name, bank
        self.users = frozenset(users)

    def forward(self, values: Tensor) -> Tensor:
        found: Tensor = self.base(values)
        weights = self.bank.weigh(self.name, values)
        if weights is None:
            return found
        if len(values) == 1 < len(weights):  # what all rows share, such as their positions
            values, found = (t.expand(len(weights), *t.shape[1:]) for t in (values, found))
        # A row may be read in several parts (the texts of a pair): first the first part of all rows, and so on.
        parts = len(values) // len(weights)
        if parts > 1:
            weights = weights.repeat(parts, *[1] * (weights.dim() - 1))
        return self.changed(found, values, weights.to(found.dtype))

    def changed(self, found: Tensor, values: Tensor, weights: Tensor) -> Tensor:
        """What the layer gives with the modules' changes. weights: (n, modules) or (n, *, modules)."""
        base = found
        for module, rows in used(weights):
            if module not in self.users:
                continue
            place = span(rows)
            change = self.change(module, values[place], base[place])
            if change is None:
                continue
            change = change * _places(weights[place], change)[..., module : module + 1]
            # The first sum makes a new tensor: the base's own output stays as it is for modules that read it.
            found = found.index_add(0, rows, change) if found is base else found.index_add_(0, rows, change)
        return found

    @abstractmethod
    def change(self, module: int, values: Tensor, found: Tensor) -> Tensor | None:
        """What one module adds to the layer's output; None for nothing. values, found: what the layer reads and gives,
        (k, *)."""

    def read(self, module: int, parameter: str) -> Change | None:
        """The change that a module makes to a parameter of the layer."""
        return self.bank.read(module, self.name, parameter)

    def whole(self, module: int, parameter: str) -> Tensor | None:
        """The change of a parameter as one tensor; None where it has none."""
        change = self.read(module, parameter)
        return None if change is None else cast(WholeChange, change).values


def used(weights: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Each module that a row has a weight for, with the numbers of these rows. weights: (n, modules), (n, *, modules).

    >>> [(module, rows.tolist()) for module, rows in used(torch.tensor([[1.0, 0.0], [0.5, 0.5]]))]
    [(0, [0, 1]), (1, [1])]
    """
    uses = used_by_rows(weights)
    for module in uses.any(0).nonzero().squeeze(1).tolist():
        yield module, uses[:, module].nonzero().squeeze(1)


def used_by_rows(weights: Tensor) -> Tensor:
    """Whether a row has a weight for a module at any of its places: (n, *, modules) -> bool (n, modules)."""
    each = weights.ne(0)
    return each if each.dim() == 2 else each.flatten(1, -2).any(1)


def span(rows: Tensor) -> Tensor | slice:
    """Ascending row numbers as a slice where they follow each other, so that no row is copied."""
    first, last = int(rows[0]), int(rows[-1])
    return slice(first, last + 1) if last - first == len(rows) - 1 else rows


class LinearLayer(ModularLayer):
    """A linear layer that holds its weight as (out, in), or, where flipped, as (in, out)."""

    flipped = False

    @property
    def inputs(self) -> int:
        """How many numbers it reads at a place."""
        return int(self.weight.shape[0 if self.flipped else 1])

    def changed(self, found: Tensor, values: Tensor, weights: Tensor) -> Tensor:
        uses = used_by_rows(weights)
        modules = [m for m in uses.any(0).nonzero().squeeze(1).tolist() if m in self.users]
        apart = self.bank.apart
        if not apart and (len(modules) < 2 or int(uses[:, modules].sum()) * 2 < len(weights) * len(modules)):
            return super().changed(found, values, weights)
        # Rows use most of the modules: their factors as one change make a few large products of many small ones.
        total = found
        for some in [modules] if apart else [modules[n : n + TOGETHER] for n in range(0, len(modules), TOGETHER)]:
            low = self._low_rank(some)
            if low is None and apart:
                raise AllroundError(
                    "average the factors of modules each by itself",
                    f"at the layer {self.name} not all of them are plain low-rank changes",
                    "combine by outputs",
                )
            if not low:
                return super().changed(found, values, weights)
            width = max(one.rank for one in low.values())
            down, up = stacked(low, width if apart else None)
            if self.flipped:
                down, up = up.T, down.T
            owner = torch.tensor([m for m, one in low.items() for _ in range(width if apart else one.rank)])
            weighed = _places(weights, values)[..., owner.to(weights.device)]
            inner = F.linear(values, down) * weighed
            if apart:
                mean = inner.unflatten(-1, (len(low), width)).sum(-2)
                inner = mean.repeat(*[1] * (inner.dim() - 1), len(low)) * weighed
            total = total + F.linear(inner, up)
        return total

    def _low_rank(self, modules: Sequence[int]) -> dict[int, LowRankChange] | None:
        """The changes of modules, where these are plain low-rank changes of the weight and nothing else."""
        low: dict[int, LowRankChange] = {}
        for module in modules:
            change = self.read(module, "weight")
            if not isinstance(change, LowRankChange) or change.factor is not None:
                return None
            if self.read(module, "bias") is not None:
                return None
            low[module] = change
        return low

    def change(self, module: int, values: Tensor, found: Tensor) -> Tensor | None:
        change = self.read(module, "weight")
        bias = self.whole(module, "bias")
        if change is None:
            return None if bias is None else bias.expand_as(found)
        if isinstance(change, WholeChange):
            return F.linear(values, change.values.T if self.flipped else change.values, bias)
        down, up = (change.up.T, change.down.T) if self.flipped else (change.down, change.up)
        made = F.linear(F.linear(values, down), up)
        if change.factor is not None:  # factor * (W + up down) x - W x
            own = found if self.base.bias is None else found - cast(Tensor, self.base.bias)
            made = change.factor * (own + made) - own
        return made if bias is None else made + bias


class FlippedLayer(LinearLayer):
    """A linear layer that holds its weight as (in, out), such as those of GPT-2."""

    flipped = True


class ConvolutionLayer(ModularLayer):
    """A convolution of images."""

    def change(self, module: int, values: Tensor, found: Tensor) -> Tensor | None:
        layer = cast(nn.Conv2d, self.base)
        change = self.read(module, "weight")
        bias = self.whole(module, "bias")
        if change is None and bias is None:
            return None
        made = torch.zeros_like(found)
        if isinstance(change, LowRankChange):
            down = change.down.view(change.rank, layer.in_channels // layer.groups, *layer.kernel_size)
            inner = F.conv2d(values, down, None, layer.stride, layer.padding, layer.dilation)
            made = F.conv2d(inner, change.up[:, :, None, None])
            if change.factor is not None:
                own = found if layer.bias is None else found - layer.bias[:, None, None]
                made = change.factor[:, None, None] * (own + made) - own
        elif change is not None:
            made = F.conv2d(values, change.values, None, layer.stride, layer.padding, layer.dilation, layer.groups)
        return made if bias is None else made + bias[:, None, None]


class EmbeddingLayer(ModularLayer):
    """A table of vectors; what it reads are their numbers."""

    def change(self, module: int, values: Tensor, found: Tensor) -> Tensor | None:
        change = self.read(module, "weight")
        if isinstance(change, LowRankChange):
            return F.linear(F.embedding(values, change.up), change.down.T)
        return None if change is None else F.embedding(values, change.values)


class NormLayer(ModularLayer):
    """Normalisation of layers or of groups of channels, whose scale and shift change."""

    def change(self, module: int, values: Tensor, found: Tensor) -> Tensor | None:
        layer = self.base
        scale, shift = self.whole(module, "weight"), self.whole(module, "bias")
        if scale is None and shift is None:
            return None
        made = torch.zeros_like(found)
        if isinstance(layer, nn.GroupNorm):  # channels are the second dimension
            scale, shift = (None if t is None else t.view(-1, *[1] * (found.dim() - 2)) for t in (scale, shift))
            if scale is not None:
                made = F.group_norm(values, layer.num_groups, None, None, layer.eps) * scale
        elif scale is not None:
            layer = cast(nn.LayerNorm, layer)
            made = F.layer_norm(values, layer.normalized_shape, None, None, layer.eps) * scale
        return made if shift is None else made + shift


def _places(weights: Tensor, values: Tensor) -> Tensor:
    """Weights with as many dimensions as what they weigh."""
    return weights.view(len(weights), *[1] * (values.dim() - weights.dim()), *weights.shape[1:])


def layer_for(layer: nn.Module) -> type[ModularLayer] | None:
    """How a layer is computed with modules; None where rows of one pass cannot have different weights there."""
    if isinstance(layer, nn.Linear):
        return LinearLayer
    if isinstance(layer, nn.Conv2d) and layer.padding_mode == "zeros":
        return ConvolutionLayer
    if isinstance(layer, nn.Embedding) and layer.max_norm is None:
        return EmbeddingLayer
    if isinstance(layer, nn.LayerNorm | nn.GroupNorm):
        return NormLayer
    if type(layer).__name__ == "Conv1D" and getattr(layer, "nf", None) is not None:  # of transformers
        return FlippedLayer
    return None
