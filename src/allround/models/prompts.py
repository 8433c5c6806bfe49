"""Instructions of tasks as the prompts of an encoder's folder, so that sentence-transformers gives the same vectors."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from allround.core.files import read_settings, write_json
from allround.tasks.definition import Definition

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
