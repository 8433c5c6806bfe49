"""Folders of images, whose labels are the names of their folders."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from allround.core.errors import AllroundError
from allround.core.reading import read_bytes
from allround.tasks.sources.names import SPLIT_NAMES
from allround.tasks.task import SPLITS

if TYPE_CHECKING:
    from datasets import Dataset

#: How the names of image files end.
IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
_LAYOUTS = "<label>/<image> or <split>/<label>/<image>"


def read_images(folder: Path, shown: Path) -> dict[str, Dataset]:
    asked = f"read the folder '{shown}'"
    while True:  # an archive often holds one folder that holds all
        inner = [p for p in folder.iterdir() if not _is_junk(p)]
        if len(inner) != 1 or not inner[0].is_dir() or not any(p.is_dir() for p in inner[0].iterdir()):
            break
        if inner[0].name.lower() in SPLIT_NAMES:
            break
        folder = inner[0]
    files = sorted(
        p.relative_to(folder)
        for p in folder.rglob("*")
        if p.suffix.lower() in IMAGES
        and not p.is_dir()
        and not any(_is_junk(Path(n)) for n in p.relative_to(folder).parts)
    )
    if not files:
        raise AllroundError(
            asked,
            "it has no files of rows and no images",
            f"put train.jsonl (or .json, .csv, .tsv, .parquet) in it, or images as {_LAYOUTS}",
        )
    by_split: dict[str, list[Path]] = {}
    for file in files:
        parts = file.parts
        split = SPLIT_NAMES.get(parts[0].lower()) if len(parts) == 3 else "train" if len(parts) == 2 else None
        if split is None or (len(parts) == 2 and parts[0].lower() in SPLIT_NAMES):
            raise AllroundError(
                asked,
                f"the path '{file.as_posix()}' of an image is not of the form {_LAYOUTS}",
                "move the images, or name the folder that holds the labels (a path may lead into a zip file)",
            )
        by_split.setdefault(split, []).append(file)
    if len({len(f.parts) for f in files}) > 1:
        raise AllroundError(
            asked, "some images are in split folders and some are not", f"place all images as {_LAYOUTS}"
        )
    import datasets

    names = sorted({f.parts[-2] for f in files})
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
    return {
        split: datasets.Dataset.from_dict(
            {
                "image": [
                    {"bytes": read_bytes(folder / f, what="image"), "path": f.as_posix()} for f in by_split[split]
                ],
                "label": [f.parts[-2] for f in by_split[split]],
            },
            features=features,
        )
        for split in SPLITS
        if split in by_split
    }


def _is_junk(path: Path) -> bool:
    return path.name.startswith(".") or path.name == "__MACOSX"
