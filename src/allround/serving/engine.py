"""The engine: one thread that owns a model. Work that queued while the last batch ran forms the next batch."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any

from allround.models.system import System


class Busy(Exception):
    """The queue is full. after: seconds until there will be room."""

    def __init__(self, after: float) -> None:
        super().__init__(after)
        self.after = after


class Stopped(Exception):
    """The engine takes no more work."""


@dataclass(frozen=True)
class Limits:
    """How much the engine does at once, and how much may wait.

    rows, tokens: most rows and tokens of a batch; work that is larger makes a batch of its own. together: most rows
    that a network reads at once. queue: most pieces of work that wait.
    """

    rows: int = 64
    tokens: int = 4096
    together: int = 16
    queue: int = 512


class Work(ABC):
    """What one request asks of a model."""

    #: How many rows and, about, how many tokens the model reads for it.
    rows: int
    tokens: int

    @classmethod
    @abstractmethod
    def answer(cls, system: System, works: Sequence[Any], together: int) -> list[object]:
        """What each of these pieces of work comes to; an exception where one fails."""


@dataclass(frozen=True)
class Batch:
    """What became of a batch. failed: pieces of work without an answer."""

    rows: int
    works: int
    failed: int
    seconds: float


@dataclass
class _Queued:
    work: Work
    future: Future[Any]
    deadline: float


class Engine:
    """Answers work on a thread of its own, in the order in which it comes.

    There is no waiting: an idle engine begins at once, and what comes meanwhile waits and is then answered together,
    within the limits. Work whose deadline has passed, or whose future was cancelled, is dropped before it is run.

    between: is called on the engine's thread after a batch of several, so that its answers can be sent and what has
    come since can be queued; with what tells whether so much is queued as the batch had, and the seconds that this may
    take.
    """

    between: Callable[[Callable[[], bool], float], object] | None = None

    def __init__(
        self,
        system: System,
        limits: Limits | None = None,
        *,
        name: str = "model",
        watch: Callable[[Batch], object] = lambda batch: None,
    ) -> None:
        """watch: is shown each batch, on the engine's thread."""
        self.limits = Limits() if limits is None else limits
        self._system, self._watch = system, watch
        self._queue: deque[_Queued] = deque()
        self._changed = threading.Condition()
        self._stopping = self._busy = False
        self._rows, self._pace = 0, 0.0  # rows that wait, and seconds that a row took lately
        self._thread = threading.Thread(target=self._run, name=f"engine of {name}", daemon=True)
        self._thread.start()

    @property
    def system(self) -> System:
        """The model that answers; another may take its place between two batches."""
        return self._system

    @system.setter
    def system(self, system: System) -> None:
        self._system = system

    @property
    def waiting(self) -> int:
        """How many pieces of work wait."""
        return len(self._queue)

    def submit(self, work: Work, *, seconds: float = 30.0) -> Future[Any]:
        """Queue work, which is dropped when it has not begun after so many seconds: its future then has a
        `TimeoutError`.

        Errors: `Busy` where the queue is full, or what it holds will take longer than that; `Stopped` after `stop`.
        """
        future: Future[Any] = Future()
        with self._changed:
            if self._stopping:
                raise Stopped
            after = self._pace * self._rows
            if len(self._queue) >= self.limits.queue or after > seconds:
                raise Busy(after)
            self._rows += work.rows
            self._queue.append(_Queued(work, future, time.monotonic() + seconds))
            self._changed.notify()
        return future

    def stop(self, *, wait: bool = True) -> None:
        """Take no more work; what is queued is answered still. wait: until it is."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if wait:
            self._thread.join()

    def _run(self) -> None:
        while some := self._next():
            begun = time.monotonic()
            made = self._answers(some)
            for one, answer in zip(some, made, strict=True):
                if isinstance(answer, BaseException):
                    one.future.set_exception(answer)
                else:
                    one.future.set_result(answer)
            took, count = time.monotonic() - begun, len(some)
            rows = sum(one.work.rows for one in some)
            self._pace += (took / rows - self._pace) * (0.2 if self._pace else 1)
            self._watch(Batch(rows, count, sum(isinstance(answer, BaseException) for answer in made), took))
            if self.between is not None and len(self._queue) < count > 1:
                self.between(partial(self._holds, count), took / 4)

    def _holds(self, count: int) -> bool:
        return len(self._queue) >= count

    def _answers(self, some: Sequence[_Queued]) -> Sequence[object]:
        """The answers to a batch. What no work accounts for is the answer to each, so that the engine lives on."""
        works = [one.work for one in some]
        try:
            return type(works[0]).answer(self._system, works, self.limits.together)
        except Exception as error:
            return [error] * len(works)

    def _next(self) -> list[_Queued]:
        """The next batch: the work that came first, and what is queued of its sort within the limits, in order. Nothing
        once the engine is stopped and the queue is empty."""
        found: list[_Queued] = []
        with self._changed:
            while not found:
                self._changed.wait_for(lambda: self._queue or self._stopping)
                if not self._queue:
                    return []
                rows = tokens = 0
                while self._queue:
                    one = self._queue[0]
                    rows, tokens = rows + one.work.rows, tokens + one.work.tokens
                    other = bool(found) and type(one.work) is not type(found[0].work)
                    if found and (other or rows > self.limits.rows or tokens > self.limits.tokens):
                        break
                    self._queue.popleft()
                    self._rows -= one.work.rows
                    if not one.future.set_running_or_notify_cancel():
                        rows, tokens = rows - one.work.rows, tokens - one.work.tokens
                    elif one.deadline < time.monotonic():
                        rows, tokens = rows - one.work.rows, tokens - one.work.tokens
                        one.future.set_exception(TimeoutError())
                    else:
                        found.append(one)
        return found
