"""The command line."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; an AllroundError is printed in its three parts and ends with exit code 2.

    An error of the operating system (of a disk or a connection) that no other code explained is printed in the same
    way, and ends with exit code 1.
    """
    from allround.core.errors import AllroundError
    from allround.core.progress import drop_useless_width

    drop_useless_width()
    try:
        from allround.cli.app import app
        from allround.cli.stopping import heed_interruptions

        heed_interruptions()
        app()
    except AllroundError as error:
        _say(error)
        sys.exit(2)
    except OSError as error:
        import shlex

        reason = error.strerror or (str(error).strip() or type(error).__name__).splitlines()[0]
        where = ", ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
        _say(
            AllroundError(
                f"run {shlex.join(['allround', *sys.argv[1:]])}",
                f"the operating system reported: {reason}{f' ({where})' if where else ''}",
                "check that file, its disk or the connection, and run the same command again",
            )
        )
        sys.exit(1)
    except KeyboardInterrupt:  # before or after the command, which answers it itself
        sys.exit(130)


def _say(error: Exception) -> None:
    from allround.core.progress import make_console

    make_console(stderr=True).print(str(error), style="red", markup=False, soft_wrap=True)
