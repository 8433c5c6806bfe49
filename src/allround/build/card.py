"""What a run says of itself: how to use the model, the machine, the model card."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import resource
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from allround.core.jobs import available_cores
from allround.evaluate.scoreboard import Scoreboard, percent, shown, span_text
from allround.tasks.task import Task

_EXAMPLES = {"text": '"Some text"', "image": "picture.png", "table": "1.0 2.5"}


def commands(out: Path, tasks: Mapping[str, Task]) -> list[str]:
    """Command lines that use the saved model."""
    first = next(iter(tasks.values())).definition
    given = '"First text" "Second text"' if first.pair else _EXAMPLES[first.modality]
    return [
        f"allround predict {out}/best --task {first.name} {given}",
        f"allround predict {out}/best --task {first.name} --input rows.jsonl --output answers.jsonl",
    ]


def python_lines(out: Path, tasks: Mapping[str, Task]) -> str:
    """Python lines that use the saved model."""
    first = next(iter(tasks.values())).definition
    given = {"text": '["Some text"]', "image": '[Image.open("picture.png")]', "table": "[(1.0, 2.5)]"}[first.modality]
    if first.pair:
        given = '[("First text", "Second text")]'
    lines = ["import allround", "", f'model = allround.load("{out}/best")', f'model.predict("{first.name}", {given})']
    if first.modality == "image":
        lines.insert(1, "from PIL import Image")
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
    machine = f"{_processor()}, {available_cores()} cores, {memory:.0f} GiB, {platform.system()}"
    return {"machine": machine, "date": datetime.date.today().isoformat(), "versions": versions}


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    for line in path.read_text().splitlines() if path.is_file() else []:
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def peak_memory() -> int:
    """Bytes: this process's peak plus the largest peak among its worker processes, an upper estimate for two."""
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * sum(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def write_card(folder: Path, title: str, board: Scoreboard) -> None:
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
