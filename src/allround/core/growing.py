"""How an output grows: in `.NAME.partial` beside its place, under a lock, until it takes its place in one step."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from allround.core.errors import AllroundError
from allround.core.files import disk_errors, hash_json, is_full, sync_file
from allround.core.locks import LOCK, locked_folder
from allround.core.reading import read_text


def holder_of(path: Path, kind: str = "") -> Path:
    """The folder beside `path` in which it grows. Errors: a folder of that name that allround did not make."""
    holder = path.parent / f".{path.name}{kind}.partial"
    try:
        left = os.listdir(holder)  # noqa: PTH208 (whose errors say more than those of pathlib)
    except FileNotFoundError:
        left = []
    if left and LOCK not in left:
        raise AllroundError(
            f"write {path}", f"{holder} is needed for it, and holds other things", "move that folder away"
        )
    return holder


@contextlib.contextmanager
def growing(path: Path, kind: str = "", *, wait: bool = False) -> Iterator[Path]:
    """Yield the locked folder `.NAME.partial` beside `path`: `new/NAME` grows in it, `old/NAME` was there before."""
    holder = holder_of(path, kind)
    with locked_folder(holder, path, "output", wait=wait):
        old = holder / "old" / path.name
        if os.path.lexists(old) and not os.path.lexists(path):
            os.replace(old, path)  # a run was killed while it replaced it
        try:
            shutil.rmtree(holder / "old", ignore_errors=True)
            yield holder
        finally:
            shutil.rmtree(holder / "old", ignore_errors=True)
            if [p.name for p in holder.iterdir()] == [LOCK]:
                remove_work(holder)


@contextlib.contextmanager
def whole(
    path: Path,
    made_from: object,
    finish: Callable[[Path], None],
    check: Callable[[], object],
    spared: Callable[[], bool] = lambda: False,
) -> Iterator[Path]:
    """A new folder that takes the place of `path`, after `finish` was called with it, and `check`.

    spared: whether what is at `path` by then is moved to a free name next to it, and not removed.
    """
    with disk_errors(str(path)), growing(path) as holder:
        new, label = holder / "new" / path.name, holder / "made_from"
        key = hash_json(made_from)
        if made_from is None or not label.is_file() or read_text(label) != key:
            shutil.rmtree(new.parent, ignore_errors=True)
            label.write_text(key, encoding="utf-8")
        new.mkdir(parents=True, exist_ok=True)
        for left in [p for p in new.rglob(".*") if p.is_file()]:
            left.unlink()  # by atomic_file, in a run that was killed
        keep = False
        try:
            yield new
            finish(new)
            for file in new.rglob("*"):
                if file.is_file():
                    sync_file(file)
            kept_beside(new, path, check)
            _take_place(new, path, free_name(path) if spared() else holder / "old" / path.name)
        except BaseException as error:
            keep = made_from is not None and (is_full(error) or not isinstance(error, Exception))
            raise
        finally:
            if not keep:
                shutil.rmtree(new.parent, ignore_errors=True)
                label.unlink(missing_ok=True)


def _take_place(new: Path, path: Path, old: Path) -> None:
    """Put what is finished where `path` is; what was there goes to `old`, and comes back where that fails."""
    if not os.path.lexists(path):
        os.replace(new, path)
        return
    old.parent.mkdir(exist_ok=True)
    os.replace(path, old)
    try:
        os.replace(new, path)
    except BaseException:
        os.replace(old, path)
        raise


def free_name(place: Path) -> Path:
    """A name next to `place` at which there is nothing: NAME.1, NAME.2, ..."""
    names = (place.with_name(f"{place.name}.{number}") for number in itertools.count(1))
    return next(name for name in names if not os.path.lexists(name))


def kept_beside(new: Path, place: Path, check: Callable[[], object]) -> None:
    """Look once more at what is at `place`; where it must not be replaced, what was made stays next to it."""
    try:
        check()
    except AllroundError as error:
        free = free_name(place)
        os.replace(new, free)
        raise AllroundError(error.asked, f"{error.found}; what was made now lies in {free}", error.do) from error


def remove_work(folder: Path, names: Iterable[str] = ()) -> None:
    """Remove files of a folder of work (by their paths in it), its mark and what is then empty; all else stays."""
    for name in (*names, LOCK):
        (folder / name).unlink(missing_ok=True)
    remove_empty(folder)


def remove_empty(folder: Path) -> None:
    """Remove a folder and those in it, as far as there is nothing in them."""
    for place, _, _ in os.walk(folder, topdown=False):
        with contextlib.suppress(OSError):
            Path(place).rmdir()
