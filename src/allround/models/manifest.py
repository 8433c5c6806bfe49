"""allround.json: the file that makes a folder a saved system, with its tasks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from allround.core.errors import AllroundError
from allround.core.files import check_name, read_settings, write_json
from allround.core.version import __version__
from allround.tasks.definition import Definition

FORMAT = 1
#: The name of the manifest.
MANIFEST = "allround.json"
#: The sort of system that a manifest without one is of: one encoder, and a head for each task.
PLAIN = "multi_task_model"


def write_manifest(
    folder: Path, definitions: Mapping[str, Definition], facts: Mapping[str, object], sort: str = PLAIN
) -> None:
    """The file that makes a folder a system: its sort, its tasks, and whatever is known of how it was made."""
    tasks = [d.to_json() for d in definitions.values()]
    named = {} if sort == PLAIN else {"sort": sort}
    write_json(folder / MANIFEST, {"format": FORMAT, "allround": __version__, **named, "tasks": tasks, **facts})


def read_manifest(folder: Path) -> tuple[str, dict[str, Definition], dict[str, object]]:
    """What `write_manifest` wrote: the sort, the tasks, the facts."""
    path = folder / MANIFEST
    asked = f"load the model in {folder}"
    if not path.is_file():
        raise AllroundError(
            asked,
            "the folder has no allround.json" if folder.is_dir() else "there is no such folder",
            "give the folder of a model that allround saved, such as runs/NAME/best",
        )
    value = read_settings(path)
    try:
        if value["format"] > FORMAT:
            raise AllroundError(
                asked,
                f"it was written in format {value['format']}, and this version reads up to {FORMAT}",
                "upgrade: pip install -U allround",
            )
        definitions = [Definition.from_json(task) for task in value["tasks"]]
        for definition in definitions:
            _check(definition.name)
        if len({d.name for d in definitions}) < len(definitions):
            raise ValueError("it lists a task twice")
        # Stores of residuals were written without a sort at first.
        sort = value.get("sort", "residual_store" if "residuals" in value else PLAIN)
        if not isinstance(sort, str):
            raise TypeError("its sort is not a name")
    except (KeyError, TypeError, ValueError) as error:
        raise AllroundError(asked, f"allround.json is damaged: {error}", "copy the folder again, whole") from error
    facts = {k: v for k, v in value.items() if k not in ("format", "allround", "sort", "tasks")}
    return sort, {d.name: d for d in definitions}, facts


def _check(name: str) -> None:
    """Raise ValueError if a task's name cannot be a file name."""
    try:
        check_name(name, "task")
    except AllroundError as error:
        raise ValueError(f"{error.found}: {name!r}") from error
