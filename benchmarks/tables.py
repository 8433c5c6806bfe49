"""Networks beside linear models and boosted trees on twelve tables that scikit-learn carries or makes, on three tables
with two tasks each, and on the census of incomes.

python benchmarks/tables.py [single | pairs | census] [--seed SEED ...] [--sizes]

The systems see the same rows and are made as a build makes them at its defaults: `base` is the table encoder with a
fitted head for each task, `specialists` are tuned from it, and so is `joint` on all tasks at once, where there are
several. --sizes: the encoder has the size whose fitted heads are best on validation, as in `build --sizes`.

single: half of the rows are for training (at most 1,000), a quarter each for validation and test, drawn by the seed.
Prints the test scores of each table, as means over the seeds, and the mean rank of each system over tables, with a 95%
interval of a bootstrap over tables (10,000 resamples). pairs: the same rows, with one of the columns as a second task.
census: three targets of 1,500 training, 600 validation and 3,000 test rows of the folder `census` of ALLROUND_DATA;
accuracy and, after a slash, AUROC.
"""

from __future__ import annotations

import argparse
import copy
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from sklearn import datasets
from sklearn.metrics import roc_auc_score

from allround.evaluation.predict import predict_split
from allround.evaluation.predictions import Predictions, score
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

ROWS = {"train": 1000, "validation": 500, "test": 500}
#: Tables with a second task: the loader, the kind of its own target, and the column to be told from the others.
PAIRS = {
    "wine": (datasets.load_wine, "classification", "proline"),
    "breast_cancer": (datasets.load_breast_cancer, "classification", "mean area"),
    "diabetes": (datasets.load_diabetes, "regression", "bmi"),
}
#: Targets of the census, and its rows.
CENSUS = ("income_over_50k", "never_married", "college")
CENSUS_ROWS = {"train": 1500, "validation": 600, "test": 3000}


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


def pair_of(name: str, seed: int) -> list[Task]:
    """Two tasks on a table."""
    load, kind, second = PAIRS[name]
    data = load()
    order = np.random.default_rng(seed).permutation(len(data.target))
    answers = data.target if kind == "regression" else data.target_names[data.target]
    rows = [{**dict(zip(data.feature_names, map(float, data.data[i]), strict=True)), "target": answers[i].item()}
            for i in order]  # fmt: skip
    half, most = len(rows) // 2, 3 * len(rows) // 4
    splits = {"train": rows[:half], "validation": rows[half:most], "test": rows[most:]}
    inputs = [column for column in data.feature_names if column != second]
    named = {"kind": kind, "target": "target"}, {"kind": "regression", "target": second}
    return [make_task(n.replace(" ", "_"), inputs=inputs, data=splits, **one)
            for n, one in zip((name, second), named, strict=True)]  # fmt: skip


def census(seed: int) -> list[Task]:
    """Three tasks on the same rows of the census."""
    import pandas

    folder = Path(os.environ["ALLROUND_DATA"]) / "census"
    train, validation, test = CENSUS_ROWS.values()
    drawn = pandas.read_parquet(folder / "train.parquet").sample(train + validation, random_state=seed)
    held = pandas.read_parquet(folder / "test.parquet").sample(test, random_state=seed)
    data = {"train": drawn[:train], "validation": drawn[train:], "test": held}
    inputs = [column for column in drawn.columns if column not in CENSUS]
    return [make_task(n, kind="classification", inputs=inputs, target=n, data=data, table="census") for n in CENSUS]


def encoder_of(tasks: list[Task], seed: int, sizes: bool) -> SmallTable:
    """The table encoder of these tasks; sizes: in the size that does best on validation."""
    first = tasks[0]
    made, means = {}, {}
    for name, settings in SmallTable.sizes.items():
        made[name] = SmallTable.create(first.splits["train"].inputs, first.definition, seed, **settings)
        if not sizes:
            return made[name]
        found = [fit_head(made[name], task) for task in tasks]
        means[name] = [one.tried[one.chosen] for one in found]
    own = means[next(iter(means))]
    best = max(means, key=lambda name: np.mean(np.divide(means[name], own)))
    print(f"size: {best}", flush=True)
    return made[best]


def answers_of(tasks: list[Task], seed: int, sizes: bool = False) -> dict[str, list[Predictions]]:
    """The answers of each system on the test rows of the tasks."""

    def tested(system: System) -> list[Predictions]:
        return [predict_split(system, task, "test") for task in tasks]

    names = [task.name for task in tasks]
    found = {
        "linear": tested(LinearModels({n: fit_linear(task)[0] for n, task in zip(names, tasks, strict=True)})),
        "trees": tested(Trees({n: fit_trees(task, seed=seed)[0] for n, task in zip(names, tasks, strict=True)})),
    }
    base = MultiTaskModel(encoder_of(tasks, seed, sizes), {})
    for task in tasks:
        base.add_task(task.definition, fit_head(base.encoder, task).state)
    found["base"] = tested(base)

    def tuned(of: list[Task]) -> MultiTaskModel:
        model = copy.deepcopy(base)
        train(model, of, Settings(device="cpu", precision="fp32"), seed=seed)
        return model

    found["specialists"] = [predict_split(tuned([task]), task, "test") for task in tasks]
    if len(tasks) > 1:
        found["joint"] = tested(tuned(tasks))
    return found


def auroc(made: Predictions) -> float:
    """The area under the ROC curve of a task with two labels."""
    assert made.scores is not None
    return float(roc_auc_score(made.targets, made.scores[:, 1]))


def ranks(scores: np.ndarray) -> np.ndarray:
    """The rank of each system on each table, 1 for the highest score; equals share the mean of theirs."""
    above = (scores[:, None, :] > scores[:, :, None]).sum(2)
    alike = (scores[:, None, :] == scores[:, :, None]).sum(2)
    found: np.ndarray = 1 + above + (alike - 1) / 2
    return found


def single(seeds: list[int], sizes: bool) -> None:
    rows = []
    for name, kind, x, y in tables():
        found = [answers_of([task_of(name, kind, x, y, seed)], seed, sizes) for seed in seeds]
        rows.append(np.mean([[score(one[0]) for one in made.values()] for made in found], 0))
        print(f"| {name} | {' | '.join(f'{100 * one:.1f}' for one in rows[-1])} |", flush=True)
    print(f"| mean | {' | '.join(f'{100 * one:.1f}' for one in np.mean(rows, 0))} |")
    ranked = ranks(np.array(rows).round(6))
    drawn = ranked[np.random.default_rng(0).integers(0, len(ranked), (10_000, len(ranked)))].mean(1)
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    means = [f"{m:.2f} [{a:.2f}, {b:.2f}]" for m, a, b in zip(ranked.mean(0), low, high, strict=True)]
    print(f"| mean rank | {' | '.join(means)} |")


def several(groups: Iterator[tuple[list[Task], int]], sizes: bool) -> None:
    """Tasks on the same rows, of each group and seed."""
    for tasks, seed in groups:
        found = answers_of(tasks, seed, sizes)
        for place, task in enumerate(tasks):
            two = len(task.definition.labels) == 2
            cells = [f"{100 * score(made[place]):.1f}" + (f" / {100 * auroc(made[place]):.1f}" if two else "")
                     for made in found.values()]  # fmt: skip
            print(f"| {task.name}, seed {seed} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("part", nargs="?", choices=("single", "pairs", "census"), default="single")
    parser.add_argument("--seed", type=int, nargs="+", default=[0])
    parser.add_argument("--sizes", action="store_true")
    given = parser.parse_args()
    print("systems: linear, trees, base, specialists" + ("" if given.part == "single" else ", joint"), flush=True)
    if given.part == "single":
        single(given.seed, given.sizes)
    elif given.part == "pairs":
        several(((pair_of(name, seed), seed) for name in PAIRS for seed in given.seed), given.sizes)
    else:
        several(((census(seed), seed) for seed in given.seed), given.sizes)


if __name__ == "__main__":
    main()
