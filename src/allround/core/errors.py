"""The one exception base: what was asked, what was found, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class AllroundError(Exception):
    """Something the user can act on.

    Every message has three parts: `asked` (what was wanted), `found` (what stands in the way) and
    `do` (the way out). The command line prints them without a traceback and exits with code 2.

    >>> print(AllroundError("read the suite 'a.yml'", "the file is not there", "check the path"))
    asked: read the suite 'a.yml'
    found: the file is not there
    do:    check the path
    """

    def __init__(self, asked: str, found: str, do: str) -> None:
        super().__init__(asked, found, do)
        self.asked = asked
        self.found = found
        self.do = do

    def __str__(self) -> str:
        return f"asked: {self.asked}\nfound: {self.found}\ndo:    {self.do}"


def suggestion(name: str, known: Iterable[str]) -> str:
    """Words that point from a mistyped name to what exists.

    >>> suggestion("tise", ["ties", "average"])
    "did you mean 'ties'? (known: average, ties)"
    >>> suggestion("zzz", ["ties", "average"])
    'use one of: average, ties'
    """
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    listed = ", ".join(known)
    return f"did you mean '{close[0]}'? (known: {listed})" if close else f"use one of: {listed}"
