"""Zip files, which are unpacked after the names and sizes of their members were checked."""

from __future__ import annotations

import shutil
import stat
import zipfile
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO, cast

from allround.core.errors import AllroundError
from allround.core.files import is_inside
from allround.core.reading import open_file

#: Bytes and members that are unpacked at most.
MAX_UNPACKED = 8 * 1024**3
MAX_MEMBERS = 200_000


def archive_of(path: Path) -> Path | None:
    """The zip file that a path names, or goes into; None where there is none."""
    return next((p for p in (path, *path.parents) if p.suffix.lower() == ".zip" and p.is_file()), None)


def unpack(archive: Path, folder: Path) -> None:
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
    """A zip file that is refused while it is opened if it has too many members: `zipfile` reads the list of members at
    once, and makes an object for each."""

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
    if not is_inside(name):
        raise AllroundError(asked, f"its member {name!r} points outside the archive", "do not use this archive")
    if mode not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise AllroundError(asked, f"its member {name!r} is a link or a device", "pack plain files only")
