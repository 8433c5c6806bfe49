"""How alike modules are, from the sketches that were made when they were added. Reads no weights, and needs no torch.

A sketch is the sum over all tensors of P change Q^T, with signs at random for each tensor (the same for all modules of
a base). The sum of the products of two sketches estimates the sum of the products of the two changes without bias, so
cosines and distances follow from sketches alone. With 32 x 32 numbers a cosine is off by about 0.03 where two changes
are unrelated, and by less the more alike they are.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from allround.core.errors import AllroundError
from allround.core.reading import read_bytes

#: The file in a module's folder.
SKETCH = "sketch.npy"
#: Rows and columns of a sketch.
SIZE = 32
#: Modules that differ by less than this share of the larger one's change are nearly the same.
NEAR = 0.1
#: Modules that are compared with all others at once.
_ROWS = 512

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Nearest:
    """The module that is most like another one. cosine: of the two changes. difference: the norm of what they differ
    by, as a share of the larger change."""

    name: str
    cosine: float
    difference: float

    @property
    def near(self) -> bool:
        """Whether the two are nearly the same."""
        return self.difference <= NEAR


def signs(name: str, axis: int, length: int) -> Array:
    """The signs (SIZE, length) along an axis of a tensor: the same on every machine, whatever the version of numpy.

    >>> signs("weight", 0, 6)[:2].tolist()
    [[1.0, -1.0, -1.0, -1.0, -1.0, 1.0], [-1.0, -1.0, 1.0, 1.0, 1.0, 1.0]]
    """
    seed = int.from_bytes(hashlib.sha256(f"{name}\0{axis}".encode()).digest()[:8], "little")
    words = np.random.PCG64(seed).random_raw(-(-SIZE * length // 64))
    bits = np.unpackbits(words.astype("<u8").view(np.uint8), count=SIZE * length)
    return np.where(bits, np.float32(1), np.float32(-1)).reshape(SIZE, length)


def write_sketch(folder: Path, sketch: Array) -> None:
    """Write a sketch into a module's folder."""
    with open(folder / SKETCH, "wb") as file:
        np.lib.format.write_array(file, sketch.astype("<f4"), allow_pickle=False)


def read_sketch(folder: Path) -> Array:
    """The sketch of a module, flat. folder: the module's. Errors: it is missing, or damaged."""
    asked = f"read the sketch of the module {folder}"
    data = read_bytes(folder / SKETCH, what="sketch", max_bytes=1 << 16, asked=asked)
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    except Exception as error:  # whatever a damaged header makes numpy raise
        raise _damaged(asked, (str(error) or type(error).__name__).splitlines()[0][:100]) from error
    if version != (1, 0) or shape != (SIZE, SIZE) or dtype != np.dtype("<f4"):
        raise _damaged(asked, f"it holds {dtype} of the shape {shape}, in the format {version}")
    body = data[file.tell() :]
    if len(body) != 4 * SIZE * SIZE:
        raise _damaged(asked, f"it has {len(body)} bytes of numbers")
    found = np.frombuffer(body, "<f4").astype(np.float32)
    if not np.isfinite(found).all():
        raise _damaged(asked, "its numbers are not finite")
    return found


def _damaged(asked: str, found: str) -> AllroundError:
    return AllroundError(asked, f"{SKETCH} is damaged: {found}", "drop the module, and add it again")


def nearest(sketches: Mapping[str, Array]) -> dict[str, Nearest | None]:
    """The most similar other one of each of some modules; None for a module that changes nothing, or is alone.

    >>> one, two = np.eye(4, dtype=np.float32)[:2]
    >>> found = nearest({"a": one, "b": two, "c": one + two / 4})
    >>> {name: (near.name, round(near.cosine, 3)) for name, near in found.items()}
    {'a': ('c', 0.97), 'b': ('c', 0.243), 'c': ('a', 0.97)}
    """
    names = list(sketches)
    if not names:
        return {}
    table = np.stack([sketches[name] for name in names]).astype(np.float32)
    norms = np.sqrt(np.einsum("ij,ij->i", table, table, dtype=np.float64))
    units = (table / np.maximum(norms, 1e-30)[:, None]).astype(np.float32)
    found: dict[str, Nearest | None] = {}
    for start in range(0, len(names), _ROWS):
        cosines = units[start : start + _ROWS] @ units.T
        cosines[:, norms == 0] = -2
        rows = np.arange(len(cosines))
        cosines[rows, start + rows] = -2
        best = cosines.argmax(1)
        for row, other in zip(rows.tolist(), best.tolist(), strict=True):
            number = start + row
            if norms[number] == 0 or cosines[row, other] < -1.5:
                found[names[number]] = None
                continue
            gap = float(np.linalg.norm(table[number].astype(np.float64) - table[other]))
            cosine = min(1.0, max(-1.0, float(cosines[row, other])))
            found[names[number]] = Nearest(names[other], cosine, gap / float(max(norms[number], norms[other])))
    return found
