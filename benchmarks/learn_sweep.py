"""Learned merges of a build's specialists in several settings, scored on training rows that nothing else has seen.

A build limits its training rows; what was left out of its data is new to all models, and as good as a test for
comparing methods without looking at one. Prints Markdown, a row a setting: the mean retention over tasks with the
specialists' heads and with heads fitted anew, and the worst task.

    python benchmarks/learn_sweep.py runs/text8-0 text8 --data-dir data
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from allround.core.jobs import quiet_libraries
from allround.core.progress import Progress
from allround.evaluation.predict import predict_split
from allround.evaluation.predictions import score
from allround.merging.learn.learning import preset
from allround.merging.learn.material import Specialist
from allround.merging.learn.run import learn
from allround.models.base import load_encoder
from allround.models.device import products
from allround.models.fitting import fit_head
from allround.models.head_files import read_heads
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.suite import Suite
from allround.tasks.task import Task

#: Preset, its values, and the split it learns on (none: its own).
SETTINGS: tuple[tuple[str, dict[str, Any], str | None], ...] = (
    ("task", {"steps": 0}, None),
    ("layer", {"rate": 0.02, "steps": 60}, None),
    ("layer", {"rate": 0.02, "steps": 60}, "train"),
    ("block", {"rate": 0.02, "steps": 60}, None),
    ("block", {"rate": 0.02, "steps": 60, "objective": "label", "rows": 1000}, None),
    ("adamerging", {}, None),
    ("tint", {}, None),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the run folder of a build")
    parser.add_argument("suite", help="the suite it was built for")
    parser.add_argument("--data-dir", type=Path, default=None)
    parser.add_argument("--left-out", type=int, default=800, help="rows of each task to score on")
    parser.add_argument("--only", default=None, help="numbers of settings, with commas between")
    given = parser.parse_args()
    quiet_libraries()
    pieces = given.run / "pieces"
    base = next(pieces.glob("base-*")) / "encoder"
    tasks, specialists = {}, []
    for folder in sorted(pieces.glob("specialist-*")):
        name = folder.name.removeprefix("specialist-").rsplit("-", 1)[0]
        tasks[name] = Task.load(next(pieces.glob(f"data-{name}-*")))
        specialists.append(Specialist(folder / "encoder", (name,), read_heads(folder / "heads.safetensors")))
    unseen = left_out(tasks, given)

    def scores(encoder: Any, heads: Any) -> dict[str, float]:
        model = MultiTaskModel(encoder, {})
        for name in heads:
            model.add_task(tasks[name].definition, heads[name])
        with products("auto", "cpu"):
            return {name: score(predict_split(model.eval(), unseen[name], "validation")) for name in heads}

    theirs: dict[str, float] = {}
    for one in specialists:
        theirs |= scores(load_encoder(one.encoder), one.heads)

    def told(found: dict[str, float]) -> str:
        kept = {name: value / theirs[name] for name, value in found.items()}
        worst = min(kept, key=lambda name: kept[name])
        return f"{100 * sum(kept.values()) / len(kept):.1f} | {100 * kept[worst]:.1f} {worst}"

    print("| learned | settings | learned on | mean, % | worst, % | mean with new heads, % | worst, % | seconds |")
    print("|---|---|---|---|---|---|---|---|")
    wanted = map(int, given.only.split(",")) if given.only else range(len(SETTINGS))
    for number in wanted:
        name, values, split = SETTINGS[number]
        learning = preset(name, values)
        made = learn(base, specialists, tasks, learning, split=split, progress=Progress(quiet=True))
        kept = told(scores(made.encoder, made.heads))
        heads = {}
        for task in tasks.values():
            fitted = fit_head(made.encoder, task)
            heads[task.name] = {"weight": fitted.weight, "bias": fitted.bias}
        listed = ", ".join(f"{k} {v}" for k, v in values.items()) or "defaults"
        print(f"| `{name}` | {listed} | {made.record['split']} | {kept} | {told(scores(made.encoder, heads))} "
              f"| {made.record['seconds']:.0f} |", flush=True)  # fmt: skip


def left_out(tasks: dict[str, Task], given: argparse.Namespace) -> dict[str, Task]:
    """Tasks whose validation rows are training rows that the build did not have."""
    whole = Suite.load(given.suite, data_dir=given.data_dir, only=list(tasks), limit={"train": 4000})
    found = {}
    for name, task in tasks.items():
        used = {tuple(row) for split in task.splits.values() for row in split.inputs}
        full = whole.tasks[name].as_defined(task.definition).splits["train"]
        fresh = [n for n, row in enumerate(full.inputs) if tuple(row) not in used]
        np.random.default_rng(0).shuffle(fresh)
        split = full.take(sorted(fresh[: given.left_out]))
        found[name] = replace(task, splits={**task.splits, "validation": split})
    return found


if __name__ == "__main__":
    main()
