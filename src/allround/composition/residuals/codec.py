"""What a codec must do, and what codecs share: bits, dtypes, tensors kept whole, checks of what a file holds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor

from allround.core.errors import AllroundError, suggestion

Parts = dict[str, Tensor]

#: What the numbers of a residual may be stored as; `own` is the dtype that they come in.
VALUES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "own": None}
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class DamagedResidual(ValueError):
    """Parts that no encoder wrote."""


class Codec(ABC):
    """Writes the residual of one weight (tuned minus stored) as a few small tensors, and reads it back.

    vector: the multi-task vector at this weight (the merged model minus the stored one), for codecs marked with
    `@method(vector=True)`; the store holds it once for all tasks. values: the dtype of stored numbers, one of
    `VALUES`; for a codec with a vector, the vector's.
    """

    values: str

    def __init__(self, values: str) -> None:
        if values not in VALUES:
            raise AllroundError(f"store residuals as '{values}'", "there is no such choice", suggestion(values, VALUES))
        self.values = values

    @abstractmethod
    def encode(self, residual: Tensor, vector: Tensor | None = None) -> Parts:
        """The parts of a residual (*s), which is finite and not all zeros; none at all stand for zeros."""

    @abstractmethod
    def decode(self, parts: Mapping[str, Tensor], shape: tuple[int, ...], vector: Tensor | None = None) -> Tensor:
        """The residual (*s) that parts stand for. Errors: DamagedResidual, before anything larger than (*s) is made."""


def narrow(values: Tensor, name: str) -> Tensor:
    """Numbers in the dtype in which they are stored. Errors: numbers too large for it."""
    found = values.to(VALUES[name] or values.dtype)
    if not torch.isfinite(found).all():
        raise AllroundError(
            f"store residuals as {name}",
            f"one is {float(values.abs().max()):.3g}, and {name} ends at {torch.finfo(found.dtype).max:.3g}",
            "store them as bfloat16, or as they are: --values own",
        )
    return found


def wide(values: Tensor) -> Tensor:
    """Stored numbers in a dtype to compute in: float32 or wider."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def part(parts: Mapping[str, Tensor], name: str, shape: tuple[int, ...] | None, *dtypes: torch.dtype) -> Tensor:
    """One of the parts, checked: shape (None: one dimension of any length) and dtype (none given: any float)."""
    if name not in parts:
        raise DamagedResidual(f"there is no '{name}'; there is {', '.join(parts) or 'nothing'}")
    found = parts[name]
    if (found.ndim != 1 if shape is None else found.shape != shape) or found.dtype not in (dtypes or _FLOATS):
        raise DamagedResidual(f"'{name}' is {tuple(found.shape)}, {found.dtype}; {shape or 'a row'} was expected")
    return found


def pack(bits: Tensor) -> Tensor:
    """Bits in bytes, the first in the highest place: bool (n,) -> uint8 (ceil(n / 8),).

    >>> pack(torch.tensor([True, False, False, False, False, False, False, True, True])).tolist()
    [129, 128]
    """
    padded = torch.nn.functional.pad(bits.flatten().to(torch.uint8), (0, -bits.numel() % 8)).view(-1, 8)
    packed = padded[:, 0] << 7
    for place in range(1, 8):
        packed |= padded[:, place] << (7 - place)
    return packed


def unpack(parts: Mapping[str, Tensor], name: str, size: int) -> Tensor:
    """What `pack` packed, from the part of that name: bool (size,).

    >>> unpack({"bits": torch.tensor([129, 128], dtype=torch.uint8)}, "bits", 9).int().tolist()
    [1, 0, 0, 0, 0, 0, 0, 1, 1]
    """
    packed = part(parts, name, ((size + 7) // 8,), torch.uint8)
    places = torch.arange(7, -1, -1, dtype=torch.uint8, device=packed.device)
    return ((packed[:, None] >> places) & 1).bool().flatten()[:size]
