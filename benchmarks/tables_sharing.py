"""What tasks on tables gain by sharing: schools, landmines and the census, beside boosted trees and linear models.

python benchmarks/tables_sharing.py (school | landmine) [--seeds 0 1 2] [--systems NAME ...]
python benchmarks/tables_sharing.py census [--rows 20000] [--seeds 0] [--systems NAME ...] [--rates 5e-4 1e-3 2e-3]

All read ALLROUND_DATA. Of schools (139 tasks, error of exam scores) and landmines (29 tasks, AUROC, the mean over
tasks), a fifth of the rows of each task is for validation and a fifth for test, drawn by the seed. Systems: `linear` (a
linear model for each task), `pooled` (boosted trees on all rows), `task_column` (the same, with the task as a column),
`rmtgb` (robust multi-task boosting), `network` (small_table tuned on all rows, with the task as a column). Prints a
score for each seed, and the mean with half the width of a 95% interval over seeds where there are two or more.

Of the census (three targets), so many rows are for training, and a tenth as many for validation; the test rows are
30,000. Systems: `trees` (for each target), `specialists`, `hard`, any way to share (`mmoe:experts=4`), and `multitab`.
Networks take the best of the rates on validation. Prints AUROC on test rows with a 95% interval of a bootstrap over
rows, seconds of processor time and parameters.
"""

from __future__ import annotations

import argparse
import copy
import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas
from sklearn.metrics import roc_auc_score

from allround.core.registry import spelled
from allround.models.base import open_encoder
from allround.models.boosting import fit_trees
from allround.models.fitting import fit_head
from allround.models.plain.fit import fit_linear
from allround.models.robust_boosting import fit_robust
from allround.models.system import System
from allround.models.systems.linear_models import LinearModels
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.models.systems.rmtgb import Rmtgb
from allround.models.systems.trees import Trees
from allround.tasks.kind import kind
from allround.tasks.make import make_task
from allround.tasks.task import Task
from allround.training.settings import Settings
from allround.training.sharing import shared_by
from allround.training.trainer import train

#: The column of targets, and the kind of the tasks.
TABLES = {"school": ("target_0", "regression"), "landmine": ("target_label", "classification")}
SYSTEMS = ("linear", "pooled", "task_column", "rmtgb", "network")
TARGETS = ("income_over_50k", "never_married", "college")
CENSUS = ("trees", "specialists", "hard", "mmoe:experts=4", "ple:experts=2", "multitab")
TEST_ROWS = 30_000


def folder(name: str) -> Path:
    return Path(os.environ["ALLROUND_DATA"]) / name


# -- many tasks with one target ------------------------------------------------------------------------------------


def split_of(frame: pandas.DataFrame, seed: int) -> dict[str, pandas.DataFrame]:
    """The rows of each split: three, one and one fifths of each task."""
    rng = np.random.default_rng(seed)
    place = np.zeros(len(frame))
    for rows in frame.groupby("task").indices.values():
        place[rows] = rng.permutation(len(rows)) / len(rows)
    return {"train": frame[place < 0.6], "validation": frame[(place >= 0.6) & (place < 0.8)],
            "test": frame[place >= 0.8]}  # fmt: skip


def made_of(name: str, data: dict[str, pandas.DataFrame], inputs: list[str], of: str) -> Task:
    target, sort = TABLES[name]
    metric = "rmse" if sort == "regression" else "auroc"
    return make_task(of, kind=sort, inputs=inputs, target=target, data=data, metric=metric, labels=None)


def outputs(system: System, task: str, rows: Sequence[tuple[object, ...]]) -> np.ndarray:
    made = system.answers(task, rows, scores=True)  # type: ignore[arg-type]
    if made.scores is not None:
        return np.asarray(made.scores)[:, -1]
    definition = system.definitions[task]
    return np.asarray(kind(definition.kind).decode(made.predictions, definition), float)


def scored(name: str, found: dict[str, np.ndarray], tasks: dict[str, Task]) -> float:
    """The error over all test rows, or the mean over tasks of the area under the curve."""
    wanted = {n: np.asarray(task.splits["test"].targets) for n, task in tasks.items()}
    if name == "school":
        wanted = {n: np.asarray(kind("regression").decode(y, tasks[n].definition), float) for n, y in wanted.items()}
        return float(np.sqrt(np.mean(np.concatenate([found[n] - wanted[n] for n in tasks]) ** 2)))
    return float(np.mean([roc_auc_score(wanted[n], found[n]) for n in tasks if 0 < wanted[n].mean() < 1]))


def run_tasks(name: str, seed: int, systems: Sequence[str]) -> dict[str, float]:
    frame = pandas.read_parquet(folder(name) / "all.parquet")
    frame["task"] = "task" + frame["task"].astype(str)
    if name == "landmine":
        frame[TABLES[name][0]] = frame[TABLES[name][0]].astype(int).astype(str)
    inputs = [column for column in frame.columns if column not in ("task", TABLES[name][0])]
    data = split_of(frame, seed)
    tasks = {of: made_of(name, {s: rows[rows["task"] == of] for s, rows in data.items()}, inputs, of)
             for of in sorted(frame["task"].unique())}  # fmt: skip
    found: dict[str, float] = {}
    for system in systems:
        started = time.process_time()
        note = ""
        if system == "linear":
            linear = LinearModels({n: fit_linear(task)[0] for n, task in tasks.items()})
            answers = {n: outputs(linear, n, task.splits["test"].inputs) for n, task in tasks.items()}
        elif system == "rmtgb":
            robust = Rmtgb(fit_robust(list(tasks.values()), seed=seed)[0])
            answers = {n: outputs(robust, n, task.splits["test"].inputs) for n, task in tasks.items()}
            note = f"; outliers: {len(robust.outliers)}"
        else:
            columns = inputs if system == "pooled" else [*inputs, "task"]
            whole = made_of(name, data, columns, "all")
            one: System
            if system == "network":
                model = MultiTaskModel(open_encoder("small_table", [whole], seed, {}), {})
                model.add_task(whole.definition, fit_head(model.encoder, whole).state)
                train(model, [whole], Settings(heads="tuned", batch_size=128, device="cpu"), seed=seed)
                one = model
            else:
                one = Trees({"all": fit_trees(whole, seed=seed)[0]})
            answers = {}
            for n, task in tasks.items():
                rows = task.splits["test"].inputs
                answers[n] = outputs(one, "all", rows if system == "pooled" else [(*row, n) for row in rows])
        found[system] = scored(name, answers, tasks)
        print(f"{name} seed {seed} {system:12s} {found[system]:.4f} ({time.process_time() - started:.0f} s{note})",
              flush=True)  # fmt: skip
    return found


# -- one table with three targets ----------------------------------------------------------------------------------


def census(rows: int, seed: int) -> list[Task]:
    frame = pandas.read_parquet(folder("census") / "train.parquet").sample(rows + rows // 10, random_state=seed)
    held = pandas.read_parquet(folder("census") / "test.parquet").sample(TEST_ROWS, random_state=seed)
    data = {"train": frame[:rows], "validation": frame[rows:], "test": held}
    inputs = [column for column in frame.columns if column not in TARGETS]
    return [make_task(n, kind="classification", inputs=inputs, target=n, data=data, table="census", metric="auroc")
            for n in TARGETS]  # fmt: skip


def tuned(base: MultiTaskModel, tasks: list[Task], share: str, rates: Sequence[float], seed: int) -> MultiTaskModel:
    """A model trained on tasks, at the best of the rates on validation."""
    best: tuple[float, MultiTaskModel] | None = None
    name, values = spelled("share", share)
    for rate in rates:
        model = MultiTaskModel(copy.deepcopy(base.encoder), {})
        for task in tasks:
            model.add_task(task.definition, base.head(task.name).stored())
        settings = Settings(share=name, share_settings={**values, **({"rate": rate} if name != "hard" else {})},
                            learning_rate=rate if name == "hard" else None, mix="all", epochs=4, batch_size=256,
                            heads="tuned", device="cpu", precision="fp32")  # fmt: skip
        model, settings = shared_by(model, settings, tasks, seed)
        course = train(model, tasks, settings, seed=seed)
        mean = max(float(np.mean(list(one["scores"].values()))) for one in course.evaluations)
        if best is None or mean > best[0]:
            best = mean, model
    assert best is not None
    return best[1]


def interval(wanted: np.ndarray, found: np.ndarray, seed: int) -> tuple[float, float, float]:
    rng = np.random.default_rng(seed)
    drawn = [rng.integers(0, len(wanted), len(wanted)) for _ in range(200)]
    low, high = np.quantile([roc_auc_score(wanted[rows], found[rows]) for rows in drawn], [0.025, 0.975])
    return float(roc_auc_score(wanted, found)), float(low), float(high)


def run_census(rows: int, seed: int, systems: Sequence[str], rates: Sequence[float]) -> None:
    tasks = census(rows, seed)
    made: dict[str, MultiTaskModel] = {}

    def base(name: str) -> MultiTaskModel:
        if name not in made:
            made[name] = MultiTaskModel(open_encoder(name, tasks, seed, {}), {})
            for task in tasks:
                made[name].add_task(task.definition, fit_head(made[name].encoder, task).state)
        return made[name]

    for name in systems:
        started = time.process_time()
        of: dict[str, System]
        if name == "trees":
            trees = Trees({task.name: fit_trees(task, seed=seed)[0] for task in tasks})
            of, size = {task.name: trees for task in tasks}, trees.cost().parameters_stored
        elif name == "specialists":
            each = {task.name: tuned(base("small_table"), [task], "hard", rates, seed) for task in tasks}
            of, size = dict(each), sum(one.cost().parameters_stored for one in each.values())
        else:
            table, share = ("multitab", "hard") if name == "multitab" else ("small_table", name)
            joint = tuned(base(table), tasks, share, rates, seed)
            of, size = {task.name: joint for task in tasks}, joint.cost().parameters_stored
        for task in tasks:
            test = task.splits["test"]
            said = outputs(of[task.name], task.name, test.inputs)
            score, low, high = interval(np.asarray(test.targets), said, seed)
            print(
                f"census {rows} seed {seed} {name:16s} {task.name:16s} {score:.4f} [{low:.4f}, {high:.4f}]", flush=True
            )
        print(f"    {time.process_time() - started:.0f} s of processor time; {size:,} parameters", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=[*TABLES, "census"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--systems", nargs="+")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--rates", type=float, nargs="+", default=[5e-4, 1e-3, 2e-3])
    asked = parser.parse_args()
    if asked.table == "census":
        for seed in asked.seeds:
            run_census(asked.rows, seed, asked.systems or CENSUS, asked.rates)
        return
    every = [run_tasks(asked.table, seed, asked.systems or SYSTEMS) for seed in asked.seeds]
    for name in every[0]:
        scores = np.array([one[name] for one in every])
        half = f" +- {1.96 * scores.std(ddof=1) / np.sqrt(len(scores)):.4f}" if len(scores) > 1 else ""
        print(f"{asked.table} {name:12s} {scores.mean():.4f}{half}")


if __name__ == "__main__":
    main()
