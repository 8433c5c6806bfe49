"""Images as the brightness of their pixels, at most 32 x 32 of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from allround.core.schema import STRICT, fitted
from allround.models.encoders.small_image import image_tensor
from allround.models.plain.reader import Arrays, Reader, Strengths, check_array, check_names
from allround.tasks.definition import Definition
from allround.tasks.values import Row

#: The longest side of an image, in pixels; larger ones are made smaller.
LONGEST = 32


@dataclass(frozen=True)
class Pixels(Reader):
    """Pixels of a square of `size`, in grey or colour, less `centre` over `scale`, which is one number for all."""

    size: int
    grey: bool
    centre: NDArray[np.float32]
    scale: NDArray[np.float32]

    sort = "pixels"
    words = "pixels"
    strengths: ClassVar[Strengths] = {
        "labels": (0.01, 0.1, 1.0, 10.0),
        "numbers": (0.001, 0.01, 0.1, 1.0),
    }

    @classmethod
    def of(cls, rows: Sequence[Row], definition: Definition) -> Pixels:
        grey = all(getattr(image, "mode", "RGB") in ("L", "1", "I", "F") for (image,) in rows)
        size = min(LONGEST, max(max(getattr(image, "size", (LONGEST,))) for (image,) in rows))
        width = size * size * (1 if grey else 3)
        made = cls(size, grey, np.zeros(width, np.float32), np.ones(1, np.float32))
        found = made.numbers(rows)
        spread = float(found.std())
        return cls(size, grey, found.mean(0), np.array([spread if spread > 0 else 1.0], np.float32))

    @property
    def width(self) -> int:
        return len(self.centre)

    @property
    def stored(self) -> int:
        return len(self.centre) + 1

    def numbers(self, rows: Sequence[Row]) -> NDArray[np.float32]:
        mode = "L" if self.grey else "RGB"
        found = np.empty((len(rows), self.width), np.float32)
        for number, (image,) in enumerate(rows):
            found[number] = image_tensor(image, self.size, mode).numpy().ravel()
        return (found - self.centre) / self.scale

    def written(self) -> tuple[dict[str, Any], Arrays]:
        return {"size": self.size, "grey": self.grey}, {"centre": self.centre, "scale": self.scale}

    @classmethod
    def read(cls, about: Mapping[str, Any], arrays: Arrays, definition: Definition) -> Pixels:
        check_names(arrays, ("centre", "scale"))
        said = fitted(_About, dict(about))
        if not 1 <= said.size <= LONGEST:
            raise ValueError(f"its images have {said.size} pixels a side")
        centre = check_array(arrays, "centre", (said.size**2 * (1 if said.grey else 3),))
        scale = check_array(arrays, "scale", (1,))
        if not scale[0] > 0:
            raise ValueError("'scale' is not above 0")
        return cls(said.size, said.grey, centre, scale)


@dataclass(frozen=True)
class _About:
    """What a saved folder says of pixels."""

    __pydantic_config__ = STRICT

    size: int
    grey: bool
