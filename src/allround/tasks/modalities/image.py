"""Image: one picture a row, kept as 8-bit grey or colour."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from allround.core.errors import AllroundError
from allround.core.reading import image_errors, open_file
from allround.core.registry import method
from allround.tasks.modality import Example, Fail, Modality, check_present
from allround.tasks.values import Row, Value, short

if TYPE_CHECKING:
    from PIL.Image import Image as Picture
    from pyarrow import Array, ChunkedArray


@method(source="images of Pillow, and uint8 arrays (h, w) or (h, w, 3)")
class Image(Modality):
    """One column of images: PIL images, or uint8 arrays (h, w), (h, w, 1) or (h, w, 3).

    >>> Image().read("x", {"train": [np.zeros((2, 3), np.uint8)]}, ValueError)["train"][0].size
    (3, 2)
    """

    noun = "an opened image"
    most_columns = 1
    fewer = "name the one column of images"
    rows = 64
    files = True

    def recognises(self, value: object) -> bool:
        return hasattr(value, "getbands") or (isinstance(value, np.ndarray) and value.ndim in (2, 3))

    def fits(self, value: object) -> bool:
        return hasattr(value, "convert") or hasattr(value, "__array__")

    def read(self, name: str, column: Mapping[str, Sequence[object]], fail: Fail) -> dict[str, list[Value]]:
        found: dict[str, list[Value]] = {}
        for split, values in column.items():
            check_present(name, split, values, "image", fail)
            images: list[Value] = []
            for number, value in enumerate(values):
                try:
                    images.append(picture(value))
                except ValueError as error:
                    raise fail(
                        f"input '{name}' of {split} is not an image in row {number}: {error}",
                        "give PIL images, or uint8 arrays (h, w) or (h, w, 3)",
                    ) from error
            found[split] = images
        return found

    def parse(self, value: object, row: int) -> Value:
        """An image file that is named, or a cell of a Parquet file: its bytes and the name of its file."""
        if not isinstance(value, (str, dict)):
            return value  # type: ignore[return-value]
        import PIL.Image

        shown = str(self.shown(value, row))
        data = value.get("bytes") if isinstance(value, dict) else None
        asked = f"read the image {shown!r}"
        try:
            with io.BytesIO(data) if data is not None else open_file(shown, asked=asked) as file:
                with image_errors(), PIL.Image.open(file) as image:
                    image.load()
                return picture(image)
        except (OSError, ValueError) as error:
            raise AllroundError(asked, str(error), "give an image file such as a PNG") from error

    def shown(self, value: object, row: int) -> object:
        return (value.get("path") or f"row {row}") if isinstance(value, dict) else value

    def numbers(self, row: Row) -> NDArray[np.float32] | None:
        """float32 (channels, height, width) in [0, 1]."""
        array = np.asarray(row[0], dtype=np.float32) / np.float32(255)
        return array[None] if array.ndim == 2 else array.transpose(2, 0, 1).copy()

    def to_arrow(self, values: Sequence[Value]) -> Array:
        """PNG files, which keep every pixel."""
        import pyarrow as pa

        files = []
        for image in values:
            buffer = io.BytesIO()
            cast("Picture", image).save(buffer, format="PNG", compress_level=1)
            files.append(buffer.getvalue())
        return pa.array(files, pa.large_binary())

    def from_arrow(self, column: ChunkedArray) -> list[Value]:
        return [_from_png(data) for data in column.to_pylist()]

    def example(self, columns: int) -> Example:
        import PIL.Image

        row = (PIL.Image.new("RGB", (64, 64)),)
        return Example(row, "picture.png", '[Image.open("picture.png")]', ("from PIL import Image",))


def picture(value: object) -> Picture:
    """An image as 8-bit grey ("L") or colour ("RGB"). Errors: a ValueError for what is not an image, or is empty."""
    import PIL.Image

    if isinstance(value, np.ndarray):
        if value.dtype != np.uint8 or not (value.ndim == 2 or (value.ndim == 3 and value.shape[2] in (1, 3))):
            raise ValueError(f"an array of {value.dtype} {value.shape}")
        value = PIL.Image.fromarray(value[:, :, 0] if value.ndim == 3 and value.shape[2] == 1 else value)
    if not isinstance(value, PIL.Image.Image):
        raise ValueError(f"it is {short(value)}")
    if 0 in value.size:
        raise ValueError(f"its size is {value.size}")
    if value.mode in ("L", "RGB"):
        return value
    if value.mode in ("1", "LA"):
        return value.convert("L")
    if value.mode.startswith("I"):  # 16 bits, or 16 in 32
        wide = np.asarray(value)
        return PIL.Image.fromarray((wide >> 8 if wide.max() > 255 else wide).clip(0, 255).astype(np.uint8))
    return value.convert("RGB")


def _from_png(data: bytes) -> Picture:
    import PIL.Image

    with image_errors():
        image = PIL.Image.open(io.BytesIO(data), formats=["PNG"])
        image.load()
    return image
