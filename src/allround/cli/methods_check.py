"""The command methods check: the shared checks of a family on one method."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import typer

from allround.core import checking, registry
from allround.core.checking import Check
from allround.core.entry import Entry
from allround.core.errors import AllroundError
from allround.core.families import word
from allround.core.plugins import use_plugin


def check_command(what: str, family: str | None) -> dict[str, object]:
    """Run the checks on a plug-in file, or on a method by its name, and print which of them held."""
    entry = _entry(what, family)
    typer.echo(f"{word(entry.family)} '{entry.name}' in {entry.path}\n")
    held: list[str] = []
    failed: dict[str, str] = {}
    for name, check in checks_of(entry):
        try:
            check()
        except Exception as error:  # the method's own code may raise anything: it is said, and counts as failed
            failed[name] = _words(error)
            typer.echo(f"failed  {name:<24} {failed[name]}")
        else:
            held.append(name)
            typer.echo(f"held    {name:<24} {_asks(check)}")
    for name, reason in entry.facts.get("exempt", {}).items():
        typer.echo(f"exempt  {name:<24} {reason}")
    if entry.family not in SHARED:
        typer.echo(f"\nOnly its documentation is checked: there are no shared checks for a {word(entry.family)}.")
    words = f"{len(held)} of {len(held) + len(failed)} checks held"
    typer.echo(f"\n{words}" + (f", {len(failed)} failed" if failed else ""))
    return {"method": entry.name, "family": entry.family, "held": held, "failed": failed}


#: The families that have shared checks.
SHARED = ("merge", "balance", "sample", "codec")


def checks_of(entry: Entry) -> Iterator[Check]:
    """The shared checks of the method's family, or that of its documentation where there are none."""
    if entry.family == "merge":
        from allround.merging.checks import checks_of
    elif entry.family == "balance":
        from allround.training.balancing_checks import checks_of
    elif entry.family == "sample":
        from allround.training.sampling_checks import checks_of
    elif entry.family == "codec":
        from allround.composition.residuals.codec_checks import checks_of
    else:
        return iter([("documented", partial(checking.documented, entry))])
    return checks_of(entry)


def _entry(what: str, family: str | None) -> Entry:
    if Path(what).suffix == ".py" or Path(what).exists():
        return use_plugin(what)
    found = [entry for entry in registry.entries(family) if entry.name == what]
    if len(found) != 1:
        raise AllroundError(
            f"check the method '{what}'",
            f"it is the name of {len(found)} methods: {', '.join(e.family for e in found)}" if found else
            "there is no such file, and no method of that name",
            "say which: --family" if found else "give a Python file, or see: allround methods list",
        )  # fmt: skip
    return found[0]


def _asks(check: partial[None]) -> str:
    """The first sentence of what a check asks for."""
    said = " ".join((check.func.__doc__ or "").split())
    return said.partition(". ")[0].rstrip(".") + "."


def _words(error: Exception) -> str:
    said = str(error).strip() or type(error).__name__
    lines = (said if isinstance(error, AssertionError) else f"{type(error).__name__}: {said}").splitlines()
    return "\n".join([lines[0], *(f"{'':<33}{line}" for line in lines[1:])])
