"""Instructions of a task, as people give them: one, or several that say the same in different words."""

from __future__ import annotations

from collections.abc import Sequence

from allround.core.errors import AllroundError
from allround.tasks.values import short

#: How they are given.
_DO = 'give one text, or a list such as ["Find the page:", "Which page answers this?"]'


def read_instructions(given: object) -> tuple[str, ...]:
    """One text or several as a tuple. Errors: a ValueError in words, what is wrong and what to do, as `found; do`.

    >>> read_instructions("Find it:"), read_instructions(["Find it:", "Where is it?"]), read_instructions(None)
    (('Find it:',), ('Find it:', 'Where is it?'), ())
    """
    if given is None or isinstance(given, str):
        return (given,) if given else ()
    if not isinstance(given, list | tuple):
        raise ValueError(f"{short(given)} is not a text; {_DO}")
    if not given:
        raise ValueError(f"the list is empty; {_DO}, or leave it out")
    for one in given:
        if not isinstance(one, str):
            raise ValueError(f"{short(one)} in the list is not a text; put it in quotes")
    check_instructions(given)
    return tuple(given)


def as_instruction(given: object) -> object:
    """A list as a tuple; anything else as it is. Errors: those of `read_instructions`."""
    return read_instructions(given) if isinstance(given, list) else given


def check_instructions(given: Sequence[str]) -> None:
    """Errors: a ValueError in words, for one of several that is blank or stands twice."""
    for place, one in enumerate(given):
        if not one.strip():
            raise ValueError("an instruction in the list is blank; write what is asked for, or take it out")
        if one in given[:place]:
            raise ValueError(f"the instruction {short(one)} stands twice in the list; give each once")


def instructions_of(task: str, given: object) -> tuple[str | None, tuple[str, ...]]:
    """The instruction of a task and its rewordings. Errors: those of `read_instructions`, in three parts."""
    try:
        said = read_instructions(given)
    except ValueError as error:
        found, _, do = str(error).partition("; ")
        raise AllroundError(f"make the task '{task}'", f"`instruction`: {found}", do) from None
    return (said[0] if said else None), said[1:]
