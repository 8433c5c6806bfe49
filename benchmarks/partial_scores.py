"""How well scores are estimated from a part of the rows, from stored answers of two versions.

    python benchmarks/partial_scores.py runs/routed/predictions average task_arithmetic --share 0.1

For each of 200 draws, a share of the rows of all tasks is answered: by the strata of the old version and as a change
from it, or at random. Printed: how often the 95% interval of a task holds the score on all rows, its mean width, and
the root mean square error, all in points.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from allround.evaluation.flips import right_rows
from allround.evaluation.partial import choose_rows, estimate
from allround.evaluation.predictions import Predictions


def answers(folder: Path) -> dict[str, Predictions]:
    return {path.stem: Predictions.load(path) for path in sorted(folder.glob("*.parquet"))}


def report(name: str, new: Mapping[str, Predictions], old: Mapping[str, Predictions] | None, share: float) -> None:
    right = {task: right_rows(made) for task, made in new.items()}
    rows = {task: len(made) for task, made in right.items()}
    held, widths, errors = [], [], []
    for seed in range(200):
        for one in choose_rows(rows, share * sum(rows.values()), old=old, seed=seed):
            found, truth = estimate(one, right[one.task][one.answered]), float(right[one.task].mean())
            assert found.low is not None and found.high is not None
            held.append(found.low <= truth <= found.high)
            widths.append(found.high - found.low)
            errors.append(found.value - truth)
    print(f"{name:<10} holds {100 * np.mean(held):.1f} %, width {100 * np.mean(widths):.1f}, "
          f"error {100 * np.sqrt(np.mean(np.square(errors))):.1f}")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("predictions", type=Path, help="the folder of predictions of a run")
    parser.add_argument("old")
    parser.add_argument("new")
    parser.add_argument("--share", type=float, default=0.1)
    given = parser.parse_args()
    old, new = (answers(given.predictions / name) for name in (given.old, given.new))
    report("beside old", new, old, given.share)
    report("random", new, None, given.share)


if __name__ == "__main__":
    main()
