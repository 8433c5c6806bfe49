"""Files that appear whole or not at all, and the hashes that name them."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from allround.core.errors import AllroundError
from allround.core.reading import open_file, parse_json, read_bytes, read_text

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)
_UNWRITABLE = (
    *(errno.EACCES, errno.EROFS, errno.EPERM),
    *(errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG, errno.ENOENT, errno.EBUSY),
)


def check_name(name: str, what: str) -> str:
    """A name that is safe as a file name: letters, digits, "_" and "-"; no path.

    >>> check_name("sick_relatedness", "task")
    'sick_relatedness'
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise AllroundError(
            f"name a {what} {name!r}",
            "names become file names, and this one is not safe as such",
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

    >>> is_inside("images/train"), is_inside("../x"), is_inside("/etc/passwd"), is_inside("a\\\\..\\\\..")
    (True, False, False, False)
    """
    parts = PurePosixPath(path.replace("\\", "/")).parts
    return not Path(path).is_absolute() and not {"..", "/"} & set(parts) and "\0" not in path


@contextlib.contextmanager
def disk_errors(what: str) -> Iterator[None]:
    """Turn a full disk or a forbidden folder into an error in three parts."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise AllroundError(
                f"write {what}",
                "the disk is full",
                "free some space and run the same command again: finished work is kept",
            ) from error
        if error.errno in _UNWRITABLE and _concerns(error, what):
            raise AllroundError(
                f"write {what}", f"it cannot be written: {error.strerror}", "choose a folder that you can write to"
            ) from error
        raise
    except Exception as error:
        # Libraries wrap the system's error in types of their own (safetensors, pyarrow); the words remain.
        if "No space left on device" in str(error) or "os error 28" in str(error):
            raise AllroundError(
                f"write {what}",
                "the disk is full",
                "free some space and run the same command again: finished work is kept",
            ) from error
        raise


def _concerns(error: OSError, what: str) -> bool:
    """Whether it is of writing there: of that path, of a folder it lies in, or of a temporary one beside it."""
    if error.filename is None:
        return True
    found, path = (Path(os.path.abspath(str(name))) for name in (error.filename, what))  # noqa: PTH100
    beside = found.relative_to(path.parent).parts[:1] if found.is_relative_to(path.parent) else ()
    return found in path.parents or any(part.lstrip(".").startswith(path.name.lstrip(".")) for part in beside)


@contextlib.contextmanager
def atomic_file(path: Path | str, *, sync: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it takes the place of `path` in one step.

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
                _sync(temporary)
            temporary.chmod(0o644)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: Path | str) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on success it takes the place of `path`.

    A folder that was there before is replaced only at the end, so a failure leaves it as it was.
    """
    path = Path(path)
    with disk_errors(str(path)):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        try:
            yield temporary
            for file in temporary.rglob("*"):
                if file.is_file():
                    _sync(file)
            _take_place(temporary, path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _take_place(folder: Path, path: Path) -> None:
    """Put a finished folder where `path` is; what was there is gone only when it succeeds."""
    folder.chmod(0o755)
    if not path.exists():
        os.replace(folder, path)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{path.name}.old.", dir=path.parent))
    try:
        os.replace(path, old / path.name)
        os.replace(folder, path)
    finally:
        if not path.exists():
            os.replace(old / path.name, path)
        shutil.rmtree(old, ignore_errors=True)


@contextlib.contextmanager
def resumable_folder(path: Path | str, made_from: Any) -> Iterator[Path]:
    """Yield a folder beside `path` that takes its place on success; a run that was killed goes on where it was.

    The folder is `.NAME.partial`. It is found again by a run of the same `made_from` (plain data); one that was made
    from something else is thrown away. After an error it is removed, unless the disk was full or the user stopped it.
    A folder that was at `path` before is replaced at the end. Errors: another process at work on the same.
    """
    path = Path(path)
    work = path.parent / f".{path.name}.partial"
    with disk_errors(str(path)):
        work.mkdir(parents=True, exist_ok=True)
        lock = _lock(work, path)
        try:
            label, key = work / ".made_from", hash_json(made_from)
            if not label.is_file() or read_text(label) != key:
                for old in [p for p in work.iterdir() if p != work / ".lock"]:
                    shutil.rmtree(old) if old.is_dir() else old.unlink()
                label.write_text(key, encoding="utf-8")
            for left in [p for p in work.rglob(".*") if p.is_file() and p not in (label, work / ".lock")]:
                left.unlink()  # by atomic_file, in a run that was killed
            try:
                yield work
            except Exception as error:
                if not _disk_is_full(error):
                    shutil.rmtree(work, ignore_errors=True)
                raise
            label.unlink()
            (work / ".lock").unlink()
            _take_place(work, path)
        finally:
            os.close(lock)


def _disk_is_full(error: BaseException | None) -> bool:
    while error is not None:
        if "No space left on device" in str(error) or "the disk is full" in str(error):
            return True
        if isinstance(error, OSError) and error.errno == errno.EDQUOT:
            return True
        error = error.__cause__
    return False


def _lock(work: Path, path: Path) -> int:
    handle = os.open(work / ".lock", os.O_CREAT | os.O_RDWR)
    with contextlib.suppress(ImportError):  # only Unix has it; elsewhere two runs at once are not found out
        import fcntl

        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(handle)
            raise AllroundError(
                f"write {path}", "another process is writing it at this moment", "wait for it, or choose another --out"
            ) from None
    return handle


def _sync(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def check_out(out: Path) -> Path:
    """The folder to write a model to: new, empty, or one that allround saved before; nothing else is replaced."""
    with disk_errors(str(out)):
        out = out.resolve()
        ours = any((out / name).is_file() for name in ("allround.json", "merge.json", "learned.json"))
        others = out.exists() and not ours and (not out.is_dir() or any(out.iterdir()))
    if others:
        raise AllroundError(
            f"save a model as {out}",
            "there is a folder with other things in it" if out.is_dir() else "there is a file of that name",
            "choose another --out: only a model that allround saved is replaced",
        )
    strange = _strange(out) if ours else []
    if strange:
        raise AllroundError(
            f"replace the model in {out}",
            f"there is something in it that was not written with it: {', '.join(strange[:3])}",
            "move that away, or choose another --out",
        )
    return out


def files_of(folder: Path) -> list[str]:
    """The files under a folder by their paths in it, hidden ones left out."""
    found = [p.relative_to(folder) for p in folder.rglob("*") if p.is_file()]
    return sorted(p.as_posix() for p in found if not any(part.startswith(".") for part in p.parts))


def _strange(out: Path) -> list[str]:
    """The files in a merged model's folder that its merge.json does not list, where it lists any."""
    for place in (out, out / "encoder"):
        known = read_json(place / "merge.json") if (place / "merge.json").is_file() else {}
        if isinstance(known, dict) and isinstance(known.get("files"), list):
            return [name for name in files_of(out) if name not in known["files"]]
    return []


def write_json(path: Path | str, value: Any) -> None:
    """Write JSON atomically, keys in the order given; no NaN."""
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: Path | str) -> Any:
    """Read JSON, with an error in words when it is missing or broken."""
    asked = f"read {path}"
    found = read_bytes(path, what="JSON file", asked=asked)
    try:
        return parse_json(found.decode("utf-8"))
    except ValueError as error:
        raise AllroundError(
            asked, f"it is not readable as JSON: {error}", "restore the file, or make it again"
        ) from error


def hash_json(value: Any) -> str:
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


def _hash(file: Any) -> str:
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def hash_folder(path: Path | str) -> str:
    """A hash of all files under a folder: names and bytes."""
    path = Path(path)
    files = sorted(p for p in path.rglob("*") if p.is_file())
    return hash_json([[p.relative_to(path).as_posix(), hash_file(p)] for p in files])
