"""What the shared checks of all families have in common: how one is named, and what a method must say of itself."""

from __future__ import annotations

import doctest
import importlib
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

from allround.core.entry import Entry

#: A check of one method, by its name. It raises AssertionError where the method does not hold it; `run.func` says in
#: its docstring what it asks for.
Check = tuple[str, "partial[None]"]


def not_exempt(entry: Entry, checks: Mapping[str, partial[None]]) -> Iterator[Check]:
    """The checks that a method is not exempt from.

    Errors: AssertionError where the file exempts the method from a check that does not exist.
    """
    exempt = entry.facts.get("exempt", {})
    unknown = [name for name in exempt if name not in checks]
    assert not unknown, f"{entry.name} is exempt from unknown checks: {', '.join(unknown)}"
    yield from ((name, check) for name, check in checks.items() if name not in exempt)


def documented(
    entry: Entry,
    parts: Sequence[str] = (),
    *,
    example: bool = True,
    parameters: bool = False,
    names: Mapping[str, object] | None = None,
) -> None:
    """The docstring has an example that runs; the file has a first line and a source.

    parts: what else must stand in the docstring. example: whether there must be one. parameters: whether the docstring
    must say each. names: what an example may use without importing it.
    """
    text = entry.load().__doc__ or ""
    for part in (*parts, *([">>>"] if example else [])):
        assert part in text, f"{entry.name}: the docstring has no '{part}'"
    unsaid = [p.name for p in entry.parameters if not re.search(rf"\b{p.name}(?![a-z])", text)]
    assert not (parameters and unsaid), f"{entry.name}: the docstring does not say what it is: {', '.join(unsaid)}"
    assert entry.summary and entry.source, f"{entry.name}: no first line, or no source"
    _run_examples(entry, example, names or {})


def _run_examples(entry: Entry, needed: bool, names: Mapping[str, object]) -> None:
    """Run the examples of a method's file; an AssertionError shows the first that fails."""
    module = importlib.import_module(entry.module)
    said: list[str] = []
    runner = doctest.DocTestRunner(verbose=False)
    for test in doctest.DocTestFinder().find(module, extraglobs=dict(names)):
        runner.run(test, out=said.append)
    assert runner.tries > 0 or not needed, f"{entry.name}: there is no example"
    assert not said, f"{entry.name}: its example fails\n{''.join(said)}"
