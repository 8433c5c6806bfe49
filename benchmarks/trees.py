"""Builds on three tables of scikit-learn: networks beside boosted trees and an ensemble.

python benchmarks/trees.py OUT [SEED ...]

Each table gives two tasks: its own target, and one of its columns, to be told from the others. Half of the rows are for
training, a quarter each for validation and test, drawn by the seed. Prints, for each table and seed, the test scores
and what the answer says of trees and ensemble.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine

import allround as ar

TABLES = {
    "wine": (load_wine, "classification", "proline"),
    "breast_cancer": (load_breast_cancer, "classification", "mean_area"),
    "diabetes": (load_diabetes, "regression", "bmi"),
}


def suite(name: str, seed: int) -> ar.Suite:
    """Two tasks on a table."""
    load, kind, second = TABLES[name]
    data = load()
    columns = [column.replace(" ", "_") for column in data.feature_names]
    order = np.random.default_rng(seed).permutation(len(data.target))
    answers = data.target if kind == "regression" else data.target_names[data.target]
    rows = [{**dict(zip(columns, map(float, data.data[i]), strict=True)), "target": answers[i].item()} for i in order]
    half, most = len(rows) // 2, 3 * len(rows) // 4
    splits = {"train": rows[:half], "validation": rows[half:most], "test": rows[most:]}
    inputs = [column for column in columns if column != second]
    tasks = [
        ar.make_task(name, kind=kind, inputs=inputs, target="target", data=splits),
        ar.make_task(second, kind="regression", inputs=inputs, target=second, data=splits),
    ]
    return ar.Suite(name, tasks, base="small_table")


def main(out: str, *seeds: str) -> None:
    for name in TABLES:
        for seed in map(int, seeds or ("0",)):
            options = ar.Options(seed=seed, ensemble=True, workers=1)
            made = ar.build(suite(name, seed), out=Path(out) / f"{name}-{seed}", options=options)
            frame = made.scoreboard.to_frame()
            print(f"\n{name}, seed {seed}, best {made.scoreboard.best}")
            print(frame.pivot(index="system", columns="task", values="score").round(3).to_string())
            print(*(line for line in made.scoreboard.answer() if "oosted trees" in line or "mean of" in line), sep="\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
