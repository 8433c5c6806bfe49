"""Answers for inputs from the command line or a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from allround.core.errors import AllroundError
from allround.core.jobs import quiet_libraries
from allround.models.system import System, load
from allround.tasks.definition import Definition
from allround.tasks.kind import kind
from allround.tasks.modality import modality_of


def answers(folder: Path, task: str | None, inputs: list[str], file: Path | None) -> list[dict[str, Any]]:
    """One dictionary for each input: the input's columns, `prediction`, `confidence`."""
    quiet_libraries()
    model = load(folder)
    if task is None:
        if len(model.definitions) > 1:
            raise AllroundError(
                f"answer with {folder}",
                f"it has {len(model.definitions)} tasks, and none was named",
                f"give --task, one of: {', '.join(model.definitions)}",
            )
        task = next(iter(model.definitions))
    definition = model.definition(task)
    if (file is None) == (not inputs):
        found = "neither inputs nor a file was given" if file is None else "both inputs and a file were given"
        raise AllroundError(f"answer task '{task}'", found, "give the inputs as arguments, or --input FILE")
    columns = _from_file(definition, file) if file is not None else _from_words(definition, inputs)
    return _answer(model, task, columns)


def _answer(model: System, task: str, columns: list[dict[str, Any]]) -> list[dict[str, Any]]:
    definition = model.definition(task)
    rules = modality_of(definition)
    rows = [tuple(rules.parse(row[c], i) for c in definition.inputs) for i, row in enumerate(columns)]
    if not rows:
        return []
    made = model.answers(task, rows)
    decoded, confidence = kind(definition.kind).decode(made.predictions, definition), made.confidence
    return [
        {
            **{column: rules.shown(value, i) for column, value in row.items()},
            "prediction": answer,
            "confidence": confidence[i] if confidence else None,
        }
        for i, (row, answer) in enumerate(zip(columns, decoded, strict=True))
    ]


def _from_words(definition: Definition, words: list[str]) -> list[dict[str, Any]]:
    width = len(definition.inputs)
    if len(words) % width:
        raise AllroundError(
            f"answer task '{definition.name}'",
            f"{len(words)} inputs were given, and each example has {width}: {', '.join(definition.inputs)}",
            f"give a multiple of {width} inputs; put quotation marks around texts with spaces",
        )
    return [dict(zip(definition.inputs, words[i : i + width], strict=True)) for i in range(0, len(words), width)]


def _from_file(definition: Definition, file: Path) -> list[dict[str, Any]]:
    from allround.tasks.sources.load import read_rows

    rows = read_rows(file)
    for column in definition.inputs:
        if rows and column not in rows[0]:
            raise AllroundError(
                f"answer task '{definition.name}' for {file}",
                f"it has no column '{column}'; it has: {', '.join(rows[0])}",
                f"name the columns {', '.join(definition.inputs)}",
            )
    return [{c: row[c] for c in definition.inputs} for row in rows]
