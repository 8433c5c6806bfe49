"""Locks: of objects that are copied, between threads; and of folders, between processes."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from allround.core.errors import AllroundError
from allround.core.reading import read_text

#: Marks a folder of allround's own work, names the command in it, and is locked while that is at work.
LOCK = ".allround.lock"
#: Seconds until a lock counts as another's: long enough for a process that is about to remove it.
_patience = 0.2
#: What a disk answers that has no locks; two runs at once are not found out there.
_NO_LOCKS = (errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.ENOSYS, errno.EINVAL)


class Lock:
    """Lets one thread in at a time, and that as often as it comes. A copy of it, or from a pickle, is a new lock.

    >>> import copy
    >>> with (lock := Lock()), copy.deepcopy(lock), lock:
    ...     print("in")
    in
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._lock.release()

    def __reduce__(self) -> tuple[type[Lock], tuple[()]]:
        return Lock, ()


def be_patient(seconds: float) -> None:
    """Let this process wait so long for a lock until it counts as another's."""
    global _patience
    _patience = seconds


@contextlib.contextmanager
def locked_folder(folder: Path, path: Path, command: str, *, wait: bool = False) -> Iterator[None]:
    """Hold the lock of a folder, which is made with it, and note in it whose it is.

    path: the output, in messages. Errors: another process holds it, and `wait` is False.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(folder / LOCK, timeout=-1 if wait else _patience)
    held = False
    while not held:
        if folder.is_symlink():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
        with contextlib.suppress(FileExistsError):
            folder.mkdir(parents=True)
        try:
            lock.acquire(poll_interval=0.02)
            held = True
        except FileNotFoundError:
            continue  # the process before removed the folder
        except Timeout:
            raise AllroundError(
                f"write {path}",
                "another process is writing it at this moment",
                "wait for it, or choose another place",
            ) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            break
    try:
        if owner_of(folder) != command:
            _own(folder, command)
        yield
    finally:
        if held:
            lock.release()


def _own(folder: Path, command: str) -> None:
    """Note whose folder of work it is; one that was made for it goes again where the disk is full."""
    try:
        (folder / LOCK).write_text(command, encoding="utf-8")
    except OSError:
        if [path.name for path in folder.iterdir()] == [LOCK]:
            with contextlib.suppress(OSError):
                (folder / LOCK).unlink()
                folder.rmdir()
        raise


def owner_of(folder: Path) -> str | None:
    """The command whose folder of work it is."""
    try:
        return read_text(folder / LOCK, max_bytes=100)
    except AllroundError:
        return None
