"""What `tasks check` prints and writes."""

from __future__ import annotations

from pathlib import Path

import typer

from allround.core.errors import AllroundError
from allround.core.outputs import check_out_file, output_file
from allround.tasks.checks.finding import Finding
from allround.tasks.suite import Suite


def length_findings(suite: Suite, base: str | None) -> dict[str, list[Finding]]:
    """What is found about the lengths of texts, by task, where a base reads texts.

    base: as the user gives it; without it, that of the suite, if it is there.
    """
    from allround.models.base import builtin_encoders, find_folder, load_encoder
    from allround.models.long_texts import check_lengths

    name = base or suite.base
    if name is None or name in builtin_encoders() or all(task.definition.modality != "text" for task in suite):
        return {}
    try:
        encoder = load_encoder(find_folder(name))
    except AllroundError as error:
        if base is not None:
            raise
        typer.echo(f"the lengths of texts were not checked: the base {name} cannot be loaded: {error.found}")
        return {}
    return {task.name: check_lengths(encoder, task) for task in suite}


def write_page(page: Path, suite: Suite, findings: dict[str, list[Finding]], *, force: bool) -> None:
    """Write what was found as a page, with pictures of labels and lengths."""
    from allround.evaluation.data_page.page import html

    check_out_file(page, "tasks check", force=force, inputs=suite.files)
    with output_file(page, "tasks check", force=force) as new:
        new.write_text(html(suite, findings), "utf-8")
    typer.echo(f"page written to {page}")
