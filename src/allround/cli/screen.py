"""What a command shows: its words for people, its result as JSON (`--json`), or nothing (`--quiet`).

A command prints words to standard output and returns its result as plain data. With `--json` the words are left out and
the result is printed; with `--quiet` nothing is, and a run does not say how far it is. Errors are printed in any case.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import sys
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from types import TracebackType
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Self

_current: Screen | None = None


class Screen:
    """The screen of one command. A context: what was asked of it ends with the command."""

    def __init__(self) -> None:
        self.json = False
        self._stack = contextlib.ExitStack()
        self._real: IO[str] | None = None

    def __enter__(self) -> Self:
        global _current
        self._before, _current = _current, self
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        global _current
        _current = self._before
        self._stack.close()

    def drop_words(self) -> None:
        """Print no more words to standard output."""
        if self._real is None:
            self._real = sys.stdout
            self._stack.enter_context(contextlib.redirect_stdout(_Nowhere()))

    @property
    def drops_words(self) -> bool:
        return self._real is not None

    def drop_progress(self) -> None:
        """Let a run say nothing while it works."""
        from allround.core.progress import quiet_runs

        self._stack.enter_context(quiet_runs())

    def show(self, result: object) -> None:
        """Print the result of the command where it was asked for as JSON."""
        if self.json and self._real is not None:
            self._real.write(json.dumps(plain(result), indent=2, ensure_ascii=False) + "\n")


class _Nowhere(io.StringIO):
    """A text file that keeps nothing."""

    def write(self, text: str) -> int:
        return len(text)


def be_quiet(asked: bool) -> None:
    """What `--quiet` does."""
    if asked and _current is not None:
        _current.drop_words()
        _current.drop_progress()


def print_json(asked: bool) -> None:
    """What `--json` does."""
    if asked and _current is not None:
        _current.json = True
        _current.drop_words()


def plain(value: object) -> object:
    """A value as JSON has it: paths are texts, numbers that are not finite are null.

    >>> from pathlib import Path
    >>> plain({"model": Path("a/b"), "scores": (0.5, float("nan"))})
    {'model': 'a/b', 'scores': [0.5, None]}
    """
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def give(result: object) -> None:
    """Show a result before the command ends with an exit code of its own; others return theirs."""
    if _current is not None:
        _current.show(result)


def says_nothing() -> bool:
    """Whether a command was told to print no words."""
    return _current is not None and _current.drops_words
