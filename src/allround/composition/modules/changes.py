"""What a module changes of its base, in a form that a layer can compute with: factors, or whole tensors."""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from allround.checkpoints.adapted import Adapted
from allround.checkpoints.adapter import Adapter
from allround.checkpoints.adapter_config import is_adapter
from allround.checkpoints.edits import Edit
from allround.checkpoints.header import FLOATS
from allround.checkpoints.replaced import REPLACED, Replaced
from allround.checkpoints.source import Source
from allround.checkpoints.weights import Weights
from allround.core.errors import AllroundError


class _Reading:
    """The files of modules that were read last. A process may hold some hundred open files, and a library more modules:
    those that were read longest ago are closed until they are read again."""

    MOST = 64

    def __init__(self) -> None:
        self._files: OrderedDict[int, weakref.ref[Weights]] = OrderedDict()
        self._lock = threading.Lock()

    def note(self, files: Weights) -> None:
        with self._lock:
            self._files[id(files)] = weakref.ref(files)
            self._files.move_to_end(id(files))
            while len(self._files) > self.MOST:
                _, oldest = self._files.popitem(last=False)
                if (found := oldest()) is not None:
                    found.release()


_reading = _Reading()


@dataclass(frozen=True)
class LowRankChange:
    """up @ down is added to a weight of the shape (out, in, *kernel).

    Shapes: down (rank, in * kernel), up (out, rank). factor: of DoRA, (out,): what the adapted weight is then
    multiplied by, row by row.
    """

    down: Tensor
    up: Tensor
    factor: Tensor | None = None

    @property
    def rank(self) -> int:
        return len(self.down)

    @property
    def numbers(self) -> int:
        return self.down.numel() + self.up.numel() + (0 if self.factor is None else self.factor.numel())

    def whole(self, weight: Tensor) -> Tensor:
        """The change of a weight as one tensor of its shape."""
        change = (self.up @ self.down).view(weight.shape)
        if self.factor is None:
            return change
        factor = self.factor.view(-1, *[1] * (weight.dim() - 1))
        return factor * change + (factor - 1) * weight


@dataclass(frozen=True)
class WholeChange:
    """values are added to a tensor of their shape."""

    values: Tensor

    @property
    def numbers(self) -> int:
        return self.values.numel()

    def whole(self, weight: Tensor) -> Tensor:
        return self.values


Change = LowRankChange | WholeChange


class Changes:
    """What one module changes of a base: for each of the base's stored tensors, a change. Read a tensor at a time.

    base: the base's weights. folder: an adapter of PEFT, a model that was tuned from the base, or the tensors of one
    that differ from the base's.
    Errors: modules that do not fit the base.
    """

    def __init__(self, base: Source, folder: Path) -> None:
        self.base, self.folder = base, folder
        self.tuned: Source
        if is_adapter(folder):
            self.tuned = Adapted(base, Adapter(folder))
            self.base = self.tuned.base_source  # with its output layer by itself, where the adapter changes that
        elif (folder / REPLACED).is_file():
            self.tuned = Replaced(base, folder / REPLACED)
            self.base = self.tuned.inner
        else:
            self.tuned = Weights(folder)
            _check_alike(base, self.tuned, folder)
        self._files().release()

    def _files(self) -> Weights:
        """Its own weights, not those of the base."""
        if isinstance(self.tuned, Adapted):
            return self.tuned.adapters[0].weights
        return self.tuned.weights if isinstance(self.tuned, Replaced) else cast(Weights, self.tuned)

    @property
    def extra(self) -> tuple[str, ...]:
        """The tensors that an adapter brings and the base lacks, such as a classifier: no change of the base."""
        return tuple(self.tuned.edits.extra) if isinstance(self.tuned, Adapted) else ()

    def __iter__(self) -> Iterator[str]:
        """The tensors of the base that may differ."""
        if isinstance(self.tuned, Adapted):
            extra = set(self.extra)
            yield from (name for name in self.tuned.edits if name not in extra)
        elif isinstance(self.tuned, Replaced):
            yield from self.tuned.weights
        else:
            yield from (name for name in self.base if self.base.dtype(name) in FLOATS)

    def get(self, name: str) -> Change | None:
        """The change of a tensor, in float32; None where it has none."""
        _reading.note(self._files())
        if isinstance(self.tuned, Adapted):
            edits = self.tuned.edits[name]
            if len(edits) == 1 and (found := self._factors(name, edits[0])) is not None:
                return found
        values = torch.empty(self.base.numel(name))
        base = self.base.read(name).float()
        self.tuned.change(name, 0, len(values), base, values)
        return WholeChange(values.view(self.base.shape(name))) if values.any() else None

    def _factors(self, name: str, edit: Edit) -> LowRankChange | None:
        """The factors of an edit; None where it has none that a layer computes with."""
        part = edit.factors
        if part is None or part.parameter or part.experts > 1:
            return None
        a, b = (edit.adapter.weights.get(key).float() for key in (part.a, part.b))
        down, up = a.reshape(part.rank, -1), part.scale * b.reshape(-1, part.rank)
        if part.flipped:  # the weight is (in, out)
            down, up = up.T.contiguous(), down.T.contiguous()
        if part.magnitude is None:
            return LowRankChange(down, up)
        if part.flipped:
            return None
        weight = self.base.get(name).float().reshape(len(up), -1)
        magnitude = edit.adapter.weights.get(part.magnitude).float().reshape(-1)
        return LowRankChange(down, up, magnitude / (weight + up @ down).norm(dim=1))


def _check_alike(base: Source, tuned: Source, folder: Path) -> None:
    """An error unless a model has the tensors of the base, in their shapes."""
    missing = [name for name in base if name not in tuned]
    others = [name for name in base if name in tuned and tuned.shape(name) != base.shape(name)]
    if missing or others:
        name = (others or missing)[0]
        words = f"has the shape {tuned.shape(name)}, and {base.shape(name)} in the base" if others else "is not in it"
        raise AllroundError(
            f"use the module {folder}",
            f"it was not tuned from this base: '{name}' {words}",
            "give modules that were tuned from the library's base",
        )


def stacked(changes: Mapping[int, LowRankChange], width: int | None = None) -> tuple[Tensor, Tensor]:
    """The factors of several low-rank changes of a weight as one: (sum of ranks, in) and (out, sum of ranks). width: a
    rank that smaller ones are filled up to with zeros."""
    downs, ups = [], []
    for one in changes.values():
        more = 0 if width is None else width - one.rank
        downs.append(torch.nn.functional.pad(one.down, (0, 0, 0, more)))
        ups.append(torch.nn.functional.pad(one.up, (0, more)))
    return torch.cat(downs), torch.cat(ups, 1)
