"""A lock for objects that are copied."""

from __future__ import annotations

import threading
from types import TracebackType


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
