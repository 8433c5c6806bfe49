"""A plan carried out: the files of weights, one after the other or on several machines, and the folder."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from allround.checkpoints.write import as_bytes, weights_file
from allround.core.files import write_json
from allround.core.jobs import Inline, Runner, available_cores, call
from allround.merging.folder import Done, copy_files, provenance, write_indexes
from allround.merging.layout import make_plan
from allround.merging.plan import Plan, Shard
from allround.merging.recipe import Model, Recipe
from allround.merging.tensors import Merger, answers_of, in_threads, largest_first, merge_item, one_thread


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
    merger = Merger(plan, torch.device(device), answers)
    hashes = _Hashes()
    sources = [(n, plan.source(n)) for n in range(-1 if plan.base else 0, len(plan.models))]
    for n, source in sources:
        source.watch = hashes.watch(n)
    ordered = largest_first(shard)
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
                    return merge_item(plan, ordered[position], file, merger)

            notes = [note for found in in_threads(work, range(len(ordered)), threads) for note in found]
    finally:
        for _, source in sources:
            source.watch = None
    return {"notes": notes, "hashes": hashes.found(), "reports": merger.reports}


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
    facts = [Done.read(_done_file(done, shard)) for shard in plan.shards]
    write_indexes(plan, folder)
    copy_files(plan, folder)
    for finish in plan.finish:
        finish(folder)
    recipe = provenance(plan, facts)
    write_json(folder / "merge.json", recipe)
    shutil.rmtree(done, ignore_errors=True)
    return recipe


def _done_file(done: Path, shard: Shard) -> Path:
    return done / (shard.file.replace("/", "__") + ".json")


def _is_done(folder: Path, done: Path, shard: Shard) -> bool:
    return (folder / shard.file).is_file() and _done_file(done, shard).is_file()


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
