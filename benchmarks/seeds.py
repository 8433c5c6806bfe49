"""The scoreboards of several builds that differ in their seed alone, side by side, as Markdown.

Mean retention of each system by seed, its mean over seeds with a 95% interval (Student's t), its worst task, and the
paired difference from a system of your choice with the same interval.

    python benchmarks/seeds.py runs/text8-0 runs/text8-1 runs/text8-2 --beside ties
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy import stats

from allround.core.words import count, duration, percent
from allround.evaluation.scoreboard import Scoreboard


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """The mean, and the ends of its 95% interval over seeds."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, float("nan"), float("nan")
    half = float(stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5)
    return mean, mean - half, mean + half


def spoken(values: Sequence[float], signed: bool = False) -> str:
    mean, low, high = interval(values)
    text = [percent(v, signed=signed) if v == v else "?" for v in (mean, low, high)]
    return f"{text[0]} [{text[1]}, {text[2]}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="run folders of builds")
    parser.add_argument("--beside", default=None, help="the system that all others are compared with")
    given = parser.parse_args()
    boards = [Scoreboard.load(run) for run in given.runs]
    # The system with fitted heads has another name in each run, by the method that was best there.
    names = [s.name for s in boards[0].systems if all(s.name in board.mean for board in boards)]
    rows = {name: [board.mean[name].value for board in boards] for name in names}
    costs = {name: boards[0].system(name).cost for name in names}
    fixed = {s.name for s in boards[0].systems if s.title.startswith("merge by ") and "+" not in s.name}
    for title, wanted in (("best fixed rule", True), ("best learned merge", False)):
        best = []
        for board in boards:
            merges = [s.name for s in board.systems if s.role == "merge" and "+" not in s.name]
            mine = [n for n in merges if (n in fixed) == wanted]
            if mine:
                best.append(board.mean[max(mine, key=lambda n: board.validation_mean(n) or 0)].value)
        if len(best) == len(boards):
            rows[f"{title} (by validation)"] = best
    for kind, wanted in (("fixed", True), ("learned", False)):
        best = [
            board.mean[s.name].value
            for board in boards
            for s in board.systems
            if s.name.endswith("+heads") and (s.name.removesuffix("+heads") in fixed) == wanted
        ]
        if len(best) == len(boards):
            rows[f"best {kind} merge, heads fitted anew"] = best
    head = ["system", *(run.name for run in given.runs), "mean [95% over seeds]"]
    head += [f"beside {given.beside}"] if given.beside else []
    head += ["worst tasks", "merged on, rows", "merging"]
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for name, values in rows.items():
        cells = [f"`{name}`" if name in costs else name, *(percent(v) for v in values), spoken(values)]
        if given.beside:
            other = rows[given.beside]
            cells.append(
                "" if name == given.beside else spoken([a - b for a, b in zip(values, other, strict=True)], True)
            )
        worst = [board.worst[name] for board in boards] if name in names else []
        cells.append(", ".join(f"{percent(w.value)} {w.task}" for w in worst))
        cost = costs.get(name)
        cells += [count(cost.merge_rows), duration(cost.merge_seconds)] if cost and cost.merge_seconds else ["", ""]
        print(f"| {' | '.join(cells)} |")
    for board, run in zip(boards, given.runs, strict=True):
        print(f"\n{run.name}: {board.notes['choice']}")


if __name__ == "__main__":
    main()
