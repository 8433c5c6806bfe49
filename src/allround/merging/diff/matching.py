"""Which tensors of the models belong together, and which do not fit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from allround.checkpoints.adapted import Adapted
from allround.checkpoints.header import FLOATS
from allround.checkpoints.source import Source
from allround.merging.diff.changes import KINDS
from allround.merging.diff.stretches import stretches
from allround.merging.names import Names


class Match(NamedTuple):
    """A tensor of the base, and its name in each model (by number) that has it."""

    name: str
    present: dict[int, str]


class Unlike(NamedTuple):
    """What differs besides weights, with its value in models (by number) and in the base; None: absent."""

    what: str
    name: str
    models: dict[int, str | None]
    base: str | None = None


@dataclass(frozen=True)
class Matches:
    """weights: the tensors that are compared as weights. values: those of whole numbers. unlike: what does not fit."""

    weights: list[Match]
    values: list[Match]
    unlike: list[Unlike]


def match(base: Source, models: Sequence[Source]) -> Matches:
    """Which tensor of each model belongs to which of the base, and what does not fit."""
    names = [Names(base, model) for model in models]
    weights: list[Match] = []
    values: list[Match] = []
    found: dict[tuple[str, str], dict[int, str | None]] = {}
    used: set[tuple[int, str]] = set()
    for name in base:
        floating, present = base.dtype(name) in FLOATS, {}
        for number, model in enumerate(models):
            other = names[number].find(name)
            if other is None:
                if floating:
                    found.setdefault(("missing", name), {})[number] = None
                continue
            used.add((number, other))
            if model.shape(other) != base.shape(name):
                found.setdefault(("shape", name), {})[number] = str(list(model.shape(other)))
            elif floating and model.dtype(other) not in FLOATS:
                found.setdefault(("dtype", name), {})[number] = model.dtype(other)
            else:
                present[number] = other
                if floating and not isinstance(model, Adapted) and model.dtype(other) != base.dtype(name):
                    key = "dtype", f"weights that are {base.dtype(name)} in the base"
                    found.setdefault(key, {})[number] = model.dtype(other)
        if present and base.numel(name):
            (weights if floating else values).append(Match(name, present))
    for number, model in enumerate(models):
        for name in model:
            if (number, name) in used or model.dtype(name) not in FLOATS or names[number].is_tied(name):
                continue
            found.setdefault(("extra", name), {})[number] = str(list(model.shape(name)))
    ordered = sorted(found.items(), key=lambda item: KINDS.index(item[0][0]))
    unlike = [
        Unlike(what, name, values_of, str(list(base.shape(name))) if what == "shape" else None)
        for (what, name), values_of in ordered
    ]
    return Matches(weights, values, unlike)


def compare_values(base: Source, models: Sequence[Source], values: Iterable[Match]) -> Iterator[Unlike]:
    """Tensors of whole numbers (and of float8): the same bytes, or not."""
    for name, present in values:
        differ: dict[int, str | None] = {}
        for number, other in present.items():
            model = models[number]
            same = model.dtype(other) == base.dtype(name)
            for start, stop in stretches(base.numel(name), 1 << 20):
                same = same and torch.equal(
                    base.read(name, start, stop).view(torch.uint8),
                    model.read(other, start, stop).view(torch.uint8),
                )
            if not same:
                kind = model.dtype(other)
                differ[number] = "other values" if kind == base.dtype(name) else kind
        if differ:
            alike = set(differ.values()) == {"other values"}
            yield Unlike("values", name, differ, None if alike else base.dtype(name))
