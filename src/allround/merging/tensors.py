"""The merge of one tensor after the other: the method called on blocks, and what it may ask about the whole."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor

from allround.checkpoints.finite import check_cast, count_odd, odd_words
from allround.checkpoints.header import FLOATS, SCALED, torch_dtype
from allround.checkpoints.source import Source
from allround.checkpoints.write import WeightsFile
from allround.core import registry
from allround.core.errors import AllroundError
from allround.merging.blocks import Block, Reader, cut
from allround.merging.plan import Item, Plan, Shard
from allround.merging.report import Kept
from allround.merging.statistics.file import command, stored, transposed_in
from allround.merging.whole import Blocks, NeedMore, Part, Whole, name_key, over_blocks

Made = TypeVar("Made")


class Merger:
    """Merges one output tensor after the other with one method."""

    def __init__(self, plan: Plan, device: torch.device, answers: list[Tensor] | None = None) -> None:
        self.plan, self.device, self.answers = plan, device, answers
        self.entry = entry = plan.entry
        self.compute: Callable[..., Tensor] = entry.load()
        self.over = entry.facts["block"]
        self.asks = entry.facts["whole"]
        self.tells = entry.facts["report"]
        #: What the method told of each tensor.
        self.reports: dict[str, dict[str, float]] = {}
        self.transposed = {n for files in plan.statistics.values() for file in files for n in transposed_in(file)}
        merged = [item for item in plan.items if item.copied is None] if plan.scope == "model" else []
        #: The entries of the whole model, and the numbers of its tensors, where that is the scope.
        self.size = sum(math.prod(item.shape) for item in merged)
        self.numbers = {item.name: number for number, item in enumerate(merged)}

    def pieces(self, item: Item) -> Iterator[tuple[int, Tensor]]:
        """The merged tensor in stretches: where each begins, and its values in the dtype of the output."""
        blocks = cut(item.shape, len(item.models), self.over, self.device)
        dtype = torch_dtype(item.dtype)
        once = not self.asks or (len(blocks) == 1 and self.answers is None)
        reader = Reader(self.plan, item, self.device, again=not once and self.answers is None)
        if once:
            for block in blocks:
                whole = Whole()
                whole.key, whole.start = name_key(item.name), block.start
                yield block.start, self._finish(reader, block, whole, dtype)
            return
        blockwise = Blocks(self.size or math.prod(item.shape), self.answers)
        while True:
            for block, merged in over_blocks(blockwise, blocks, lambda b: self._finish(reader, b, blockwise, dtype)):
                yield block.start, merged
            if blockwise.part is None:
                return
            blockwise.finish()

    def collect(self, item: Item, whole: Blocks) -> None:
        """Let the blocks of one tensor give their part of an answer that is for the whole model."""
        reader = Reader(self.plan, item, self.device)
        for block in cut(item.shape, len(item.models), self.over, self.device):
            base, deltas, *_ = reader.read(block)
            whole.at(name_key(item.name), block.start, self.numbers[item.name])
            try:
                self._call(item, base, deltas, block, whole)
            except NeedMore:
                continue

    def _call(self, item: Item, base: Tensor, deltas: Tensor, block: Block, whole: Whole) -> Tensor:
        extra: dict[str, object] = {"whole": whole} if self.asks else {}
        if self.tells:
            extra["report"] = report = Kept()
        for need in self.entry.needed(item.values):
            found = [part.to(base.device, base.dtype) for part in self._statistic(need, item, block)]
            extra[need] = tuple(found) if len(found) > 1 else found[0]
        if turned := base.ndim == 2 and any(name in self.transposed for _, name in item.models):
            base, deltas = base.T, deltas.mT  # methods see a layer's weight as (out, in)
        merged = self.compute(base, deltas, **item.values, **extra)
        if self.tells and report.numbers:
            self.reports[item.name] = report.numbers
        return merged.T if turned else merged

    def _statistic(self, need: str, item: Item, block: Block) -> list[Tensor]:
        """What is known of this weight for each model, for each part of the statistic: (k, *block) or (k, *its own
        shape); (k, 0) where nothing is."""
        files = self.plan.statistics[need]
        parts = registry.find("statistic", need).facts["parts"] or ("",)
        lacking = [number for number, name in item.models if stored(name, parts[0]) not in files[number]]
        if len(lacking) == len(item.models):
            return [torch.zeros(len(lacking), 0)] * len(parts)
        if lacking:
            raise AllroundError(
                f"merge the tensor '{item.name}' by '{self.plan.recipe.method}'",
                f"the statistics in {files[lacking[0]].path} hold nothing for it, and those of other models do",
                f"compute them for every model alike: {command(need, self.plan.models[lacking[0]].path)}",
            )
        return [
            torch.stack([_read_statistic(files[n], stored(name, part), item.shape, block) for n, name in item.models])
            for part in parts
        ]

    def _finish(self, reader: Reader, block: Block, whole: Whole, dtype: torch.dtype) -> Tensor:
        base, deltas, raw, odd = reader.read(block)
        if isinstance(whole, Blocks):
            name = reader.item.name
            whole.at(name_key(name), block.start, self.numbers.get(name, 0))
        merged = self._call(reader.item, base, deltas, block, whole)
        unchanged = not reader.totals[block.start] or odd is not None
        if raw is not None and unchanged and not deltas.any():
            return _cast(raw, dtype, reader.item.name)  # no model changed it: not even the sign of a zero differs
        if merged.shape != base.shape:
            raise AllroundError(
                f"merge the tensor '{reader.item.name}' by '{self.plan.recipe.method}'",
                f"{tuple(merged.shape)} came for {tuple(base.shape)}",
                "this is a defect of the method that made it: its output must have the shape of its input",
            )
        out = merged.to(dtype)
        if not math.isfinite(float(out.sum(dtype=merged.dtype))) and not torch.isfinite(out).all():
            raise AllroundError(
                f"merge the tensor '{reader.item.name}' by '{self.plan.recipe.method}'",
                f"the result is too large for {dtype}, or not a number",
                "use a smaller scale, or another method",
            )
        out = out.reshape(-1)
        if odd is None or raw is None:
            return out
        return torch.where(odd, raw.to(dtype), out.cpu())


def _cast(values: Tensor, dtype: torch.dtype, name: str) -> Tensor:
    """Numbers that are taken over, in the dtype of the output. Errors: those that are too large for it."""
    found = values.to(dtype)
    if dtype != values.dtype:
        check_cast(values, found, f"write the tensor '{name}' as {str(dtype).removeprefix('torch.')}", name)
    return found


def _read_statistic(file: Source, name: str, shape: tuple[int, ...], block: Block) -> Tensor:
    """The block of a statistic that has an entry for each of the weight's, else all of it."""
    alike = file.shape(name) == shape
    found = file.read(name, block.start, block.stop).reshape(block.shape) if alike else file.get(name)
    if count_odd(found):
        raise AllroundError(
            "merge with statistics",
            f"'{name}' in {file.path} holds {odd_words(found)}",
            "compute them again: `allround stats`",
        )
    return found


def merge_item(plan: Plan, item: Item, file: WeightsFile | Tensors, merger: Merger) -> list[str]:
    """Write one tensor; returns what is worth knowing about it."""
    notes = []
    if item.copied is not None:
        name = item.base if item.copied < 0 else item.models[0][1]
        assert name is not None
        source, size = plan.source(item.copied), math.prod(item.shape)
        for start in range(0, max(size, 1), 1 << 22):
            values = source.read(name, start, min(start + (1 << 22), size))
            file.write(item.name, start, _cast(values, torch_dtype(item.dtype), item.name))
        if item.copied < 0 and any(_differs(plan, item.base, other) for other in plan.models):
            why = f"is stored as {item.dtype}, which is not merged" if item.dtype in SCALED else "is not floating point"
            notes.append(f"{item.name} {why}, and differs between the models: the base's is kept")
        return notes
    for start, values in merger.pieces(item):
        file.write(item.name, start, values)
    return notes


def _differs(plan: Plan, name: str | None, other: Source) -> bool:
    """Whether a model has other values in a tensor that is not merged, such as one of whole numbers."""
    assert plan.base is not None and name is not None
    if name not in other or plan.base.dtype(name) in FLOATS:
        return False
    if plan.base.shape(name) != other.shape(name) or plan.base.dtype(name) != other.dtype(name):
        return True
    size = plan.base.numel(name)
    for start in range(0, size, 1 << 22):
        ours, theirs = (s.read(name, start, min(start + (1 << 22), size)) for s in (plan.base, other))
        if not torch.equal(ours.view(torch.uint8), theirs.view(torch.uint8)):
            return True
    return False


class Tensors:
    """Merged tensors in memory, filled stretch by stretch."""

    def __init__(self, items: Sequence[Item]) -> None:
        self.found = {item.name: torch.empty(item.shape, dtype=torch_dtype(item.dtype)) for item in items}

    def write(self, name: str, start: int, values: Tensor) -> None:
        self.found[name].view(-1)[start : start + values.numel()] = values


def merged_tensors(plan: Plan, *, threads: int = 1, device: str = "cpu") -> dict[str, Tensor]:
    """Carry out a plan in memory: the merged tensors by name. The same numbers come as in files."""
    items = list(plan.items)
    answers = answers_of(plan, threads=threads, device=device)
    merger = Merger(plan, torch.device(device), answers)
    made = Tensors(items)

    def work(number: int) -> None:
        with torch.inference_mode():
            merge_item(plan, items[number], made, merger)

    with one_thread():
        for _ in in_threads(work, range(len(items)), threads):
            pass
    return made.found


def largest_first(shard: Shard) -> list[Item]:
    """As they lie in the file, but the very large first, so that no thread is left alone with one at the end."""
    large = sum(math.prod(i.shape) for i in shard.items) / 16
    return sorted(shard.items, key=lambda item: math.prod(item.shape) < large)


def in_threads(work: Callable[[int], Made], numbers: Sequence[int], threads: int) -> Iterator[Made]:
    """The results of all in their order, worked out in several threads; the first failure stops the rest."""
    if threads == 1:
        yield from map(work, numbers)
        return
    with ThreadPoolExecutor(threads) as pool:
        futures = deque(pool.submit(work, number) for number in numbers)
        try:
            while futures:
                yield futures.popleft().result()
        except BaseException:
            for future in futures:
                future.cancel()
            raise


@contextmanager
def one_thread() -> Iterator[None]:
    """Sums come out the same whatever the number of cores; work is shared out by tensors instead."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def answers_of(plan: Plan, *, threads: int, device: str = "cpu") -> list[Tensor] | None:
    """What the method asks about the whole model: all tensors are read once or more before any is written."""
    if plan.scope != "model":
        return None
    merger = Merger(plan, torch.device(device))
    items = [item for item in plan.items if item.copied is None]
    answers: list[Tensor] = []
    if not items:
        return answers
    if len({len(item.models) for item in items}) > 1:
        raise AllroundError(
            f"merge by '{plan.recipe.method}' with norms and thresholds of the whole model",
            "some tensors are not in all models, and --on-mismatch skip leaves those models out there",
            "use --on-mismatch keep-base, or --scope tensor",
        )
    whole = Blocks(merger.size, answers)
    while True:

        def work(number: int) -> Part | None:
            mine = Blocks(merger.size, answers)
            mine.part = whole.part.fork() if whole.part is not None else None
            with torch.inference_mode():
                merger.collect(items[number], mine)
            return mine.part if mine.asked else None

        with one_thread(), torch.inference_mode():
            joined: Part | None = None
            for part in in_threads(work, range(len(items)), threads):
                if joined is None:
                    joined = part
                elif part is not None:
                    joined.join(part)
            if joined is None:
                return answers
            whole.part = joined
            whole.finish()
