"""A model by the rows of another tokenizer: embeddings put together from its own rows and those of others."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from allround.checkpoints.header import torch_dtype
from allround.checkpoints.source import Source

if TYPE_CHECKING:
    from torch import Tensor

    from allround.checkpoints.source import Watch


@dataclass
class Table:
    """How a tensor is put together: rows of the model's own, rows of others (their mean), and filling at the end."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    own: np.ndarray
    others: Mapping[int, tuple[tuple[Source, str, int], ...]]
    filled: int
    filling: Tensor | None = None


class VocabularyView(Source):
    """A model by the rows of another tokenizer. Only the rows that are needed are read, whenever they are."""

    def __init__(self, inner: Source) -> None:
        self.inner = inner
        self.path = inner.path
        self._plain = copy.copy(inner)
        self.tables: dict[str, Table] = {}

    @property
    def watch(self) -> Watch | None:
        """As of any source; told what is merged, not what is read for it."""
        return self.inner.watch

    @watch.setter
    def watch(self, value: Watch | None) -> None:
        self.inner.watch = value

    @property
    def metadata(self) -> dict[str, str]:
        return getattr(self.inner, "metadata", None) or {}

    @property
    def files(self) -> list[Path]:
        return self.inner.files

    def __iter__(self) -> Iterator[str]:
        yield from self.inner
        yield from (name for name in self.tables if name not in self.inner)

    def __contains__(self, name: object) -> bool:
        return name in self.tables or name in self.inner

    def shape(self, name: str) -> tuple[int, ...]:
        return self.tables[name].shape if name in self.tables else self.inner.shape(name)

    def dtype(self, name: str) -> str:
        return self.tables[name].dtype if name in self.tables else self.inner.dtype(name)

    def announce(self, name: str) -> None:
        self.inner.announce(self.tables[name].name if name in self.tables else name)

    def change(self, name: str, start: int, stop: int, base: Tensor, out: Tensor) -> None:
        if name in self.tables:
            super().change(name, start, stop, base, out)
        else:
            self.inner.change(name, start, stop, base, out)

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        if name not in self.tables:
            return self.inner.read(name, start, stop)
        table = self.tables[name]
        width = math.prod(table.shape[1:])
        stop = math.prod(table.shape) if stop is None else stop
        first, last = start // max(width, 1), -(-stop // max(width, 1))
        values = self._rows(table, first, last, width).reshape(-1)[start - first * width : stop - first * width]
        if self.watch is not None:
            self.watch(name, start, values.contiguous())
        return values

    def _rows(self, table: Table, first: int, last: int, width: int) -> Tensor:
        import torch

        rows = torch.zeros(last - first, width, dtype=torch_dtype(table.dtype))
        end = min(last, table.filled)
        for start, stop, own in _runs(table.own, first, end):
            rows[start - first : stop - first] = self._plain.read(
                table.name, own * width, (own + stop - start) * width
            ).reshape(-1, width)
        for row in np.flatnonzero(table.own[first:end] < 0).tolist():
            parts = table.others.get(first + row, ())
            if parts:
                wide = torch.float64 if table.dtype == "F64" else torch.float32
                read = [source.read(name, at * width, (at + 1) * width).to(wide) for source, name, at in parts]
                rows[row] = torch.stack(read).mean(0)
        if last > table.filled:
            rows[max(table.filled - first, 0) :] = self._filling(table, width)
        return rows

    def _filling(self, table: Table, width: int) -> Tensor:
        """The mean of all rows of tokens."""
        import torch

        if table.filling is None:
            total = torch.zeros(width, dtype=torch.float64)
            for start in range(0, table.filled, 4096):
                total += self._rows(table, start, min(start + 4096, table.filled), width).double().sum(0)
            table.filling = (total / max(table.filled, 1)).to(torch_dtype(table.dtype))
        return table.filling


def _runs(own: np.ndarray, first: int, last: int) -> Iterator[tuple[int, int, int]]:
    """Stretches of rows that lie one after the other in the model, too: from, to, and where they begin there."""
    part = own[first:last]
    if not len(part):
        return
    cuts = [0, *(np.flatnonzero((np.diff(part) != 1) | (part[:-1] < 0)) + 1).tolist(), len(part)]
    for start, stop in pairwise(cuts):
        if part[start] >= 0:
            yield first + start, first + stop, int(part[start])
