"""What a run says while it works: every line in a log file; lines for people, and one bar, on the screen."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bar


#: The last line in the log of a run that reached its end.
FINISHED = "finished"
#: Columns of a line: a console that says fewer than the first knows nothing (`COLUMNS=0`), and is taken for the second.
_LEAST, _USUAL = 20, 80


def make_console(*, stderr: bool = False) -> Console:
    """The console that all output goes to; of a width in which something can be read."""
    from rich.console import Console

    console = Console(stderr=stderr, highlight=False)
    if console.width < _LEAST:
        console.width = _USUAL
    return console


def drop_useless_width() -> None:
    """Take a width that nothing fits in out of the environment, for consoles that others make (that of `--help`)."""
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and int(columns) < _LEAST:
        del os.environ["COLUMNS"]


#: Whether runs that are not asked are quiet.
_quiet = False


@contextlib.contextmanager
def quiet_runs() -> Iterator[None]:
    """Until the end of the context, whatever does not say otherwise keeps the screen empty while it works."""
    global _quiet
    before, _quiet = _quiet, True
    try:
        yield
    finally:
        _quiet = before


class Progress:
    """Says what happens: `say` to people, `note` to the log alone.

    On a terminal a bar shows how many pieces of the present stage are done. Every line goes to `log` (a file,
    appended) with the time since the start; `quiet` keeps the screen empty.
    """

    def __init__(self, log: Path | None = None, *, quiet: bool = False, console: Console | None = None) -> None:
        self.log = log
        self.quiet = quiet or _quiet
        self.started = time.monotonic()
        self._console = console
        self._bar: Bar | None = None
        if log:
            log.parent.mkdir(parents=True, exist_ok=True)

    @property
    def console(self) -> Console:
        if self._console is None:
            self._console = make_console(stderr=True)
        return self._console

    def say(self, text: str, *, style: str | None = None) -> None:
        """Write a line to the log and show it on the screen."""
        elapsed = self.note(text)
        if not self.quiet:
            self.console.print(f"[dim]{elapsed:7.1f} s[/dim]  ", end="")
            self.console.print(text, style=style, markup=False, soft_wrap=True)

    def note(self, text: str) -> float:
        """Write a line to the log alone; gives the seconds since the start."""
        elapsed = time.monotonic() - self.started
        if self.log:
            with open(self.log, "a", encoding="utf-8") as file:
                file.write(f"{elapsed:8.1f} s  {text}\n")
        return elapsed

    def stage(self, title: str, total: int) -> Stage:
        """A stage of `total` pieces; use as a context and call `advance` after each."""
        return Stage(self, title, total)


class Stage:
    """One stage of a run."""

    def __init__(self, progress: Progress, title: str, total: int) -> None:
        self.progress = progress
        self.title = title
        self.total = total

    def __enter__(self) -> Stage:
        show = not self.progress.quiet and self.total > 0 and self.progress.console.is_terminal
        if show and self.progress._bar is None:
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
            from rich.progress import Progress as Bar

            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            self.bar: Bar | None = Bar(*columns, console=self.progress.console, transient=True)
            self.bar.start()
            self.row = self.bar.add_task(self.title, total=self.total)
            self.progress._bar = self.bar
        else:
            self.bar = None
        return self

    def advance(self) -> None:
        if self.bar is not None:
            self.bar.advance(self.row)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.progress._bar = None
