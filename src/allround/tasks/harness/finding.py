"""Finding tasks of the installed lm-evaluation-harness by name, without reading its 14,000 files."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from allround.core.errors import AllroundError, suggestion
from allround.tasks.harness.library import harness

#: A line of a file of the harness that names a task or a group.
_NAMED = re.compile(rb"^(?:task|group)\s*:\s*[\"']?([^\s\"'#\[{]+)[\"']?\s*$", re.MULTILINE)


def names_of(name: str) -> tuple[str, ...]:
    """The tasks that a name stands for: itself, or those of a group or a tag, in their order.

    Errors: there is nothing of that name.
    """
    return tuple(dict.fromkeys(_leaves(name, ())))


def file_of(name: str) -> Path:
    """The file of a task. Errors: there is none of that name."""
    return Path(_entry(name).yaml_path)


def _leaves(name: str, above: tuple[str, ...]) -> Iterator[str]:
    entry = _entry(name)
    if entry.kind.name in ("TASK", "PY_TASK"):
        yield name
        return
    members = sorted(entry.tags) if entry.kind.name == "TAG" else (entry.cfg or {}).get("task")
    for member in members if isinstance(members, list) else [members]:
        if not isinstance(member, str) or member in above:
            raise AllroundError(
                f"use the group '{name}' of the lm-evaluation-harness",
                "it changes settings of its tasks, which only the harness itself can follow",
                "name its tasks one by one",
            )
        yield from _leaves(member, (*above, name))


@cache
def _entry(name: str) -> Any:
    """What the harness knows of a name, from the folders alone that may hold it."""
    asked = f"use '{name}' of the lm-evaluation-harness"
    with harness(asked):
        from lm_eval.tasks import TaskManager

        files = _files()
        beside = _of_files(name, files)
        for folders in filter(None, (beside, *_of_contents(name, files))):
            manager = TaskManager(include_defaults=False, include_path=folders)
            found = manager.task_index.get(name)
            if found is not None and (folders != beside or found.kind.name != "TAG"):
                return found
    raise AllroundError(asked, "the installed package has no task, group or tag of that name",
                        suggestion(name, _known(files)))  # fmt: skip


@cache
def _files() -> tuple[str, ...]:
    """All files of the harness that describe tasks, by path."""
    import lm_eval.tasks

    found, left = [], [str(Path(lm_eval.tasks.__file__).parent)]
    while left:
        with os.scandir(left.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    left.append(entry.path)
                elif "yaml" in entry.name:
                    found.append(entry.path)
    return tuple(sorted(found))


def _of_files(name: str, files: tuple[str, ...]) -> list[str]:
    """Folders with a file of this name."""
    wanted = (f"{name}.yaml", f"_{name}.yaml")
    return sorted({folder for folder, _, file in (path.rpartition(os.sep) for path in files) if file in wanted})


def _of_contents(name: str, files: tuple[str, ...]) -> Iterator[list[str]]:
    """Folders with a file that names this as a task, a group or a tag; read only when they are asked for."""
    word = re.escape(name.encode())
    line = re.compile(rb"^\s*(?:task|group|tag|-)\s*:?\s*(?:\[.*)?[\"']?\b" + word + rb"[\"']?\s*(?:[,\]#].*)?$", re.M)
    found = set()
    for path in files:
        text = _read(path)
        if name.encode() in text and line.search(text):
            found.add(path.rpartition(os.sep)[0])
    yield sorted(found)


def _known(files: tuple[str, ...]) -> list[str]:
    return sorted({name.decode(errors="replace") for path in files for name in _NAMED.findall(_read(path))})


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()
