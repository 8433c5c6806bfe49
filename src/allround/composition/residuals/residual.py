"""The residual of one task, and the codec that it is read by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from allround.checkpoints.weights import Weights
from allround.composition.residuals.codec import Codec, DamagedResidual
from allround.core import registry
from allround.core.errors import AllroundError
from allround.core.reading import parse_json


class Residual:
    """The residual of one task in a file, read a weight at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        weights = Weights(path)
        try:
            name, values = weights.metadata["codec"], parse_json(weights.metadata["parameters"])
            if name not in registry.names("codec"):
                raise ValueError(f"the codec '{name}' is not one of {', '.join(registry.names('codec'))}")
            self.codec = make_codec(name, values)
        except (KeyError, TypeError, ValueError, AttributeError, AllroundError) as error:
            found = error.found if isinstance(error, AllroundError) else f"{type(error).__name__}: {error}"
            raise AllroundError(
                f"read the residual {path}",
                f"it does not say how to read it ({found})",
                "make the store again; if its codec is a plug-in: --plugin FILE",
            ) from error
        self.values = values
        self._weights = weights
        self._parts: dict[str, list[str]] = {}
        for full in weights:
            weight, _, part = full.rpartition(".")
            self._parts.setdefault(weight, []).append(part)

    def __iter__(self) -> Iterator[str]:
        """The names of the weights that it changes."""
        return iter(self._parts)

    def __contains__(self, name: object) -> bool:
        return name in self._parts

    def add(self, name: str, weight: Tensor, vector: Tensor | None) -> Tensor:
        """A weight (*s) with its residual added, computed in float32 or wider."""
        weight = weight.to(torch.promote_types(weight.dtype, torch.float32))
        if name not in self._parts:
            return weight
        parts = {part: self._weights.get(f"{name}.{part}") for part in self._parts[name]}
        try:
            return weight + self.codec.decode(parts, tuple(weight.shape), vector)
        except DamagedResidual as error:
            raise AllroundError(
                f"read the residual of '{name}' in {self.path}", f"it is damaged: {error}", "make the store again"
            ) from error


def make_codec(name: str, values: Mapping[str, object]) -> Codec:
    """A codec by its name and parameters."""
    entry = registry.find("codec", name)
    made: Codec = entry.load()(**entry.resolve(values))
    return made
