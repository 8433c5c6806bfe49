"""The stacks of layers of a model, by its weights' names and its configuration."""

from __future__ import annotations

import re
from dataclasses import dataclass

from allround.checkpoints.source import Source
from allround.checkpoints.tied import config_of
from allround.core.errors import AllroundError

#: What a configuration calls its number of layers.
_LAYER_COUNTS = (
    *("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers"),
    *("num_decoder_layers", "depth"),
)
_LAYER = re.compile(r"\.(\d+)\.")


@dataclass(frozen=True)
class Place:
    """Where a weight lies: in which stack of layers and at which, and what follows its number; or outside of them."""

    stack: str = ""
    layer: int = -1
    rest: str = ""


class Stacks:
    """The stacks of layers of a model, by its weights' names and its configuration."""

    def __init__(self, source: Source) -> None:
        self.source = source
        counts: dict[str, int] = {}
        for name in source:
            if match := _LAYER.search(name):
                counts[name[: match.start()]] = max(counts.get(name[: match.start()], 0), int(match.group(1)) + 1)
        self.config = config_of(source)
        parts = {"": self.config, **{k: part for k, part in self.config.items() if isinstance(part, dict)}}
        self.keys = {
            f"{part}.{key}".lstrip("."): about[key]
            for part, about in parts.items() for key in _LAYER_COUNTS if type(about.get(key)) is int
        }  # fmt: skip
        trusted = {stack: count for stack, count in counts.items() if count in self.keys.values()}
        self.counts = trusted or counts

    def place(self, name: str) -> Place:
        match = _LAYER.search(name)
        if match and name[: match.start()] in self.counts:
            return Place(name[: match.start()], int(match.group(1)), name[match.end() :])
        return Place()

    def t(self, name: str) -> float:
        """How far up in its stack a weight lies, from 0 to 1; outside of the layers 0."""
        place = self.place(name)
        if place.layer < 0:
            return 0.0
        return height(place.layer, self.counts[place.stack])

    def main(self, asked: str) -> str:
        """The stack that slices are of."""
        stacks = [stack for stack in self.counts if not re.search("vis|image|audio", stack)]
        if len(stacks) != 1:
            found = f"{len(stacks)} stacks of layers: {', '.join(sorted(stacks))}" if stacks else "no layers"
            raise AllroundError(asked, f"{self.source.path} has {found}", "slices are for models with one stack")
        return stacks[0]

    def main_keys(self, stack: str) -> list[str]:
        """The keys of the configuration that hold the number of a stack's layers."""
        found = [key for key, value in self.keys.items() if value == self.counts[stack]]
        return [key for key in found if not re.search("vis|image|audio", key)]


def height(layer: int, layers: int) -> float:
    return layer / (layers - 1) if layers > 1 else 1.0
