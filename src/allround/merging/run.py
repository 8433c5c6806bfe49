"""The machinery of merging: files, blocks, threads, dtypes. Methods see tensors only."""

from __future__ import annotations

import math
import re
import shutil
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor

from allround.checkpoints.finite import check_cast, count_odd, odd_words
from allround.checkpoints.header import FLOATS, SCALED, torch_dtype
from allround.checkpoints.source import Source
from allround.checkpoints.weights import OTHER_WEIGHTS, index_of, indexes
from allround.checkpoints.write import WeightsFile, as_bytes, weights_file
from allround.core import registry
from allround.core.errors import AllroundError
from allround.core.files import atomic_file, hash_json, read_settings, write_json
from allround.core.jobs import Inline, Runner, available_cores, call
from allround.core.schema import STRICT, checked
from allround.core.version import __version__
from allround.merging.plan import Item, Plan, Shard, make_plan
from allround.merging.recipe import Model, Recipe
from allround.merging.report import Kept, in_words
from allround.merging.statistics.file import command, stored, transposed_in
from allround.merging.whole import Blocks, NeedMore, Part, Whole, name_key, over_blocks
from allround.models.encoder import CONFIG

#: Files that speak of the base as a whole: the merged model has its own.
_OF_FOLDER = ("README.md", "merge.json", "learned.json", "allround.json", "adapter_config.json")
#: Elements of all models in one block: few enough for the processor's cache, enough to be worth the calls.
_BLOCK = 1 << 20
#: Numbers of a weight, its base and its changes, that a thread keeps while it goes over them several times (128 MiB of
#: float32); larger weights are read anew each time.
_KEPT = 1 << 25


@dataclass(frozen=True)
class _Block:
    start: int
    stop: int
    shape: tuple[int, ...]


def block_length(models: int, device: str) -> int:
    """How many elements of a weight make a block, for a number of models."""
    length = max(1 << 14, min(1 << 18, _BLOCK // max(1, models)))
    return length if device == "cpu" else 64 * length


def _blocks(shape: tuple[int, ...], models: int, over: str, device: torch.device) -> list[_Block]:
    """Cut a tensor as its method allows: anywhere, between rows, or not at all. Depends on nothing else."""
    size, length = math.prod(shape), block_length(models, device.type)
    if over == "tensor" or (over == "row" and len(shape) < 2) or size <= length:
        return [_Block(0, size, shape)]
    if over == "row":
        row = size // shape[0]
        rows = max(1, length // row)
        return [
            _Block(first * row, min(first + rows, shape[0]) * row, (min(first + rows, shape[0]) - first, *shape[1:]))
            for first in range(0, shape[0], rows)
        ]
    return [_Block(s, min(s + length, size), (min(s + length, size) - s,)) for s in range(0, size, length)]


class _Reader:
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

    def read(self, block: _Block) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
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

    def _unchanged(self, block: _Block, raw: Tensor) -> Tensor:
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


class _Merger:
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
        blocks = _blocks(item.shape, len(item.models), self.over, self.device)
        dtype = torch_dtype(item.dtype)
        once = not self.asks or (len(blocks) == 1 and self.answers is None)
        reader = _Reader(self.plan, item, self.device, again=not once and self.answers is None)
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
        reader = _Reader(self.plan, item, self.device)
        for block in _blocks(item.shape, len(item.models), self.over, self.device):
            base, deltas, *_ = reader.read(block)
            whole.at(name_key(item.name), block.start, self.numbers[item.name])
            try:
                self._call(item, base, deltas, block, whole)
            except NeedMore:
                continue

    def _call(self, item: Item, base: Tensor, deltas: Tensor, block: _Block, whole: Whole) -> Tensor:
        extra: dict[str, Any] = {"whole": whole} if self.asks else {}
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

    def _statistic(self, need: str, item: Item, block: _Block) -> list[Tensor]:
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

    def _finish(self, reader: _Reader, block: _Block, whole: Whole, dtype: torch.dtype) -> Tensor:
        base, deltas, raw, odd = reader.read(block)
        if isinstance(whole, Blocks):
            name = reader.item.name
            whole.at(name_key(name), block.start, self.numbers.get(name, 0))
        merged = self._call(reader.item, base, deltas, block, whole)
        unchanged = not reader.totals[block.start] or odd is not None
        if raw is not None and unchanged and not deltas.any():
            return _cast(raw, dtype, reader.item.name)  # nobody changed it: not even the sign of a zero differs
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


def _read_statistic(file: Source, name: str, shape: tuple[int, ...], block: _Block) -> Tensor:
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


def _merge_item(plan: Plan, item: Item, file: WeightsFile | _Tensors, merger: _Merger) -> list[str]:
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
            why = f"is stored as {item.dtype}, which is not merged" if item.dtype in SCALED else "is no floating point"
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


class _Hash:
    """The hash of a tensor, as far as it was read."""

    def __init__(self) -> None:
        import xxhash

        self.lock, self.hasher, self.reached = threading.Lock(), xxhash.xxh3_128(), 0


class _Hashes:
    """Hashes of the tensors that were read, taken while they are read."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[tuple[int, str], _Hash] = {}

    def watch(self, number: int) -> Callable[[str, int, Tensor], None]:
        def seen(name: str, start: int, values: Tensor) -> None:
            with self._lock:
                found = self._open.setdefault((number, name), _Hash())
            with found.lock:  # two output tensors may come of one, and be made at the same time
                if start == found.reached:
                    found.hasher.update(as_bytes(values))
                    found.reached += len(values)

        return seen

    def found(self) -> dict[str, dict[str, str]]:
        """Model number -> tensor -> hash, of the tensors of this file."""
        result: dict[str, dict[str, str]] = {}
        for number, name in sorted(self._open):
            result.setdefault(str(number), {})[name] = self._open[number, name].hasher.hexdigest()
        return result


def write_shard(
    plan: Plan, number: int, folder: Path, *, threads: int, device: str = "cpu", answers: list[Tensor] | None = None
) -> dict[str, Any]:
    """Merge the tensors of one output file. The same bytes come out whatever the number of threads.

    answers: what the method asks about the whole model, where its scope is that.
    """
    shard = plan.shards[number]
    merger = _Merger(plan, torch.device(device), answers)
    hashes = _Hashes()
    sources = [(n, plan.source(n)) for n in range(-1 if plan.base else 0, len(plan.models))]
    for n, source in sources:
        source.watch = hashes.watch(n)
    ordered = _order(shard)
    layout = {item.name: (item.dtype, item.shape) for item in shard.items}
    try:
        with (
            weights_file(folder / shard.file, layout, shard.metadata) as file,
            one_thread(),
            torch.inference_mode(),
        ):

            def work(position: int) -> list[str]:
                if position + threads < len(ordered):
                    ahead = ordered[position + threads]
                    for n, name in [*ahead.models, *([(-1, ahead.base)] if ahead.base is not None else [])]:
                        plan.source(n).announce(name)
                with torch.inference_mode():
                    return _merge_item(plan, ordered[position], file, merger)

            notes = [note for found in in_threads(work, range(len(ordered)), threads) for note in found]
    finally:
        for _, source in sources:
            source.watch = None
    return {"notes": notes, "hashes": hashes.found(), "reports": merger.reports}


class _Tensors:
    """Merged tensors in memory, filled stretch by stretch."""

    def __init__(self, items: Sequence[Item]) -> None:
        self.found = {item.name: torch.empty(item.shape, dtype=torch_dtype(item.dtype)) for item in items}

    def write(self, name: str, start: int, values: Tensor) -> None:
        self.found[name].view(-1)[start : start + values.numel()] = values


def merged_tensors(plan: Plan, *, threads: int = 1, device: str = "cpu") -> dict[str, Tensor]:
    """Carry out a plan in memory: the merged tensors by name. The same numbers come as in files."""
    items = list(plan.items)
    answers = answers_of(plan, threads=threads, device=device)
    merger = _Merger(plan, torch.device(device), answers)
    made = _Tensors(items)

    def work(number: int) -> None:
        with torch.inference_mode():
            _merge_item(plan, items[number], made, merger)

    with one_thread():
        for _ in in_threads(work, range(len(items)), threads):
            pass
    return made.found


def _order(shard: Shard) -> list[Item]:
    """As they lie in the file, but the very large first, so that no thread is left alone with one at the end."""
    large = sum(math.prod(i.shape) for i in shard.items) / 16
    return sorted(shard.items, key=lambda item: math.prod(item.shape) < large)


def in_threads(work: Callable[[int], Any], numbers: Sequence[int], threads: int) -> Iterator[Any]:
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
    merger = _Merger(plan, torch.device(device))
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


def run_plan(
    plan: Plan, folder: Path, *, workers: int | None = None, device: str = "cpu", runner: Runner | None = None
) -> dict[str, Any]:
    """Carry out a plan into an existing folder, and return what was done; also written there as merge.json.

    Output files that are there already, from a run of the same plan that was ended, are kept. workers: threads.
    runner: where the output files are made, one a job; by default here, one after the other.
    """
    threads = workers or min(available_cores(), 8)
    done = folder / ".done"
    waiting = [n for n, shard in enumerate(plan.shards) if not _is_done(folder, done, shard)]
    for number in waiting:
        shard = folder / plan.shards[number].file
        for left in shard.parent.glob(f".{shard.name}.*") if shard.parent.is_dir() else ():
            left.unlink()  # of a run that was killed while it wrote
    answers = answers_of(plan, threads=threads, device=device) if waiting else None
    sent = replace(plan, finish=[])
    jobs = [
        call(write_shard, plan=sent, number=n, folder=folder, threads=threads, device=device, answers=answers)
        for n in waiting
    ]
    for index, made in (runner or Inline()).run(jobs):
        write_json(_done_file(done, plan.shards[waiting[index]]), made)
    facts = [_Done.read(_done_file(done, shard)) for shard in plan.shards]
    _write_indexes(plan, folder)
    copy_files(plan, folder)
    for finish in plan.finish:
        finish(folder)
    recipe = _provenance(plan, facts)
    write_json(folder / "merge.json", recipe)
    shutil.rmtree(done, ignore_errors=True)
    return recipe


def _done_file(done: Path, shard: Shard) -> Path:
    return done / (shard.file.replace("/", "__") + ".json")


@dataclass(frozen=True)
class _Done:
    """What is noted of a finished file of weights."""

    __pydantic_config__ = STRICT

    notes: list[str]
    hashes: dict[str, dict[str, str]]
    reports: dict[str, dict[str, int | float]]

    @classmethod
    def read(cls, path: Path) -> _Done:
        asked = f"go on with the merge in {path.parent.parent}"
        return checked(cls, read_settings(path), asked, "remove that folder, and merge again")


def _is_done(folder: Path, done: Path, shard: Shard) -> bool:
    return (folder / shard.file).is_file() and _done_file(done, shard).is_file()


def _write_indexes(plan: Plan, folder: Path) -> None:
    """Where a model's weights lie in several files of a folder, say which holds what, as its library expects: in the
    base's index where that names the file, else in the one that goes with `NAME-00001-of-00002`."""
    root = (plan.base or plan.models[0]).path
    known = {index.parent / file: index.relative_to(root) for index, listed in indexes(root)
             if index_of(index.name) == ".safetensors" for file in listed.values()}  # fmt: skip
    groups: dict[PurePosixPath, list[Shard]] = {}
    for shard in plan.shards:
        path = PurePosixPath(shard.file)
        part = re.fullmatch(r"(.+)-\d+-of-\d+", path.stem)
        if (found := known.get(root / path)) is not None:
            groups.setdefault(PurePosixPath(found), []).append(shard)
        elif part:
            groups.setdefault(path.with_name(f"{part[1]}.safetensors.index.json"), []).append(shard)
    for index, shards in groups.items():
        listed = {item.name: PurePosixPath(shard.file).name for shard in shards for item in shard.items}
        total = sum(shard.bytes for shard in shards)
        value = {"metadata": {"total_size": total}, "weight_map": dict(sorted(listed.items()))}
        write_json(folder / index, value)


def _provenance(plan: Plan, facts: list[_Done]) -> dict[str, Any]:
    recipe = plan.recipe
    parameters = plan.entry.resolve(recipe.values)
    inputs = {}
    for number in range(-1 if plan.base else 0, len(plan.models)):
        hashes = {k: v for fact in facts for k, v in fact.hashes.get(str(number), {}).items()}
        name = str(recipe.models[number] if number >= 0 else recipe.base)
        inputs[number] = {"path": name, "content": hash_json(hashes), "tensors": len(hashes)}
    own = plan.own_values
    reports = {name: told for fact in facts for name, told in sorted(fact.reports.items())}
    told = [f"{recipe.method}: {line}" for line in in_words(reports)]
    return {
        "method": recipe.method,
        "parameters": parameters,
        **({"rules": [[r.match, dict(r.values)] for r in recipe.rules]} if recipe.rules else {}),
        **({"tensors": own} if own else {}),
        "scope": plan.scope,
        **({"dtype": recipe.dtype} if recipe.dtype else {}),
        "allround": __version__,
        "inputs": {"base": inputs.get(-1), "models": [inputs[n] for n in range(len(plan.models))]},
        **({"reports": reports} if reports else {}),
        **({"notes": notes} if (notes := [*plan.notes, *(n for f in facts for n in f.notes), *told]) else {}),
    }


def copy_files(plan: Plan, folder: Path) -> None:
    """Everything of the base that is no weight: configuration, tokenizer, processor, pooling, modules."""
    first = plan.base or plan.models[0]
    root = first.path
    for source in sorted(root.rglob("*")) if root.is_dir() else []:
        target = folder / source.relative_to(root)
        hidden = any(part.startswith(".") for part in source.relative_to(root).parts)
        weights = source.suffix in (".safetensors", *OTHER_WEIGHTS) or index_of(source.name) is not None
        if hidden or weights or source.name in _OF_FOLDER or not source.is_file():
            continue
        with atomic_file(target) as temporary:
            shutil.copyfile(source, temporary)
    if len(said := encoder_settings(plan)) == 1 and said[0] is not None:
        write_json(folder / CONFIG, said[0], allow_nan=True)


def encoder_settings(plan: Plan) -> list[Any]:
    """What the models' files of allround say of how inputs are read, each once (None: nothing), where the base is a
    folder that says nothing: models tuned from a plain base keep what they were tuned with."""
    if plan.base is None or not plan.base.path.is_dir() or (plan.base.path / CONFIG).is_file():
        return []
    said: list[Any] = []
    for path in (model.path / CONFIG for model in plan.models):
        value = read_settings(path) if path.is_file() else None
        said += [value] if value not in said else []
    return said


def merge_folders(
    base: Path | str,
    tuned: Sequence[Path | str],
    out: Path,
    *,
    method: str,
    parameters: Mapping[str, Any] | None = None,
    statistics: Mapping[str, Sequence[str]] | None = None,
    workers: int | None = None,
) -> dict[str, Any]:
    """Merge model folders into `out`, an existing folder, and return what was done.

    base, tuned: folders with weights. statistics: kind -> a file for each of tuned. Weight files keep the base's names
    and layout; everything else (configuration, tokenizer, pooling) is copied from the base, but for weights in other
    formats.
    """
    given = {kind: tuple(files) for kind, files in (statistics or {}).items()}
    models = tuple(Model(str(t)) for t in tuned)
    recipe = Recipe(method, models, Model(str(base)), dict(parameters or {}), statistics=given)
    return run_plan(make_plan(recipe), out, workers=workers)
