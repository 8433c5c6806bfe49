"""How well `allround sources` ranks starts, against what tuning from each of them really gave.

    python benchmarks/task_sources.py RUN

RUN is a folder of `allround relate SUITE --measure pairs`, finished. For each task the specialists of all others are
ranked as `allround sources` ranks saved models. The truth is what the task gained on validation rows by being tuned
after each. Intervals are of a bootstrap over targets: 95%.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from allround.tasks.task import Task
from allround.transfer.matrix import TaskMatrix
from allround.transfer.relations import matrices_of
from allround.transfer.score import TransferScore, compare, score_all
from allround.transfer.sources import sources
from allround.transfer.starts import Starts

METRICS = ("ndcg", "regret@1", "regret@3", "regret@5")


def main(run: Path) -> None:
    truth = matrices_of(run)["pairs"]
    tasks = [Task.load(_piece(run, f"data-{name}")) for name in truth.targets]
    models = {name: _piece(run, f"specialist-{name}") for name in truth.sources}
    known = int((~np.isnan(truth.values)).sum())
    print(f"{known} of {len(tasks) * (len(tasks) - 1)} pairs measured, {len(tasks)} targets")
    begun = time.perf_counter()
    found = [sources([folder for name, folder in models.items() if name != task.name], task) for task in tasks]
    print(f"{(time.perf_counter() - begun) / len(tasks):.1f} s to rank the {len(models) - 1} models of a target\n")
    show(score_all(_joined(found, {str(folder): name for name, folder in models.items()}, truth), truth))


def show(scores: list[TransferScore]) -> None:
    """A row for each estimate: its means with intervals, in points, and the difference from a random order."""
    print("| ranking | NDCG x 100 | vs random | regret at 1 | at 3 | at 5 |\n|---|---|---|---|---|---|")
    known = [one for one in scores if not np.isnan(one.ndcg).all()]
    for one in sorted(known, key=lambda one: -one.mean("ndcg")):
        cells = [_interval(one.values(metric)) for metric in METRICS]
        gap = "" if one.name == "random" else _beside(one, scores[0])
        print(f"| {one.name} | {cells[0]} | {gap} | {' | '.join(cells[1:])} |")


def _joined(found: Sequence[Starts], by_folder: dict[str, str], truth: TaskMatrix) -> list[TaskMatrix]:
    """For each estimate, and all together, one matrix from those of the targets."""
    values: dict[str, np.ndarray] = {}
    for column, starts in enumerate(found):
        for one in (starts.together, *starts.estimates):
            table = values.setdefault(one.name, np.full(truth.values.shape, np.nan))
            for source, gain in zip(one.sources, one.gains[:, 0], strict=True):
                table[truth.sources.index(by_folder[starts.starts[source]]), column] = gain
    return [TaskMatrix(name, truth.sources, truth.targets, table) for name, table in values.items()]


def _interval(values: np.ndarray) -> str:
    values = 100 * values[~np.isnan(values)]
    if not len(values):
        return ""
    drawn = values[np.random.default_rng(0).integers(0, len(values), (2000, len(values)))].mean(1)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return f"{values.mean():.1f} [{low:.1f}, {high:.1f}]"


def _beside(one: TransferScore, random: TransferScore) -> str:
    gap = compare(one, random, "ndcg")
    return f"{100 * gap.mean:+.1f} [{100 * gap.low:+.1f}, {100 * gap.high:+.1f}]"


def _piece(run: Path, name: str) -> Path:
    """The newest piece of a name."""
    found = [one for one in (run / "pieces").glob(f"{name}-*") if (one / "piece.json").is_file()]
    found = [one for one in found if "-" not in one.name.removeprefix(f"{name}-")]
    if not found:
        sys.exit(f"{run} has no {name}: give the folder of a finished allround relate --measure pairs")
    return max(found, key=lambda one: (one / "piece.json").stat().st_mtime)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
