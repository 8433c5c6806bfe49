"""What a merge method may ask about a whole weight while it is given one block of it.

A method is straight-line maths on `base` and `deltas`. Weights are large, so the engine gives it one block after the
other. What is not local to a block (a norm, the size of the largest tenth) the method asks of `whole`, and goes on as
if the answer were there:

    cut = whole.cut(deltas, counts)
    norms = whole.sum(deltas.square().sum(1)).sqrt()

Called by hand, the block is the whole, and the answer is computed on the spot. In the engine, the first such question
ends the call for this block; when every block has given its part, the method is called again with the answer. The
same code so merges a tensor within a few megabytes, or takes its numbers over all tensors of the model
(`scope="model"`), without knowing of either.
"""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from allround.core.errors import AllroundError
from allround.merging import kernels

#: Fewer entries than these are sorted: a histogram takes longer.
_FEW = 1 << 15

Counts = Sequence[int] | Sequence[Sequence[int]]


class Whole:
    """The whole of a weight, when the block is all of it."""

    #: Which weight this is, for numbers drawn at random: its name's hash, and where the block begins in it.
    key = 0
    start = 0

    def size(self, base: Tensor) -> int:
        """How many elements the whole has; of its block, for a method called by hand."""
        return base.numel()

    def sum(self, part: Tensor) -> Tensor:
        """The sum over all blocks of what this block adds. Any shape; it must be small, and the same for all blocks."""
        return part

    def max(self, part: Tensor) -> Tensor:
        """The largest over all blocks, elementwise."""
        return part

    def tensors(self, part: Tensor) -> tuple[Tensor, Tensor]:
        """What each tensor of the whole adds up to: this one, and all of them. part: what this block adds.

        Shapes: part (*s) -> (*s), (number of tensors, *s)
        """
        return part, part[None]

    def cut(self, values: Tensor, counts: Counts) -> Tensor:
        """The magnitude of the count-th largest entry of each row: the least of those that a selection keeps.

        Shapes: values (k, *s), taken without their signs; counts (k,) or (c, k), each at least 1 -> like counts.
        """
        rows = values.reshape(len(values), -1)
        if rows.dtype != torch.float32 or rows.shape[1] < _FEW:
            return _sorted_cut([rows], counts)
        found = _Cut(counts)
        while True:
            found.add(rows)
            answer = found.finish()
            if answer is not None:
                return answer

    def uniform(self, deltas: Tensor, seed: int) -> Tensor:
        """Numbers in [0, 1), one for each entry of deltas (k, *s): the same for the same weight, row, place and seed,
        whatever the block."""
        return kernels.uniform(deltas, self.key, self.start, seed)


#: The default of a method's `whole`: what it is given is everything.
WHOLE = Whole()


class NeedMore(Exception):
    """A method asked what cannot be answered before all blocks were seen."""


class Part(ABC):
    """What blocks add up to for one question."""

    @abstractmethod
    def add(self, value: Tensor) -> None:
        """Take in what one block adds."""

    @abstractmethod
    def join(self, other: Any) -> None:
        """Take in what other blocks added up to; always in the same order, so that rounding is the same."""

    @abstractmethod
    def fork(self) -> Part:
        """An empty part for the same question at the same stage."""

    @abstractmethod
    def finish(self) -> Tensor | None:
        """The answer, or None when all blocks must be seen once more (with what was learned so far)."""


class _Sum(Part):
    def __init__(self) -> None:
        self.total: Tensor | None = None
        self.dtype = torch.float32

    def add(self, value: Tensor) -> None:
        self.dtype = value.dtype
        wide = value.to(torch.float64, copy=True)
        self.total = wide if self.total is None else self.total.add_(wide)

    def join(self, other: _Sum) -> None:
        if other.total is not None:
            self.total = other.total if self.total is None else self.total.add_(other.total)
            self.dtype = other.dtype

    def fork(self) -> _Sum:
        return _Sum()

    def finish(self) -> Tensor | None:
        assert self.total is not None
        return self.total.to(self.dtype if self.dtype.is_floating_point else torch.float64)


class _Max(Part):
    def __init__(self) -> None:
        self.best: Tensor | None = None

    def add(self, value: Tensor) -> None:
        self.best = value.clone() if self.best is None else torch.maximum(self.best, value)

    def join(self, other: _Max) -> None:
        if other.best is not None:
            self.add(other.best)

    def fork(self) -> _Max:
        return _Max()

    def finish(self) -> Tensor | None:
        return self.best


class _Tensors(Part):
    """Sums of their own for each tensor, which are numbered from 0."""

    def __init__(self, tensor: int = 0) -> None:
        self.tensor = tensor
        self.sums: dict[int, _Sum] = {}

    def add(self, value: Tensor) -> None:
        self.sums.setdefault(self.tensor, _Sum()).add(value)

    def join(self, other: _Tensors) -> None:
        for tensor, one in other.sums.items():
            self.sums.setdefault(tensor, _Sum()).join(one)

    def fork(self) -> _Tensors:
        return _Tensors()

    def finish(self) -> Tensor | None:
        return torch.stack([total for n in range(len(self.sums)) if (total := self.sums[n].finish()) is not None])


class _Cut(Part):
    """The count-th largest of float32 magnitudes, exactly, from two passes: without its sign, the bits of a float are
    ordered as the float is, so a histogram of the upper half finds the bucket and one of the lower half the value."""

    def __init__(self, counts: Counts, buckets: Tensor | None = None, left: Tensor | None = None) -> None:
        self.counts = torch.as_tensor(counts, dtype=torch.int64)
        #: (c, k): the upper 16 bits of each answer, and how many of that bucket's entries it takes; once known.
        self.buckets, self.left = buckets, left
        self.histogram: Tensor | None = None
        self.device: torch.device | None = None

    def add(self, value: Tensor) -> None:
        rows = value.reshape(len(value), -1)
        self.device = value.device
        if self.histogram is None:
            shape = (len(rows), 1 << 15) if self.buckets is None else (*self.buckets.shape, (1 << 16) + 1, 4)
            self.histogram = torch.zeros(shape, dtype=torch.int64)
        kernels.count_bits(rows, self.histogram, self.buckets)

    def join(self, other: _Cut) -> None:
        if other.histogram is not None:
            self.histogram = other.histogram if self.histogram is None else self.histogram.add_(other.histogram)
            self.device = other.device

    def fork(self) -> _Cut:
        return _Cut(self.counts.tolist(), self.buckets, self.left)

    def finish(self) -> Tensor | None:
        assert self.histogram is not None
        counts = self.counts if self.counts.ndim == 2 else self.counts[None]
        if self.buckets is None:
            reached = self.histogram.flip(1).cumsum(1)  # (k, buckets): how many are in the top buckets
            found = torch.searchsorted(reached, counts.T.contiguous()).T  # (c, k)
            found = found.clamp(max=reached.shape[1] - 1)
            before = reached.gather(1, found.T).T - self.histogram.flip(1).gather(1, found.T).T
            self.buckets = (reached.shape[1] - 1 - found).contiguous()
            self.left = counts - before
            self.histogram = None
            return None
        assert self.left is not None
        reached = self.histogram[:, :, :-1].sum(3).flip(2).cumsum(2)
        found = torch.searchsorted(reached, self.left[:, :, None]).squeeze(2).clamp(max=reached.shape[2] - 1)
        bits = (self.buckets << 16) | (reached.shape[2] - 1 - found)
        answer = bits.to(torch.int32).view(torch.float32)
        answer = answer if self.counts.ndim == 2 else answer[0]
        return answer.to(self.device)


class _SortedCut(Part):
    """The same for other dtypes: keeps the values, so it is for small weights (float64 models are rare)."""

    def __init__(self, counts: Counts) -> None:
        self.counts = counts
        self.rows: list[Tensor] = []

    def add(self, value: Tensor) -> None:
        self.rows.append(value.reshape(len(value), -1).clone())

    def join(self, other: _SortedCut) -> None:
        self.rows += other.rows

    def fork(self) -> _SortedCut:
        return _SortedCut(self.counts)

    def finish(self) -> Tensor | None:
        return _sorted_cut(self.rows, self.counts)


def _sorted_cut(rows: list[Tensor], counts: Counts) -> Tensor:
    ordered = torch.cat(rows, 1).abs().sort(dim=1, descending=True).values
    places = torch.as_tensor(counts, device=ordered.device) - 1
    found = ordered.gather(1, places.reshape(-1, len(ordered)).T.contiguous()).T
    return found.reshape(places.shape)


class Blocks(Whole):
    """The whole of a weight (or of a model) that is seen block by block.

    answers: what is known already, in the order of the questions.
    """

    def __init__(self, size: int, answers: list[Tensor] | None = None) -> None:
        self.answers = [] if answers is None else answers
        self.tensor = 0
        self.part: Part | None = None
        self._size = size
        self._asked = 0
        #: Whether any block asked for what is not known yet.
        self.asked = False

    def at(self, key: int, start: int, tensor: int = 0) -> None:
        """Begin a block. tensor: the number of its tensor in the whole."""
        self.key, self.start, self.tensor, self._asked = key, start, tensor, 0

    def size(self, base: Tensor) -> int:
        return self._size

    def sum(self, part: Tensor) -> Tensor:
        return self._ask(_Sum, part)

    def max(self, part: Tensor) -> Tensor:
        return self._ask(_Max, part)

    def cut(self, values: Tensor, counts: Counts) -> Tensor:
        fast = values.dtype == torch.float32
        return self._ask(lambda: _Cut(counts) if fast else _SortedCut(counts), values)

    def tensors(self, part: Tensor) -> tuple[Tensor, Tensor]:
        if isinstance(self.part, _Tensors):
            self.part.tensor = self.tensor
        found = self._ask(lambda: _Tensors(self.tensor), part)
        return found[self.tensor], found

    def _ask(self, make: Callable[[], Part], value: Tensor) -> Tensor:
        number = self._asked
        self._asked += 1
        if number < len(self.answers):
            return self.answers[number].to(value.device)
        self.asked = True
        if self.part is None:
            self.part = make()
        self.part.add(value)
        raise NeedMore

    def finish(self) -> None:
        """All blocks were seen: take the answer, or prepare for the next pass."""
        assert self.part is not None
        answer = self.part.finish()
        if answer is not None:
            self.answers.append(answer)
            self.part = None


def over_blocks(whole: Blocks, blocks: Iterable[Any], compute: Callable[[Any], Tensor | None]) -> Iterator[Any]:
    """One pass over the blocks: yields (block, result) for those that could be computed; none when more is needed.

    Errors: a method that asks for something in one block and not in another.
    """
    asked = answered = 0
    for block in blocks:
        try:
            result = compute(block)
        except NeedMore:
            asked += 1
            continue
        answered += 1
        if asked:
            break
        yield block, result
    if asked and answered:
        raise AllroundError(
            "merge a weight block by block",
            "the method asks `whole` for something in one block and not in another",
            "this is a defect of the method: what it asks must not depend on the values of a block",
        )


def name_key(name: str) -> int:
    """A number that stands for a weight's name when numbers are drawn at random for it."""
    return zlib.crc32(name.encode())
