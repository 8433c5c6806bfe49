"""Functions that tests run in other processes."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from allround.core.errors import AllroundError


def square(number: int) -> tuple[int, int]:
    """The number squared, and the process it was squared in."""
    return number * number, os.getpid()


def threads() -> tuple[int, str | None]:
    """How many threads torch uses here, by its own words and by the environment's."""
    import torch

    return torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS")


def blocked_signals() -> set[int]:
    return set(signal.pthread_sigmask(signal.SIG_BLOCK, set()))


def refuse(asked: str) -> None:
    raise AllroundError(asked, "it is in the way", "walk around it")


def fail() -> None:
    raise ValueError("an ordinary failure")


def end_itself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def note_and_wait(folder: str, seconds: float = 60.0) -> Any:
    """Leave this process's number in a folder, then wait."""
    (Path(folder) / str(os.getpid())).touch()
    time.sleep(seconds)
    return os.getpid()
