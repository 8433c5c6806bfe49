"""The command that compares joint trainings: its words, the result on the screen."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from allround.core.errors import AllroundError

if TYPE_CHECKING:
    from allround.tasks.suite import Suite
    from allround.training.settings import Settings


def compare_command(
    suite: Suite,
    methods: str | None,
    out: Path,
    *,
    seeds: int,
    trials: int,
    sweep: int,
    seed: int,
    base: str | None,
    settings: Settings,
    encoder: Mapping[str, Any],
    workers: int | None,
    force: bool,
) -> None:
    """Compare joint trainings as the command line says."""
    from allround.building.compare import METHODS, compare_training

    named = methods_of(methods) if methods is not None else METHODS
    made = compare_training(suite, out=out, methods=named, seeds=seeds, trials=trials, sweep=sweep, seed=seed,
                            base=base, settings=settings, encoder=encoder, workers=workers, force=force)  # fmt: skip
    made.print()
    typer.echo(f"\npage     {out}/comparison.html\nfigure   {out}/comparison.svg\nnumbers  {out}/comparison.json")


def methods_of(text: str, option: str = "--methods") -> list[str]:
    """Methods with commas between; commas in brackets belong to a value.

    >>> methods_of("equal, cagrad:c=0.2,fixed:weights=[1, 2]")
    ['equal', 'cagrad:c=0.2', 'fixed:weights=[1, 2]']
    """
    found = [part.strip() for part in re.split(r",(?![^\[{]*[\]}])", text)]
    if not any(found):
        raise AllroundError(f"read {option} {text!r}", "it names nothing", f"give names, or leave {option} out")
    return [part for part in found if part]
