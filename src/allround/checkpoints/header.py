"""What a safetensors file says of itself: names, dtypes, shapes and places, checked before anything is believed."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from allround.core.errors import AllroundError, suggestion
from allround.core.reading import open_file, parse_json

if TYPE_CHECKING:
    import torch

#: Every dtype that allround reads and writes: what safetensors calls it, what torch calls it, bytes of an element.
_DTYPES = (
    *(("F64", "float64", 8), ("F32", "float32", 4), ("F16", "float16", 2), ("BF16", "bfloat16", 2)),
    *(("F8_E4M3", "float8_e4m3fn", 1), ("F8_E5M2", "float8_e5m2", 1)),
    *(("I64", "int64", 8), ("I32", "int32", 4), ("I16", "int16", 2), ("I8", "int8", 1)),
    *(("U64", "uint64", 8), ("U32", "uint32", 4), ("U16", "uint16", 2), ("U8", "uint8", 1), ("BOOL", "bool", 1)),
)
SIZES = {name: size for name, _, size in _DTYPES}
_TORCH = {name: torch_name for name, torch_name, _ in _DTYPES}
_NAMES = {torch_name: name for name, torch_name, _ in _DTYPES}
#: The dtypes that are merged; tensors of any other are taken over from the base.
FLOATS = ("F64", "F32", "F16", "BF16")
#: Floats that mean something only with the scales that are stored beside them.
SCALED = ("F8_E4M3", "F8_E5M2")
#: What safetensors stores beside these: files that hold it are whole, and cannot be read all the same.
_OTHERS = ("F4", "F6_E2M3", "F6_E3M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "C64")
#: A header of a model with a million tensors is about this long; a longer one is not a header.
_LONGEST = 200_000_000
#: So many values are in such a header.
_MOST = 20_000_000
#: No tensor has more dimensions, as none can be computed with.
_DIMENSIONS = 64


@dataclass(frozen=True)
class Place:
    """One tensor of a file: what it is, and at which byte of the file it begins."""

    dtype: str
    shape: tuple[int, ...]
    offset: int

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        return SIZES[self.dtype] * self.numel


def torch_dtype(name: str) -> torch.dtype:
    """The torch dtype of a safetensors name.

    >>> torch_dtype("BF16")
    torch.bfloat16
    """
    import torch

    dtype: torch.dtype = getattr(torch, _TORCH[name])
    return dtype


def dtype_name(dtype: torch.dtype) -> str:
    """The safetensors name of a torch dtype.

    >>> import torch
    >>> dtype_name(torch.float16)
    'F16'
    """
    return _NAMES[str(dtype).removeprefix("torch.")]


#: The dtypes in which weights may be asked for, as torch calls them -> as files do.
WRITTEN = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}


def asked_dtype(name: str, what: str = "write weights") -> str:
    """A dtype that a user asks for, as files call it. Errors: one that weights are not written in.

    >>> asked_dtype("bfloat16")
    'BF16'
    """
    if name not in WRITTEN:
        raise AllroundError(f"{what} as '{name}'", "there is no such dtype", suggestion(name, WRITTEN))
    return WRITTEN[name]


def known_dtype(dtype: torch.dtype) -> bool:
    """Whether tensors of a torch dtype can be read and written."""
    return str(dtype).removeprefix("torch.") in _NAMES


def read_header(path: Path) -> tuple[dict[str, Place], dict[str, str]]:
    """The places of a file's tensors, and its metadata. Reads the header only.

    Errors: a file that is cut short, a header longer than the file, tensors that overlap, leave holes, or do not fill
    the file exactly, sizes that do not follow from dtype and shape, and dtypes that allround does not read.
    """
    size = 0
    try:
        with open_file(path, asked=f"read the weights in {path}") as file:
            size = os.fstat(file.fileno()).st_size
            return _parse(file.read(8), size, file)
    except (_Broken, OSError) as error:
        raise AllroundError(
            f"read the weights in {path}",
            f"the file is broken or cut short ({error}; {size} bytes)",
            "copy or download it again",
        ) from error
    except _Unread as error:
        raise AllroundError(
            f"read the weights in {path}",
            f"{error}, which allround does not read",
            f"store the model in one of {', '.join(SIZES)}, such as bfloat16",
        ) from error


class _Broken(Exception):
    pass


class _Unread(Exception):
    pass


def _parse(start: bytes, size: int, file: Any) -> tuple[dict[str, Place], dict[str, str]]:
    if len(start) < 8:
        raise _Broken("it has no header")
    length = int.from_bytes(start, "little")
    if length > min(size - 8, _LONGEST):
        raise _Broken(f"its header would be {length} bytes long")
    try:
        header = parse_json(file.read(length).decode("utf-8"), max_values=_MOST, object_pairs_hook=_once)
    except ValueError as error:
        raise _Broken(f"its header is not JSON: {str(error)[:100]}") from error
    if not isinstance(header, dict):
        raise _Broken("its header names no tensors")
    metadata = header.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict) or not all(_is_text(t) for pair in metadata.items() for t in pair):
        raise _Broken("its metadata are not texts")
    first = 8 + length
    places = {name: _place(name, value, first) for name, value in header.items()}
    end = first
    for name, place in sorted(places.items(), key=lambda item: (item[1].offset, item[1].bytes)):
        if place.offset != end:
            raise _Broken(f"'{name}' begins at byte {place.offset - first}, and the tensor before it ends at "
                          f"{end - first}")  # fmt: skip
        end += place.bytes
    if end != size:
        raise _Broken(f"its tensors fill {end} bytes")
    return places, metadata


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name is in it twice")
    return found


def _place(name: str, value: Any, first: int) -> Place:
    if not _is_text(name):
        raise _Broken(f"{ascii(name)[:100]} is not a name")
    if not isinstance(value, dict) or not {"dtype", "shape", "data_offsets"} <= set(value):
        raise _Broken(f"'{name}' lacks a dtype, a shape or its offsets")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if dtype in _OTHERS:
        raise _Unread(f"'{name}' in it is stored as {dtype}")
    if not isinstance(dtype, str) or dtype not in SIZES:
        raise _Broken(f"'{name}' has the dtype {str(dtype)[:20]!r}; known: {', '.join(SIZES)}")
    if not _counts(shape) or not _counts(offsets) or len(offsets) != 2 or len(shape) > _DIMENSIONS:
        raise _Broken(f"the shape or offsets of '{name}' are not counts")
    place = Place(dtype, tuple(shape), first + offsets[0])
    if offsets[1] - offsets[0] != place.bytes:
        raise _Broken(f"'{name}' should be {place.bytes} bytes and has {offsets[1] - offsets[0]}")
    return place


def _counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 1 << 63 for n in value)


def _is_text(value: Any) -> bool:
    """Whether it is text that can be written: JSON can also spell halves of characters."""
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:
        return False


def make_header(
    plan: Mapping[str, tuple[str, tuple[int, ...]]], metadata: Mapping[str, str] | None = None
) -> tuple[bytes, dict[str, Place]]:
    """The first bytes of a file that holds the tensors of `plan` (name -> dtype, shape) in that order, and the places.

    >>> _, places = make_header({"a": ("F32", (2,)), "b": ("BF16", (3,))})
    >>> places["b"].offset - places["a"].offset
    8
    """
    header: dict[str, object] = {"__metadata__": dict(metadata or {"format": "pt"})}
    offset = 0
    for name, (dtype, shape) in plan.items():
        if dtype not in SIZES:
            raise AllroundError(
                f"write a tensor of dtype {dtype}",
                f"allround knows {', '.join(SIZES)}",
                "save the model in one of these, such as float32 or bfloat16",
            )
        size = SIZES[dtype] * math.prod(shape)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    first, places = 8 + len(text), {}
    for name, (dtype, shape) in plan.items():
        places[name] = Place(dtype, tuple(shape), first)
        first += places[name].bytes
    return len(text).to_bytes(8, "little") + text, places
