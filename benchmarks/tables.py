"""Networks beside linear models and boosted trees on twelve tables that scikit-learn carries or makes.

python benchmarks/tables.py [SEED ...]

Half of the rows are for training (at most 1,000), a quarter each for validation and test, drawn by the seed. The
systems see the same rows and are made as a build makes them at its defaults: `base` is the table encoder with a fitted
head, `specialists` the tuned one. Prints the test scores of each table, as means over the seeds, and the mean rank of
each system over tables, with a 95% interval of a bootstrap over tables (10,000 resamples).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np
from sklearn import datasets

from allround.evaluation.predict import predict_split
from allround.evaluation.predictions import score
from allround.models.boosting import fit_trees
from allround.models.encoders.small_table import SmallTable
from allround.models.fitting import fit_head
from allround.models.plain.fit import fit_linear
from allround.models.system import System
from allround.models.systems.linear_models import LinearModels
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.models.systems.trees import Trees
from allround.tasks.make import make_task
from allround.tasks.task import Task
from allround.training.settings import Settings
from allround.training.trainer import train

SYSTEMS = ("linear", "trees", "base", "specialists")
ROWS = {"train": 1000, "validation": 500, "test": 500}


def tables() -> Iterator[tuple[str, str, np.ndarray, np.ndarray]]:
    """Name, kind, columns and targets of each table."""
    for name in ("iris", "wine", "breast_cancer", "digits"):
        data = getattr(datasets, f"load_{name}")()
        yield name, "classification", data.data, data.target
    data = datasets.load_diabetes()
    yield "diabetes", "regression", data.data, data.target
    data = datasets.load_breast_cancer()
    # The texture of the worst cells from the first ten columns, which are means over all cells.
    yield "worst_texture", "regression", data.data[:, :10], data.data[:, 21]
    for number in (1, 2, 3):
        x, y = getattr(datasets, f"make_friedman{number}")(800, noise=(1.0, 100.0, 0.1)[number - 1], random_state=0)
        yield f"friedman{number}", "regression", x, y
    x, y = datasets.make_hastie_10_2(1000, random_state=0)
    yield "hastie", "classification", x, y.astype(int)
    x, y = datasets.make_classification(
        1000, 20, n_informative=8, n_redundant=4, n_classes=4, flip_y=0.1, random_state=0
    )
    yield "made", "classification", x, y
    x, y = datasets.make_moons(600, noise=0.3, random_state=0)
    yield "moons", "classification", np.hstack([x, np.random.default_rng(0).normal(size=(600, 4))]), y


def task_of(name: str, kind: str, x: np.ndarray, y: np.ndarray, seed: int) -> Task:
    columns = [f"column{number}" for number in range(x.shape[1])]
    order = np.random.default_rng(seed).permutation(len(y))
    targets = y.astype(float) if kind == "regression" else y.astype(str)
    rows = [{**dict(zip(columns, map(float, x[i]), strict=True)), "target": targets[i].item()} for i in order]
    half, most = len(rows) // 2, 3 * len(rows) // 4
    data = {"train": rows[:half], "validation": rows[half:most], "test": rows[most:]}
    return make_task(name, kind=kind, inputs=columns, target="target", data=data, limit=ROWS)


def scores_of(task: Task, seed: int) -> list[float]:
    """The test score of each of SYSTEMS."""

    def tested(system: System) -> float:
        return score(predict_split(system, task, "test"))

    name = task.name
    found = [tested(LinearModels({name: fit_linear(task)[0]})), tested(Trees({name: fit_trees(task, seed=seed)[0]}))]
    encoder = SmallTable.create(task.splits["train"].inputs, task.definition, seed)
    model = MultiTaskModel(encoder, {})
    model.add_task(task.definition, fit_head(encoder, task).state)
    found.append(tested(model))
    train(model, [task], Settings(device="cpu", precision="fp32"), seed=seed)
    return [*found, tested(model)]


def ranks(scores: np.ndarray) -> np.ndarray:
    """The rank of each system on each table, 1 for the highest score; equals share the mean of theirs."""
    above = (scores[:, None, :] > scores[:, :, None]).sum(2)
    alike = (scores[:, None, :] == scores[:, :, None]).sum(2)
    found: np.ndarray = 1 + above + (alike - 1) / 2
    return found


def main(*seeds: str) -> None:
    rows = []
    for name, kind, x, y in tables():
        found = [scores_of(task_of(name, kind, x, y, seed), seed) for seed in map(int, seeds or ("0",))]
        rows.append(np.mean(found, 0))
        print(f"| {name} | {' | '.join(f'{100 * one:.1f}' for one in rows[-1])} |", flush=True)
    ranked = ranks(np.array(rows).round(6))
    drawn = ranked[np.random.default_rng(0).integers(0, len(ranked), (10_000, len(ranked)))].mean(1)
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    means = [f"{m:.2f} [{a:.2f}, {b:.2f}]" for m, a, b in zip(ranked.mean(0), low, high, strict=True)]
    print(f"| mean rank | {' | '.join(means)} |")


if __name__ == "__main__":
    main(*sys.argv[1:])
