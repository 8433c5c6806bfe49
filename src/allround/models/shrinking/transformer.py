"""Layers and feed-forward units of transformers: finding them, and removing them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from allround.core.errors import AllroundError
from allround.models.shrinking.anatomy import LAYERS, Anatomy, Group, Kept, cut, kept_of

#: Settings that say how many units a feed-forward network has.
_UNITS = ("intermediate_size", "hidden_dim", "ffn_dim", "d_ff")


@dataclass(frozen=True)
class _Layers:
    """The layers of a network. fixed: numbers in the matrices of a layer, without its units; unit: of one of them."""

    name: str
    modules: nn.ModuleList
    units: tuple[Group, ...]
    fixed: int
    unit: int


def anatomy_of(network: nn.Module, tokens: float) -> Anatomy:
    """The layers of a network of transformers and, where they can be told, the units of each.

    tokens: of a row, on average; its work is that of the layers' matrix products and of attention. Heads are no parts:
    `BertConfig` and its like have no size of a head, so that a network with fewer could not be loaded.
    Errors: a network without layers in a list.
    """
    found, width = _layers_of(network), int(network.config.hidden_size)  # type: ignore[union-attr, arg-type]
    count = len(found.modules)
    paths = tuple(f"{found.name}.{number}" for number in range(count))

    def work(kept: Kept) -> float:
        layers = kept.get(LAYERS, tuple(range(count)))
        attention = 2 * tokens**2 * width
        units = {one.layer: len(kept_of(one, kept)) for one in found.units}
        return sum(tokens * (found.fixed + found.unit * units.get(layer, 0)) + attention for layer in layers)

    return Anatomy((Group(LAYERS, count, paths), *found.units), work)


def remove(network: nn.Module, kept: Kept) -> None:
    """Remove layers and units in place, and say so in the network's configuration."""
    found, config = _layers_of(network), network.config
    layers = kept.get(LAYERS, tuple(range(len(found.modules))))
    count = None
    for group in found.units:
        if group.layer in layers and group.name in kept:
            cut(network, group, kept[group.name])
            count = len(kept[group.name])
    if count is not None:
        setattr(config, _units_setting(config), count)
    parent, _, name = found.name.rpartition(".")
    setattr(network.get_submodule(parent), name, nn.ModuleList(found.modules[number] for number in layers))
    for number, layer in enumerate(network.get_submodule(found.name).children()):
        for module in layer.modules():
            if isinstance(getattr(module, "layer_idx", None), int):
                module.layer_idx = number  # type: ignore[assignment]
    for key, value in config.to_dict().items():  # type: ignore[union-attr, operator]
        if isinstance(value, list) and "layer" in key and len(value) == len(found.modules):
            setattr(config, key, [value[number] for number in layers])
    config.num_hidden_layers = len(layers)  # type: ignore[union-attr]


def _layers_of(network: nn.Module) -> _Layers:
    config: Any = network.config
    count = getattr(config, "num_hidden_layers", None)
    lists = [(n, m) for n, m in network.named_modules() if isinstance(m, nn.ModuleList) and len(m) == count]
    if not lists:
        raise AllroundError(
            "remove layers of the network",
            f"its layers are no list of {count} of which each has its own weights",
            "use a base of another architecture, such as BERT",
        )
    name, modules = lists[0]
    units = [_units_of(name, number, layer, config) for number, layer in enumerate(modules)]
    known = [one for one in units if one is not None]
    if len(known) < len(units):
        known = []
    fixed, unit = sum(one.weight.numel() for one in _linear(modules[0])), 0
    if known:
        matrices = [network.get_submodule(path).weight for path in (*known[0].reads, *known[0].writes)]
        unit = sum(weight.numel() for weight in matrices if isinstance(weight, Tensor)) // known[0].count
        fixed -= unit * known[0].count
    return _Layers(name, modules, tuple(known), fixed, unit)


def _units_of(name: str, number: int, layer: nn.Module, config: Any) -> Group | None:
    """The units of a layer: what one linear layer reads, and one or two (with a gate) of that size write."""
    size, width = getattr(config, _units_setting(config), None), config.hidden_size
    if not isinstance(size, int) or size == width:
        return None
    linear = {n: m for n, m in layer.named_modules() if isinstance(m, nn.Linear)}
    path = f"{name}.{number}"
    reads = tuple(f"{path}.{n}" for n, m in linear.items() if m.in_features == size)
    writes = tuple(f"{path}.{n}" for n, m in linear.items() if m.out_features == size)
    if len(reads) != 1 or len(writes) not in (1, 2):
        return None
    return Group(f"units.{number}", size, reads, writes, number, "units")


def _units_setting(config: Any) -> str:
    return next((name for name in _UNITS if hasattr(config, name)), "")


def _linear(layer: nn.Module) -> Iterator[nn.Linear]:
    return (m for m in layer.modules() if isinstance(m, nn.Linear))


def even(count: int, kept: int) -> Sequence[int]:
    """Every so manieth layer, the first among them.

    >>> even(6, 3), even(12, 4), even(6, 4)
    ([0, 2, 4], [0, 3, 6, 9], [0, 1, 3, 4])
    """
    return [number * count // kept for number in range(kept)]
