"""Gives every reader of files millions of damaged files: each is read, or refused in words, soon and in little memory.

    python benchmarks/fuzz.py --count 1000000 --seed 0

Each reader has tiny valid files, from which all others are made: by bits, bytes, numbers, tokens and chunks, and, where
the file is JSON or YAML, by values and keys. A file follows from the seed, the reader and its number alone. Findings
are any exception but AllroundError, a read of more than 2 s (twice, as the machine may be busy), more than 500 MB
beyond what the process had before, and the death of the process. The files are kept. Exits with 1 where one is found.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import faulthandler
import json
import mmap
import os
import random
import re
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from allround.core.errors import AllroundError

#: Seconds that a read may take, and how long the worker may say nothing before it is ended from outside.
SLOW, SILENT = 2.0, 20.0
#: Bytes of memory that a reader may take, and what the address space may grow by, so that the machine survives.
MEMORY, ADDRESSES = 500 << 20, 2 << 30
#: So many files are given to each reader, where there are as many.
LEAST = 20_000
#: Bytes that repeating a chunk may make: what is long is read for long, in YAML about 10 microseconds for each byte.
LONGEST = 30_000
#: A reader that kills its process so often is left.
DEATHS = 10
#: The exit status of a worker that fails by itself, outside of a reader.
BROKEN = 97


@dataclass(frozen=True)
class Sample:
    """A valid file. form: `json`, `jsonl`, `safetensors` or `bytes`; read: reads it by the reader of the product."""

    path: Path
    form: str
    read: Callable[[], object]


@dataclass(frozen=True)
class Reader:
    """What is fuzzed. make: writes its valid files into an empty folder."""

    name: str
    make: Callable[[Path], list[Sample]]


# --- The readers -------------------------------------------------------------------------------------------------


def _weights(path: Path, tensors: dict[str, Any], **facts: str) -> None:
    from allround.checkpoints.header import dtype_name
    from allround.checkpoints.write import weights_file

    layout = {name: (dtype_name(tensor.dtype), tuple(tensor.shape)) for name, tensor in tensors.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    with weights_file(path, layout, {"format": "pt", **facts}, sync=False) as file:
        for name, tensor in tensors.items():
            file.write(name, 0, tensor.reshape(-1))


def _model(path: Path) -> None:
    import torch

    tensors = {"layer.weight": torch.arange(12.0).reshape(4, 3), "layer.bias": torch.ones(4, dtype=torch.bfloat16)}
    _weights(path, {**tensors, "ids": torch.arange(3), "one": torch.tensor(1.5)})


def _read_all(path: Path) -> None:
    from allround.checkpoints.weights import Weights

    weights = Weights(path)
    for name in weights:
        weights.get(name)


def safetensors_files(folder: Path) -> list[Sample]:
    _model(folder / "model.safetensors")
    path = folder / "model.safetensors"
    return [Sample(path, "safetensors", lambda: _read_all(path))]


def index_files(folder: Path) -> list[Sample]:
    import torch

    shards = {"model-1-of-2.safetensors": "a.weight", "model-2-of-2.safetensors": "b.weight"}
    for file, name in shards.items():
        _weights(folder / file, {name: torch.ones(2)})
    index = folder / "model.safetensors.index.json"
    about = {"metadata": {"total_size": 16}, "weight_map": {name: file for file, name in shards.items()}}
    index.write_text(json.dumps(about, indent=2))
    return [Sample(index, "json", lambda: _read_all(folder))]


def adapter_files(folder: Path) -> list[Sample]:
    import torch

    from allround.checkpoints.adapted import Adapted
    from allround.checkpoints.adapter import Adapter
    from allround.checkpoints.weights import Weights

    base, adapter = folder / "base", folder / "adapter"
    _model(base / "model.safetensors")
    part = "base_model.model.layer.lora_{}.weight"
    _weights(
        adapter / "adapter_model.safetensors", {part.format("A"): torch.ones(2, 3), part.format("B"): torch.ones(4, 2)}
    )
    about = {
        "peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["layer"], "bias": "none",
        "rank_pattern": {"layer": 2}, "alpha_pattern": {"lay.*": 8.0}, "use_rslora": False, "use_dora": False,
        "modules_to_save": None, "base_model_name_or_path": "base", "init_lora_weights": True,
    }  # fmt: skip
    config = adapter / "adapter_config.json"
    config.write_text(json.dumps(about))

    def read() -> None:
        adapted = Adapted(Weights(base), Adapter(adapter))
        for name in adapted:
            adapted.get(name)

    return [Sample(config, "json", read), Sample(adapter / "adapter_model.safetensors", "safetensors", read)]


_RECIPES = (
    {
        "stages": {
            "first": {"method": "ties", "base": "models/base", "models": ["a", {"model": "b", "adapters": ["c"]}],
                      "parameters": {"keep": 0.2}, "dtype": "bfloat16",
                      "rules": [{"match": "*.layers.3.*", "keep": 0.5}]},
            "last": {"method": "average", "models": ["first", {"model": "x", "weights": 0.5}], "scope": "model",
                     "on_mismatch": "error", "tokenizer": "base"},
        }
    },
    {"method": "regmean", "models": ["a", "b"], "statistics": {"gram": ["a.safetensors", "b.safetensors"]}},
    {
        "merge_method": "dare_ties", "base_model": "base", "dtype": "bfloat16", "tokenizer_source": "union",
        "models": [{"model": "a+adapter", "parameters": {"weight": [0.1, 0.9], "density": 0.5}},
                   {"model": {"model": "b", "lora": "c"}, "parameters": {"weight": [{"filter": "mlp", "value": 1},
                                                                                    {"value": 0.3}]}}],
        "parameters": {"normalize": True, "lambda": 0.9, "int8_mask": True},
    },
    {
        "merge_method": "slerp", "base_model": "a", "parameters": {"t": [0, 0.5, 1]},
        "slices": [{"sources": [{"model": "a", "layer_range": [0, 2]}, {"model": "b", "layer_range": [0, 2]}]}],
    },
)  # fmt: skip


def recipe_files(folder: Path) -> list[Sample]:
    import yaml

    from allround.merging.recipe_file import read_recipe

    samples = []
    for number, about in enumerate(_RECIPES):
        for style in ("flow", "block"):
            path = folder / f"recipe{number}{style}.yml"
            path.write_text(json.dumps(about) if style == "flow" else yaml.safe_dump(about))
            form = "json" if style == "flow" else "bytes"
            samples.append(Sample(path, form, lambda path=path: read_recipe(path)))  # type: ignore[misc]
    return samples


_SUITE = {
    "name": "moods", "description": "Two tasks", "base": "some/base", "limit": {"train": 100, "test": 10},
    "tasks": {
        "mood": {"source": "mood.csv", "kind": "classification", "inputs": ["text"], "target": "label",
                 "labels": {"0": "bad", "1": "good"}, "metric": "accuracy", "missing": "drop", "limit": 5},
        "size": {"source": {"train": "a.csv", "test": "b.csv", "columns": {"x": "y"}, "format": "csv"},
                 "kind": "regression", "inputs": ["y"], "target": "z", "modality": "table", "table": "t",
                 "local": {"path": "folder"}, "instruction": "Say it."},
    },
}  # fmt: skip


def suite_files(folder: Path) -> list[Sample]:
    import yaml

    from allround.tasks.spec import read_suite

    flow, block = folder / "flow.yml", folder / "block.yml"
    flow.write_text(json.dumps(_SUITE))
    block.write_text("# moods\n" + yaml.safe_dump(_SUITE) + "# end\n")
    return [Sample(flow, "json", lambda: read_suite(flow)), Sample(block, "bytes", lambda: read_suite(block))]


def statistics_files(folder: Path) -> list[Sample]:
    import torch

    from allround.checkpoints.weights import Weights
    from allround.merging.statistics.file import check_made_for, fingerprint, transposed_in, write_statistic

    _model(folder / "model" / "model.safetensors")
    model, path = Weights(folder / "model"), folder / "gram.safetensors"
    facts = {"statistic": "gram", "fingerprint": fingerprint(model), "model": "model", "transposed": ["other.weight"]}
    write_statistic(path, {"layer.weight": [torch.eye(3)]}, (), facts)

    def read() -> None:
        file = Weights(path)
        transposed_in(file)
        check_made_for("gram", [file], [model], "merge with statistics")
        for name in file:
            file.get(name)

    return [Sample(path, "safetensors", read)]


def _predictions(scale: float = 0.0) -> Any:
    import numpy as np

    from allround.evaluation.predictions import Predictions
    from allround.tasks.definition import Definition

    if scale:
        about = Definition("size", "regression", ("x",), "text", "rmse", scale=scale)
        return Predictions(about, "test", np.arange(8.0), np.arange(8.0) + 0.5)
    about = Definition("mood", "classification", ("x",), "text", "accuracy", ("no", "yes"))
    found = [1, 0, 1, 1, 0, 0, 1, 0]
    return Predictions(about, "test", np.array(found), np.array(found[::-1]), [0.5] * len(found), 1.5)


def scoreboard_files(folder: Path) -> list[Sample]:
    from allround.evaluation.scoreboard import Scoreboard, ScoredSystem
    from allround.models.cost import Cost

    one, other = _predictions(), _predictions(2.0)
    systems = [
        ScoredSystem("specialists", "specialists", "Each", single=False),
        ScoredSystem("ties", "merge", cost=Cost(1.0, 9)),
    ]
    made = Scoreboard.make(
        definitions={p.definition.name: p.definition for p in (one, other)},
        systems=systems,
        predictions={(s.name, p.definition.name): p for s in systems for p in (one, other)},
        best="ties",
        resamples=20,
    )
    made.save(folder)
    return [Sample(folder / "scoreboard.json", "json", lambda: Scoreboard.load(folder).markdown())]


def prediction_files(folder: Path) -> list[Sample]:
    from allround.evaluation.predictions import Predictions

    samples = []
    for name, made in (("labels", _predictions()), ("numbers", _predictions(2.0))):
        path = folder / f"{name}.parquet"
        made.write(path)
        samples.append(Sample(path, "bytes", lambda path=path: Predictions.load(path)))  # type: ignore[misc]
    return samples


_CSV = 'text,label,n,size\n"good, ""very"" good",01,1,1e5\nbad,1,,2.5\n"two\nlines",NA,-3,inf\ntrue,002,4,.5\n'
_JSONL = ({"text": "good", "label": "01", "n": 1, "list": [1, "a"]}, {"text": "é", "label": 2.50, "n": None, "x": {}})


def _rows(path: Path) -> None:
    from allround.tasks.sources.load import load_raw

    read = load_raw(str(path), base_dir=path.parent, as_written=("label",))
    for columns in read.values():
        for name in columns:
            columns[name]


def zip_files(folder: Path) -> list[Sample]:
    import zipfile

    samples = []
    for name, packing in (("stored", zipfile.ZIP_STORED), ("packed", zipfile.ZIP_DEFLATED)):
        path = folder / f"{name}.zip"
        with zipfile.ZipFile(path, "w", packing) as file:
            for member in ("train.csv", "test.csv"):
                file.writestr(zipfile.ZipInfo(member), _CSV, packing)
        samples.append(Sample(path, "bytes", lambda path=path: _rows(path)))  # type: ignore[misc]
    return samples


def csv_files(folder: Path) -> list[Sample]:
    path = folder / "rows.csv"
    path.write_text(_CSV)
    return [Sample(path, "bytes", lambda: _rows(path))]


def jsonl_files(folder: Path) -> list[Sample]:
    lines, array = folder / "rows.jsonl", folder / "rows.json"
    lines.write_text("".join(json.dumps(row) + "\n" for row in _JSONL))
    array.write_text(json.dumps(_JSONL))
    return [Sample(lines, "jsonl", lambda: _rows(lines)), Sample(array, "json", lambda: _rows(array))]


READERS = tuple(
    Reader(name, make)
    for name, make in {
        "safetensors": safetensors_files, "index": index_files, "adapter": adapter_files, "recipe": recipe_files,
        "suite": suite_files, "statistics": statistics_files, "scoreboard": scoreboard_files,
        "predictions": prediction_files, "zip": zip_files, "csv": csv_files, "jsonl": jsonl_files,
    }.items()
)  # fmt: skip

# --- Damage ------------------------------------------------------------------------------------------------------

_BYTES = (0, 1, 0x7F, 0x80, 0xFF, 0x0A, 0x0D, 0x20, 0x22, 0x5C)
_NUMBERS = (0, -1, 1, 255, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**53 + 1, 2**63 - 1, 2**63, 2**64, 10**40)
_FLOATS = (1e308, -1e308, 1e-320, 1e400, float("nan"), 0.5, -0.0)
_WORDS = (
    *(str(n).encode() for n in _NUMBERS),
    *(b"1e308", b"1e999", b"NaN", b"-Infinity", b"0x10", b"1_0", b"1:30"),
)
_TOKENS = (
    *(b"{", b"}", b"[", b"]", b'"', b"'", b":", b",", b"&a ", b"*a", b"!!", b"!!python/object:os.system ", b"<<: "),
    *(b"? ", b"- ", b"\n---\n", b"|\n", b">\n", b"#", b"%", b"\t", b"\n", b"\r\n", b"\0", b"\\ud800", b"\xef\xbb\xbf"),
    *(b"\xff\xfe", b"null", b"true", b"~", b"2001-01-01", b"../", b"/", b"=", b"\xe2\x80\xa8", b"\\u0000", b"@", b"+"),
)
_OTHERS = (
    None,
    True,
    False,
    "",
    "a",
    "../x",
    "/",
    "\ud800",
    "\0",
    "é" * 50,
    "NaN",
    [],
    {},
    [[]],
    [None],
    {"a": 1},
    {"": {}},
)
_NUMBER = re.compile(rb"[0-9]+")


def damaged(rng: random.Random, data: bytes, form: str) -> bytes:
    """A valid file with one to four damages, most often one."""
    if form != "bytes" and rng.random() < 0.5:
        data = _edited(rng, data, form)
        if rng.random() < 0.7:
            return data
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        data = rng.choice(_DAMAGES)(rng, data)
    return data


def _flip(rng: random.Random, data: bytes) -> bytes:
    made, place = bytearray(data or b"\0"), rng.randrange(len(data) or 1)
    made[place] ^= 1 << rng.randrange(8)
    return bytes(made)


def _overwrite(rng: random.Random, data: bytes) -> bytes:
    place, width = rng.randrange(len(data) + 1), rng.choice((1, 1, 1, 2, 4, 8))
    value = rng.choice(_BYTES) if width == 1 else rng.choice(_NUMBERS) % (1 << 8 * width)
    return data[:place] + value.to_bytes(width, "little") + data[place + width :]


def _cut(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _remove(rng: random.Random, data: bytes) -> bytes:
    start, stop = _chunk(rng, data)
    return data[:start] + data[stop:]


def _repeat(rng: random.Random, data: bytes) -> bytes:
    start, stop = _chunk(rng, data)
    times = min(rng.choice((2, 2, 2, 3, 10, 1000)), 1 + LONGEST // (stop - start + 1))
    return data[:start] + data[start:stop] * times + data[stop:]


def _swap(rng: random.Random, data: bytes) -> bytes:
    a, b, c, d = sorted(rng.randrange(len(data) + 1) for _ in range(4))
    return data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]


def _insert(rng: random.Random, data: bytes) -> bytes:
    place = rng.randrange(len(data) + 1)
    return data[:place] + rng.randbytes(rng.choice((1, 2, 8, 64))) + data[place:]


def _token(rng: random.Random, data: bytes) -> bytes:
    place = rng.randrange(len(data) + 1)
    return data[:place] + rng.choice(_TOKENS) + data[place + rng.choice((0, 0, 1)) :]


def _number(rng: random.Random, data: bytes) -> bytes:
    found = list(_NUMBER.finditer(data))
    if not found:
        return _token(rng, data)
    place = rng.choice(found)
    return data[: place.start()] + rng.choice(_WORDS) + data[place.end() :]


def _deepen(rng: random.Random, data: bytes) -> bytes:
    place, depth = rng.randrange(len(data) + 1), rng.choice((3, 63, 64, 65, 300, 1000, 20_000))
    opening, closing = rng.choice(((b"[", b"]"), (b'{"a":', b"}"), (b"{a: ", b"}"), (b"(", b")"), (b"- ", b"")))
    return data[:place] + opening * depth + b"1" + closing * rng.choice((depth, depth, 0)) + data[place:]


_DAMAGES: tuple[Callable[[random.Random, bytes], bytes], ...] = (
    *(_flip, _flip, _overwrite, _overwrite, _cut, _remove, _remove, _repeat, _swap, _insert, _token, _token),
    *(_number, _number),
)  # fmt: skip
#: Deep nesting takes a reader long, so it is rare.
_DAMAGES = (*_DAMAGES * 3, _deepen)


def _chunk(rng: random.Random, data: bytes) -> tuple[int, int]:
    start = rng.randrange(len(data) + 1)
    return start, min(len(data), start + rng.choice((1, 1, 2, 4, 8, 32, 200)))


def _edited(rng: random.Random, data: bytes, form: str) -> bytes:
    """The same data with other values or keys. A header of safetensors gets its right length most of the time."""
    if form == "jsonl":
        lines = data.splitlines(keepends=True)
        place = rng.randrange(len(lines))
        return b"".join((*lines[:place], _edit(rng, lines[place]) + b"\n", *lines[place + 1 :]))
    if form == "safetensors":
        length = int.from_bytes(data[:8], "little")
        header, rest = _edit(rng, data[8 : 8 + length]), data[8 + length :]
        return (len(header) if rng.random() < 0.9 else length).to_bytes(8, "little") + header + rest
    return _edit(rng, data)


def _edit(rng: random.Random, data: bytes) -> bytes:
    tree = [json.loads(data)]
    for _ in range(rng.choice((1, 1, 2, 3))):
        places: list[tuple[Any, Any]] = []
        _places(tree, places)
        if not places:
            break
        holder, key = rng.choice(places)
        what = rng.randrange(6)
        if what == 0:
            del holder[key]
        elif what == 1 and isinstance(holder, dict):
            name = rng.choice((f"{key}s", "", "__metadata__", "\0", "é", *holder))
            holder[name] = holder.pop(key)
        elif what == 2:
            other, place = rng.choice(places)
            holder[key] = json.loads(json.dumps(other[place]))
        elif what == 3 and isinstance(holder, list):
            holder.insert(key, json.loads(json.dumps(holder[key])))
        else:
            holder[key] = copy.deepcopy(rng.choice((rng.choice(_OTHERS), rng.choice(_NUMBERS), rng.choice(_FLOATS))))
    text = json.dumps(tree[0] if tree else None, indent=rng.choice((None, None, 1)))
    return text.encode()


def _places(value: Any, found: list[tuple[Any, Any]]) -> None:
    """Every place of a value in another."""
    for key, part in value.items() if isinstance(value, dict) else enumerate(value):
        found.append((value, key))
        if isinstance(part, (dict, list)):
            _places(part, found)


def made_file(seed: int, reader: str, number: int, valid: Sequence[tuple[bytes, str]]) -> tuple[int, bytes]:
    """Which valid file is damaged, and what comes of it; the same for the same seed, reader and number."""
    rng = random.Random(f"{seed}/{reader}/{number}")
    which = rng.randrange(len(valid))
    return which, damaged(rng, *valid[which])


# --- The worker, a process of its own ----------------------------------------------------------------------------

#: What the worker writes where its parent sees it: numbers of eight bytes.
_NUMBER_NOW, _DONE, _REFUSED, _READ, _SLOWEST, _PEAK, _FOUND = range(7)


class _TooSlow(BaseException):
    """Raised by the alarm; no reader may catch it."""


def _alarm(*_: object) -> None:
    raise _TooSlow


def _attempt(read: Callable[[], object]) -> tuple[str, BaseException | None, float]:
    """What came of one read: read, refused, slow or raised; and the seconds."""
    start = time.monotonic()
    error: BaseException | None = None
    try:
        signal.setitimer(signal.ITIMER_REAL, SLOW)
        try:
            read()
            what = "read"
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except AllroundError:
        what = "refused"
    except _TooSlow as raised:
        what, error = "slow", raised
    except BaseException as raised:
        what, error = "raised", raised
    took = time.monotonic() - start
    return ("slow" if took > SLOW else what), error, took


def _peak() -> int:
    """The most bytes that the process has had in memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _limit_addresses() -> None:
    with contextlib.suppress(OSError, ValueError), open("/proc/self/statm") as file:  # elsewhere there is no limit
        most = int(file.read().split()[0]) * mmap.PAGESIZE + ADDRESSES
        resource.setrlimit(resource.RLIMIT_AS, (most, resource.getrlimit(resource.RLIMIT_AS)[1]))


def _last_lines(error: BaseException | None) -> tuple[str, str]:
    """What tells a finding from others, and the end of its traceback."""
    if error is None:
        return "", ""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "allround" in Path(frame.filename).parts] or frames[-1:]
    where = f"{Path(own[-1].filename).name}:{own[-1].lineno}" if own else "?"
    return f"{type(error).__name__} at {where}", "".join(traceback.format_exception(error)[-4:])[-2000:]


def _work(samples: list[Sample], reader: str, seed: int, numbers: range, shared: memoryview, pipe: int) -> None:
    """Damage, write and read, one number after the other."""
    signal.signal(signal.SIGALRM, _alarm)
    faulthandler.enable()
    warnings.simplefilter("ignore")
    valid = [(sample.path.read_bytes(), sample.form) for sample in samples]
    for sample in samples:
        sample.read()  # imports what it needs, and says whether the valid file is valid
    _limit_addresses()
    start, most = _peak(), MEMORY
    seen: set[str] = set()
    parent = os.getppid()
    for number in numbers:
        if os.getppid() != parent:  # it was ended
            return
        shared[_NUMBER_NOW] = number
        which, data = made_file(seed, reader, number, valid)
        sample = samples[which]
        sample.path.write_bytes(data)
        what, error, took = _attempt(sample.read)
        if what == "slow":  # the machine may have been busy
            what, error, took = _attempt(sample.read)
        grown = _peak() - start
        shared[_SLOWEST] = max(shared[_SLOWEST], int(took * 1e6))
        shared[_PEAK] = max(shared[_PEAK], grown)
        key, lines = _last_lines(error)
        if grown > most:
            key, what, most = "memory", "memory", grown + MEMORY
        elif what in ("slow", "raised"):
            key = f"{what}: {key or 'the end'}"
        shared[{"refused": _REFUSED, "read": _READ}.get(what, _FOUND)] += 1
        if what not in ("refused", "read") and key not in seen:
            seen.add(key)
            about = {"number": number, "key": key, "lines": f"{took:.1f} s, {grown >> 20} MB\n{lines}"}
            os.write(pipe, json.dumps(about).encode() + b"\n")
        if len(valid) > 1:
            sample.path.write_bytes(valid[which][0])
        shared[_DONE] += 1


# --- The parent --------------------------------------------------------------------------------------------------


@dataclass
class Outcome:
    """What came of one reader. slowest: seconds; peak: bytes beyond the start; findings: what they were -> number."""

    name: str
    done: int = 0
    refused: int = 0
    read: int = 0
    slowest: float = 0.0
    peak: int = 0
    seconds: float = 0.0
    findings: dict[str, int] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        return self.done / self.seconds if self.seconds else 0.0

    def row(self) -> str:
        return (
            f"| {self.name} | {self.done:,} | {self.refused:,} | {self.read:,} | {self.slowest:.2f} s | "
            f"{self.peak / 1e6:.0f} MB | {self.rate:,.0f} | {len(self.findings)} |"
        )


def fuzz(reader: Reader, numbers: range, seed: int, findings: Path, into: Outcome | None = None) -> Outcome:
    """Give a reader the files of these numbers; print what is found, and keep the file under `findings`."""
    out = into or Outcome(reader.name)
    began = time.monotonic()
    deaths, left = 0, numbers
    fast = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="allround-fuzz-", dir=fast if os.access(fast, os.W_OK) else None) as place:
        folder = Path(place) / "files"
        while left and deaths < DEATHS:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            (folder / "spare").mkdir()
            samples = reader.make(folder)
            valid = [(sample.path.read_bytes(), sample.form) for sample in samples]
            with memoryview(mmap.mmap(-1, 8 * 8)).cast("q") as shared:
                end = _fork(reader.name, samples, seed, left, shared, folder / "spare")
                for about in end.found:
                    _report(out, about["key"], about["number"], about["lines"], seed, valid, findings)
                out.done += shared[_DONE]
                out.refused += shared[_REFUSED]
                out.read += shared[_READ]
                out.slowest = max(out.slowest, shared[_SLOWEST] / 1e6)
                out.peak = max(out.peak, shared[_PEAK])
                number = shared[_NUMBER_NOW]
            if end.status == 0:
                break
            deaths += 1
            out.done += 1
            _report(out, end.words, number, "", seed, valid, findings)
            left = range(number + 1, numbers.stop)
    out.seconds += time.monotonic() - began
    return out


@dataclass
class _End:
    """How a worker ended. found: what it found before."""

    status: int
    words: str
    found: list[dict[str, Any]]


def _fork(name: str, samples: list[Sample], seed: int, numbers: range, shared: memoryview, spare: Path) -> _End:
    out, into = os.pipe()
    shared[_NUMBER_NOW] = numbers.start
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        status = BROKEN
        try:
            os.close(out)
            tempfile.tempdir = str(spare)
            _work(samples, name, seed, numbers, shared, into)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    os.close(into)
    text, silent, before = b"", False, (-1, 0.0)
    with os.fdopen(out, "rb", buffering=0) as pipe:
        while True:
            if select.select([pipe], [], [], 1.0)[0]:
                part = pipe.read(65536)
                if not part:
                    break
                text += part
            if shared[_DONE] != before[0]:
                before = (shared[_DONE], time.monotonic())
            elif not silent and time.monotonic() - before[1] > SILENT:
                silent = True
                os.kill(child, signal.SIGABRT)  # faulthandler says where it is
                with contextlib.suppress(OSError):
                    select.select([pipe], [], [], 2.0)
                    os.kill(child, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status == BROKEN:
        raise RuntimeError(f"the worker of '{name}' failed outside of its reader")
    words = "silent: native code that no alarm ends" if silent else f"death: exit status {status}"
    return _End(status, words, [json.loads(line) for line in text.splitlines()])


def _report(
    out: Outcome, key: str, number: int, lines: str, seed: int, valid: Sequence[tuple[bytes, str]], findings: Path
) -> None:
    if key in out.findings:
        return
    out.findings[key] = number
    findings.mkdir(parents=True, exist_ok=True)
    path = findings / f"{out.name}-{seed}-{number}"
    path.write_bytes(made_file(seed, out.name, number, valid)[1])
    print(f"FOUND {out.name}, seed {seed}, number {number}: {key}\n  {path}\n{lines}", flush=True)


def shares(outcomes: Sequence[Outcome], count: int) -> list[int]:
    """How many files each reader gets: all the least, and the rest by what they do in a second.

    >>> shares([Outcome("a", done=10, seconds=1.0), Outcome("b", done=30, seconds=1.0)], 80_000)
    [30000, 50000]
    """
    least = min(LEAST, count // len(outcomes))
    rates = [outcome.rate for outcome in outcomes]
    rest = count - least * len(outcomes)
    found = [least + int(rest * rate / (sum(rates) or 1.0)) for rate in rates]
    found[-1] += count - sum(found)
    return found


def _spread(jobs: Sequence[tuple[Reader, int]], seed: int, findings: Path, workers: int) -> Iterator[Outcome]:
    """Fuzz each reader by its count of files."""
    if workers == 1:
        for reader, count in jobs:
            yield fuzz(reader, range(count), seed, findings)
        return
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(workers) as pool:
        yield from pool.map(lambda job: fuzz(job[0], range(job[1]), seed, findings), jobs)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=1_000_000, help="damaged files over all readers")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help=f"readers, of {', '.join(reader.name for reader in READERS)}")
    parser.add_argument("--workers", type=int, default=1, help="readers at a time")
    parser.add_argument("--findings", type=Path, default=Path(tempfile.gettempdir()) / "allround-fuzz-findings")
    options = parser.parse_args()
    wanted = [name for name in options.only.split(",") if name]
    unknown = set(wanted) - {reader.name for reader in READERS}
    if unknown:
        parser.error(f"no such reader: {', '.join(sorted(unknown))}")
    readers = [reader for reader in READERS if not wanted or reader.name in wanted]
    tries = [Outcome(reader.name, 1, seconds=1.0) for reader in readers]
    if options.count > LEAST * len(readers):
        with tempfile.TemporaryDirectory() as place:
            tries = [fuzz(reader, range(1000), options.seed, Path(place)) for reader in readers]
    print("| reader | mutations | refused | read | slowest read | peak memory | per second | findings |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    outcomes = []
    for outcome in _spread(list(zip(readers, shares(tries, options.count), strict=True)), options.seed,
                           options.findings, options.workers):  # fmt: skip
        outcomes.append(outcome)
        print(outcome.row(), flush=True)
    found = sum(len(outcome.findings) for outcome in outcomes)
    print(f"{sum(outcome.done for outcome in outcomes):,} damaged files, {found} findings")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
