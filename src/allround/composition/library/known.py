"""What a module knows of the model that allround saved: its tasks, its facts, and how its encoder reads rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from allround.composition.library.card import TASKS
from allround.core.errors import AllroundError
from allround.core.files import check_name, read_settings

if TYPE_CHECKING:
    from allround.tasks.definition import Definition

#: What a manifest says by itself, and facts do not.
_OWN = ("format", "allround", "sort", "tasks")


@dataclass(frozen=True)
class ModuleTasks:
    """definitions: of its tasks. facts: of the model's manifest. reading: the encoder and its settings, as its folder
    said them; None where that is not known."""

    definitions: dict[str, Definition] = field(default_factory=dict)
    facts: dict[str, object] = field(default_factory=dict)
    reading: Mapping[str, object] | None = None


def tasks_in(folder: Path) -> ModuleTasks:
    """What stands in a module's folder. Nothing for a module that no model of allround's came with. Errors: damage."""
    from allround.tasks.definition import Definition

    file = folder / TASKS
    if not file.is_file():
        return ModuleTasks()
    value = read_settings(file)
    try:
        found = [Definition.from_json(one) for one in value["tasks"]]
        for one in found:
            check_name(one.name, "task")
        facts, reading = value["facts"], value["reading"]
        if not isinstance(facts, Mapping) or not isinstance(reading, (Mapping, type(None))):
            raise TypeError("facts and reading are tables")
        kept = {str(key): fact for key, fact in facts.items() if key not in _OWN}
        return ModuleTasks({one.name: one for one in found}, kept, reading)
    except (KeyError, TypeError, ValueError, AttributeError, AllroundError) as error:
        words = error.found if isinstance(error, AllroundError) else f"{type(error).__name__}: {error}"
        raise AllroundError(
            f"open the module {folder}", f"its {TASKS} is damaged: {words}", "drop the module, and add it again"
        ) from error
