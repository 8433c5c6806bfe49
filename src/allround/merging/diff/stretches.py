"""Reading the base and the changes of one tensor, a stretch at a time."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from allround.checkpoints.source import Source
from allround.core.errors import AllroundError
from allround.merging.diff.changes import HELD


class Stretches:
    """Reads the base and the changes of one tensor."""

    def __init__(
        self, base: Source, models: list[Source], labels: list[str], name: str, present: Mapping[int, str]
    ) -> None:
        self.base, self.labels, self.name = base, labels, name
        self.others = [(number, models[number], other) for number, other in present.items()]
        dtypes = [base.dtype(name), *(source.dtype(other) for _, source, other in self.others)]
        self.dtype = torch.float64 if "F64" in dtypes else torch.float32
        #: Whether anything in it is not finite, or too large for its squares to be.
        self.odd = False

    def read(self, start: int, stop: int) -> Tensor:
        """The base, and each model's change: (k + 1, stop - start)."""
        rows = torch.empty(len(self.others) + 1, stop - start, dtype=self.dtype)
        rows[0].copy_(self.base.read(self.name, start, stop))
        for row, (_, source, other) in zip(rows[1:], self.others, strict=True):
            source.change(other, start, stop, rows[0], row)
        return rows

    def repaired(self, start: int, stop: int) -> Tensor:
        """The same in float64, zero where the base and all models hold the same NaN or infinity."""
        self.odd = True
        base = self.base.read(self.name, start, stop).double()
        rows = [base, *(source.read(other, start, stop).double() for _, source, other in self.others)]
        for number, row in zip([-1, *(n for n, _, _ in self.others)], rows, strict=True):
            same = row == base
            if not (same | (row.isnan() & base.isnan()) | (row.isfinite() & base.isfinite())).all():
                whole = bool(base.isfinite()[~same & ~row.isfinite()].any())
                who, do = self.labels[number + 1], "leave that model out, or tune it again"
                if not whole:
                    who, do = f"the base {self.labels[0]}", "use a base that is whole"
                raise AllroundError(
                    f"compare the tensor '{self.name}' with the base's", f"{who} holds NaN or infinity there", do
                )
        finite = base.isfinite()
        kept = torch.where(finite, torch.stack(rows), 0)
        kept[1:] -= kept[:1]
        return kept

    def spectrum(self, row: int, shape: tuple[int, ...], scale: float) -> tuple[float, int]:
        """The effective rank of one model's change of a matrix, and how many singular values hold most of it."""
        _, source, other = self.others[row]
        high, wide = shape
        dtype = torch.float64 if min(shape) <= 512 else self.dtype
        step = max(1, (1 << 22) // wide) if wide <= high else high
        gram = torch.zeros(min(shape), min(shape), dtype=dtype)
        for start in range(0, high, step):
            stop = min(start + step, high)
            base = self.base.read(self.name, start * wide, stop * wide).to(self.dtype)
            change = torch.empty_like(base)
            source.change(other, start * wide, stop * wide, base, change)
            change = (change / scale).to(dtype).reshape(stop - start, wide)
            gram.addmm_(*((change.T, change) if wide <= high else (change, change.T)))
        squares = torch.linalg.eigvalsh(gram).double().flip(0)
        # What is below the rounding of the sums is none.
        squares[squares < squares[0] * len(squares) * torch.finfo(dtype).eps] = 0
        shares = squares / squares.sum()
        rank = math.exp(float(torch.special.entr(shares).sum()))
        return rank, int((shares.cumsum(0) < HELD - 1e-6).sum()) + 1


def stretches(size: int, length: int) -> list[tuple[int, int]]:
    return [(start, min(start + length, size)) for start in range(0, size, length)]
