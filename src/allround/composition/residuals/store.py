"""A store of residuals: a folder with one model and what takes it to each specialist, opened one task at a time."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from allround.checkpoints.finite import check_cast, count_odd
from allround.checkpoints.header import FLOATS, torch_dtype
from allround.checkpoints.weights import OTHER_WEIGHTS, Weights, index_of
from allround.checkpoints.write import write_weights
from allround.composition.residuals.residual import Residual
from allround.core.errors import AllroundError, suggestion
from allround.core.files import check_name
from allround.core.outputs import output_folder
from allround.core.schema import STRICT, fitted
from allround.models.encoder import Encoder
from allround.models.head_files import read_heads, write_heads
from allround.models.manifest import read_manifest, write_manifest

VECTOR = "vector.safetensors"
#: Files of a model's folder that speak of how that folder came to be, and of no other.
_OF_FOLDER = ("README.md", "merge.json", "allround.json", "adapter_config.json")


@dataclass(frozen=True)
class Sizes:
    """Bytes of weights: of the model that is stored once, of what codecs need beside it once (the multi-task vector),
    of each residual, of the heads, and of the specialists as they were (heads too)."""

    model: int
    vector: int
    residuals: Mapping[str, int]
    heads: int
    specialists: int

    @property
    def total(self) -> int:
        return self.model + self.vector + sum(self.residuals.values()) + self.heads

    @property
    def share(self) -> float:
        """Of the bytes of all specialists.

        >>> Sizes(100, 0, {"a": 10, "b": 10}, 5, 250).share
        0.5
        """
        return self.total / self.specialists


@dataclass(frozen=True)
class _Manifest:
    """What allround.json says under `residuals`."""

    __pydantic_config__ = STRICT

    codec: str
    parameters: dict[str, Any]
    files: dict[str, str]
    dtype: str | None
    specialists: int
    chosen: dict[str, dict[str, Any]]


@dataclass
class Store:
    """An opened store.

    files: for each task, the name of its residual; tasks of one specialist share it. dtype: of the specialists'
    weights, where the model is stored in another; else None. made: what `residuals` in allround.json says.
    """

    folder: Path
    files: Mapping[str, str]
    dtype: str | None
    definitions: Mapping[str, Any]
    made: Mapping[str, Any]
    weights: Weights = field(init=False)
    vector: Weights | None = field(init=False)

    def __post_init__(self) -> None:
        self.weights = Weights(self.folder / "encoder")
        path = self.folder / VECTOR
        self.vector = Weights(path) if path.is_file() else None
        for name in self.vector or ():
            if name not in self.weights or self.vector.shape(name) != self.weights.shape(name):  # type: ignore[union-attr]
                raise _damaged(self.folder, f"'{name}' in {VECTOR} is no weight of the model")

    @classmethod
    def open(cls, folder: Path | str) -> Store:
        """Read what a store says of itself. Errors: a folder that is none, or whose parts are missing or damaged."""
        folder = Path(folder)
        _, definitions, facts = read_manifest(folder)
        made: Any = facts.get("residuals")
        if made is None:
            raise AllroundError(
                f"open the store {folder}",
                "it is a model, without residuals",
                "make a store: allround compress BASE MODEL... -o STORE",
            )
        try:
            about = fitted(_Manifest, made)
            files, dtype = about.files, about.dtype
            for name, file in files.items():
                check_name(name, "task")
                check_name(file, "residual")
            if dtype is not None and dtype not in FLOATS:
                raise ValueError(f"the dtype {dtype!r} is not one of {', '.join(FLOATS)}")
            if not files or not set(definitions) <= set(files) or about.specialists <= 0:
                raise ValueError("it does not list the residuals of all tasks, and the bytes of the specialists")
        except (ValueError, AllroundError) as error:
            found = error.found if isinstance(error, AllroundError) else str(error)
            raise _damaged(folder, f"allround.json: {found}") from error
        store = cls(folder, files, dtype, definitions, made)
        for file in dict.fromkeys(files.values()):
            if not store.path(file).is_file():
                raise _damaged(folder, f"residuals/{file}.safetensors is not there")
        return store

    def path(self, file: str) -> Path:
        return self.folder / "residuals" / f"{file}.safetensors"

    def file(self, task: str) -> str:
        """The name of a task's residual."""
        if task not in self.files:
            raise AllroundError(
                f"open the task '{task}' of {self.folder}", "the store has none of that name",
                suggestion(task, self.files),
            )  # fmt: skip
        return self.files[task]

    def dtype_of(self, name: str) -> str:
        """The dtype of a specialist's weight."""
        stored = self.weights.dtype(name)
        return self.dtype if self.dtype is not None and stored in FLOATS else stored

    def tensor(self, residual: Residual, name: str) -> Tensor:
        """A weight of the specialist that a residual belongs to. Errors: a residual or a sum that is not finite."""
        weight = self.weights.get(name)
        if self.weights.dtype(name) not in FLOATS:
            return weight
        made = residual.add(name, weight, self.vector_of(name) if name in residual else None)
        asked = f"open '{name}' with {residual.path}"
        if count_odd(made):  # as masks may hold
            odd = ~torch.isfinite(made) & (torch.isfinite(weight) | torch.isnan(made))
            if odd.any():
                words = f"NaN or infinity comes in {int(odd.sum()):,} of {odd.numel():,} places"
                raise AllroundError(asked, words, "make the store again, of whole models")
        found = made.to(torch_dtype(self.dtype_of(name)))
        check_cast(made, found, asked, name)
        return found

    def vector_of(self, name: str) -> Tensor | None:
        """The multi-task vector at a weight; None where it is zero, or the codec has none."""
        if self.vector is None or name not in self.vector:
            return None
        found = self.vector.get(name)
        return found.to(torch.promote_types(found.dtype, torch.float32))

    def residual(self, file: str) -> Residual:
        found = Residual(self.path(file))
        strange = [name for name in found if name not in self.weights or self.weights.dtype(name) not in FLOATS]
        if strange:
            raise _damaged(self.folder, f"'{strange[0]}' in residuals/{file}.safetensors is no weight of the model")
        return found

    @property
    def sizes(self) -> Sizes:
        residuals = {file: self.path(file).stat().st_size for file in dict.fromkeys(self.files.values())}
        vector, heads = (_size(self.folder / name) for name in (VECTOR, "heads.safetensors"))
        model = sum(file.stat().st_size for file in self.weights.files)
        return Sizes(model, vector, residuals, heads, self.made["specialists"])

    def materialise(self, task: str, out: Path | str, *, force: bool = False) -> None:
        """Write a task's model as a folder of its own: the specialist, as nearly as its residual says.

        A folder that is there is replaced only where this wrote it and nothing was changed since, or with `force`.
        """
        file = self.file(task)
        residual, tasks = self.residual(file), [name for name in self.definitions if self.files[name] == file]
        with output_folder(out, "materialise", force=force, inputs=[self.folder]) as folder:
            if tasks:
                heads = read_heads(self.folder / "heads.safetensors")
                write_heads(folder / "heads.safetensors", {name: heads.get(name, {}) for name in tasks})
                made_by = {"made_by": {"store": str(self.folder), "codec": self.made.get("codec")}}
                write_manifest(folder, {name: self.definitions[name] for name in tasks}, made_by)
            self.write_encoder(residual, folder / "encoder" if tasks else folder)

    def write_encoder(self, residual: Residual, folder: Path) -> None:
        rewrite(self.weights, folder, self.dtype_of, lambda name: self.tensor(residual, name))


def rewrite(weights: Weights, folder: Path, dtype_of: Callable[[str], str], tensor: Callable[[str], Tensor]) -> None:
    """Write a model folder anew with other values in the same layout, a tensor at a time; other files are copied."""
    root = weights.path
    for path in sorted(root.rglob("*")):
        inner = path.relative_to(root)
        hidden = any(part.startswith(".") for part in inner.parts)
        others = path.suffix in OTHER_WEIGHTS or index_of(path.name) not in (None, ".safetensors")
        if path.is_file() and not (hidden or others or path.name in _OF_FOLDER or path in weights.files):
            (folder / inner).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, folder / inner)
    for file in weights.files:
        names = {name: weights.file_of(name)[1] for name in weights if weights.file_of(name)[0] == file}
        plan = {key: (dtype_of(name), weights.shape(name)) for name, key in names.items()}
        metadata = weights.metadata or None
        write_weights(
            folder / file.relative_to(root), plan, ((key, tensor(name)) for name, key in names.items()), metadata
        )


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _damaged(folder: Path, found: str) -> AllroundError:
    return AllroundError(f"open the store {folder}", f"it is damaged: {found}", "copy it again, whole, or make it anew")


def find_places(encoder: Encoder, store: Store) -> dict[str, str] | None:
    """Where an encoder that was loaded from a store's files holds each of their floating tensors.

    The tensors of a folder of files lie under one prefix, with the values of the files. None where that is not so:
    the library renames or joins them.
    """
    state = encoder.state_dict()
    groups: dict[str, list[str]] = {}
    for name in store.weights:
        if store.weights.dtype(name) in FLOATS:
            groups.setdefault(name.rpartition("/")[0], []).append(name)

    def same(name: str, place: str) -> bool:
        held = state.get(place)
        if held is None or tuple(held.shape) != store.weights.shape(name):
            return False
        stored = store.weights.get(name)
        wide = torch.promote_types(held.dtype, stored.dtype)
        return torch.equal(held.cpu().to(wide), stored.to(wide))

    places: dict[str, str] = {}
    for names in groups.values():
        keys = {name: name.rpartition("/")[2] for name in names}
        key = keys[names[0]]
        prefixes = [place.removesuffix(key) for place in state if place == key or place.endswith(f".{key}")]
        found = [prefix for prefix in prefixes if all(same(name, prefix + keys[name]) for name in names)]
        if len(found) != 1:
            return None
        places |= {name: found[0] + keys[name] for name in names}
    return places
