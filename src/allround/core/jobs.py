"""Independent pieces of work, run in this process or in several.

A job is a top-level function and plain arguments (paths, numbers, dictionaries), so the same list can go to
local processes today and to a cluster later: whatever offers `run` is a runner.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import ctypes
import gc
import importlib
import itertools
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from allround.core import locks
from allround.core.errors import AllroundError
from allround.core.plugins import PluginFile, files_in_use, use_files
from allround.core.words import plural

if TYPE_CHECKING:
    from typing_extensions import Self

#: How often Ray runs a job again when its process or machine has died.
RETRIES = 5
#: Most threads of a job that runs alone.
MOST_THREADS = 16
#: Threads of a job, where OMP_NUM_THREADS said so when the program began (`runner` sets it later); 0: it did not.
THREADS = int(wanted) if (wanted := os.environ.get("OMP_NUM_THREADS", "")).isascii() and wanted.isdigit() else 0
#: Seconds that a job on a cluster waits for a piece while another process still holds it.
PATIENCE = 60.0


@dataclass(frozen=True)
class Job:
    """A call to be made somewhere: `function` is 'package.module:name'."""

    function: str
    arguments: dict[str, object] = field(default_factory=dict)
    label: str = ""

    def __call__(self) -> object:
        module, name = self.function.split(":")
        return getattr(importlib.import_module(module), name)(**self.arguments)


class Runner(ABC):
    """Runs jobs and yields (index, result) as they finish. A context: closed at its end, at once if it is interrupted.

    An interruption is what is not an Exception: KeyboardInterrupt, SystemExit.
    """

    @abstractmethod
    def run(self, jobs: Sequence[Job], *, alone: bool = False) -> Iterator[tuple[int, object]]:
        """alone: no other work stands beside these jobs, so that each may compute in as many threads as there are
        cores. It is asked of the work as a whole and not of what is left of it, so that a run that was ended and begun
        again computes as one that was not."""

    @abstractmethod
    def close(self, *, at_once: bool = False) -> None:
        """Free what the runner holds. at_once: end jobs that have begun; otherwise wait for them."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(at_once=kind is not None and not issubclass(kind, Exception))


class Inline(Runner):
    """Runs jobs one after the other in this process."""

    def run(self, jobs: Sequence[Job], *, alone: bool = False) -> Iterator[tuple[int, object]]:
        for index, job in enumerate(jobs):
            yield index, job()

    def close(self, *, at_once: bool = False) -> None:
        """There is nothing to free."""


class Processes(Runner):
    """Runs jobs in `workers` local processes with `threads` torch threads each; a job that is alone has those of all.

    The processes end with this one, however it ends: a killed run leaves no process behind.
    """

    def __init__(self, workers: int, threads: int) -> None:
        self.workers = workers
        self.threads = threads
        self._pool: concurrent.futures.ProcessPoolExecutor | None = None

    def run(self, jobs: Sequence[Job], *, alone: bool = False) -> Iterator[tuple[int, object]]:
        if not jobs:
            return
        if self._pool is None:
            self._pool = concurrent.futures.ProcessPoolExecutor(
                self.workers,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_start_worker,
                initargs=(os.getpid(), self.threads, list(sys.path)),
            )
        waiting: dict[concurrent.futures.Future[object], int] = {}
        plugins = files_in_use()
        threads = min(MOST_THREADS, self.workers * self.threads) if alone else self.threads
        try:
            with _without_interrupts():
                for index, job in enumerate(jobs):
                    waiting[self._pool.submit(_run, job, plugins, threads)] = index
            for future in concurrent.futures.as_completed(waiting):
                yield waiting[future], future.result()
        except concurrent.futures.process.BrokenProcessPool as error:
            self._pool = None
            raise AllroundError(
                "run a piece of work in a process of its own",
                "that process ended before its work was done (often: the machine ran out of memory; in a script of "
                'your own: the call does not stand under `if __name__ == "__main__":`)',
                "run the same command again, with fewer --workers if memory is short: finished work is kept",
            ) from error
        finally:
            for future in waiting:
                future.cancel()

    def close(self, *, at_once: bool = False) -> None:
        pool, self._pool = self._pool, None
        if pool is None:
            return
        if at_once:
            # Executor.kill_workers does this from Python 3.14 on.
            for process in list((pool._processes or {}).values()):
                process.kill()
        pool.shutdown(wait=True, cancel_futures=True)


class Ray(Runner):
    """Runs jobs on a Ray cluster whose machines see the same files.

    Each job computes in one thread. A job whose process or machine dies is done again
    elsewhere.

    address: of the cluster (HOST:PORT); `auto` for the one that this machine belongs to; `local` for a new one of this
    machine alone. workers: most jobs at a time; `None` for as many as the cluster has processors. gpus: of each job.
    """

    def __init__(self, address: str, *, workers: int | None = None, gpus: int = 0) -> None:
        try:
            import ray
        except ImportError as error:
            raise AllroundError(
                f"work on the Ray cluster '{address}'", "Ray is not installed", "pip install 'allround[ray]'"
            ) from error
        self._ray, self._most, self._gpus = ray, workers, gpus
        self._ours = not ray.is_initialized()
        if not self._ours:
            return
        try:
            _knock(address)
            ray.init(address=address, log_to_driver=False, logging_level="ERROR")
        except (OSError, ValueError, RuntimeError, ImportError) as error:
            raise AllroundError(
                f"work on the Ray cluster '{address}'",
                f"there is none to be reached ({(str(error).strip() or type(error).__name__).splitlines()[0][:150]})",
                "check the address, or start one on this machine: ray start --head",
            ) from error

    @property
    def workers(self) -> int:
        """How many jobs can run at the same time, at least 1."""
        have = self._ray.cluster_resources()
        slots = int(have.get("CPU", 1))
        if self._gpus:
            slots = min(slots, int(have.get("GPU", 0)) // self._gpus)
        return max(1, min(slots, self._most or slots))

    def run(self, jobs: Sequence[Job], *, alone: bool = False) -> Iterator[tuple[int, object]]:
        remote = self._ray.remote(_run_there).options(num_cpus=1, num_gpus=self._gpus, max_retries=RETRIES)
        here, coming = Here(str(Path.cwd()), tuple(sys.path), files_in_use()), iter(enumerate(jobs))
        waiting: dict[Any, int] = {}
        try:
            while True:
                room = None if self._most is None else self._most - len(waiting)
                waiting.update({remote.remote(job, here): index for index, job in itertools.islice(coming, room)})
                if not waiting:
                    return
                (first,), _ = self._ray.wait(list(waiting), num_returns=1)
                index = waiting.pop(first)
                try:
                    yield index, self._ray.get(first)
                except self._ray.exceptions.RayTaskError as error:
                    raise (error.cause if isinstance(error.cause, AllroundError) else error) from None
                except self._ray.exceptions.RayError as error:
                    raise AllroundError(
                        "run a piece of work on the Ray cluster",
                        f"its process ended in {plural(RETRIES + 1, 'attempt')} before the work was done, or the "
                        f"cluster is gone ({(str(error).strip() or type(error).__name__).splitlines()[0][:150]})",
                        "run the same command again when the cluster is well: finished work is kept",
                    ) from error
        finally:
            for task in waiting:
                self._ray.cancel(task)
            if waiting:  # what has begun puts away its unfinished files before it ends
                self._ray.wait(list(waiting), num_returns=len(waiting), timeout=30)

    def close(self, *, at_once: bool = False) -> None:
        if self._ours:
            self._ray.shutdown()


def _knock(address: str) -> None:
    """An OSError when nothing answers at HOST:PORT; Ray itself would try for minutes."""
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()


def runner(workers: int | None = None, threads: int | None = None) -> Runner:
    """Local processes, or this process when one worker is enough. Default: one worker a core, at most eight; the cores
    are shared out among them as threads, unless OMP_NUM_THREADS says how many each has."""
    cores = available_cores()
    workers = workers or min(cores, 8)
    threads = threads or THREADS or max(1, cores // workers)
    if workers == 1:
        _set_threads(threads)
        return Inline()
    return Processes(workers, threads)


def available_cores() -> int:
    """The processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def quiet_libraries() -> None:
    """Keep other libraries' progress bars and chatter off the screen."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if "transformers" in sys.modules:
        from transformers.utils import logging

        logging.disable_progress_bar()


def _set_threads(threads: int) -> None:
    os.environ["OMP_NUM_THREADS"] = str(threads)
    import torch

    torch.set_num_threads(threads)


@contextlib.contextmanager
def _without_interrupts() -> Iterator[None]:
    """Hold Ctrl-C back while workers are started: they inherit that, and leave the answer to their parent."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker(parent: int, threads: int, path: list[str]) -> None:
    sys.path[:] = path
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    _set_threads(threads)
    quiet_libraries()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


@dataclass(frozen=True)
class Here:
    """What a machine of a cluster has to know of the process that asks for the work."""

    folder: str
    path: tuple[str, ...]
    plugins: tuple[PluginFile, ...]


def _run_there(job: Job, here: Here) -> object:
    """Run a job on a machine of a cluster, as a local worker would run it."""
    try:
        os.chdir(here.folder)
    except OSError as error:
        raise AllroundError(
            f"work in the folder {here.folder} on the machine {socket.gethostname()} of the Ray cluster",
            f"it cannot be entered there: {error.strerror}",
            "run the command in a folder that all machines of the cluster share",
        ) from error
    sys.path.extend(folder for folder in here.path if folder not in sys.path and Path(folder).is_dir())
    # A process of a lost machine may still be ending, and hold the lock of the piece until then.
    locks.be_patient(PATIENCE)
    quiet_libraries()
    return _run(job, here.plugins, 1)


def _run(job: Job, plugins: Sequence[PluginFile], threads: int) -> object:
    """Run a job in a worker, with the plug-ins of the process that asks for it."""
    _set_threads(threads)
    use_files(plugins)
    try:
        return job()
    finally:
        _release_memory()


def _release_memory() -> None:
    """Give freed memory back to the system: batches of many shapes leave the heap full of holes."""
    gc.collect()
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # a C library without malloc_trim
            ctypes.CDLL(None).malloc_trim(0)


def call(function: Callable[..., object], **arguments: object) -> Job:
    """A job that calls a top-level function.

    >>> call(len, obj=[1]).function
    'builtins:len'
    """
    return Job(f"{function.__module__}:{function.__qualname__}", arguments)
