"""What is computed of a module's change from its factors: its sketch, its norm, and how much it has of another's."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from allround.checkpoints.adapted import Adapted
from allround.checkpoints.replaced import Replaced
from allround.checkpoints.source import Source
from allround.checkpoints.write import as_bytes
from allround.composition.library.likeness import SIZE, Array, signs
from allround.composition.modules.changes import Change, Changes, LowRankChange, WholeChange

#: Elements of a tensor that are hashed at once.
_STEP = 1 << 22


@dataclass(frozen=True)
class Measured:
    """What a module's change is like: see `Card`."""

    ranks: tuple[int, ...]
    tensors: int
    numbers: int
    norm: float
    sketch: Array


def measure(changes: Changes) -> Measured:
    """Look at the whole change of a module, a tensor at a time; of a low-rank change only its factors are read."""
    ranks: set[int] = set()
    tensors = numbers = 0
    square = 0.0
    sketch = np.zeros((SIZE, SIZE), np.float64)
    for name in changes:
        change = changes.get(name)
        if change is None:
            continue
        tensors, numbers = tensors + 1, numbers + change.numbers
        if isinstance(change, LowRankChange):
            ranks.add(change.rank)
        square += inner(change, change, lambda name=name: changes.base.get(name).float())  # type: ignore[misc]
        sketch += sketched(name, change, changes.base)
    return Measured(tuple(sorted(ranks)), tensors, numbers, math.sqrt(max(0.0, square)), sketch.astype(np.float32))


def sketched(name: str, change: Change, base: Source) -> np.ndarray:
    """The sketch of one tensor's change, (SIZE, SIZE). base: is read where a DoRA scales it."""
    shape = base.shape(name)
    rows = shape[0] if shape else 1
    columns = math.prod(shape[1:])
    left, right = (torch.from_numpy(signs(name, axis, n)) for axis, n in enumerate((rows, columns)))
    if not isinstance(change, LowRankChange):
        found = left @ change.values.reshape(rows, columns) @ right.T
    elif change.factor is None:
        found = (left @ change.up) @ (change.down @ right.T)
    else:  # the change is factor * up down + (factor - 1) * weight
        found = ((left * change.factor) @ change.up) @ (change.down @ right.T)
        weight = base.get(name).float().reshape(rows, columns)
        found = found + (left * (change.factor - 1)) @ (weight @ right.T)
    return found.double().numpy() / SIZE


def inner(one: Change, other: Change, weight: Callable[[], Tensor]) -> float:
    """The sum of the products of two changes of one weight. weight: gives the weight, which DoRA scales."""
    low = [c for c in (one, other) if isinstance(c, LowRankChange) and c.factor is None]
    if len(low) == 2:
        first, second = low
        ups = first.up.double().T @ second.up.double()
        return float((ups * (first.down.double() @ second.down.double().T)).sum())
    if not low:
        return float((_whole(one, weight).double() * _whole(other, weight).double()).sum())
    (factors,) = low
    matrix = _whole(other if factors is one else one, weight).reshape(len(factors.up), -1).double()
    return float(((factors.up.double().T @ matrix) * factors.down.double()).sum())


def _whole(change: Change, weight: Callable[[], Tensor]) -> Tensor:
    return change.values if isinstance(change, WholeChange) else change.whole(weight())


def product(one: Changes, other: Changes) -> float:
    """The sum of the products of the changes of two modules of one base, from their factors."""
    theirs = set(other)
    total = 0.0
    for name in one:
        if name not in theirs:
            continue
        mine, its = one.get(name), other.get(name)
        if mine is not None and its is not None:
            total += inner(mine, its, lambda name=name: one.base.get(name).float())  # type: ignore[misc]
    return total


def content_of(changes: Changes) -> str:
    """A hash of what a module stores of its change: the same for the same factors or tensors, whatever the file."""
    digest = hashlib.sha256()

    def add(source: Source, key: str, *about: object) -> None:
        digest.update(repr((*about, source.dtype(key), source.shape(key))).encode())
        size = source.numel(key)
        for start in range(0, size, _STEP):
            digest.update(as_bytes(source.read(key, start, min(start + _STEP, size))))

    if isinstance(changes.tuned, Adapted):
        for name in sorted(changes.tuned.edits):
            for edit in changes.tuned.edits[name]:
                part = edit.factors
                how = None if part is None else (part.rank, part.scale, part.flipped, part.experts)
                for place, key in enumerate(edit.keys):
                    add(edit.adapter.weights, key, name, place, how, edit.scale)
    elif isinstance(changes.tuned, Replaced):
        for name in sorted(changes.tuned.weights):
            add(changes.tuned.weights, name, name)
    return digest.hexdigest()
