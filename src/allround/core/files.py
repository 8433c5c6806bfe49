"""Files that appear whole or not at all, and the hashes that name them."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from allround.core.errors import AllroundError
from allround.core.reading import MAX_SETTINGS, MAX_VALUES, open_file, parse_json, read_bytes

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)
#: What allround wrote into a folder is listed in this file there.
MANIFEST = ".allround-files.json"

#: What hinders writing, by the system's number: what was found, and what to do.
_FULL = "free some space and run the same command again: finished work is kept"
_ELSEWHERE = "choose a folder that you can write to"
_REFUSED = (
    *(errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST, errno.EISDIR),
    *(errno.ENOENT, errno.EBUSY, errno.ELOOP, errno.ENOTEMPTY),
)
_ERRORS = {
    **{number: (f"it cannot be written: {os.strerror(number)}", _ELSEWHERE) for number in _REFUSED},
    errno.ENOSPC: ("the disk is full", _FULL),
    errno.EDQUOT: ("your share of the disk (quota) is used up", _FULL),
    errno.EFBIG: ("the file is larger than that disk, or a limit of the system, allows", "choose another disk"),
    errno.EROFS: ("it cannot be written: the disk is read-only", _ELSEWHERE),
    errno.ENAMETOOLONG: ("it cannot be written: the name is too long", "choose a shorter name"),
}
#: Those that libraries report in words of their own (safetensors, pyarrow); the number or the words remain.
_WRAPPED = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


def check_name(name: str, what: str) -> str:
    """A name that is safe as a file name: letters, digits, "_" and "-"; no path.

    >>> check_name("sick_relatedness", "task")
    'sick_relatedness'
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise AllroundError(
            f"name a {what} {name!r}",
            "names become file names, and this one is not safe as a file name",
            "use up to 100 letters, digits, '_' and '-', beginning with a letter or digit",
        )
    return name


def is_hub_id(name: str) -> bool:
    """Whether a text can be the id of a model or a data set on the Hub: a name, or an owner and a name.

    >>> is_hub_id("org/name"), is_hub_id("imdb"), is_hub_id("../x"), is_hub_id("/a/b"), is_hub_id("a/b/c")
    (True, True, False, False, False)
    """
    return _HUB_ID.fullmatch(name) is not None


def is_inside(path: str) -> bool:
    """Whether a path that others wrote stays in the folder that it is meant to begin in.

    It does on every system: backslashes count as slashes, and `C:` as a drive.

    >>> is_inside("images/train"), is_inside("../x"), is_inside("/etc/passwd")
    (True, False, False)
    >>> is_inside("a\\\\..\\\\.."), is_inside("C:x")
    (False, False)
    """
    plain = path.replace("\\", "/")
    outside = plain.startswith("/") or ".." in plain.split("/") or re.match("[A-Za-z]:", plain)
    return not outside and "\0" not in path


@contextlib.contextmanager
def disk_errors(what: str) -> Iterator[None]:
    """Turn what hinders writing (a full or read-only disk, a forbidden folder) into an error in three parts."""
    try:
        yield
    except AllroundError:
        raise
    except Exception as error:
        number = _number(error, what)
        if number is None:
            raise
        raise AllroundError(f"write {what}", *_ERRORS[number]) from error


def _number(error: Exception, what: str) -> int | None:
    """The system's number of an error, where it is one of writing there."""
    if isinstance(error, OSError) and error.errno is not None:
        everywhere = error.errno in (errno.ENOSPC, errno.EDQUOT)  # inputs are only read: it is the output
        return error.errno if error.errno in _ERRORS and (everywhere or _concerns(error, what)) else None
    said = str(error)
    return next((n for n in _WRAPPED if os.strerror(n) in said or f"os error {n})" in said), None)


def _concerns(error: OSError, what: str) -> bool:
    """Whether it is of writing there: of that path, of a folder it lies in, or of a temporary one beside it."""
    if error.filename is None:
        return True
    found, path = (Path(os.path.abspath(str(name))) for name in (error.filename, what))  # noqa: PTH100
    beside = found.relative_to(path.parent).parts[:1] if found.is_relative_to(path.parent) else ()
    return found in path.parents or any(part.lstrip(".").startswith(path.name.lstrip(".")) for part in beside)


@contextlib.contextmanager
def atomic_file(path: Path | str, *, sync: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it takes the place of `path` in one step, whatever is there.

    For files in folders of allround's own; outputs of the user's go through `core.outputs`.
    sync: wait until the disk has it, so that it is whole even after a power cut.
    """
    path = Path(path)
    with disk_errors(str(path)):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            if sync:
                sync_file(temporary)
            temporary.chmod(0o644)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def is_full(error: BaseException | None) -> bool:
    """Whether an error, or one that it came from, says that there is no space left."""
    words = [_ERRORS[number][0] for number in (errno.ENOSPC, errno.EDQUOT)]
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if any(word in str(error) for word in (os.strerror(errno.ENOSPC), *words)):
            return True
        error = error.__cause__
    return False


def sync_file(path: Path) -> None:
    """Wait until the disk has a file."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def write_json(path: Path | str, value: object, *, allow_nan: bool = False) -> None:
    """Write JSON atomically: see `json_text`."""
    with atomic_file(path) as temporary:
        temporary.write_text(json_text(value, allow_nan=allow_nan), encoding="utf-8")


def json_text(value: object, *, allow_nan: bool = False) -> str:
    """JSON as it is written to files: keys in the order given.

    allow_nan: write NaN and infinity as Python reads them, for settings of others that hold them already.
    """
    return json.dumps(value, indent=2, allow_nan=allow_nan) + "\n"


def read_settings(path: Path | str) -> Any:
    """Read JSON as `read_json` does, settings or a record, which have far fewer values than a tokenizer."""
    return read_json(path, max_values=MAX_SETTINGS)


def read_json(path: Path | str, *, max_values: int = MAX_VALUES) -> Any:
    """Read JSON, with an error in words when it is missing or broken, or has more values."""
    asked = f"read {path}"
    found = read_bytes(path, what="JSON file", asked=asked)
    try:
        return parse_json(found.decode("utf-8"), max_values=max_values)
    except ValueError as error:
        raise AllroundError(
            asked, f"it is not readable as JSON: {error}", "restore the file, or make it again"
        ) from error


def hash_json(value: object) -> str:
    """A hash of plain data, independent of key order.

    >>> hash_json({"a": 1, "b": 2}) == hash_json({"b": 2, "a": 1})
    True
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def hash_file(path: Path | str) -> str:
    """The SHA-256 of a file's bytes."""
    with open_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _hash(file)


def _hash(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def hash_files(folder: Path) -> dict[str, str]:
    """The SHA-256 of each file under a folder, by its path in it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hash_file(path) for path in files}


def check_files(folder: Path, files: Mapping[str, str], asked: str, do: str) -> None:
    """An error where one of these files is missing, or not as its hash says."""
    for name, content in files.items():
        path = folder / name
        if not path.is_file():
            raise AllroundError(asked, f"{name} is missing", do)
        if hash_file(path) != content:
            raise AllroundError(asked, f"{name} is not as it was written", do)


def hash_folder(path: Path | str) -> str:
    """A hash of all files under a folder: names and bytes; the list of what allround wrote is left out."""
    path = Path(path)
    files = sorted(p for p in path.rglob("*") if p.is_file() and p.name != MANIFEST)
    return hash_json([[p.relative_to(path).as_posix(), hash_file(p)] for p in files])
