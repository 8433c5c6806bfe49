"""What a run leaves: the chosen model with its card, and what the report says of tasks, machine and use."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import resource
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from allround.building.systems import Parts
from allround.core.jobs import available_cores
from allround.core.outputs import output_folder
from allround.evaluation.scoreboard import Cell, Scoreboard, percent, shown, span_text
from allround.models.device import processor
from allround.models.model import write_definitions, write_heads
from allround.tasks.definition import Definition
from allround.tasks.modality import modality_of
from allround.tasks.task import SPLITS, Task


def commands(out: Path, tasks: Mapping[str, Task]) -> str:
    """Command lines that use the saved model."""
    first = next(iter(tasks.values())).definition
    example = modality_of(first).example(len(first.inputs))
    lines = [
        f"allround predict {out}/best --task {first.name} {example.words}",
        f"allround predict {out}/best --task {first.name} --input rows.jsonl --output answers.jsonl",
    ]
    return "\n".join(lines)


def python_lines(out: Path, tasks: Mapping[str, Task]) -> str:
    """Python lines that use the saved model."""
    first = next(iter(tasks.values())).definition
    example = modality_of(first).example(len(first.inputs))
    lines = [
        "import allround",
        *example.imports,
        "",
        f'model = allround.load("{out}/best")',
        f'model.predict("{first.name}", {example.python})',
    ]
    return "\n".join(lines)


def about_machine() -> dict[str, Any]:
    """The machine, the date and the versions that figures belong to."""
    packages = ("allround", "torch", "accelerate", "transformers", "sentence-transformers", "datasets", "scikit-learn")
    versions = {"python": platform.python_version()}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    machine = f"{processor()}, {available_cores()} cores, {memory:.0f} GiB, {platform.system()}"
    return {"machine": machine, "date": datetime.date.today().isoformat(), "versions": versions}


def precision_words(chosen: str, layer: Mapping[str, float] | None = None) -> str:
    """The precision of matrix products in training, and why it was chosen. layer: what was measured for "auto".

    >>> precision_words("fp32", {"fp32": 0.02, "bf16": 0.045})
    'float32, the faster here: a layer takes 20 ms, and 45 ms in bfloat16'
    """
    names = {"fp32": "float32", "bf16": "bfloat16"}
    other = next(name for name in names if name != chosen)
    if layer is None:
        return f"{names[chosen]}, as asked for"
    if "bf16" not in layer:
        return "float32: the device does not compute in bfloat16"
    return (
        f"{names[chosen]}, the faster here: a layer takes {1000 * layer[chosen]:.3g} ms, "
        f"and {1000 * layer[other]:.3g} ms in {names[other]}"
    )


def peak_memory() -> int:
    """Bytes: this process's peak plus the largest peak among its worker processes, an upper estimate for two."""
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * sum(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def save_model(out: Path, system: Parts, board: Scoreboard, *, force: bool) -> None:
    """The chosen model, with its scores and where it comes from."""
    cells = board.cells[system.name]
    facts = {
        "made_by": {"system": system.name, "settings": system.settings or {}, "title": system.title},
        "scores": {n: cell_facts(d, cells[n], board.split) for n, d in board.definitions.items()},
        "provenance": board.provenance,
    }
    with output_folder(out, "build", force=force) as folder:
        shutil.copytree(next(iter(system.encoders.values())) / "encoder", folder / "encoder")
        write_heads(folder / "heads.safetensors", system.read_heads())
        write_definitions(folder, board.definitions, facts)
        _write_card(folder, system.title, board)


def cell_facts(definition: Definition, cell: Cell, split: str) -> dict[str, Any]:
    """A score as a saved model keeps it."""
    facts = {"metric": definition.metric, split: cell.score, "low": cell.low, "high": cell.high, "rows": cell.n}
    return {**facts, "retention": cell.retention}


def plain_name(base: Any) -> str:
    """A base as a report names it: the last part of a path, or the name as it is."""
    label = getattr(base, "label", None)
    return label if isinstance(label, str) else Path(str(base)).name if os.sep in str(base) else str(base)


def task_facts(task: Task) -> dict[str, Any]:
    """What the report says of a task's data."""
    d = task.definition
    return {
        "name": d.name,
        "kind": d.kind,
        "metric": d.metric,
        "inputs": list(d.inputs),
        "labels": len(d.labels),
        **{s: len(task.splits[s]) for s in SPLITS},
        "notes": list(task.notes),
    }


def _write_card(folder: Path, title: str, board: Scoreboard) -> None:
    """README.md of a saved model: what it is, what it scores, how to use it."""
    assert board.best
    lines = [
        "# One model for " + ", ".join(board.definitions),
        "",
        f"Made by allround: {title}. Base: {board.provenance.get('base', 'unknown')}.",
        "",
        "| task | metric | test score | 95% interval | test rows | retention |",
        "|---|---|---|---|---|---|",
    ]
    for name, definition in board.definitions.items():
        cell = board.cells[board.best][name]
        kept = percent(cell.retention) if cell.retention is not None else ""
        spread = span_text(cell.low, cell.high, metric=definition.metric)
        lines.append(
            f"| {name} | {definition.metric} | {shown(cell.score, definition.metric)} |{spread} | {cell.n} | {kept} |"
        )
    lines += [
        "",
        "Retention is this model's score divided by that of a specialist tuned for the task alone.",
        "",
        "```python",
        "import allround",
        "",
        'model = allround.load("this folder")',
        "```",
        "",
        "The encoder alone, in `encoder/`, loads in the library that it comes from.",
        "",
    ]
    (folder / "README.md").write_text("\n".join(lines), encoding="utf-8")
