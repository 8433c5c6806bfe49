"""Rows from files, folders, archives, the Hub and scikit-learn."""

from __future__ import annotations

import contextlib
import glob
import io
import logging
import os
import shutil
import stat
import tempfile
import zipfile
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from allround.core.errors import AllroundError, suggestion
from allround.core.files import is_hub_id, is_inside
from allround.core.reading import check_file, check_parquet, image_errors, open_file, read_bytes
from allround.tasks.spec import SourceSpec
from allround.tasks.task import SPLITS
from allround.tasks.text_files import Columns, read_columns

if TYPE_CHECKING:
    from typing import TypeAlias

    from datasets import Dataset

    #: Columns of files of text, and data sets of all others.
    Rows: TypeAlias = Dataset | Columns

SKLEARN = ("breast_cancer", "diabetes", "digits", "iris", "linnerud", "wine")
MAX_UNPACKED = 8 * 1024**3
MAX_MEMBERS = 200_000

_FORMATS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".tsv": "tsv", ".parquet": "parquet"}
_SPLIT_NAMES = {"train": "train", "test": "test"} | dict.fromkeys(("validation", "valid", "val", "dev"), "validation")
_IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
_LAYOUTS = "<label>/<image> or <split>/<label>/<image>"


def load_raw(
    source: str | SourceSpec,
    *,
    base_dir: Path | str,
    data_dir: Path | str | None = None,
    as_written: Collection[str] = (),
) -> dict[str, Rows]:
    """Read a source: split ("train", "validation", "test") -> rows, in memory, with columns renamed.

    base_dir: where relative paths begin. data_dir: given for a `local` source, whose paths then lie in that
    folder and may not leave it. Images have the columns `image` and `label`.
    as_written: columns (by their new names) that stay text as it stands in CSV, TSV and JSON files; see `read_columns`.
    Nothing is left behind on disk, except that Hub sets stay in the user's Hub cache.

    Raises `AllroundError` where the source is missing, empty, broken or hostile.
    """
    spec = SourceSpec(name=source) if isinstance(source, str) else source
    written = {theirs for theirs, ours in spec.columns.items() if ours in as_written}
    written.update(name for name in as_written if name not in spec.columns)
    read: dict[str, Rows]
    if spec.sklearn is not None:
        read = {**_sklearn(spec.sklearn)}
    elif spec.files:
        files = {split: _inside(name, base_dir, data_dir) for split, name in spec.files.items()}
        read = _whole(_files(files, spec.format, written))
    else:
        path = _path(spec, base_dir, data_dir)
        read = _whole(_place(path, spec.format, written)) if path is not None else {**_hub(spec)}
    return {split: _rename(rows, spec.columns, split) for split, rows in read.items()}


def read_rows(file: Path) -> list[dict[str, Any]]:
    """The rows of one JSONL, JSON, CSV, TSV or Parquet file, as dictionaries.

    An image of a Parquet file is a dictionary itself: the `bytes` of its file, and that file's `path`; either may lack.
    """
    rows = _files({"train": file}, None)["train"]
    if isinstance(rows, Columns):
        return [rows.row(number) for number in range(rows.count)]
    found: list[dict[str, Any]] = rows.to_list()
    return found


def _path(spec: SourceSpec, base_dir: Path | str, data_dir: Path | str | None) -> Path | None:
    """The path that is meant, or None for a Hub id."""
    if spec.hub is not None:
        if data_dir is not None:
            raise AllroundError(
                f"read '{spec.hub}' as a local copy",
                "that is an id on the Hub, and a local copy lies in the data folder",
                "set `local` to a folder or to files in the data folder",
            )
        return None
    given = spec.path or spec.name or ""
    path = _inside(given, base_dir, data_dir)
    if spec.path is not None or data_dir is not None or path.exists() or _archive(path):
        return path
    if not is_hub_id(given) or Path(given).suffix in (*_FORMATS, ".zip"):
        return path  # no Hub id looks like this, so the error is about a path
    return None


def _inside(given: str, base_dir: Path | str, data_dir: Path | str | None) -> Path:
    if data_dir is None:
        try:
            path = Path(base_dir) / Path(given).expanduser()
            path.exists()
        except (OSError, RuntimeError, ValueError) as error:  # a name too long, no such home, a NUL
            raise AllroundError(f"read '{given}'", f"no file can be there: {error}", "check the path") from error
        return path
    if not is_inside(given):
        raise AllroundError(
            f"read the local folder '{given}'",
            "it leads out of the data folder",
            "name a folder inside the data folder, without '..'",
        )
    return Path(data_dir) / given


# Files and folders.


def _place(path: Path, format: str | None, written: Collection[str]) -> dict[str, Rows]:
    archive = _archive(path)
    if archive is not None:
        with tempfile.TemporaryDirectory(prefix="allround-") as folder:
            _unpack(archive, Path(folder))
            try:
                return _folder(Path(folder) / path.relative_to(archive), path, format, written)
            except AllroundError as error:
                asked, found = (part.replace(folder, str(archive)) for part in (error.asked, error.found))
                raise AllroundError(asked, found, error.do) from error
    if path.is_dir():
        return _folder(path, path, format, written)
    return _files({"train": path}, format, written)


def _archive(path: Path) -> Path | None:
    """The zip file that a path is, or leads into."""
    return next((p for p in (path, *path.parents) if p.suffix.lower() == ".zip" and p.is_file()), None)


def _folder(folder: Path, shown: Path, format: str | None, written: Collection[str]) -> dict[str, Rows]:
    if not folder.is_dir():
        raise AllroundError(f"read '{shown}'", "there is no such folder in the archive", "check the path")
    found: dict[str, list[Path]] = {}
    for file in sorted(folder.iterdir()):
        split = _SPLIT_NAMES.get(file.stem.lower())
        if split and not file.is_dir() and file.suffix.lower() in _FORMATS and format != "images":
            found.setdefault(split, []).append(file)
    for split, files in found.items():
        if len(files) > 1:
            raise AllroundError(
                f"read the folder '{shown}'",
                f"{' and '.join(f.name for f in files)} both are the {split} split",
                "keep one, or name the files: source: {train: ..., test: ...}",
            )
    if found:
        return _files({split: found[split][0] for split in SPLITS if split in found}, format, written)
    return {**_images(folder, shown)}


def _files(files: Mapping[str, Path], format: str | None, written: Collection[str] = ()) -> dict[str, Rows]:
    """The rows of one file for each split."""
    formats = {split: _format(path, format) for split, path in files.items()}
    text = {split: (path, formats[split]) for split, path in files.items() if formats[split] != "parquet"}
    read: dict[str, Rows] = dict(read_columns(text, written))
    return {split: read[split] if split in read else _parquet(path) for split, path in files.items()}


def _format(path: Path, format: str | None) -> str:
    asked = f"read '{path}'"
    check_file(path, asked=asked)
    format = format or _FORMATS.get(path.suffix.lower())
    if format is None or format == "images":
        raise AllroundError(
            asked,
            f"files ending in '{path.suffix}' are not known",
            f"use one of: {', '.join(sorted(_FORMATS))}, or set `format`",
        )
    if path.stat().st_size == 0:
        raise AllroundError(asked, "the file is empty", "put rows in it")
    return format


def _parquet(path: Path) -> Dataset:
    import datasets

    asked = f"read '{path}'"
    with _calm(), tempfile.TemporaryDirectory(prefix="allround-") as cache:
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


def _whole(read: dict[str, Rows]) -> dict[str, Rows]:
    """The same, whose images lie in it: of a path in its place, any file that somebody names there would be opened."""
    import pyarrow.compute as pc

    for split, rows in read.items():
        if isinstance(rows, Columns):
            continue
        for name in [name for name, feature in rows.features.items() if type(feature).__name__ == "Image"]:
            for chunk in rows.data.column(name).chunks:
                named = pc.and_(pc.struct_field(chunk, "bytes").is_null(), pc.struct_field(chunk, "path").is_valid())
                if pc.any(named).as_py():
                    raise AllroundError(
                        f"read the images in the column '{name}' of {split}",
                        f"{pc.struct_field(chunk, 'path').filter(named)[0].as_py()!r} is named, and is not in it",
                        "write the file with the images in it",
                    )
    return read


# Images.


def _images(folder: Path, shown: Path) -> dict[str, Dataset]:
    asked = f"read the folder '{shown}'"
    while True:  # an archive often holds one folder that holds all
        inner = [p for p in folder.iterdir() if not _is_junk(p)]
        if len(inner) != 1 or not inner[0].is_dir() or not any(p.is_dir() for p in inner[0].iterdir()):
            break
        if inner[0].name.lower() in _SPLIT_NAMES:
            break
        folder = inner[0]
    files = sorted(
        p.relative_to(folder)
        for p in folder.rglob("*")
        if p.suffix.lower() in _IMAGES
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
        split = _SPLIT_NAMES.get(parts[0].lower()) if len(parts) == 3 else "train" if len(parts) == 2 else None
        if split is None or (len(parts) == 2 and parts[0].lower() in _SPLIT_NAMES):
            raise AllroundError(
                asked,
                f"the image '{file.as_posix()}' does not lie as {_LAYOUTS}",
                "move the images, or name the folder that holds the labels (a path may lead into a zip file)",
            )
        by_split.setdefault(split, []).append(file)
    if len({len(f.parts) for f in files}) > 1:
        raise AllroundError(asked, "some images lie in split folders and some do not", f"lay all out as {_LAYOUTS}")
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


def _unpack(archive: Path, folder: Path) -> None:
    """Extract a zip file, after its member names and sizes were checked."""
    asked = f"unpack '{archive}'"
    try:
        with open_file(archive, asked=asked) as raw, zipfile.ZipFile(cast(BinaryIO, _Listed(raw, asked))) as file:
            members = file.infolist()
            total = sum(m.file_size for m in members)
            if total > MAX_UNPACKED:
                raise AllroundError(
                    asked,
                    f"it would take {total:,} bytes; at most {MAX_UNPACKED:,} are unpacked",
                    "unpack it yourself, and name the folder",
                )
            for member in members:
                _check_member(member, asked)
            for member in members:
                place = folder / member.filename
                if member.is_dir():
                    place.mkdir(parents=True, exist_ok=True)
                    continue
                place.parent.mkdir(parents=True, exist_ok=True)
                with file.open(member) as packed, open(place, "xb") as out:
                    shutil.copyfileobj(packed, out)
    except AllroundError:
        raise
    except OSError as error:
        raise AllroundError(asked, f"it cannot be unpacked: {error}", "check the archive and the free space") from error
    except Exception as error:  # whatever zipfile and each of its decompressors raise of a broken archive
        found = f"it is not readable as a zip file: {str(error) or type(error).__name__}"
        raise AllroundError(asked, found, "make the archive again") from error


class _Listed:
    """A zip file that is refused while it is opened, if its list names very many members: `zipfile` reads that list at
    once, and makes an object of each."""

    def __init__(self, file: BufferedReader, asked: str) -> None:
        self.file, self.asked = file, asked
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, size: int = -1) -> bytes:
        data = self.file.read(size)
        if data.count(zipfile.stringCentralDir) > MAX_MEMBERS:  # type: ignore[attr-defined]
            found = f"it has more than {MAX_MEMBERS:,} members"
            raise AllroundError(self.asked, found, "unpack it yourself, and name the folder")
        return data


def _check_member(member: zipfile.ZipInfo, asked: str) -> None:
    name = member.orig_filename.replace("\\", "/")
    mode = stat.S_IFMT(member.external_attr >> 16)
    if name.startswith("/") or ".." in name.split("/") or ":" in name.split("/")[0] or "\0" in name:
        raise AllroundError(asked, f"its member {name!r} leads out of the archive", "do not use this archive")
    if mode not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise AllroundError(asked, f"its member {name!r} is a link or a device", "pack plain files only")


# Sets of others.


def _hub(spec: SourceSpec) -> dict[str, Dataset]:
    import datasets
    from datasets.packaged_modules import _PACKAGED_DATASETS_MODULES

    name = spec.hub or spec.name or ""
    asked = f"read '{name}' from the Hub"
    if not is_hub_id(name) or name in _PACKAGED_DATASETS_MODULES:
        raise AllroundError(
            asked, "it is not the id of a data set on the Hub", "write it as owner/name; or a path as `path`"
        )
    if os.path.lexists(name):  # datasets would read it
        raise AllroundError(
            asked,
            f"the current folder holds something of that name: {Path(name).absolute()}",
            f"to read that, write its path as `path: ...`; to read the Hub's '{name}', run it from another folder",
        )
    try:
        with _calm():
            read = datasets.load_dataset(name, spec.config, revision=spec.revision)
    except Exception as error:
        raise AllroundError(
            asked,
            f"that failed: {str(error).strip() or type(error).__name__}",
            "check the id, `config`, `revision` and the network (a path: check that it is there); "
            "or keep the data in a folder, set `local`, and give it with --data-dir",
        ) from error
    found: dict[str, Dataset] = {}
    for split, rows in read.items():
        known = _SPLIT_NAMES.get(str(split).lower())
        if known and known not in found:
            found[known] = rows
    if "train" not in found:
        raise AllroundError(
            asked, f"it has no train split, only {', '.join(map(str, read))}", "choose another `config`, or other data"
        )
    return found


def _sklearn(name: str) -> dict[str, Dataset]:
    """A set that scikit-learn carries: its columns and `target`; for digits `image` too."""
    if name not in SKLEARN:
        raise AllroundError(f"read '{name}' from scikit-learn", "it carries no such set", suggestion(name, SKLEARN))
    import datasets
    import numpy as np
    import sklearn.datasets

    bunch = getattr(sklearn.datasets, f"load_{name}")(as_frame=True)
    rows = datasets.Dataset.from_pandas(bunch.frame, preserve_index=False)
    labels = [str(label) for label in getattr(bunch, "target_names", ())]
    if "target" in rows.column_names and labels:
        with _calm():
            rows = rows.cast_column("target", datasets.ClassLabel(names=labels))
    if name == "digits":
        from PIL import Image

        images = [Image.fromarray(np.round(i * 255 / 16).astype(np.uint8)) for i in bunch.images]
        pictures = datasets.Dataset.from_dict({"image": images}, features=datasets.Features(image=datasets.Image()))
        rows = datasets.concatenate_datasets([rows, pictures], axis=1)
    return {"train": rows}


# Help.


def _rename(rows: Rows, columns: dict[str, str], split: str) -> Rows:
    if not columns:
        return rows
    have = list(rows) if isinstance(rows, Columns) else rows.column_names
    for theirs in columns:
        if theirs not in have:
            raise AllroundError(
                f"rename the column '{theirs}' of {split}", "there is no column of that name", suggestion(theirs, have)
            )
    after = [columns.get(name, name) for name in have]
    twice = [name for name, n in Counter(after).items() if n > 1]
    if twice:
        raise AllroundError(
            f"rename a column of {split} to '{twice[0]}'",
            "there is another column of that name",
            "give that one another name too, under `columns`",
        )
    return rows.rename(columns) if isinstance(rows, Columns) else rows.rename_columns(columns)


@contextlib.contextmanager
def _calm() -> Iterator[None]:
    """No progress bars and no log lines of `datasets`: what matters comes back as an error."""
    import datasets

    bars = datasets.are_progress_bars_disabled()
    loggers = {name: logging.getLogger(name) for name in ("datasets", "huggingface_hub")}
    levels = {name: logger.level for name, logger in loggers.items()}
    datasets.disable_progress_bars()
    for logger in loggers.values():
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for name, logger in loggers.items():
            logger.setLevel(levels[name])
        if not bars:
            datasets.enable_progress_bars()
