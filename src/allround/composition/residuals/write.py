"""Writing a store: the model once, and each specialist's residual, a tensor at a time."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from allround.checkpoints.finite import check_cast, count_odd, odd_words
from allround.checkpoints.header import FLOATS, SIZES, dtype_name, make_header, torch_dtype
from allround.checkpoints.source import Source
from allround.checkpoints.weights import Weights
from allround.checkpoints.write import as_bytes
from allround.composition.residuals.codec import narrow
from allround.composition.residuals.residual import make_codec
from allround.composition.residuals.store import VECTOR, Store, rewrite
from allround.composition.systems.residual_store import ResidualStore
from allround.core import registry
from allround.core.errors import AllroundError
from allround.core.files import atomic_file, disk_errors
from allround.core.outputs import output_folder
from allround.core.words import plural
from allround.models.adapted import open_weights
from allround.models.base import find_folder
from allround.models.head_files import read_heads, write_heads
from allround.models.manifest import read_manifest, write_manifest
from allround.tasks.definition import Definition


@dataclass(frozen=True)
class StoreMember:
    """A tuned model: its weights, and where allround saved it, its tasks with their heads.

    name: of its residual, and of its task where it has no head.
    """

    name: str
    source: Source
    definitions: Mapping[str, Definition] = field(default_factory=dict)
    heads: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)

    @property
    def tasks(self) -> list[str]:
        return list(self.definitions) or [self.name]

    @property
    def bytes(self) -> int:
        """Of its weights as a full model, its heads among them."""
        encoder = sum(SIZES[self.source.dtype(n)] * self.source.numel(n) for n in self.source)
        return encoder + sum(t.numel() * t.itemsize for head in self.heads.values() for t in head.values())


def open_specialist(path: Path | str, source: Source | None = None) -> StoreMember:
    """A specialist from its folder: one that allround saved, or another, which is called as the folder.

    source: its weights, where they are not simply those in the folder (an adapter, say).
    """
    folder = Path(path)
    source = source or open_weights(find_folder(path, "model"))
    if not (folder / "allround.json").is_file():
        name = re.sub(r"[^A-Za-z0-9-]", "_", folder.resolve().name).lstrip("_-")[:100]
        return StoreMember(name or "model", source)
    _, definitions, _ = read_manifest(folder)
    heads = read_heads(folder / "heads.safetensors")
    return StoreMember(next(iter(definitions), folder.name), source, definitions, heads)


#: Scores the model of a store on one of its tasks; more is better.
Judge = Callable[[ResidualStore, str], float]


def write_store(
    out: Path | str,
    model: Path | str,
    specialists: Sequence[StoreMember],
    *,
    codec: str,
    values: Mapping[str, Any] | None = None,
    merged: Source | None = None,
    dtype: str | None = None,
    device: str = "cpu",
    judge: Judge | None = None,
    facts: Mapping[str, Any] | None = None,
    force: bool = False,
) -> Store:
    """Write a store into the folder `out`, which appears when it is whole. Holds a few tensors at a time.

    model: the folder of the model that is stored once. merged: for codecs with a multi-task vector, what that leads to
    from `model`, which is then the base. dtype: to store the model in; residuals are then those against the rounded
    weights, and the specialists come out in the dtype that the model had. judge: chooses for each specialist those of
    the codec's parameters that have a search range and are not in `values`, on validation rows, say; the first of
    equally good ones is taken. facts: whatever else allround.json should say. A folder that is there is
    replaced only where `compress` wrote it and nothing was changed since, or with `force`.
    Errors: models with other tensors or shapes, NaN or infinity, tasks that come twice.
    """
    values = dict(values or {})
    entry = registry.find("codec", codec)
    made = make_codec(codec, values)
    weights = Weights(find_folder(model, "model"))
    asked = f"compress {plural(len(specialists), 'model')} by '{codec}'"
    with_vector = entry.facts["vector"]
    if with_vector and merged is None:
        raise AllroundError(
            asked, "the codec masks a merged model, and none is given", "name a merge method, such as task_arithmetic"
        )
    _check(asked, weights, specialists, merged if with_vector else None)
    floats = [name for name in weights if weights.dtype(name) in FLOATS]
    restored = max((weights.dtype(n) for n in floats), key=SIZES.__getitem__) if dtype and floats else None
    read = [weights.path, *(s.source.path for s in specialists)]
    with output_folder(out, "compress", force=force, inputs=read) as folder:
        rewrite(
            weights,
            folder / "encoder",
            lambda n: dtype if dtype and weights.dtype(n) in FLOATS else weights.dtype(n),
            lambda n: _rounded(weights, n, dtype, asked),
        )
        definitions = {n: d for s in specialists for n, d in s.definitions.items()}
        if definitions:
            write_heads(folder / "heads.safetensors", {n: h for s in specialists for n, h in s.heads.items()})
        if merged is not None and with_vector:
            start = Weights(folder / "encoder")
            with parts_file(folder / VECTOR, {"format": "pt"}) as file:
                for name in floats:
                    vector = _change(merged, start, name, device)
                    if vector.any():
                        file.add(name, narrow(vector, made.values))
        about: dict[str, Any] = {
            "codec": codec,
            "parameters": entry.resolve(values),
            "files": {task: s.name for s in specialists for task in s.tasks},
            "dtype": restored,
            "specialists": sum(s.bytes for s in specialists),
            "chosen": {},
        }
        store = Store(folder, about["files"], restored, definitions, about)
        search = {p.name: p.search for p in entry.parameters if p.search and p.name not in values} if judge else {}
        opened = ResidualStore(store).to(device) if search else None
        for specialist in specialists:
            taken = values
            if opened is not None and judge is not None:
                settings = [dict(zip(search, chosen, strict=True)) for chosen in itertools.product(*search.values())]
                scores = []
                for setting in settings:
                    _write_residual(store, specialist, codec, {**values, **setting}, device)
                    opened.close()
                    scores.append(sum(judge(opened, task) for task in specialist.tasks))
                about["chosen"][specialist.name] = settings[scores.index(max(scores))]
                taken = {**values, **about["chosen"][specialist.name]}
            _write_residual(store, specialist, codec, taken, device)
        write_manifest(folder, definitions, {"residuals": about, **(facts or {})}, ResidualStore.sort)
    return Store.open(out)


def _check(asked: str, model: Weights, specialists: Sequence[StoreMember], merged: Source | None) -> None:
    """Errors for models that do not fit together."""
    names = [task for s in specialists for task in s.tasks]
    lower = [name.lower() for name in names]  # some disks do not tell "A" from "a"
    twice = sorted({name for name in names if lower.count(name.lower()) > 1})
    if twice or not names:
        found = f"'{twice[0]}' is in two of them" if twice else "no specialist is given"
        raise AllroundError(asked, found, "give each task once" if twice else "give at least one")
    floats = {name for name in model if model.dtype(name) in FLOATS}
    for other in [s.source for s in specialists] + ([merged] if merged is not None else []):
        own = {name for name in other if other.dtype(name) in FLOATS}
        odd = sorted(floats ^ own)
        if odd:
            which = "lacks" if odd[0] in floats else "has beside those of the model"
            raise AllroundError(
                asked, f"{other.path} {which} {plural(len(odd), 'tensor')}, such as {odd[0]}",
                "give models tuned from the same base; of one with a head of its own, only the encoder",
            )  # fmt: skip
        differ = sorted(name for name in floats if other.shape(name) != model.shape(name))
        if differ:
            name = differ[0]
            raise AllroundError(
                asked, f"'{name}' is {other.shape(name)} in {other.path}, and {model.shape(name)} in {model.path}",
                "give models tuned from the same base, with the same vocabulary",
            )  # fmt: skip


def _rounded(weights: Weights, name: str, dtype: str | None, asked: str) -> Tensor:
    """A weight of the model as it is stored. Errors: one that is too large for the dtype."""
    weight = weights.get(name)
    if dtype is None or weights.dtype(name) not in FLOATS:
        return weight
    found = weight.to(torch_dtype(dtype))
    check_cast(weight, found, asked, name)
    return found


def _change(tuned: Source, start: Source, name: str, device: str) -> Tensor:
    """How far a weight is from the stored one; entries that are the same and not finite (of masks) count as zero."""
    first, second = (source.get(name).to(device) for source in (start, tuned))
    compute = torch.promote_types(torch.promote_types(first.dtype, second.dtype), torch.float32)
    first, second = first.to(compute), second.to(compute)
    found = torch.where(first == second, 0, second - first)
    if count_odd(found):
        who, values = (tuned.path, second) if count_odd(second) else (start.path, first)
        raise AllroundError(
            f"compress {tuned.path}", f"'{name}' in {who} holds {odd_words(values)}", "tune it again, or check the base"
        )
    return found


def _write_residual(store: Store, specialist: StoreMember, codec: str, values: Mapping[str, Any], device: str) -> None:
    made = make_codec(codec, values)
    about = {"codec": codec, "parameters": json.dumps(registry.find("codec", codec).resolve(values))}
    with parts_file(store.path(specialist.name), about) as file:
        for name in store.weights:
            if store.weights.dtype(name) not in FLOATS:
                continue
            residual = _change(specialist.source, store.weights, name, device)
            if residual.any():
                vector = store.vector_of(name)
                parts = made.encode(residual, vector.to(device) if vector is not None else None)
                for part, values_ in parts.items():
                    file.add(f"{name}.{part}", values_)


class PartsFile:
    """A safetensors file whose tensors are not known before they come: they wait in a file beside it."""

    def __init__(self, waiting: IO[bytes]) -> None:
        self.waiting = waiting
        self.plan: dict[str, tuple[str, tuple[int, ...]]] = {}

    def add(self, name: str, tensor: Tensor) -> None:
        self.plan[name] = (dtype_name(tensor.dtype), tuple(tensor.shape))
        self.waiting.write(as_bytes(tensor))


@contextmanager
def parts_file(path: Path, metadata: Mapping[str, str]) -> Iterator[PartsFile]:
    """Write tensors into `path` one after the other; it appears when it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with disk_errors(str(path)), tempfile.TemporaryFile(dir=path.parent) as waiting:
        made = PartsFile(waiting)
        yield made
        waiting.seek(0)
        with atomic_file(path) as temporary, open(temporary, "wb") as file:
            file.write(make_header(made.plan, metadata)[0])
            shutil.copyfileobj(waiting, file, 1 << 20)
