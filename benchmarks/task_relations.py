"""How well sources and groups of tasks are chosen, on transfer that others measured.

    python benchmarks/task_relations.py DATA

DATA holds transfer/taskweb.csv (TaskWeb, EMNLP 2023: T5-large tuned on a source before a target, 22 sources and 21
targets) and transfer/taskgrouping_results*.tsv (Standley et al., ICML 2020: all groups of five Taskonomy tasks).
Nothing of it is learned from: each target is predicted from the others.
"""

from __future__ import annotations

import csv
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from allround.transfer.blending import blend
from allround.transfer.group.exhaustive import best_choices
from allround.transfer.grouping import GroupRuns, foretell, served
from allround.transfer.matrix import TaskMatrix
from allround.transfer.score import compare, popularity, score, score_all


def taskweb(path: Path) -> tuple[TaskMatrix, TaskMatrix]:
    """What TaskWeb ranks sources by, and the relative change of the target's score. The file's columns `source` and
    `target` are exchanged: squad_v2, which is never a target of TaskWeb, stands among the targets alone."""
    with open(path, encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    change = {(r["target"], r["source"]): float(r["change_t5_large"]) for r in rows}
    wins = {(r["target"], r["source"]): float(r["wins_t5_large"]) for r in rows}
    ranked = {pair: 0.5 * change[pair] + 0.5 * (0.2 * wins[pair] - 0.1) for pair in change}
    return TaskMatrix.of_pairs("taskweb", ranked, kind="measured"), TaskMatrix.of_pairs("change", change)


def sources(path: Path) -> None:
    truth, change = taskweb(path)
    asked = truth.take(targets=[name for name in truth.targets if name != "piqa"])  # as in TaskWeb's own evaluation
    begun = time.perf_counter()
    near = blend("neighbours", [], truth)
    print(f"neighbours took {time.perf_counter() - begun:.1f} s")
    popular = popularity(truth)
    found = [one for one in score_all([], asked, ks=(1, 5), regret="gain", counted=change) if one.name == "random"]
    found += [score(one, asked, ks=(1, 5), regret="gain", counted=change) for one in (popular, near)]
    print(f"{'TaskWeb, 20 targets':<22} {'NDCG':>6} {'regret@5':>9} {'regret@1':>9} {'Spearman':>9}")
    for one in found:
        numbers = [100 * one.mean(metric) for metric in ("ndcg", "regret@5", "regret@1", "spearman")]
        print(f"{one.name:<22} {numbers[0]:6.1f} {numbers[1]:9.2f} {numbers[2]:9.2f} {numbers[3]:9.1f}")
    for metric in ("ndcg", "regret@5"):
        gap = compare(found[2], found[1], metric)
        print(f"neighbours - popularity, {metric}: {100 * gap.mean:+.2f} [{100 * gap.low:+.2f}, {100 * gap.high:+.2f}]")


def groups(folder: Path) -> None:
    validation, test = (_runs(folder / f"taskgrouping_results{end}.tsv") for end in ("", "_test"))
    expected = foretell("higher_order", validation.of_size(2), validation.members)
    print(f"\n{'Taskonomy, test loss':<44} {'2 networks':>11} {'3 networks':>11}")
    rows: dict[str, list[float]] = {}
    for count in (2, 3):
        every = best_choices(validation, count, most=10**6)
        best = min(_tested(validation, test, chosen) for chosen in every)
        rows.setdefault("best on test", []).append(best)
        rows.setdefault("random", []).append(float(np.mean([_tested(validation, test, chosen) for chosen in every])))
        rows.setdefault("all groups measured, chosen on validation", []).append(_tested(validation, test, every[0]))
        two = best_choices(expected, count, most=2)
        rows.setdefault("pairs measured: higher_order", []).append(_tested(validation, test, two[0]))
        checked = min(two, key=lambda chosen: served(validation, chosen).expected)
        rows.setdefault("pairs, then the two best choices", []).append(_tested(validation, test, checked))
    for name, (one, other) in rows.items():
        print(f"{name:<44} {one:11.4f} {other:11.4f}")


def _runs(path: Path) -> GroupRuns:
    lines = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    values = np.array([[float(cell) if cell.strip() else np.nan for cell in [*line, *[""] * 5][:5]] for line in lines])
    values = values[np.unique(~np.isnan(values), axis=0, return_index=True)[1]]
    return GroupRuns(tuple("sdnke"), ~np.isnan(values), values, higher_is_better=False)


def _tested(validation: GroupRuns, test: GroupRuns, chosen: Sequence[int]) -> float:
    """The test loss where each task is served by the group that is best for it on validation."""
    rows = [chosen[int(np.nanargmin(validation.values[chosen, task]))] for task in range(len(test.tasks))]
    return float(test.values[rows, np.arange(len(test.tasks))].sum())


if __name__ == "__main__":
    sources(Path(sys.argv[1]) / "transfer" / "taskweb.csv")
    groups(Path(sys.argv[1]) / "transfer")
