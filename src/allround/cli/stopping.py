"""Ctrl-C and SIGTERM: a command ends at once, what is finished is kept, and one line says how to go on."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import typer

from allround.cli.help import Group
from allround.cli.screen import Screen
from allround.core.errors import AllroundError

if TYPE_CHECKING:
    from typer._click import Context

#: Commands that take up what they had finished when they are run again.
RESUMED = {"build", "compare-training", "loop", "merge", "train", "tune"}


class Terminated(KeyboardInterrupt):
    """SIGTERM: answered as Ctrl-C is."""


class Commands(Group):
    """The commands, which answer an interruption alike.

    A command that knows better what is left says so: `raise KeyboardInterrupt("nothing was written")`.
    """

    def invoke(self, ctx: Context) -> object:
        check_current_folder()
        try:
            with Screen() as screen:
                result: object = super().invoke(ctx)
                screen.show(result)
            return result
        except KeyboardInterrupt as stop:
            name = ctx.invoked_subcommand
            kept = "what is finished is kept; run the same command again to go on from there"
            words = str(stop) or (kept if name in RESUMED else "nothing was written")
            typer.echo(f"stopped: {words}", err=True)
            raise typer.Exit(exit_code(stop)) from None


def check_current_folder() -> None:
    """An error where the current folder was removed: libraries that are loaded then end the process."""
    try:
        Path.cwd()
    except OSError as error:
        raise AllroundError(
            shlex.join(["run", "allround", *sys.argv[1:]]),
            f"the current folder is not there any more: {error.strerror}",
            "change to a folder that exists, such as: cd ~",
        ) from error


def exit_code(stop: KeyboardInterrupt) -> int:
    """What a shell expects of a process that ended by that signal."""
    return 128 + (signal.SIGTERM if isinstance(stop, Terminated) else signal.SIGINT)


def heed_interruptions() -> None:
    """From now on SIGTERM interrupts as Ctrl-C does, unless it is handled already, and no interruption is lost. In
    another thread than the main one this does nothing.

    Python drops what is raised while it runs a destructor or the callback of a weak reference, an interruption too: the
    command would go on. There the signal is sent once more, a moment later.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _terminate)
    others = sys.unraisablehook

    def hook(dropped: sys.UnraisableHookArgs) -> None:
        if isinstance(dropped.exc_value, KeyboardInterrupt):
            _send_again(dropped.exc_value)
        else:
            others(dropped)

    sys.unraisablehook = hook


def _terminate(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough: the end must not be interrupted
    raise Terminated


def _send_again(dropped: KeyboardInterrupt) -> None:
    number = signal.SIGINT
    if isinstance(dropped, Terminated):
        number = signal.SIGTERM
        signal.signal(number, _terminate)
    timer = threading.Timer(0.05, os.kill, (os.getpid(), number))
    timer.daemon = True
    timer.start()
