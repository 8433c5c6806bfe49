"""A store of residuals: a folder with one model and what takes it to each specialist, opened one task at a time."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from allround.checkpoints.finite import check_cast, count_odd
from allround.checkpoints.header import FLOATS, torch_dtype
from allround.checkpoints.weights import OTHER_WEIGHTS, Weights, index_of
from allround.checkpoints.write import write_weights
from allround.composition.residuals.residual import Residual
from allround.core.errors import AllroundError, suggestion
from allround.core.files import check_name
from allround.core.locks import Lock
from allround.core.outputs import output_folder
from allround.core.schema import STRICT, fitted
from allround.models import model as models
from allround.models.base import load_encoder
from allround.models.encoder import Encoder
from allround.models.model import MultiTaskModel, Outputs, read_definitions, read_heads, write_definitions, write_heads

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
        definitions, facts = read_definitions(folder)
        made = facts.get("residuals")
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
                write_definitions(folder, {name: self.definitions[name] for name in tasks}, made_by)
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


class StoreModel(MultiTaskModel):
    """The model of a store: every task is answered with the weights of its own specialist.

    It holds one encoder. A task's weights are made when it is asked for and stay until another one is: each is the
    stored weight plus the task's residual, so nothing is left of the task before. Threads are answered one at a time.
    """

    def __init__(self, store: Store) -> None:
        super().__init__(load_encoder(store.folder / "encoder"), {})
        self.store = store
        heads = read_heads(store.folder / "heads.safetensors") if store.definitions else {}
        for name, definition in store.definitions.items():
            self.add_task(definition, heads.get(name, {}))
        self._places = find_places(self.encoder, store)
        self._opened: str | None = None
        self._lock = Lock()

    @property
    def parameters_stored(self) -> int:
        """As many parameters as the store's bytes could hold in the dtype of the specialists' largest weight."""
        largest = max(self.store.weights, key=self.store.weights.numel)
        return -(-self.store.sizes.total // torch_dtype(self.store.dtype_of(largest)).itemsize)

    def open(self, task: str) -> None:
        """Put a task's weights into the encoder."""
        file = self.store.file(task)
        with self._lock:
            if file == self._opened:
                return
            self._opened = None  # until all is in: a failure on the way leaves a mixture
            residual = self.store.residual(file)
            with torch.inference_mode(False), torch.no_grad():
                if self._places is None:
                    self.encoder = self._load(residual).to(self.device)
                else:
                    state = self.encoder.state_dict()
                    for name, place in self._places.items():
                        state[place].copy_(self.store.tensor(residual, name))
            self._opened = file

    def close(self) -> None:
        """Forget which task is open, as its residual was written anew."""
        self._opened = None

    def _load(self, residual: Residual) -> Encoder:
        """The encoder by way of a folder, where it holds its weights otherwise than its files do."""
        with tempfile.TemporaryDirectory() as folder:
            self.store.write_encoder(residual, Path(folder))
            return load_encoder(folder).train(self.training)

    def forward(self, task: str, batch: Any) -> Tensor:
        with self._lock:
            self.open(task)
            return super().forward(task, batch)

    @torch.inference_mode()
    def outputs_prepared(self, task: str, prepared: Any, batch_size: int = 64) -> Outputs:
        self.definition(task)
        with self._lock:
            self.open(task)
            return super().outputs_prepared(task, prepared, batch_size)

    def write(self, folder: Path) -> None:
        """A store is copied as a folder, and one task is written by `Store.materialise`."""
        raise AllroundError(
            f"save the model of the store {self.store.folder}",
            "it answers each task with other weights, and a model folder holds one encoder",
            "copy the store, or write one task: allround materialise STORE TASK -o OUT",
        )


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


def is_store(folder: Path | str) -> bool:
    """Whether a folder that allround saved is a store of residuals."""
    return (Path(folder) / "allround.json").is_file() and "residuals" in read_definitions(Path(folder))[1]


def load(
    folder: Path | str,
    *,
    module: nn.Module | None = None,
    to_tensor: Callable[[tuple[Any, ...]], Tensor] | None = None,
    device: str = "cpu",
) -> MultiTaskModel:
    """Load a saved model, or a store of residuals as a model whose every task has its own weights.

    module, to_tensor: the network, and what turns its rows into tensors, when the model was made from a network of
    the user's own.
    """
    if not is_store(folder):
        return models.load(folder, module=module, to_tensor=to_tensor, device=device)
    if module is not None:
        from allround.models.encoders.module import give

        give(module, to_tensor)
    return StoreModel(Store.open(folder)).to(device).eval()
