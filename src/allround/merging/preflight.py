"""What a merge will do and take, said before any weight is read."""

from __future__ import annotations

import errno
import math
import os
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from allround.checkpoints.header import FLOATS, SIZES
from allround.core.errors import AllroundError
from allround.core.files import disk_errors, read_settings
from allround.core.words import count, duration, size_text
from allround.merging.blocks import block_length
from allround.merging.folder import encoder_settings
from allround.merging.named_base import named_base
from allround.merging.plan import Item, Plan
from allround.models.encoder import CONFIG

#: Bytes a second: reading and computing with one thread for each pass, and writing. Measured on the machine of
#: docs/benchmarks.md; only the order of magnitude is meant.
_READ, _WRITE = 1.2e9, 1.0e9
#: Operations a second of a singular value decomposition in one thread, and how many one takes for m x n: this x m n^2.
#: Measured on a matrix of 1536 x 4096 and four models: iso_c 1.4 to 2 s, task_singular_vectors 6 to 7 s, iso_cts
#: 4 to 8 s; these two say 5 s.
_FLOPS, _SVD = 1.5e11, 20
#: Bytes that Python and torch take by themselves.
_PROCESS = 350e6
#: Keys of config.json that say how weights are used; two models that differ there hardly merge.
_KEYS = (
    *("model_type", "hidden_act", "activation", "num_attention_heads", "num_key_value_heads", "rope_theta"),
    *("position_embedding_type", "layer_norm_eps", "rms_norm_eps", "max_position_embeddings", "norm_type"),
)
#: A layer's number in a name.
_NUMBER = re.compile(r"(?<![A-Za-z0-9_])\d+(?![A-Za-z0-9_])")


@dataclass(frozen=True)
class Estimate:
    """What a merge takes: bytes to read (all passes) and to write, seconds, and peak bytes of memory."""

    read: int
    written: int
    seconds: float
    memory: int


def estimate(plan: Plan, threads: int) -> Estimate:
    """A rough forecast from shapes alone."""
    over = plan.entry.facts["block"]
    passes = passes_of(plan)
    merged = [item for item in plan.items if item.copied is None]
    taken_over = [item for item in plan.items if item.copied is not None]
    read = passes * sum(_read(plan, item) for item in merged) + sum(_read(plan, item) for item in taken_over)
    seconds = read / _READ / threads + plan.bytes / _WRITE
    largest = 0
    for item in merged:
        size, models = math.prod(item.shape), len(item.models)
        if over == "tensor":
            long, short = max(_matrix(item)), min(_matrix(item))
            seconds += _SVD * long * short * short * models / _FLOPS / threads
        else:
            size = min(size, max(block_length(models, "cpu"), item.shape[-1] if over == "row" and item.shape else 0))
        largest = max(largest, 4 * size * (3 * models + 4))
    return Estimate(read, plan.bytes, seconds, int(_PROCESS + threads * largest))


def _matrix(item: Item) -> tuple[int, int]:
    return (item.shape[0], math.prod(item.shape[1:])) if len(item.shape) > 1 else (1, 1)


def _read(plan: Plan, item: Item) -> int:
    names = [(number, name) for number, name in item.models]
    names += [(-1, item.base)] if item.base is not None else []
    return sum(SIZES[plan.source(n).dtype(name)] for n, name in names) * math.prod(item.shape)


def passes_of(plan: Plan) -> int:
    """How often a method must see the weights: once, and once or twice for everything it asks of the whole."""
    import torch

    from allround.merging.whole import Blocks, over_blocks

    item = next((item for item in plan.items if item.copied is None), None)
    if item is None or not plan.entry.facts["whole"]:
        return 1
    whole, compute = Blocks(1 << 16), plan.entry.load()
    base = torch.zeros(4, 4)
    deltas = torch.linspace(-1, 1, 16 * len(item.models)).reshape(-1, 4, 4)
    extra = {need: torch.ones_like(deltas) for need in plan.entry.needed(item.values)}
    passes = 1
    while True:
        whole.at(0, 0)
        list(over_blocks(whole, [0], lambda _: compute(base, deltas, **item.values, **extra, whole=whole)))
        if whole.part is None:
            return passes
        whole.finish()
        passes += 1


def check_space(plan: Plan, out: Path) -> None:
    """An error when the disk cannot hold the output, or nothing at all."""
    place = out.resolve()
    while not place.exists():
        place = place.parent
    with disk_errors(str(out)):
        if os.statvfs(place).f_flag & os.ST_RDONLY:  # such a disk has no free space either
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(place))
    free = shutil.disk_usage(place).free
    for folder, _, files in os.walk(out.parent / f".{out.name}.partial"):  # is gone on with, or thrown away
        for file in files:
            with suppress(OSError):  # another process may be at work in it
                free += (Path(folder) / file).stat().st_size
    needed = plan.bytes + 50_000_000
    if free < needed:
        raise AllroundError(
            f"write {size_text(plan.bytes)} of weights to {out}",
            f"{size_text(free)} are free there",
            "free some space, choose another --out, or store less: --dtype bfloat16",
        )


def compare_files(plan: Plan) -> list[str]:
    """What differs besides weights: configurations, labels, pooling, processors. The first model's are copied."""
    first = plan.base or plan.models[0]
    notes = []
    paths = [str(model) for model in ([plan.recipe.base] if plan.recipe.base else []) + list(plan.recipe.models)]
    notes += [f"{path} is given more than once" for path in dict.fromkeys(paths) if paths.count(path) > 1]
    base = plan.recipe.base
    if base is not None and (Path(base.path) / "allround.json").is_file():
        notes.append(f"{base} is taken as the base, without its heads; are all models behind it tuned from it?")
    if base is not None and (named := named_base(base.path)) is not None:
        notes.append(f"{base} is taken as the base, and was itself tuned from {named}; if the models were tuned from "
                     "that one too, give it first")  # fmt: skip
    if len(encoder_settings(plan)) > 1:
        notes.append(f"the models do not say the same in {CONFIG} of how inputs are read, and the base has no such "
                     "file: the merged model has none either, and reads them by the defaults")  # fmt: skip
    chosen = [n for n, model in enumerate(plan.recipe.models) if model.path == plan.recipe.extra_from]
    labels = plan.models[chosen[0]].path if chosen else first.path
    for model in plan.models:
        if model is first or not model.path.is_dir():
            continue
        ours, other = _config(first.path), _config(model.path)
        keys = [k for k in _KEYS if k in ours and k in other and ours[k] != other[k]]
        notes += [f"{model.path}: {k} is {other[k]!r} in its config.json, in the base {ours[k]!r}" for k in keys]
        if ours.get("id2label") != other.get("id2label") and "id2label" in other and model.path != labels:
            notes.append(f"{model.path}: its labels (id2label) differ; those of {labels} are kept")
        for name in ("1_Pooling/config.json", "preprocessor_config.json", "modules.json", CONFIG):
            one, two = first.path / name, model.path / name
            if one.is_file() and two.is_file() and read_settings(one) != read_settings(two):
                notes.append(f"{model.path}: its {name} differs; that of {first.path} is kept")
        if _dtypes(first) != _dtypes(model):
            notes.append(f"{model.path}: stored as {'/'.join(_dtypes(model))}, {first.path} as "
                         f"{'/'.join(_dtypes(first))}")  # fmt: skip
    return notes


def _config(path: Path) -> dict[str, Any]:
    value = read_settings(path / "config.json") if (path / "config.json").is_file() else {}
    return value if isinstance(value, dict) else {}


def _dtypes(source: Any) -> list[str]:
    return sorted({source.dtype(name) for name in source if source.dtype(name) in FLOATS})


def groups(plan: Plan) -> list[tuple[str, int, int, Mapping[str, Any] | None]]:
    """Tensors that are treated alike: (names with layer numbers as a range, how many, numbers in them, parameters).

    The parameters are None for tensors that are taken over as they are.
    """
    found: dict[tuple[str, str], list[Item]] = {}
    for item in plan.items:
        pattern = _NUMBER.sub("*", item.name)
        found.setdefault((pattern, repr(None if item.copied is not None else dict(item.values))), []).append(item)
    listed = []
    for (pattern, _), items in found.items():
        numbers = sorted({int(n) for item in items for n in _NUMBER.findall(item.name)[:1]})
        name = pattern.replace("*", _ranges(numbers), 1) if numbers else pattern
        values = None if items[0].copied is not None else items[0].values
        listed.append((name, len(items), sum(math.prod(i.shape) for i in items), values))
    return listed


def _ranges(numbers: list[int]) -> str:
    """Numbers in short.

    >>> _ranges([0, 1, 2, 5])
    '{0-2,5}'
    """
    parts: list[list[int]] = []
    for number in numbers:
        if parts and parts[-1][-1] == number - 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    text = ",".join(f"{part[0]}-{part[-1]}" if len(part) > 1 else str(part[0]) for part in parts)
    return text if len(numbers) == 1 else "{" + text + "}"


def describe(plan: Plan, out: Path | None, threads: int) -> list[str]:
    """The plan in lines for the screen: inputs, what happens to which tensors, what it takes, what to know."""
    recipe = plan.recipe
    lines = [f"method    {recipe.method}: {plan.entry.summary.partition(': ')[2] or plan.entry.summary}"]
    lines += [f"base      {_about(plan.base)}"] if plan.base else ["base      none: the weights themselves are merged"]
    lines += [f"model     {_about(model)}" for model in plan.models]
    if plan.entry.facts["whole"]:
        scope = "the whole model" if plan.scope == "model" else "each tensor"
        lines.append(f"scope     norms and thresholds of {scope}")
    lines.append("")
    rows = groups(plan)
    width = min(70, max((len(row[0]) for row in rows), default=10))
    lines.append(f"{'tensors':<{width}}  {'how many':>8}  {'numbers':>8}  parameters")
    previous = ""
    for name, tensors, numbers, values in rows:
        text = "taken over as it is" if values is None else _values(values) or "none"
        lines.append(f"{name:<{width}}  {tensors:>8}  {count(numbers):>8}  {'as above' if text == previous else text}")
        previous = text
    taken = estimate(plan, threads)
    lines += [
        "",
        f"output    {size_text(plan.bytes)} in {len(plan.shards)} file{'s' * (len(plan.shards) != 1)}"
        + (f", to {out}" if out else ""),
        f"takes     about {duration(max(1, taken.seconds))}, {size_text(taken.memory)} of memory, with {threads} thread"
        f"{'s' * (threads != 1)}; {size_text(taken.read)} to read, {passes_of(plan)} "
        f"pass{'es' * (passes_of(plan) != 1)}",
    ]
    lines += [f"note      {note}" for note in [*plan.notes, *compare_files(plan)]]
    return lines


def _about(source: Any) -> str:
    numbers = sum(source.numel(name) for name in source)
    return f"{source.path} ({count(numbers)} numbers in {len(source)} tensors, {'/'.join(_dtypes(source)) or 'none'})"


def _values(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{k}={list(v) if isinstance(v, tuple) else v}" for k, v in values.items())
