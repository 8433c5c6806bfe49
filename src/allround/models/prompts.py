"""Instructions of tasks: as a user gives them with queries, and as the prompts of an encoder's folder, so that
sentence-transformers gives the same vectors."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from allround.core.errors import AllroundError
from allround.core.files import read_settings, write_json
from allround.core.words import listed
from allround.tasks.definition import Definition
from allround.tasks.kind import kind

if TYPE_CHECKING:
    from allround.models.prediction.answerer import Asking
    from allround.models.system import System

#: Where sentence-transformers keeps prompts.
_FILE = "config_sentence_transformers.json"


def write_prompts(encoder: Path, definitions: Iterable[Definition]) -> None:
    """Put the instructions of tasks among the prompts of an encoder's folder, by the names of the tasks; what stands
    before passages by `TASK_passages`.

    `SentenceTransformer(folder).encode(queries, prompt_name=TASK)` then gives the vectors that the task compares, and
    `encode(passages)` those of passages that have no instruction: no prompt is put before texts by default. Nothing is
    written into folders of other encoders, and where no task has an instruction.
    """
    asked: dict[str, str] = {}
    for one in definitions:
        before = one.contrast.passage_instruction if one.contrast is not None else ""
        asked |= {
            name: f"{said} " for name, said in ((one.name, one.instruction), (f"{one.name}_passages", before)) if said
        }
    path = encoder / _FILE
    if not asked or not path.is_file():
        return
    settings = read_settings(path)
    settings["prompts"] = {**(settings.get("prompts") or {}), **asked}
    settings["default_prompt_name"] = None
    write_json(path, settings)


def instructed(system: System, asking: Asking) -> System:
    """The system as it is asked: with the instruction, if there is one, before the queries of the task that ranks
    passages. Errors: no such task is asked, or several are."""
    if asking.instruction is None:
        return system
    ranked = [name for name in asking.tasks or system.definitions if kind(system.definition(name).kind).ranked]
    if len(ranked) != 1:
        raise AllroundError(
            "put an instruction before queries",
            f"it is meant for one task, and {listed(ranked)} rank passages"
            if ranked
            else "no task that is asked ranks passages",
            "name one task of the kind retrieval, and leave the instruction out for others",
        )
    return system.instructed(ranked[0], asking.instruction)
