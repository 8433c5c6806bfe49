"""The command line."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; an AllroundError is printed in its three parts and ends with exit code 2."""
    from allround.core.errors import AllroundError

    try:
        from allround.cli.app import app

        app()
    except AllroundError as error:
        from rich.console import Console

        Console(stderr=True, highlight=False).print(str(error), style="red", markup=False, soft_wrap=True)
        sys.exit(2)
    except KeyboardInterrupt:  # before or after the command, which answers it itself
        sys.exit(130)
