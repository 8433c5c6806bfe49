"""Modules beside a layer of the encoder: what a row gets from them depends on its task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from allround.models.share.mixture import Mixture


class Route:
    """The tasks of the rows of the batch that the encoder computes now: one for all, or one for each. off: the encoder
    computes as if nothing were put into it. bare: so it does for tasks without a gate of their own."""

    def __init__(self) -> None:
        self.tasks: tuple[str, ...] = ()
        self.off = self.bare = False

    def passes(self, mixture: Mixture, task: str) -> bool:
        """Whether a task reads a layer as it is."""
        return self.bare and task not in mixture.gates

    def groups(self, rows: int) -> list[tuple[str, list[int]]]:
        """The tasks, and the places of their vectors where the first dimension has `rows` of them.

        An encoder may read a row in several parts (the texts of a pair): first the first part of all rows, and so on.
        """
        names = self.tasks * (rows // len(self.tasks))
        return [(task, [n for n, other in enumerate(names) if other == task]) for task in dict.fromkeys(names)]


class Replaced(nn.Module):
    """What stands in the place of a layer, and holds it."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.base = layer

    @property
    def weight(self) -> Tensor:  # some networks look at the weight of a layer, for its dtype
        return cast(Tensor, self.base.weight)


class Inserted(Replaced):
    """A layer with modules beside it, whose mix is added to what it gives.

    mixture: is a part of the encoder that shares, and not of this module. reads: whether the modules read what the
    layer reads ("input"), or what it gives ("output").
    """

    def __init__(self, layer: nn.Module, mixture: Mixture, route: Route, reads: str) -> None:
        super().__init__(layer)
        self._apart = (mixture, route)
        self.reads = reads

    def forward(self, values: Tensor) -> Tensor:
        found: Tensor = self.base(values)
        mixture, route = self._apart
        if all(route.passes(mixture, task) for task in route.tasks):
            return found
        read = _vectors(self.base, values) if self.reads == "input" else _last(self.base, found)
        return found + _first(self.base, routed(mixture, route, read), found)


def routed(mixture: Mixture, route: Route, read: Tensor) -> Tensor:
    """What a mixture makes of vectors, (rows, *, width), for the task of each row."""
    if len(route.tasks) == 1:
        return mixture.mixed(read, route.tasks[0])
    found = read.new_zeros(*read.shape[:-1], mixture.outputs)
    for task, places in route.groups(len(read)):
        if route.passes(mixture, task):
            continue
        rows = torch.tensor(places, device=read.device)
        found = found.index_copy(0, rows, mixture.mixed(read[rows], task).to(found.dtype))
    return found


def sizes(layer: nn.Module) -> tuple[int, int]:
    """How many numbers a linear or convolution layer reads for each of its outputs, and how many it gives."""
    if isinstance(layer, nn.Conv2d):
        return layer.in_channels // layer.groups * layer.kernel_size[0] * layer.kernel_size[1], layer.out_channels
    assert isinstance(layer, nn.Linear)
    return layer.in_features, layer.out_features


def _vectors(layer: nn.Module, values: Tensor) -> Tensor:
    """What a layer reads, as vectors: (n, channels, h, w) -> (n, places, channels * kernel)."""
    if not isinstance(layer, nn.Conv2d):
        return values
    return F.unfold(
        values, layer.kernel_size, cast(int, layer.dilation), cast(int, layer.padding), cast(int, layer.stride)
    ).transpose(1, 2)


def _last(layer: nn.Module, values: Tensor) -> Tensor:
    """What a layer gives, as vectors: (n, channels, h, w) -> (n, places, channels)."""
    return values.flatten(2).transpose(1, 2) if isinstance(layer, nn.Conv2d) else values


def _first(layer: nn.Module, values: Tensor, like: Tensor) -> Tensor:
    """Vectors as the layer gives its own."""
    return values.transpose(1, 2).reshape(like.shape) if isinstance(layer, nn.Conv2d) else values


def replace_module(root: nn.Module, name: str, module: nn.Module) -> None:
    """Put a module in the place of the one of that name."""
    parent, _, last = name.rpartition(".")
    setattr(root.get_submodule(parent), last, module) if not last.isdigit() else _set(root, parent, last, module)


def _set(root: nn.Module, parent: str, last: str, module: nn.Module) -> None:
    root.get_submodule(parent)._modules[last] = module


def attach(backbone: nn.Module, made: dict[str, Replaced], names: Sequence[str]) -> None:
    """Put inserted layers in the places of those that they hold."""
    for name in names:
        replace_module(backbone, name, made[name])
