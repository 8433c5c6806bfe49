"""Weights on disk, read a stretch at a time."""

from __future__ import annotations

import os
import re
import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from allround.checkpoints.header import SIZES, Place, dtype_name, known_dtype, read_header, torch_dtype
from allround.checkpoints.source import Source
from allround.core.errors import AllroundError
from allround.core.files import hash_file, hash_json, is_inside, read_settings
from allround.core.reading import check_file, open_file

if TYPE_CHECKING:
    from torch import Tensor

_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle")
#: What a pickled checkpoint may wrap its tensors in.
_WRAPPERS = ("state_dict", "model_state_dict", "model", "module")
#: Weights in other formats; their files are not read, or only as pickles.
OTHER_WEIGHTS = (".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".ot", ".onnx", ".gguf")
#: What a learned merge leaves beside its weights: the learned numbers, which are not weights.
LEARNED = "learned.safetensors"
#: What a file is called that says which of several files holds which tensor; a variant of a model has its name in it.
_INDEX = re.compile(r"(\.safetensors|\.bin|\.h5|\.msgpack)\.index(\.[^.]+)?\.json$")


class Weights(Source):
    """The tensors of a safetensors file, or of all such files under a folder.

    Nothing is read but the headers until `read` or `get` is called. Tensors in a subfolder (the dense layer of a
    sentence-transformers model, say) carry it as a prefix: `2_Dense/linear.weight`.

    pickles: also take PyTorch's own files (.bin, .pt, .pth, .ckpt) where there is no safetensors file. They are
    opened with `weights_only=True`, which runs no code of theirs.
    """

    def __init__(self, path: Path | str, *, pickles: bool = False) -> None:
        self.path = Path(path)
        self._files = _files(self.path, pickles)
        self._where: dict[str, tuple[Path, str]] = {}
        self._places: dict[str, Place] = {}
        self.metadata: dict[str, str] = {}
        self._open: dict[Path, _File] = {}
        for file in self._files:
            opened = self._opened(file)
            prefix = "" if self.path.is_file() else file.parent.relative_to(self.path).as_posix().lstrip(".")
            for key, place in opened.places.items():
                name = f"{prefix}/{key}" if prefix else key
                if name in self._where:
                    raise AllroundError(
                        f"read the weights in {self.path}",
                        f"the tensor '{name}' is in two files: {self._where[name][0].name} and {file.name}",
                        "keep one of them: a folder must hold one copy of its weights",
                    )
                self._where[name] = (file, key)
                self._places[name] = place
            self.metadata = self.metadata or opened.metadata
        _check_indexes(self.path, self._where, self._files[0].suffix)

    def _opened(self, file: Path) -> _File:
        if file not in self._open:
            self._open[file] = _Safe(file) if file.suffix == ".safetensors" else _Pickled(file)
        return self._open[file]

    def __getstate__(self) -> dict[str, Any]:
        """For another process, which may stand in another folder."""
        files = [file.absolute() for file in self._files]
        where = {name: (file.absolute(), key) for name, (file, key) in self._where.items()}
        moved = {"path": self.path.absolute(), "_files": files, "_where": where}
        return {**self.__dict__, **moved, "_open": {}, "watch": None}

    @property
    def files(self) -> list[Path]:
        return self._files

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def __len__(self) -> int:
        return len(self._where)

    def __contains__(self, name: object) -> bool:
        return name in self._where

    def file_of(self, name: str) -> tuple[Path, str]:
        """The file that holds a tensor, and its name in there."""
        return self._where[name]

    def shape(self, name: str) -> tuple[int, ...]:
        return self._places[name].shape

    def dtype(self, name: str) -> str:
        return self._places[name].dtype

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        file, key = self._where[name]
        values = self._opened(file).read(key, start, self._places[name].numel if stop is None else stop)
        if self.watch is not None:
            self.watch(name, start, values)
        return values

    def release(self) -> None:
        """Close the files; they are opened again when something is read. A read in another thread goes on."""
        self._open.clear()

    def announce(self, name: str) -> None:
        """Tell the system that a tensor will be read soon, so that it comes from the disk in the meantime."""
        file, key = self._where[name]
        self._opened(file).announce(key)

    @property
    def content(self) -> str:
        """A hash of the files' bytes."""
        return hash_json([[f.name, hash_file(f)] for f in self.files])


class _File(ABC):
    """One open file of weights."""

    places: dict[str, Place]
    metadata: dict[str, str]

    @abstractmethod
    def read(self, key: str, start: int, stop: int) -> Tensor:
        """A stretch of a tensor, flat."""

    @abstractmethod
    def announce(self, key: str) -> None:
        """A tensor will be read soon."""


class _Safe(_File):
    """A safetensors file. It is read by offset, not mapped: a file may be larger than the address space allows, the
    pages that were read do not count as this process's memory, and a file that shrinks is an error, not a signal."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.places, self.metadata = read_header(path)
        file = open_file(path)
        self._handle = file.fileno()
        weakref.finalize(self, file.close)

    def read(self, key: str, start: int, stop: int) -> Tensor:
        import torch

        place = self.places[key]
        size = SIZES[place.dtype]
        values = torch.empty(stop - start, dtype=torch_dtype(place.dtype))
        if stop > start:
            into: Any = values.view(torch.uint8).numpy()
            view, offset = memoryview(into), place.offset + start * size
            while view:
                count = os.preadv(self._handle, [view], offset)
                if count == 0:
                    raise AllroundError(
                        f"read the tensor '{key}' of {self.path}",
                        "the file became shorter while it was read",
                        "let nothing write to it meanwhile; copy or download it again",
                    )
                view, offset = view[count:], offset + count
        return values

    def announce(self, key: str) -> None:
        place = self.places[key]
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._handle, place.offset, place.bytes, os.POSIX_FADV_WILLNEED)


class _Pickled(_File):
    """A file of torch.save, opened without running what it may hold."""

    def __init__(self, path: Path) -> None:
        self._tensors = _unpickle(path)
        self.places = {n: Place(dtype_name(t.dtype), tuple(t.shape), 0) for n, t in self._tensors.items()}
        self.metadata = {"format": "pt"}

    def read(self, key: str, start: int, stop: int) -> Tensor:
        return self._tensors[key].reshape(-1)[start:stop].clone()

    def announce(self, key: str) -> None:
        """Nothing to do: it is mapped, or in memory."""


def _unpickle(path: Path) -> dict[str, Tensor]:
    import torch

    asked = f"read the weights in {path}"
    check_file(path, asked=asked)
    try:
        try:
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError:  # files from before torch 1.6 cannot be mapped
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a broken or hostile pickle raises
        first = (str(error).strip() or type(error).__name__).splitlines()[0][:150]
        raise AllroundError(
            asked,
            f"it holds more than tensors, or is broken ({first})",
            "save the model as safetensors where you trust it (transformers: model.save_pretrained(folder))",
        ) from error
    for wrapper in _WRAPPERS:
        if isinstance(loaded, dict) and isinstance(loaded.get(wrapper), dict):
            loaded = loaded[wrapper]
    if not isinstance(loaded, dict) or not all(isinstance(n, str) for n in loaded):
        raise AllroundError(asked, f"it holds a {type(loaded).__name__}, not named tensors", "save a state_dict")
    odd = [n for n, t in loaded.items() if not isinstance(t, torch.Tensor)]
    if odd:
        raise AllroundError(asked, f"'{odd[0]}' in it is not a tensor", "save only the model's state_dict")
    for name, tensor in loaded.items():
        if not known_dtype(tensor.dtype) or tensor.layout != torch.strided:
            found = f"'{name}' in it is stored as {tensor.dtype} ({tensor.layout}), which allround does not read"
            raise AllroundError(asked, found, "store the model in float32 or bfloat16")
        if tensor.is_meta:
            found = f"'{name}' in it has a shape and no values (torch's meta device)"
            raise AllroundError(asked, found, "load the whole model before it is saved, not only parts of it")
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            found = f"'{name}' in it says {tuple(tensor.shape)}, and the file holds only a part of it, to be repeated"
            raise AllroundError(asked, found, "save the tensor whole: tensor.contiguous()")
    return {n: t.detach() for n, t in loaded.items()}


def _files(path: Path, pickles: bool) -> list[Path]:
    asked = f"read the weights in {path}"
    if path.is_file():
        if path.suffix == ".safetensors" or (pickles and any(path.match(p) for p in _PICKLES[:4])):
            return [path]
        raise _pickle_error(asked, path)
    if not path.is_dir():
        raise AllroundError(asked, "there is no such file or folder", "check the path")
    files = sorted(p for p in path.rglob("*.safetensors") if p.name != LEARNED)
    if not files:
        found = sorted(p for pattern in _PICKLES for p in path.rglob(pattern) if p.name != "training_args.bin")
        if found and not pickles:
            raise _pickle_error(asked, found[0])
        files = [p for p in found if any(p.match(pattern) for pattern in _PICKLES[:1])] or found
    for index, listed in indexes(path):
        # os.path never raises, also where a name is too long for a file
        missing = sorted(n for n in set(listed.values()) if not os.path.isfile(index.parent / n))  # noqa: PTH113
        if missing and (index_of(index.name) == ".safetensors" or pickles):
            raise AllroundError(
                asked, f"{index.name} lists files that are not there: {', '.join(missing[:5])}", "copy them as well"
            )
    if not files:
        raise AllroundError(asked, "the folder holds no .safetensors file", "point to the folder of a saved model")
    return files


def index_of(name: str) -> str | None:
    """Of which kind of weights a file is an index, by its name.

    >>> index_of("model.safetensors.index.json"), index_of("pytorch_model.bin.index.fp16.json"), index_of("a.json")
    ('.safetensors', '.bin', None)
    """
    found = _INDEX.search(name)
    return found[1] if found else None


def indexes(path: Path) -> Iterator[tuple[Path, dict[str, str]]]:
    """The index files of a folder: which file holds which tensor. Errors: one that is broken."""
    found = (file for file in path.rglob("*.json") if index_of(file.name) in (".safetensors", ".bin"))
    for index in sorted(found) if path.is_dir() else ():
        value = read_settings(index)
        listed = value.get("weight_map") if isinstance(value, dict) else None
        if not isinstance(listed, dict) or not all(isinstance(name, str) for name in listed.values()):
            raise AllroundError(
                f"read the weights in {path}", f"{index.name} does not say which file holds which tensor",
                "copy it again",
            )  # fmt: skip
        outside = next((name for name in listed.values() if not is_inside(name)), None)
        if outside is not None:
            raise AllroundError(
                f"read the weights in {path}", f"{index.name} names {outside!r}, which is not in its folder",
                "do not use this model, or copy the file there and name it in the index",
            )  # fmt: skip
        yield index, listed


def _check_indexes(path: Path, where: dict[str, tuple[Path, str]], suffix: str) -> None:
    """Every tensor that an index of such files names must be in the file it names; libraries would look there."""
    for index, listed in indexes(path):
        prefix = index.parent.relative_to(path).as_posix().lstrip(".")
        for key, file in listed.items():
            name = f"{prefix}/{key}" if prefix else key
            if index_of(index.name) == suffix and where.get(name, (None,))[0] != index.parent / file:
                raise AllroundError(
                    f"read the weights in {path}",
                    f"{index.name} says that {file} holds '{key}', and it does not",
                    "copy the folder again, or remove files of another version from it",
                )


def _pickle_error(asked: str, path: Path) -> AllroundError:
    return AllroundError(
        asked,
        f"{path.name} is not a safetensors file; a pickled checkpoint can run code when it is opened",
        "save the model as safetensors where you trust it (transformers: model.save_pretrained(folder))",
    )
