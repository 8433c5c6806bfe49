"""Rows as a client sent them, as a window that tasks read. No text of a client ever names a file."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import replace

from allround.core.errors import AllroundError
from allround.core.words import listed
from allround.models.prediction.answerer import Asking, own_inputs
from allround.models.system import System
from allround.tasks.modality import modality_of
from allround.tasks.sources.stream import Lines, Objects, Window


class _Texts(Lines):
    """Texts, each the one input of a row. files: columns of which they are the contents of files, in base64."""

    def __init__(self, texts: Sequence[str], files: frozenset[str]) -> None:
        super().__init__(0, texts, "text")
        self.files = files

    def column(self, name: str) -> Sequence[object]:
        cells = super().column(name)
        return list(map(content, cells)) if name in self.files else cells


class _Rows(Objects):
    """Objects of cells. files: as of `_Texts`."""

    def __init__(self, rows: Sequence[Mapping[str, object]], files: frozenset[str]) -> None:
        super().__init__(0, rows)
        self.files = files

    def column(self, name: str) -> Sequence[object]:
        cells = super().column(name)
        return list(map(content, cells)) if name in self.files else cells


def received(system: System, inputs: Sequence[str] | Sequence[Mapping[str, object]]) -> Window:
    """What a client sent as a window. inputs: all texts, or all objects.

    A column that some task takes as a file, such as an image, holds the file itself in base64, with or without
    `data:image/png;base64,` before it.
    """
    files = frozenset(column for d in system.definitions.values() if modality_of(d).files for column in d.inputs)
    texts = [one for one in inputs if isinstance(one, str)]
    return _Texts(texts, files) if texts else _Rows([one for one in inputs if not isinstance(one, str)], files)


def content(cell: object) -> object:
    """The content of a file that was sent, as `datasets` has it; an empty one for what is not base64.

    >>> content("data:image/png;base64,aGk="), content("/etc/passwd"), content({"path": "/etc/passwd"})
    ({'bytes': b'hi', 'path': None}, {'bytes': b'', 'path': None}, {'bytes': b'', 'path': None})
    """
    if cell is None or cell == "":
        return cell
    try:
        data = base64.b64decode(cell.rpartition("base64,")[2], validate=True) if isinstance(cell, str) else b""
    except (binascii.Error, ValueError):
        data = b""
    return {"bytes": data, "path": None}


def of_one_input(system: System, asking: Asking) -> Asking:
    """What texts can be asked: of the tasks with one input, those that are named, or all.

    Errors: a task with more inputs is named, or there are no others.
    """
    inputs = {name: own_inputs(system, name) for name in (asking.tasks or system.definitions)}
    single = tuple(name for name, columns in inputs.items() if len(columns) == 1)
    if len(single) < len(inputs) and (asking.tasks is not None or not single):
        name, columns = next((name, columns) for name, columns in inputs.items() if len(columns) > 1)
        example = ", ".join(f'"{column}": ...' for column in columns[:3])
        raise AllroundError(
            f"answer task '{name}' for texts",
            f"each row has {len(columns)} inputs: {listed(columns)}",
            f"give an object for each row: {{{example}}}",
        )
    return asking if len(single) == len(inputs) else replace(asking, tasks=single)
