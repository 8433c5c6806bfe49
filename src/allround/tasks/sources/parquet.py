"""Parquet files, and the images in them."""

from __future__ import annotations

import glob
import io
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from allround.core.errors import AllroundError
from allround.core.reading import check_parquet, image_errors, open_file
from allround.tasks.sources.quiet import quiet

if TYPE_CHECKING:
    from datasets import Dataset


def read_parquet(path: Path) -> Dataset:
    import datasets

    asked = f"read '{path}'"
    with quiet(), tempfile.TemporaryDirectory(prefix="allround-") as cache:
        try:
            with open_file(path, asked=asked) as file:
                check_parquet(file, asked=asked)
            # Not load_dataset: it tells the Hub of every use, even of local files.
            name = glob.escape(str(path.absolute()))
            rows = datasets.Dataset.from_parquet(name, cache_dir=cache, keep_in_memory=True)
        except AllroundError:
            raise
        except Exception as error:
            if "corresponds to no data" in str(error):
                raise AllroundError(asked, "the file has no rows", "put rows in it") from error
            cause = error.__cause__ or error
            found = f"it is not readable as parquet: {str(cause).strip()}"
            raise AllroundError(asked, found, "correct the file") from error
    if not len(rows):
        raise AllroundError(asked, "the file has no rows", "put rows in it")
    return _pictures(rows)


def _pictures(rows: Dataset) -> Dataset:
    """Columns of the bytes of image files become images, also where another library than `datasets` wrote them."""
    import datasets

    stored = [datasets.Value(f"{size}binary") for size in ("", "large_")]
    stored += [{"bytes": binary, "path": datasets.Value("string")} for binary in stored]
    for name in [name for name, feature in rows.features.items() if feature in stored]:
        from PIL import Image

        first = next((v for v in (value.as_py() for value in rows.data.column(name)) if v is not None), None)
        data = first.get("bytes") if isinstance(first, dict) else first
        try:
            with image_errors():
                Image.open(io.BytesIO(data or b"")).close()
        except ValueError:
            continue
        rows = rows.cast_column(name, datasets.Image())
    return rows


def check_whole(rows: Dataset, split: str) -> None:
    """An error where an image is named by a path and is not in the rows: any file that is named there would be
    opened."""
    import pyarrow.compute as pc

    for name in [name for name, feature in rows.features.items() if type(feature).__name__ == "Image"]:
        for chunk in rows.data.column(name).chunks:
            named = pc.and_(pc.struct_field(chunk, "bytes").is_null(), pc.struct_field(chunk, "path").is_valid())
            if pc.any(named).as_py():
                raise AllroundError(
                    f"read the images in the column '{name}' of {split}",
                    f"the file names the image {pc.struct_field(chunk, 'path').filter(named)[0].as_py()!r}, "
                    "and does not hold it",
                    "write the file with the images in it",
                )
