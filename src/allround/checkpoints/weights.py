"""Weights on disk, read one tensor at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from allround.core.errors import AllroundError
from allround.core.files import hash_file, hash_json, read_json

if TYPE_CHECKING:
    from torch import Tensor

_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle")


class Weights:
    """The tensors of a safetensors file, or of all such files under a folder.

    Nothing is read but the headers until `get` is called. Tensors in a subfolder (the dense layer of a
    sentence-transformers model, say) carry it as a prefix: `2_Dense/linear.weight`.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.files = _files(self.path)
        self._open: dict[Path, Any] = {}
        self._where: dict[str, tuple[Path, str]] = {}
        for file in self.files:
            prefix = "" if self.path.is_file() else file.parent.relative_to(self.path).as_posix().lstrip(".")
            for key in self._handle(file).keys():  # noqa: SIM118 (not a mapping)
                name = f"{prefix}/{key}" if prefix else key
                if name in self._where:
                    raise AllroundError(
                        f"read the weights in {self.path}",
                        f"the tensor '{name}' is in two files: {self._where[name][0].name} and {file.name}",
                        "keep one of them: a folder must hold one copy of its weights",
                    )
                self._where[name] = (file, key)

    def _handle(self, file: Path) -> Any:
        if file not in self._open:
            from safetensors import SafetensorError, safe_open

            try:
                self._open[file] = safe_open(file, framework="pt")
            except (SafetensorError, OSError, ValueError) as error:
                raise AllroundError(
                    f"read the weights in {file}",
                    f"the file is broken or cut short ({str(error).splitlines()[0]}; {file.stat().st_size} bytes)",
                    "copy or download it again",
                ) from error
            except RuntimeError as error:
                raise AllroundError(
                    f"read the weights in {file}",
                    f"the system cannot map it into memory ({str(error).splitlines()[0]})",
                    "save the model in smaller files (transformers: save_pretrained(folder, max_shard_size='5GB'))",
                ) from error
        return self._open[file]

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def __len__(self) -> int:
        return len(self._where)

    def __contains__(self, name: str) -> bool:
        return name in self._where

    def file_of(self, name: str) -> tuple[Path, str]:
        """The file that holds a tensor, and its name in there."""
        return self._where[name]

    def shape(self, name: str) -> tuple[int, ...]:
        file, key = self._where[name]
        return tuple(self._handle(file).get_slice(key).get_shape())

    def dtype(self, name: str) -> str:
        """The dtype as safetensors writes it: F32, BF16, I64, ..."""
        file, key = self._where[name]
        return str(self._handle(file).get_slice(key).get_dtype())

    def get(self, name: str) -> Tensor:
        """Read one tensor. Each call reads it anew: nothing is kept."""
        file, key = self._where[name]
        tensor: Tensor = self._handle(file).get_tensor(key)
        return tensor

    @property
    def content(self) -> str:
        """A hash of the files' bytes."""
        return hash_json([[f.name, hash_file(f)] for f in self.files])


def _files(path: Path) -> list[Path]:
    asked = f"read the weights in {path}"
    if path.is_file():
        if path.suffix != ".safetensors":
            raise _pickle_error(asked, path)
        return [path]
    if not path.is_dir():
        raise AllroundError(asked, "there is no such file or folder", "check the path")
    files = sorted(path.rglob("*.safetensors"))
    for index in path.rglob("*.safetensors.index.json"):
        value = read_json(index)
        listed = value.get("weight_map") if isinstance(value, dict) else None
        if not isinstance(listed, dict) or not all(isinstance(name, str) for name in listed.values()):
            raise AllroundError(asked, f"{index.name} does not say which file holds which tensor", "copy it again")
        missing = sorted(name for name in set(listed.values()) if not (index.parent / name).is_file())
        if missing:
            raise AllroundError(
                asked, f"{index.name} lists files that are not there: {', '.join(missing[:5])}", "copy them as well"
            )
    if not files:
        pickles = sorted(p for pattern in _PICKLES for p in path.rglob(pattern))
        if pickles:
            raise _pickle_error(asked, pickles[0])
        raise AllroundError(asked, "the folder holds no .safetensors file", "point to the folder of a saved model")
    return files


def _pickle_error(asked: str, path: Path) -> AllroundError:
    return AllroundError(
        asked,
        f"{path.name} is not a safetensors file; a pickled checkpoint can run code when it is opened",
        "save the model as safetensors where you trust it (transformers: model.save_pretrained(folder))",
    )
