"""A merge as it will be done: which tensor of which file comes from what, by which parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from allround.checkpoints.header import SIZES
from allround.checkpoints.source import Source
from allround.checkpoints.weights import Weights
from allround.core import registry
from allround.core.entry import Entry
from allround.merging.recipe import Recipe

#: Bytes of a shard where the base's own files cannot be kept.
SHARD = 5_000_000_000


@dataclass(frozen=True)
class Item:
    """One tensor of the output.

    name: in its file. base: its name in the base; None where there is none, which counts as zeros. models: which
    model, and its name there. values: the method's parameters. copied: taken over from the base (-1) or a model.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    base: str | None
    models: tuple[tuple[int, str], ...]
    values: Mapping[str, Any] = field(default_factory=dict)
    copied: int | None = None


@dataclass(frozen=True)
class Shard:
    """One file of the output, by its path in the folder."""

    file: str
    items: tuple[Item, ...]
    metadata: Mapping[str, str]

    @property
    def bytes(self) -> int:
        return sum(bytes_of(item) for item in self.items)


@dataclass
class Plan:
    """Everything that a merge needs; it can be sent to another machine that sees the same files."""

    recipe: Recipe
    base: Source | None
    models: list[Source]
    shards: list[Shard]
    scope: str
    statistics: dict[str, list[Weights]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    #: What is called with the output folder, in order, when the weights and the base's other files lie in it.
    finish: list[Callable[[Path], None]] = field(default_factory=list)

    @property
    def entry(self) -> Entry:
        return registry.find("merge", self.recipe.method)

    @property
    def items(self) -> Iterable[Item]:
        return (item for shard in self.shards for item in shard.items)

    @property
    def bytes(self) -> int:
        """Of the output's weights."""
        return sum(shard.bytes for shard in self.shards)

    @property
    def own_values(self) -> dict[str, dict[str, Any]]:
        """The parameters of tensors that do not have those of the recipe."""
        entry = self.entry
        common = entry.resolve(self.recipe.values)
        merged = [item for item in self.items if item.copied is None]
        return {i.name: dict(i.values) for i in merged if entry.resolve(i.values) != common}

    def source(self, number: int) -> Source:
        """A model by its number, or the base by -1."""
        if number >= 0:
            return self.models[number]
        assert self.base is not None
        return self.base


@dataclass(frozen=True)
class Output:
    """A tensor that the merged model shall have, before it is known what the models hold.

    models: each model's name for it; None where a model has no part in it. dtype: None: the recipe's, else as its
    first input.
    """

    name: str
    file: str
    key: str
    base: str | None
    models: tuple[str | None, ...]
    values: Mapping[str, Any] | None = None
    dtype: str | None = None


def bytes_of(item: Item) -> int:
    size = SIZES[item.dtype]
    for length in item.shape:
        size *= length
    return size
