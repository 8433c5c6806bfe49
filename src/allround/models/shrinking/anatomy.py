"""The parts of a network that can be removed, and how much work it then has."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn

from allround.core.errors import AllroundError

#: By group, the numbers of the parts that stay, ascending; a group without an entry keeps all.
Kept: TypeAlias = Mapping[str, tuple[int, ...]]
#: The group of whole layers.
LAYERS = "layers"


@dataclass(frozen=True)
class Group:
    """Parts of one sort, of which some can be removed: all layers, the units of a layer, the channels of a convolution.

    reads: the modules that read the parts; of `layers`, the layers themselves. writes: the modules that compute them.
    layer: the number of the layer that they lie in. together: groups of one such name keep equally many parts each.
    """

    name: str
    count: int
    reads: tuple[str, ...]
    writes: tuple[str, ...] = ()
    layer: int | None = None
    together: str | None = None


@dataclass(frozen=True)
class Anatomy:
    """The groups of a network, and its work: multiply-adds of a row with what is kept, `work({})` with all."""

    groups: tuple[Group, ...]
    work: Callable[[Kept], float]

    @property
    def layers(self) -> Group | None:
        """The group of layers, where whole layers can be removed."""
        return next((one for one in self.groups if one.name == LAYERS), None)

    def units(self, kept: Kept | None = None) -> list[Group]:
        """All other groups, without those in layers that are removed."""
        gone = self._gone(kept) if kept and LAYERS in kept else set()
        return [one for one in self.groups if one.name != LAYERS and one.layer not in gone]

    def share(self, kept: Kept) -> float:
        """The work with what is kept, as a share of all."""
        return self.work(kept) / self.work({})

    def _gone(self, kept: Kept) -> set[int]:
        assert self.layers is not None
        return set(range(self.layers.count)) - set(kept[LAYERS])

    def check(self, kept: Kept) -> None:
        """An error where something is to be kept that is not there, or nothing of a group."""
        asked, sizes = "remove parts of a network", {one.name: one.count for one in self.groups}
        for name, parts in kept.items():
            if name not in sizes:
                raise AllroundError(asked, f"it has no group '{name}'", f"use one of: {', '.join(sizes)}")
            ordered = list(parts) == sorted(set(parts))
            if not parts or not ordered or not 0 <= parts[0] <= parts[-1] < sizes[name]:
                raise AllroundError(asked, f"{len(parts)} parts of the {sizes[name]} in '{name}' are to be kept",
                                    "keep at least one, each once, in their order")  # fmt: skip
        for together in {one.together for one in self.groups} - {None}:
            alike = [len(kept_of(one, kept)) for one in self.units(kept) if one.together == together]
            if len(set(alike)) > 1:
                raise AllroundError(asked, f"groups that must be alike keep {min(alike)} to {max(alike)} parts",
                                    "keep as many in each")  # fmt: skip


def kept_of(group: Group, kept: Kept) -> tuple[int, ...]:
    """The parts of a group that stay."""
    return tuple(kept.get(group.name, range(group.count)))


def entries(parts: Iterable[int], count: int, size: int) -> Tensor:
    """The places of parts in a dimension of `size` entries that holds `count` parts, one after the other.

    >>> entries([0, 2], 3, 6).tolist()
    [0, 1, 4, 5]
    """
    wide = size // count
    return torch.tensor([part * wide + place for part in parts for place in range(wide)])


def cut(network: nn.Module, group: Group, parts: Sequence[int]) -> None:
    """Remove all but some parts of a group of units or channels, in place: rows of what writes them, and columns of
    what reads them."""
    for name in group.writes:
        module = network.get_submodule(name)
        _slice(module, 0, entries(parts, group.count, len(_weight(module))))
        if isinstance(module, nn.GroupNorm):
            module.num_groups = module.num_groups * len(parts) // group.count
            module.num_channels = len(_weight(module))
        if isinstance(module, nn.LayerNorm):
            module.normalized_shape = (len(_weight(module)),)
    for name in group.reads:
        module = network.get_submodule(name)
        _slice(module, 1, entries(parts, group.count, _weight(module).shape[1]))


def sliced(network: nn.Module, groups: Sequence[Group], kept: Kept) -> dict[str, Tensor]:
    """The weights, by name, that `cut` would leave of what writes and reads some groups; gradients pass to the whole
    ones."""
    own = dict(network.named_parameters())
    found: dict[str, Tensor] = {}
    for group in groups:
        parts = kept_of(group, kept)
        for dim, names, kinds in ((0, group.writes, ("weight", "bias")), (1, group.reads, ("weight",))):
            for key in (f"{name}.{kind}" for name in names for kind in kinds):
                if key in own:
                    old = found.get(key, own[key])
                    found[key] = old.index_select(dim, entries(parts, group.count, old.shape[dim]).to(old.device))
    return found


@torch.no_grad()
def put_in_order(network: nn.Module, group: Group, order: Sequence[int]) -> None:
    """Put the parts of a group into another order, in place: what the network computes stays as it is."""
    for name, value in sliced(network, [group], {group.name: tuple(order)}).items():
        network.get_parameter(name).copy_(value)


def _weight(module: nn.Module) -> Tensor:
    found = module.weight
    assert isinstance(found, Tensor)
    return found


def _slice(module: nn.Module, dim: int, places: Tensor) -> None:
    """Keep some rows (dim 0, biases too) or columns (dim 1) of a module's weight."""
    places = places.to(_weight(module).device)
    for name in ("weight", "bias") if dim == 0 else ("weight",):
        old = getattr(module, name)
        if old is not None:
            new = old.detach().index_select(dim, places).clone()
            setattr(module, name, nn.Parameter(new, requires_grad=old.requires_grad))
    names = {nn.Linear: ("out_features", "in_features"), nn.Conv2d: ("out_channels", "in_channels")}
    for kind, sizes in names.items():
        if isinstance(module, kind):
            setattr(module, sizes[dim], len(places))
