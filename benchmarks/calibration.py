"""The calibration error on test before calibration, and after it by each way.

python benchmarks/calibration.py text text8 --data-dir ../shared/data [--only TASKS] [--tuned ROWS] [--keep FOLDER]
python benchmarks/calibration.py tables [--keep FOLDER]
python benchmarks/calibration.py census --data-dir ../shared/data [--keep FOLDER]

text: heads fitted on the frozen base of a suite, on its own limits of training and validation rows and all test rows;
with --tuned, specialists tuned for three passes over so many training rows, with as many validation rows. tables: the
tables with labels of benchmarks/tables.py. census: two targets, 1,500 training, 600 validation and 5,000 test rows; of
each table a fitted head, boosted trees and a linear model. --keep: a folder for the predictions, which are not made
again when they are there.

Prints a row for each system and task: the expected calibration error (15 bins of equal width), by chance what
confidences corrected by `auto` would have on these rows if they were exactly right, and whether the error is at most
half of what it was, or within what 95 of 100 draws by chance give.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from tables import tables, task_of

from allround.core.jobs import quiet_libraries
from allround.evaluation.calibration import calibrated, errors_by_chance, fit, reliability
from allround.evaluation.calibrators import OFFERED, way_of
from allround.evaluation.predict import predict_split
from allround.evaluation.predictions import Predictions, one_table
from allround.models.base import open_encoder
from allround.models.boosting import fit_trees
from allround.models.encoders.small_table import SmallTable
from allround.models.fitting import fit_head
from allround.models.plain.fit import fit_linear
from allround.models.system import System
from allround.models.systems.linear_models import LinearModels
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.models.systems.trees import Trees
from allround.tasks.kind import kind
from allround.tasks.make import make_task
from allround.tasks.suite import Suite
from allround.tasks.task import Task
from allround.training.settings import Settings
from allround.training.trainer import train

WAYS = ("none", *OFFERED, "auto")
Found = Iterator[tuple[str, Task, Callable[[], System]]]


def texts(given: argparse.Namespace) -> Found:
    """Fitted heads, or tuned specialists."""
    limit = {"train": given.tuned, "validation": given.tuned} if given.tuned else None
    only = given.only.split(",") if given.only else None
    suite = Suite.load(given.suite, data_dir=given.data_dir, only=only, limit=limit)
    for task in suite.tasks.values():
        if kind(task.definition.kind).labelled:
            yield task.name + ("-tuned" if given.tuned else ""), task, lambda task=task: text_model(suite, task, given)


def text_model(suite: Suite, task: Task, given: argparse.Namespace) -> System:
    assert suite.base is not None
    encoder = open_encoder(suite.base, [task], 0, {})
    model = MultiTaskModel(encoder, {})
    model.add_task(task.definition, fit_head(encoder, task).state)
    if given.tuned:
        train(model, [task], Settings(epochs=3), seed=0)
    return model


def of_tables(given: argparse.Namespace) -> Found:
    for name, sort, x, y in tables():
        if sort == "classification":
            yield from table_systems(task_of(name, sort, x, y, 0))


def census(given: argparse.Namespace) -> Found:
    import pandas as pd

    train, test = (pd.read_parquet(given.data_dir / "census" / f"{name}.parquet") for name in ("train", "test"))
    targets = ["income_over_50k", "never_married", "college"]
    order = np.random.default_rng(0).permutation(len(train))
    shown = np.random.default_rng(1).permutation(len(test))[:5000]
    parts = {"train": train.iloc[order[:1500]], "validation": train.iloc[order[1500:2100]], "test": test.iloc[shown]}
    data = {name: part.to_dict("records") for name, part in parts.items()}
    inputs = [column for column in train.columns if column not in targets]
    for target in targets[:2]:
        yield from table_systems(make_task(target, kind="classification", inputs=inputs, target=target, data=data))


def table_systems(task: Task) -> Found:
    def head() -> System:
        encoder = SmallTable.create(task.splits["train"].inputs, task.definition, 0)
        model = MultiTaskModel(encoder, {})
        model.add_task(task.definition, fit_head(encoder, task).state)
        return model

    yield f"{task.name}-base", task, head
    yield f"{task.name}-trees", task, lambda: Trees({task.name: fit_trees(task, seed=0)[0]})
    yield f"{task.name}-linear", task, lambda: LinearModels({task.name: fit_linear(task)[0]})


def predictions(name: str, task: Task, make: Callable[[], System], keep: Path | None) -> tuple[Predictions, ...]:
    """Of validation and test."""
    paths = [keep / f"{name}-{split}.parquet" for split in ("validation", "test")] if keep else []
    if paths and all(path.exists() for path in paths):
        return tuple(map(Predictions.load, paths))
    system = make()
    found = tuple(predict_split(system, task, split) for split in ("validation", "test"))
    for path, one in zip(paths, found, strict=False):
        one.save(path)
    return found


def sure_of(made: Predictions) -> np.ndarray:
    """The confidence of each decision."""
    rules = kind(made.definition.kind)
    assert made.scores is not None
    said = np.concatenate(made.predictions) if rules.per_token else made.predictions
    return rules.sureness(one_table(made.scores, made.definition).astype(np.float64), said).ravel()


def row(name: str, validation: Predictions, test: Predictions) -> tuple[list[float], str]:
    """The errors by each way, and the row of the table."""
    errors, chosen, after = [], "", test
    for way in WAYS:
        fitted = fit(validation, way)
        after = calibrated(test, fitted)
        errors.append(reliability(after).ece)
        chosen = way_of(fitted)
    chance = errors_by_chance(sure_of(after))
    verdict = " and ".join([
        *(["half"] if errors[-1] <= errors[0] / 2 else []),
        *(["by chance"] if errors[-1] <= np.quantile(chance, 0.95) else []),
    ])  # fmt: skip
    cells = [
        name,
        f"{len(validation)} / {len(test)}",
        *(f"{one:.3f}" for one in errors),
        chosen,
        f"{chance.mean():.3f}",
    ]
    return errors, f"| {' | '.join([*cells, verdict or 'neither'])} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("text", "tables", "census"))
    parser.add_argument("suite", nargs="?", default="text8")
    parser.add_argument("--data-dir", type=Path, default=None)
    parser.add_argument("--only", default=None, help="tasks, with commas between")
    parser.add_argument("--tuned", type=int, default=0, help="rows to tune on")
    parser.add_argument("--keep", type=Path, default=None)
    given = parser.parse_args()
    quiet_libraries()
    if given.keep:
        given.keep.mkdir(parents=True, exist_ok=True)
    sources = {"text": texts, "tables": of_tables, "census": census}
    print(f"| task | validation / test rows | {' | '.join(WAYS)} | chosen | by chance | auto against none |")
    print(f"|{'---|' * (len(WAYS) + 5)}", flush=True)
    errors = []
    for name, task, make in sources[given.what](given):
        found, line = row(name, *predictions(name, task, make, given.keep))
        errors.append(found)
        print(line, flush=True)
    print(f"| mean | | {' | '.join(f'{one:.3f}' for one in np.mean(errors, 0))} | | | |")


if __name__ == "__main__":
    main()
