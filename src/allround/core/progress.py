"""What a run says while it works: every line in a log file; lines for people, and one bar, on the screen.

On a terminal the bar shows the present stage, the time left in it and the best system so far. Where there is no
terminal, a line says the same at least once a minute.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from allround.core.words import duration, percent

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


#: Seconds without a line, where there is no terminal, after which one says that work goes on.
PULSE = 55.0


class Progress:
    """Says what happens: `say` to people, `note` to the log alone.

    On a terminal a bar shows how far the present stage is; elsewhere a line does while a `watch` lasts, after `pulse`
    seconds without any. Every other line goes to `log` (a file, appended) with the time since the start; `quiet`
    keeps the screen empty.
    """

    def __init__(
        self, log: Path | None = None, *, quiet: bool = False, console: Console | None = None, pulse: float = PULSE
    ) -> None:
        self.log = log
        self.quiet = quiet or _quiet
        self.pulse = pulse
        self.started = time.monotonic()
        self._console = console
        self._bar: Bar | None = None
        self._stages: list[Stage] = []
        self._best: tuple[str, float] | None = None
        self._last = self.started
        self._watched = False
        self._writing = threading.RLock()

    @property
    def console(self) -> Console:
        if self._console is None:
            self._console = make_console(stderr=True)
        return self._console

    def say(self, text: str, *, style: str | None = None) -> None:
        """Write a line to the log and show it on the screen."""
        self._show(self.note(text), text, style)

    def _show(self, elapsed: float, text: str, style: str | None = None) -> None:
        with self._writing:
            self._last = time.monotonic()
            if not self.quiet:
                from rich.text import Text

                # In one piece: a bar would come between two.
                line = Text.assemble((f"{elapsed:7.1f} s", "dim"), "  ", (text, style or ""))
                self.console.print(line, soft_wrap=True)

    def note(self, text: str) -> float:
        """Write a line to the log alone; gives the seconds since the start."""
        elapsed = time.monotonic() - self.started
        if self.log:
            self.log.parent.mkdir(parents=True, exist_ok=True)
            with open(self.log, "a", encoding="utf-8") as file:
                file.write(f"{elapsed:8.1f} s  {text}\n")
        return elapsed

    def compare(self, name: str, value: float) -> None:
        """Tell of a system and its mean retention on validation: the best so far is shown along.

        >>> progress = Progress(quiet=True)
        >>> progress.compare("joint", 0.97); progress.compare("ties", 0.982); progress.compare("average", 0.9)
        >>> progress.best_words
        'best so far: ties 98.2%'
        """
        if self._best is None or value > self._best[1]:
            self._best = name, value

    @property
    def best_words(self) -> str:
        return f"best so far: {self._best[0]} {percent(self._best[1])}%" if self._best else ""

    def stage(self, title: str, total: int, *, done: int = 0) -> Stage:
        """A stage of `total` pieces; use as a context and call `advance` after each. done: before it begins."""
        return Stage(self, title, total, done)

    @contextlib.contextmanager
    def watch(self) -> Iterator[None]:
        """While this lasts, no minute passes without a line where there is no terminal. It begins a new comparison."""
        self._best = None
        if self.quiet or self._watched or self.console.is_terminal:
            yield
            return
        self._watched, done = True, threading.Event()
        thread = threading.Thread(target=self._keep_saying, args=(done,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
            self._watched = False

    def _keep_saying(self, done: threading.Event) -> None:
        while not done.wait(max(0.01, self._last + self.pulse - time.monotonic())):
            if time.monotonic() - self._last >= self.pulse:
                stage = self._stages[-1].words() if self._stages else "still at work"
                self._show(time.monotonic() - self.started, "; ".join(filter(None, (stage, self.best_words))))


class Stage:
    """One stage of a run."""

    def __init__(self, progress: Progress, title: str, total: int, done: int = 0) -> None:
        self.progress = progress
        self.title = title
        self.total = total
        self.done = self.first = done
        self.began = time.monotonic()
        self.bar: Bar | None = None

    @property
    def left(self) -> float | None:
        """Seconds until the stage ends, if the pieces that are left take as long as those that are done."""
        if self.done == self.first:
            return None
        return (time.monotonic() - self.began) * (self.total - self.done) / (self.done - self.first)

    def left_words(self) -> str:
        return "" if self.left is None or self.done == self.total else f"about {duration(self.left)} left"

    def words(self) -> str:
        """How far the stage is."""
        return ", ".join(filter(None, (f"{self.title}: {self.done} of {self.total} done", self.left_words())))

    def __enter__(self) -> Stage:
        self.progress._stages.append(self)
        show = not self.progress.quiet and self.total > 0 and self.progress.console.is_terminal
        if show and self.progress._bar is None:
            self.bar = self.progress._bar = self._make_bar()
            self.bar.start()
            self.row = self.bar.add_task(self.title, total=self.total, completed=self.done)
        return self

    def _make_bar(self) -> Bar:
        from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bar
        from rich.text import Text

        stage = self

        class Left(ProgressColumn):
            def render(self, task: Task) -> Text:
                return Text("  ".join(filter(None, (stage.left_words(), stage.progress.best_words))), style="cyan")

        columns = (TextColumn("{task.description}"), BarColumn(20), MofNCompleteColumn(), TimeElapsedColumn(), Left())
        return Bar(*columns, console=self.progress.console, transient=True)

    def advance(self, pieces: int = 1) -> None:
        self.done += pieces
        if self.bar is not None:
            self.bar.advance(self.row, pieces)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress._stages.remove(self)
        if self.bar is not None:
            self.bar.stop()
            self.progress._bar = None
