"""Loops of tuning and merging against merging once and against training together, on handwritten digits.

Every system of a table starts from the same base and heads, sees each row as often, and keeps its best round on
validation. Scores are on test, x 100: mean and standard deviation over seeds, of the base, heads and order of rows.

    python benchmarks/loops.py --seeds 3
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from allround.building.loops import Branch, Loop, Looped, plan_loop, run_loop
from allround.core.progress import Progress
from allround.core.seeds import seed_everything
from allround.models.base import open_encoder
from allround.tasks.suite import Suite
from allround.tasks.task import Task
from allround.training.settings import Settings

TASKS = ["digit", "parity", "rotated", "inverted"]


def together(names: list[str], judged: list[str], rounds: int) -> Loop:
    """Training on tasks together, as a loop with one branch."""
    return Loop(rounds, (Branch("together", dict.fromkeys(names, 1.0)),), tuple(judged))


def merged(suite: Suite, seen: list[str], rounds: int) -> dict[str, Loop]:
    """What the first table compares."""
    once = {"rounds": 1, "method": "task_arithmetic", "trials": 9}
    return {
        "base": together(seen, seen, 0),
        "task arithmetic, once": plan_loop("atm", suite, once),
        "average, once": plan_loop("atm", suite, {"rounds": 1}),
        f"atm, {rounds} rounds": plan_loop("atm", suite, {"rounds": rounds}),
        f"atm, {rounds} rounds, scale searched": plan_loop("atm", suite, {**once, "rounds": rounds}),
        f"cold_fusion, {rounds} rounds": plan_loop("cold_fusion", suite, {"rounds": rounds}),
        "joint": together(seen, seen, rounds),
    }


def shuffled(task: Task, seed: int) -> Task:
    """The same inputs with the labels of other rows."""
    generator = torch.Generator().manual_seed(seed)
    splits = {}
    for name, split in task.splits.items():
        order = torch.randperm(len(split), generator=generator).tolist()
        splits[name] = type(split)(split.inputs, split.take(order).targets)
    return Task(dataclasses.replace(task.definition, name="shuffled"), splits, ())


def forked(suite: Suite, rounds: int) -> dict[str, Loop]:
    """What the second table compares."""
    target = ["digit"]
    return {
        "base": together(target, target, 0),
        "target only": together(target, target, rounds),
        "joint, equal weights": together(list(suite.tasks), target, rounds),
        "fork_merge": plan_loop("fork_merge", suite, {"target": "digit", "rounds": rounds}),
    }


def run(
    seeds: int,
    make: Callable[[int], Suite],
    systems: Callable[[Suite], dict[str, Loop]],
    settings: Settings,
    say: Callable[[str, int, Looped], None],
) -> dict[str, dict[str, list[float]]]:
    """system -> task -> test scores, one for each seed; the examples that were trained on as a task of that name."""
    found: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(seeds):
            suite = make(seed)
            base = Path(folder) / f"base-{seed}"
            seed_everything(seed)
            encoder = open_encoder("small_image", list(suite.tasks.values()), seed, {})
            base.mkdir()
            encoder.save(base)
            for name, loop in systems(suite).items():
                made = run_loop(loop, suite, out=Path(folder) / "model", base=base, settings=settings, seed=seed,
                                workers=1, progress=Progress(quiet=True))  # fmt: skip
                say(name, seed, made)
                rows = found.setdefault(name, {})
                for task, cell in made.scoreboard.cells["loop"].items():
                    rows.setdefault(task, []).append(100 * cell.score)
                examples = made.scoreboard.system("loop").cost.training_examples
                rows.setdefault("examples", []).append(examples)
    return found


def table(found: dict[str, dict[str, list[float]]], tasks: list[str]) -> str:
    """Markdown: mean and standard deviation over seeds."""
    mean = ["mean"] if len(tasks) > 1 else []
    lines = [
        "| system | " + " | ".join([*tasks, *mean, "examples"]) + " |",
        "|---" * (len(tasks) + len(mean) + 2) + "|",
    ]
    for name, scores in found.items():
        columns = [scores[task] for task in tasks]
        columns += [[statistics.fmean(each) for each in zip(*columns, strict=True)]] if mean else []
        cells = [f"{statistics.fmean(c):.1f} ± {statistics.stdev(c) if len(c) > 1 else 0:.1f}" for c in columns]
        lines.append(f"| {name} | " + " | ".join([*cells, f"{statistics.fmean(scores['examples']):,.0f}"]) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", choices=("merged", "forked", "both"), default="both")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--rows", type=int, default=400, help="training rows of each task")
    parser.add_argument("--target-rows", type=int, default=60, help="training rows of fork_merge's target")
    chosen = parser.parse_args()
    settings = Settings(epochs=chosen.epochs)
    limit: dict[str, Any] = {"train": chosen.rows}

    def quiet(name: str, seed: int, made: Looped) -> None:
        print(f"seed {seed}: {name}, kept round {made.kept}", flush=True)

    if chosen.table != "forked":
        found = run(chosen.seeds, lambda seed: Suite.load("digits", only=TASKS, limit=limit),
                    lambda suite: merged(suite, TASKS, chosen.rounds), settings, quiet)  # fmt: skip
        print(f"\n{table(found, TASKS)}\n", flush=True)

    def hard(seed: int) -> Suite:
        full = Suite.load("digits", only=["digit", "inverted"], limit=limit).tasks
        few = full["digit"].limit({"train": chosen.target_rows}, seed)
        return Suite("digits", [few, full["inverted"], shuffled(full["digit"], seed)])

    def coefficients(name: str, seed: int, made: Looped) -> None:
        quiet(name, seed, made)
        for entry in made.rounds if name == "fork_merge" else ():
            weights = entry["values"].get("weights", [])
            listed = ", ".join(f"{n} {w:.2f}" for n, w in zip(entry["branches"], weights, strict=True))
            print(f"  round {entry['round']}: target {100 * entry['validation']['digit']:.1f}; {listed}")

    if chosen.table != "merged":
        settings = settings.with_(heads="tuned")
        found = run(chosen.seeds, hard, lambda suite: forked(suite, chosen.rounds), settings, coefficients)
        print(f"\n{table(found, ['digit'])}")


if __name__ == "__main__":
    main()
