"""What tasks on tables gain by sharing: schools, landmines and the census, beside boosted trees and linear models.

python benchmarks/tables_sharing.py (school | landmine) [--seeds 0 1 2] [--systems NAME ...]
python benchmarks/tables_sharing.py census [--seeds 0 1 2] [--systems NAME ...] [--rates 5e-4 1e-3 2e-3] [--rows N]

All read ALLROUND_DATA. Of schools (139 tasks, error of exam scores) and landmines (29 tasks, AUROC, the mean over
tasks), a fifth of the rows of each task is for validation and a fifth for test, drawn by the seed. Systems: `linear` (a
linear model for each task), `pooled` (boosted trees on all rows), `task_column` (the same, with the task as a column),
`rmtgb` (robust multi-task boosting), `network` (small_table tuned on all rows, with the task as a column). Prints a
score for each seed, and the mean with half the width of a 95% interval over seeds where there are two or more.

Of the census (three targets; all of its rows, unless --rows says fewer), a tenth of the training rows is for
validation. Systems: `trees` (for each target), `specialists`, `hard`, `wide` (hard with as wide an encoder as makes up
for the parameters that others add), any way to share (`mmoe`), whose modules are as large as --added says, and
`multitab`. Networks take the best of the rates on validation, on fewer rows. --encoder is what small_table is made
with, such as '{"width": 256, "stretches": 48}'. Prints AUROC on test rows with a 95% interval of a bootstrap over
rows, and of the mean over seeds, seconds of processor time and parameters.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas
from scipy.stats import rankdata
from scipy.stats import t as student

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
from allround.training.share_size import fitted
from allround.training.sharing import shared_by
from allround.training.trainer import train

#: The column of targets, and the kind of the tasks.
TABLES = {"school": ("target_0", "regression"), "landmine": ("target_label", "classification")}
SYSTEMS = ("linear", "pooled", "task_column", "rmtgb", "network")
TARGETS = ("income_over_50k", "never_married", "college")
CENSUS = ("trees", "specialists", "hard", "wide", "mmoe", "ple", "adatt", "cross_stitch", "dselect_k", "multitab")


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
    return float(np.mean([auroc(wanted[n], found[n]) for n in tasks if 0 < wanted[n].mean() < 1]))


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


def census(seed: int, rows: int | None) -> list[Task]:
    """Nine tenths of the training rows for training, the others for validation; all test rows."""
    frame = pandas.read_parquet(folder("census") / "train.parquet").sample(frac=1.0, random_state=seed)[:rows]
    held = pandas.read_parquet(folder("census") / "test.parquet")
    cut = int(0.9 * len(frame))
    data = {"train": frame[:cut], "validation": frame[cut:], "test": held}
    inputs = [column for column in frame.columns if column not in TARGETS]
    return [make_task(n, kind="classification", inputs=inputs, target=n, data=data, table="census", metric="auroc")
            for n in TARGETS]  # fmt: skip


class Census:
    """The systems of the comparison on the rows of one seed."""

    def __init__(self, seed: int, rows: int | None, asked: argparse.Namespace) -> None:
        self.tasks, self.seed, self.asked = census(seed, rows), seed, asked
        self._bases: dict[str, MultiTaskModel] = {}

    def base(self, name: str, settings: dict[str, object]) -> MultiTaskModel:
        key = f"{name} {settings}"
        if key not in self._bases:
            made = MultiTaskModel(open_encoder(name, self.tasks, self.seed, settings), {})
            for task in self.tasks:
                some = task.limit({"train": 5000, "validation": 2000}, self.seed)
                made.add_task(task.definition, fit_head(made.encoder, some).state)
            self._bases[key] = made
        return self._bases[key]

    def train(self, name: str, tasks: list[Task], rate: float) -> tuple[MultiTaskModel, float]:
        """A network trained at a rate, and its mean score on validation."""
        table, settings, share, values = "small_table", dict(self.asked.encoder), "hard", {}
        if name == "multitab":
            table, settings = "multitab", {}
        elif name == "wide":
            settings["width"] = self.asked.wide
        elif name != "specialists":
            share, values = spelled("share", name)
        base = self.base(table, settings)
        model = MultiTaskModel(copy.deepcopy(base.encoder), {})
        for task in tasks:
            model.add_task(task.definition, base.head(task.name).stored())
        if share != "hard":
            definitions = [task.definition for task in tasks]
            values = {**fitted(share, values, base.encoder, definitions, self.asked.added), "rate": rate}
        chosen = Settings(share=share, share_settings=values, learning_rate=rate, mix="all",
                          epochs=self.asked.epochs, batch_size=self.asked.batch_size, heads="tuned",
                          device="cpu", precision="fp32")  # fmt: skip
        model, chosen = shared_by(model, chosen, tasks, self.seed)
        course = train(model, tasks, chosen, seed=self.seed)
        return model, max(float(np.mean(list(one["scores"].values()))) for one in course.evaluations)

    def system(self, name: str, rate: float) -> tuple[dict[str, System], int]:
        """What answers each task, and how many numbers it stores."""
        if name == "trees":
            trees = Trees({task.name: fit_trees(task, seed=self.seed)[0] for task in self.tasks})
            return {task.name: trees for task in self.tasks}, trees.cost().parameters_stored
        if name == "specialists":
            each = {task.name: self.train(name, [task], rate)[0] for task in self.tasks}
            return dict(each), sum(one.cost().parameters_stored for one in each.values())
        made = self.train(name, self.tasks, rate)[0]
        return {task.name: made for task in self.tasks}, made.cost().parameters_stored


def interval(wanted: np.ndarray, found: np.ndarray, seed: int) -> tuple[float, float, float]:
    """AUROC with a 95% interval of 200 bootstraps over rows."""
    rng = np.random.default_rng(seed)
    drawn = [rng.integers(0, len(wanted), len(wanted)) for _ in range(200)]
    low, high = np.quantile([auroc(wanted[rows], found[rows]) for rows in drawn], [0.025, 0.975])
    return auroc(wanted, found), float(low), float(high)


def auroc(wanted: np.ndarray, found: np.ndarray) -> float:
    ranks = rankdata(found)
    positive = int(wanted.sum())
    above = ranks[wanted == 1].sum() - positive * (positive + 1) / 2
    return float(above / (positive * (len(wanted) - positive)))


def run_census(asked: argparse.Namespace) -> None:
    names = asked.systems or CENSUS
    rates: dict[str, float] = {}
    few = Census(asked.seeds[0], asked.rate_rows, asked)
    for name in names:
        if name != "trees":
            kept = {rate: few.train(name, few.tasks[:1] if name == "specialists" else few.tasks, rate)[1]
                    for rate in asked.rates}  # fmt: skip
            rates[name] = max(kept, key=kept.__getitem__)
            tried = ", ".join(f"{rate:g} {score:.4f}" for rate, score in kept.items())
            print(f"census {name:12s} rate {rates[name]:g} (validation, {asked.rate_rows:,} rows: {tried})", flush=True)
    found: dict[tuple[str, str], list[float]] = {}
    for seed in asked.seeds:
        whole = Census(seed, asked.rows, asked)
        for name in names:
            started = time.process_time()
            of, size = whole.system(name, rates.get(name, 0.0))
            took = time.process_time() - started
            for task in whole.tasks:
                test = task.splits["test"]
                said = outputs(of[task.name], task.name, test.inputs)
                score, low, high = interval(np.asarray(test.targets), said, seed)
                found.setdefault((name, task.name), []).append(score)
                print(f"census seed {seed} {name:12s} {task.name:16s} {score:.4f} [{low:.4f}, {high:.4f}]", flush=True)
            print(f"census seed {seed} {name:12s} {took:.0f} s of processor time; {size:,} parameters", flush=True)
    for (name, task), scores in found.items():
        half = f" +- {t_half(scores):.4f}" if len(scores) > 1 else ""
        print(f"census {name:12s} {task:16s} {np.mean(scores):.4f}{half} over {len(scores)} seeds")


def t_half(scores: Sequence[float]) -> float:
    """Half the width of a 95% interval of the mean, by Student's t."""
    values = np.asarray(scores)
    return float(student.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=[*TABLES, "census"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--systems", nargs="+")
    parser.add_argument("--rows", type=int)
    parser.add_argument("--rate-rows", type=int, default=40_000)
    parser.add_argument("--rates", type=float, nargs="+", default=[5e-4, 1e-3, 2e-3])
    parser.add_argument("--encoder", type=json.loads, default={})
    parser.add_argument("--added", type=int, default=150_000)
    parser.add_argument("--wide", type=int, default=300)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=512)
    asked = parser.parse_args()
    if asked.table == "census":
        run_census(asked)
        return
    every = [run_tasks(asked.table, seed, asked.systems or SYSTEMS) for seed in asked.seeds]
    for name in every[0]:
        scores = np.array([one[name] for one in every])
        half = f" +- {t_half(scores.tolist()):.4f}" if len(scores) > 1 else ""
        print(f"{asked.table} {name:12s} {scores.mean():.4f}{half}")


if __name__ == "__main__":
    main()
