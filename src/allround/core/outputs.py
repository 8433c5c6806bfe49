"""Outputs: what a command or a function leaves for the user, and what of it may be replaced.

An output grows in `.NAME.partial` beside its place, under a lock, and takes its place when it is whole. A manifest says
what allround wrote, by which command, and how it was: only that is ever replaced, by the same command, unless the user
forces it. What a process left that was killed is swept by the next one that writes to the same place.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from allround.core.errors import AllroundError
from allround.core.files import (
    MANIFEST,
    disk_errors,
    hash_file,
    is_inside,
    read_settings,
    sync_file,
    write_json,
)
from allround.core.growing import growing, holder_of, kept_beside, remove_empty, whole
from allround.core.locks import LOCK, locked_folder, owner_of
from allround.core.version import __version__

#: What a manifest says of a file: `command`, `bytes`, and `sha256` of a small one.
Entry = dict[str, str | int]

_FORMAT = "allround files 1"
_DO = "choose another --out, move that away, or give --force (force=True in Python)"
#: Up to this many bytes a file is known by its content, beyond it by its size.
_HASHED = 1 << 20


# -- what may be replaced ----------------------------------------------------------------------------------------------


def check_out(
    path: Path | str, command: str, *, force: bool = False, inputs: Iterable[object] = (), data: Iterable[object] = ()
) -> Path:
    """The place of an output folder, links followed. Call it before any work; `output_folder` does so again.

    The place is free, empty, or an output of the same `command` in which nothing was changed or added; with `force`,
    whatever is there. inputs: what the command reads (names that are not paths are left out): the output must not
    contain one, nor lie within one. data: the same, but the output may lie within.
    Errors: anything else there; with `force` too, what holds the current folder, the home folder or a git repository.
    """
    with disk_errors(str(path)):
        place = _resolved(path)
        asked = f"write {path}"
        _check_apart(asked, place, inputs, data)
        for what, folder in (("the current folder", _current()), ("the home folder", _home())):
            if folder is not None and (place == folder or place in folder.parents):
                raise AllroundError(asked, f"{what} is there, or below it", "choose another --out")
        if not _is_there(place):
            return place
        if not place.is_dir():
            if not (force and place.is_file()):
                raise AllroundError(asked, "there is a file of that name", _DO)
        elif force:
            if any(".git" in (*folders, *files) for _, folders, files in os.walk(place)):
                raise AllroundError(asked, "there is a git repository in it", "choose another --out")
        elif (found := _in_the_way(place, command)) is not None:
            raise AllroundError(asked, found, _DO)
        return place


def check_out_file(
    path: Path | str,
    command: str,
    *,
    force: bool = False,
    inputs: Iterable[object] = (),
    root: Path | str | None = None,
) -> Path:
    """The place of an output file, links followed. Call it before any work; `output_file` does so again.

    The place is free, or has the output of the same `command` as it was written; with `force`, whatever file but one
    of the inputs. root: the folder whose manifest lists it, where that is not the one in which it lies.
    """
    with disk_errors(str(path)):
        place, asked = _resolved(path), f"write {path}"
        _check_apart(asked, place, (), inputs)
        base = place.parent if root is None else _resolved(root)
        owner = owner_of(base)
        if owner not in (None, command) and not force:
            raise AllroundError(asked, f"{base} is the working folder of '{owner}'", _DO)
        if not _is_there(place):
            return place
        if not place.is_file():
            found = "there is a folder of that name" if place.is_dir() else "it is not a regular file"
            raise AllroundError(asked, found, "choose another --out")
        if force:
            return place
        entry = read_listing(base).get(place.relative_to(base).as_posix())
        if entry is None:
            raise AllroundError(asked, "there is a file of that name, which allround did not write", _DO)
        if entry.get("command") != command:
            raise AllroundError(asked, f"there is a file of that name, which '{entry.get('command')}' wrote", _DO)
        if not _as_written(place, entry):
            raise AllroundError(asked, "the file there was changed since it was written", _DO)
        return place


def read_listing(folder: Path) -> dict[str, Entry]:
    """What a folder's manifest lists: path -> entry. None, or one that cannot be read, lists nothing."""
    try:
        listed = read_settings(folder / MANIFEST)["files"]
        inner = {name: entry for name, entry in listed.items() if isinstance(entry, dict)}
    except (AllroundError, KeyError, TypeError, AttributeError):
        return {}
    return {n: e for n, e in inner.items() if is_inside(n)}


def _in_the_way(folder: Path, command: str) -> str | None:
    """What hinders a command from replacing a folder, in words; None: nothing."""
    if not any(folder.iterdir()):
        return None
    present = [name for name in _entries(folder) if name != MANIFEST]
    if LOCK in present:
        return f"it is the working folder of '{owner_of(folder)}'"
    listed = read_listing(folder)
    if not listed and (present or not (folder / MANIFEST).is_file()):
        return "there is a folder with other things in it, which allround did not write"
    others = sorted({str(entry.get("command")) for entry in listed.values()} - {command})
    if others:
        return f"there is a folder which '{others[0]}' wrote"
    for words, names in (
        ("was not written with it", [n for n in present if n not in listed]),
        ("was changed since", [n for n in present if n in listed and not _as_written(folder / n, listed[n])]),
    ):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            return f"there is something in it that {words}: {', '.join(names[:3])}{more}"
    return None


def _has_others(folder: Path) -> bool:
    """Whether it is no folder, or one that holds anything which allround did not write, or which was changed since."""
    if not folder.is_dir():
        return True
    listed, present = read_listing(folder), [name for name in _entries(folder) if name != MANIFEST]
    return any(name not in listed or not _as_written(folder / name, listed[name]) for name in present)


def _entries(folder: Path) -> list[str]:
    """All that lies under a folder and is not a folder itself, by its path in it."""
    found: list[str] = []
    for place, folders, files in os.walk(folder):
        links = [name for name in folders if (Path(place) / name).is_symlink()]
        found += [(Path(place) / name).relative_to(folder).as_posix() for name in (*files, *links)]
    return sorted(found)


def _as_written(file: Path, entry: Entry) -> bool:
    if file.is_symlink() or not file.is_file() or file.stat().st_size != entry.get("bytes"):
        return False
    return "sha256" not in entry or hash_file(file) == entry["sha256"]


def _entry(file: Path, command: str) -> Entry:
    size = file.stat().st_size
    return {"command": command, "bytes": size, **({"sha256": hash_file(file)} if size <= _HASHED else {})}


def _check_apart(asked: str, place: Path, inputs: Iterable[object], data: Iterable[object]) -> None:
    for given, within in [*((one, True) for one in inputs), *((one, False) for one in data)]:
        read = _resolved(given) if isinstance(given, (str, Path)) and os.path.lexists(given) else None
        if read is not None and (place == read or place in read.parents or (within and read in place.parents)):
            raise AllroundError(
                asked,
                f"{given} is read for it, and one must not lie within the other",
                "choose another --out, outside of what is read",
            )


def _resolved(path: Path | str) -> Path:
    try:
        return Path(path).resolve()
    except RuntimeError as error:  # how older Pythons say that links lead in a circle
        raise AllroundError(f"write {path}", "its links lead in a circle", "choose another --out") from error


def _is_there(place: Path) -> bool:
    """Whether something is at an output's place. Errors: nothing can be written there."""
    holder_of(place)
    try:
        os.lstat(place)
    except FileNotFoundError:
        return False
    return True


def _current() -> Path | None:
    with contextlib.suppress(OSError):
        return Path.cwd().resolve()
    return None


def _home() -> Path | None:
    with contextlib.suppress(OSError, RuntimeError):
        return Path.home().resolve()
    return None


# -- writing -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def output_folder(
    path: Path | str, command: str, *, force: bool = False, inputs: Iterable[object] = (), made_from: object = None
) -> Iterator[Path]:
    """Yield a new folder; on success it takes the place of `path`, with a manifest of all that is in it.

    What may be there before: see `check_out`; it is looked at now and again at the end, and replaced only then, so
    that a failure leaves it as it was. With `force`, a folder that holds anything which allround did not write, or
    which was changed since, is moved to a free name next to it (NAME.1): nothing of the user's is removed.
    made_from: plain data; a run that was killed, stopped or met a full disk leaves its files, and the next one that is
    made from the same goes on with them.
    Errors: another process at work on the same; something at `path` that must not be replaced. Where that came
    in the meantime, the new folder is kept beside it.
    """
    place = check_out(path, command, force=force, inputs=inputs)

    def list_files(folder: Path) -> None:
        listed = {name: _entry(folder / name, command) for name in _entries(folder) if name != MANIFEST}
        _write_listing(folder, listed)

    with whole(
        place, made_from, list_files, lambda: check_out(path, command, force=force), lambda: _has_others(place)
    ) as folder:
        yield folder


@contextlib.contextmanager
def output_file(
    path: Path | str, command: str, *, force: bool = False, root: Path | str | None = None
) -> Iterator[Path]:
    """Yield the path of a new file; on success it takes the place of `path`, and a manifest says so.

    What may be there before: see `check_out_file`; it is looked at now and again at the end. root: the folder whose
    manifest lists the file; by default the one in which it lies. Errors: as `output_folder`.
    """
    place = check_out_file(path, command, force=force, root=root)
    base = place.parent if root is None else _resolved(root)
    with disk_errors(str(path)), growing(place) as holder:
        new = holder / "new" / place.name
        shutil.rmtree(new.parent, ignore_errors=True)
        new.parent.mkdir()
        try:
            yield new
            sync_file(new)
            entry = _entry(new, command)
            kept_beside(new, place, lambda: check_out_file(path, command, force=force, root=root))
            os.replace(new, place)
        finally:
            shutil.rmtree(new.parent, ignore_errors=True)
        with _manifest_of(base) as listed:
            listed[place.relative_to(base).as_posix()] = entry


def check_texts(folder: Path | str, names: Iterable[str], command: str, *, force: bool = False) -> None:
    """An error where `write_texts` would replace something that it must not."""
    for name in names:
        check_out_file(Path(folder) / name, command, force=force)


def write_texts(folder: Path | str, texts: Mapping[str, str], command: str, *, force: bool = False) -> None:
    """Write files of text into a folder, none where one of them must not be replaced."""
    check_texts(folder, texts, command, force=force)
    for name, text in texts.items():
        with output_file(Path(folder) / name, command, force=force) as new:
            new.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def scratch_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside `path` for what is made on the way to it. It is removed in the end."""
    with disk_errors(str(path)), growing(path, ".scratch") as holder:
        new = holder / "new"
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir()
        try:
            yield new
        finally:
            shutil.rmtree(new, ignore_errors=True)


@contextlib.contextmanager
def work_folder(path: Path | str, command: str, *, force: bool = False) -> Iterator[Path]:
    """Yield a folder in which one command works at a time, now and when it goes on after a kill.

    A lock file marks it as that command's. Nothing in it is removed here; see `remove_work`.
    Errors: a folder that holds other things and is not of the same command (with `force` it is taken, and what is in
    it stays); another process at work in it.
    """
    with disk_errors(str(path)):
        place = _resolved(path)
        owner = owner_of(place)
        others = place.is_dir() and any(p.name != LOCK for p in place.iterdir())
        if others and owner != command and not force:
            found = "there is a folder with other things in it, which allround did not write"
            if owner is not None:
                found = f"it is the working folder of '{owner}'"
            raise AllroundError(f"work in {path}", found, _DO)
        with locked_folder(place, place, command):
            yield place


def remove_output(folder: Path) -> None:
    """Remove what a folder's manifest lists, as it was written, and what is then empty; all else stays."""
    listed = read_listing(folder)
    for name, entry in listed.items():
        if _as_written(folder / name, entry):
            (folder / name).unlink()
    (folder / MANIFEST).unlink(missing_ok=True)
    remove_empty(folder)


def remove_stale(root: Path, command: str, under: str, keep: Iterable[str]) -> None:
    """Remove what a command wrote under a folder in earlier runs, as its manifest says, but for `keep`.

    Files that were changed since, and all others, stay.
    """
    kept = set(keep)
    with _manifest_of(root) as listed:
        for name in [n for n in listed if n.startswith(f"{under}/") and n not in kept]:
            if listed[name].get("command") == command:
                if _as_written(root / name, listed[name]):
                    (root / name).unlink()
                del listed[name]
    remove_empty(root / under)


def sweep(folder: Path) -> None:
    """Remove what killed processes left half-made in a folder; what a living one makes, and all else, stays."""
    for left in folder.glob(".*.partial") if folder.is_dir() else ():
        if left.is_dir() and (left / LOCK).is_file():
            with contextlib.suppress(AllroundError), growing(folder / left.name[1 : -len(".partial")]) as holder:
                shutil.rmtree(holder / "new", ignore_errors=True)
                (holder / "made_from").unlink(missing_ok=True)


# -- the mechanism -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def piece_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder that takes the place of `path` on success, whatever is there.

    For pieces of work, which list their own files; outputs of the user's go through `output_folder`.
    """
    with whole(path, None, lambda _: None, lambda: None) as folder:
        yield folder


@contextlib.contextmanager
def _manifest_of(folder: Path) -> Iterator[dict[str, Entry]]:
    """Yield what a folder's manifest lists, to be changed; others that change it wait."""
    with growing(folder / MANIFEST, wait=True):
        listed = read_listing(folder)
        before = dict(listed)
        yield listed
        if listed != before:
            _write_listing(folder, listed)


def _write_listing(folder: Path, listed: Mapping[str, Entry]) -> None:
    write_json(folder / MANIFEST, {"format": _FORMAT, "allround": __version__, "files": dict(sorted(listed.items()))})
