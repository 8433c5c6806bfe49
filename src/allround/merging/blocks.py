"""One tensor of the base and of all models, read in blocks: the base, and the changes from it."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass

import torch
from torch import Tensor

from allround.checkpoints.finite import count_odd, odd_words
from allround.checkpoints.header import torch_dtype
from allround.core.errors import AllroundError
from allround.merging.plan import Item, Plan

#: Elements of all models in one block: few enough for the processor's cache, enough to be worth the calls.
_BLOCK = 1 << 20
#: Numbers of a weight, its base and its changes, that a thread keeps while it goes over them several times (128 MiB of
#: float32); larger weights are read anew each time.
_KEPT = 1 << 25


@dataclass(frozen=True)
class Block:
    start: int
    stop: int
    shape: tuple[int, ...]


def block_length(models: int, device: str) -> int:
    """How many elements of a weight make a block, for a number of models."""
    length = max(1 << 14, min(1 << 18, _BLOCK // max(1, models)))
    return length if device == "cpu" else 64 * length


def cut(shape: tuple[int, ...], models: int, over: str, device: torch.device) -> list[Block]:
    """Cut a tensor as its method allows: anywhere, between rows, or not at all. Depends on nothing else."""
    size, length = math.prod(shape), block_length(models, device.type)
    if over == "tensor" or (over == "row" and len(shape) < 2) or size <= length:
        return [Block(0, size, shape)]
    if over == "row":
        row = size // shape[0]
        rows = max(1, length // row)
        return [
            Block(first * row, min(first + rows, shape[0]) * row, (min(first + rows, shape[0]) - first, *shape[1:]))
            for first in range(0, shape[0], rows)
        ]
    return [Block(s, min(s + length, size), (min(s + length, size) - s,)) for s in range(0, size, length)]


class Reader:
    """Reads the blocks of one output tensor as a method wants them: base, and changes from it."""

    #: Buffers of each thread, for one block after the other: getting them anew from the system takes long.
    _buffers = threading.local()

    def __init__(self, plan: Plan, item: Item, device: torch.device, *, again: bool = False) -> None:
        """again: blocks will be read more than once; they are kept where they are few enough."""
        self.plan, self.item, self.device = plan, item, device
        size = math.prod(item.shape) * (len(item.models) + 1)
        self.kept: dict[int, tuple[Tensor, Tensor, Tensor | None, Tensor | None]] | None = (
            {} if again and size <= _KEPT else None
        )
        #: The sum of each block's changes, by where it begins: whether they are finite, and whether there are any.
        self.totals: dict[int, float] = {}
        names = [plan.source(n).dtype(name) for n, name in item.models]
        names += [plan.source(-1).dtype(item.base)] if item.base is not None else []
        self.dtype = torch.float64 if "F64" in names else torch.float32
        self.round_to = torch_dtype(plan.recipe.round_to) if plan.recipe.round_to else None

    def read(self, block: Block) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """The base (*s) and the changes (k, *s) in the dtype that is computed in, the base as it is stored, and which
        of its entries are not finite and the same in all models (masks hold such): these count as zeros, unchanged.

        Errors: any other entry that is not finite.
        """
        if self.kept is not None and block.start in self.kept:
            return self.kept[block.start]
        item, count = self.item, block.stop - block.start
        raw = None
        rows = len(item.models) + 1
        both = self._buffer(rows * block.start if self.kept is not None else 0, rows * count).view(-1, count)
        base, deltas = both[0], both[1:]
        if item.base is None:
            base.zero_()
        else:
            raw = self.plan.source(-1).read(item.base, block.start, block.stop)
            base.copy_(raw if self.round_to is None else raw.to(self.round_to))
        for row, (number, name) in zip(deltas, item.models, strict=True):
            source = self.plan.source(number)
            if self.round_to is None:
                source.change(name, block.start, block.stop, base, row)
            else:
                row.copy_(source.read(name, block.start, block.stop).to(self.round_to)).sub_(base)
                row.copy_(row.to(self.round_to))
        odd = None
        if block.start not in self.totals:  # the same in every pass
            self.totals[block.start] = float(deltas.sum())
        total = self.totals[block.start]
        if not math.isfinite(total) and not (finite := torch.isfinite(deltas).all(0)).all():
            odd = ~finite
            if raw is None or not self._unchanged(block, raw)[odd].all():
                raise self.not_finite()
            base[odd] = 0
            deltas[:, odd] = 0
        if self.device.type != "cpu":
            base, deltas = base.to(self.device), deltas.to(self.device)
        found = base.reshape(block.shape), deltas.reshape(len(deltas), *block.shape), raw, odd
        if self.kept is not None:
            self.kept[block.start] = found
        return found

    def _unchanged(self, block: Block, raw: Tensor) -> Tensor:
        """Which entries are the base's in all models, to the bit."""
        same = torch.ones(len(raw), dtype=torch.bool)
        for number, name in self.item.models:
            other = self.plan.source(number).read(name, block.start, block.stop)
            if other.dtype != raw.dtype:
                return torch.zeros_like(same)
            same &= (other.view(torch.uint8) == raw.view(torch.uint8)).view(len(raw), -1).all(1)
        return same

    def _buffer(self, start: int, count: int) -> Tensor:
        """Room for `count` numbers from `start` on, until this thread's next block, or its next weight where blocks are
        kept. Large tensors that come whole get their own."""
        if self.kept is None and count > 2 * _BLOCK:
            return torch.empty(count, dtype=self.dtype)
        least = count if self.kept is None else math.prod(self.item.shape) * (len(self.item.models) + 1)
        room: Tensor | None = getattr(self._buffers, "room", None)
        if room is None or room.dtype != self.dtype or len(room) < least:
            room = self._buffers.room = torch.empty(max(least, _BLOCK + _BLOCK // 4), dtype=self.dtype)
        return room[start : start + count]

    def not_finite(self) -> AllroundError:
        asked = f"merge the tensor '{self.item.name}'"
        parts = [(-1, self.item.base)] if self.item.base is not None else []
        for number, name in [*parts, *self.item.models]:
            source = self.plan.source(number)
            assert name is not None
            if count_odd(values := source.read(name)):
                who = f"the base {source.path}" if number < 0 else str(source.path)
                do = "use a base that is whole" if number < 0 else "leave that specialist out, or tune it again"
                return AllroundError(asked, f"{who} holds {odd_words(values)}", do)
        return AllroundError(asked, "the changes are too large to compute with", "check the checkpoints")
