"""Layers of the output of a recipe of mergekit's, and what they are merged from."""

from __future__ import annotations

from dataclasses import dataclass

from allround.merging.mergekit.values import Settings
from allround.merging.recipe import Model


@dataclass(frozen=True)
class Part:
    """An input of a slice. layers: of this model, from and to; None: all."""

    model: Model
    parameters: Settings
    layers: tuple[int, int] | None = None


@dataclass(frozen=True)
class Slice:
    """Layers of the output that are merged from the same inputs."""

    parts: tuple[Part, ...]
    base: Model | None
    parameters: Settings
