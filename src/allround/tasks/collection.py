"""What a collection of tasks gives, and how it becomes a suite file with data beside it."""

from __future__ import annotations

import glob
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import yaml

from allround.core import registry
from allround.core.errors import AllroundError
from allround.core.files import check_name
from allround.core.outputs import output_folder
from allround.tasks.spec import MAX_BYTES, parse_suite

#: A row of a task: column -> value.
ImportedRow: TypeAlias = dict[str, object]


@dataclass(frozen=True)
class ImportedTask:
    """A task of a collection: what a suite file says of it, but for its source, and its rows by split.

    notes: what people should know of how it was read.
    """

    name: str
    about: dict[str, object]
    rows: Mapping[str, Sequence[ImportedRow]]
    notes: tuple[str, ...] = field(default=())


def import_tasks(
    collection: str,
    paths: Sequence[Path | str],
    out: Path | str,
    *,
    parameters: Mapping[str, object] | None = None,
    hold_out: Sequence[str] = (),
    force: bool = False,
) -> list[ImportedTask]:
    """Read tasks of a collection, and write them as a folder: `suite.yml`, and a file of rows for each task and split.

    collection: a method of the family. hold_out: names of tasks to hold out; those that are not there are left out. A
    folder that is there is replaced only where `tasks import` wrote it and nothing was changed since, or with `force`.
    """
    entry = registry.find("collection", collection)
    asked = f"import tasks of {collection}"
    files = [Path(path) for path in paths]
    if not files:
        raise AllroundError(asked, "no file was given", "name the files")
    tasks: list[ImportedTask] = entry.load()(files, **entry.resolve(parameters or {}))
    names = [task.name for task in tasks]
    for name in names:
        check_name(name, "task")
        if names.count(name) > 1 or sum(other.lower() == name.lower() for other in names) > 1:
            raise AllroundError(asked, f"two tasks are called '{name}'", "import one of the files apart")
    text = _suite_text(tasks, [name for name in names if name in hold_out])
    parse_suite(text, name="imported", asked=asked)
    with output_folder(out, "tasks import", force=force, inputs=files) as folder:
        (folder / "suite.yml").write_text(text, encoding="utf-8")
        for task in tasks:
            (folder / task.name).mkdir()
            for split, rows in task.rows.items():
                lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
                with (folder / task.name / f"{split}.jsonl").open("w", encoding="utf-8") as file:
                    file.writelines(lines)
    return tasks


def found_files(patterns: Sequence[str]) -> list[Path]:
    """The files that paths and patterns such as `tasks/*.json` name, in order. Errors: a pattern that names none."""
    found: list[Path] = []
    for pattern in patterns:
        here = sorted(Path(name) for name in glob.glob(os.path.expanduser(pattern)))  # noqa: PTH111, PTH207
        if not here and glob.has_magic(pattern):
            raise AllroundError(f"read the files '{pattern}'", "there is no such file", "check the pattern")
        found += here or [Path(pattern)]
    return list(dict.fromkeys(found))


def task_name(text: str) -> str:
    """A text as the name of a task.

    >>> task_name("glue/mrpc want to know?"), task_name("_x")
    ('glue_mrpc_want_to_know', 'x')
    """
    return re.sub(r"[^A-Za-z0-9_-]+", "_", text).strip("_-")[:100] or "task"


class _Dumper(yaml.SafeDumper):
    """Texts of several lines stand as such in the file."""


def _block(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _block)


def _suite_text(tasks: Sequence[ImportedTask], hold_out: Sequence[str]) -> str:
    """The text of the suite file."""
    described = {}
    for task in tasks:
        source = {split: f"{task.name}/{split}.jsonl" for split in task.rows}
        described[task.name] = {"source": source, **task.about}
    whole = {**({"hold_out": list(hold_out)} if hold_out else {}), "tasks": described}
    text: str = yaml.dump(whole, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
    if len(text.encode()) > MAX_BYTES:
        raise AllroundError(
            f"write a suite of {len(tasks):,} tasks",
            f"the suite file would have {len(text.encode()):,} bytes; it may have {MAX_BYTES:,}",
            "import fewer files at once",
        )
    return text
