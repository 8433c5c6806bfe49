"""Problems that are gathered, so that all of them are said at once and not the first alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from allround.core.errors import AllroundError


class SeveralErrors(AllroundError):
    """Several errors in one.

    >>> errors = [AllroundError("make 'a'", "x", "mend it"), AllroundError("b", "y", "z")]
    >>> print(SeveralErrors("make the suite", errors))
    asked: make the suite
    found: 2 problems
    1. make 'a': x
       do: mend it
    2. b: y
       do: z
    do:    correct them, then do it again
    """

    def __init__(self, asked: str, errors: Sequence[AllroundError]) -> None:
        self.errors = tuple(errors)
        shown = [one.found if one.asked == asked else f"{one.asked}: {one.found}" for one in self.errors]
        listed = [f"{n}. {what}\n   do: {one.do}" for n, (what, one) in enumerate(zip(shown, errors, strict=True), 1)]
        found = "\n".join([f"{len(self.errors)} problems", *listed])
        super().__init__(asked, found, "correct them, then do it again")

    def __reduce__(self) -> tuple[type[SeveralErrors], tuple[str, tuple[AllroundError, ...]]]:
        return SeveralErrors, (self.asked, self.errors)


class Problems:
    """Gathers errors.

    >>> problems = Problems()
    >>> with problems.gathered():
    ...     raise AllroundError("read 'a'", "it is not there", "check the path")
    >>> [error.asked for error in problems.errors]
    ["read 'a'"]
    """

    def __init__(self) -> None:
        self.errors: list[AllroundError] = []

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Keep the error that the block raises, if it raises one."""
        try:
            yield
        except SeveralErrors as error:
            self.errors += error.errors
        except AllroundError as error:
            self.errors.append(error)

    def check(self, asked: str) -> None:
        """Raise what was gathered, if anything was: see `joined`."""
        if self.errors:
            raise self.joined(asked)

    def joined(self, asked: str) -> AllroundError:
        """What was gathered: one error as it is, several as one."""
        return self.errors[0] if len(self.errors) == 1 else SeveralErrors(asked, self.errors)
