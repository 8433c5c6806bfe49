"""Writing safetensors files tensor by tensor, so that memory stays at one tensor whatever the size."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from allround.core.errors import AllroundError
from allround.core.files import atomic_file

if TYPE_CHECKING:
    from torch import Tensor

#: Bytes of one element of each dtype that safetensors knows.
SIZES = {
    **{"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2},
    **{"F8_E4M3": 1, "F8_E5M2": 1, "I8": 1, "U8": 1, "BOOL": 1},
}

#: The same dtypes as torch calls them.
_TORCH = {
    **{"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "BOOL": "bool"},
    **{"I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8"},
    **{"U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8"},
    **{"F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"},
}


def write_weights(
    path: Path | str,
    plan: Mapping[str, tuple[str, tuple[int, ...]]],
    tensors: Iterable[tuple[str, Tensor]],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write the tensors of `plan` (name -> dtype, shape) as they come, in the plan's order.

    The file appears when it is whole. A tensor that departs from the plan is an error.
    """
    header: dict[str, object] = {"__metadata__": dict(metadata or {"format": "pt"})}
    offset = 0
    for name, (dtype, shape) in plan.items():
        size = _bytes_of(dtype, shape)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    waiting = iter(plan.items())
    with atomic_file(path) as temporary, open(temporary, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, tensor in tensors:
            expected, (dtype, shape) = next(waiting, ("", ("", ())))
            data = _bytes(tensor)
            if name != expected or tuple(tensor.shape) != shape or str(tensor.dtype) != f"torch.{_TORCH[dtype]}":
                raise AllroundError(
                    f"write the tensor '{expected}' ({dtype}, {shape}) to {path}",
                    f"'{name}' ({tensor.dtype}, {tuple(tensor.shape)}) came instead",
                    "this is a defect of the method that made it: its output must have the shape of its input",
                )
            file.write(data)
        left = next(waiting, None)
        if left is not None:
            raise AllroundError(
                f"write {path}", f"no tensor came for '{left[0]}'", "this is a defect of the caller: report it"
            )


def _bytes_of(dtype: str, shape: tuple[int, ...]) -> int:
    if dtype not in SIZES:
        raise AllroundError(
            f"write a tensor of dtype {dtype}",
            f"allround knows {', '.join(SIZES)}",
            "save the model in one of these, such as float32 or bfloat16",
        )
    return SIZES[dtype] * math.prod(shape)


def _bytes(tensor: Tensor) -> memoryview:
    import torch

    flat = tensor.detach().cpu().contiguous().reshape(-1)
    raw: Any = flat.view(torch.uint8).numpy() if flat.numel() else b""
    return memoryview(raw)
