"""How well each loss of scored pairs trains an embedder: rank correlation on held-out pairs, beside the base.

python benchmarks/pair_losses.py [DATA] [OUT.jsonl] [EPOCHS]: sick's relatedness, all-MiniLM-L6-v2, 600 training rows,
150 of validation and 1,000 of test, two epochs, batches of 32 pairs, all else as `allround train` has it, seeds 0 to 2.
A line for each run is kept in OUT, and runs that are there are not done again. The table shows the mean over seeds on
the test rows, and the difference from the squared error with a 95 % interval by the paired bootstrap over rows.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from allround.models.base import find_folder, load_encoder
from allround.models.fitting import fit_head
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.make import make_task
from allround.tasks.task import Task
from allround.training.settings import Settings
from allround.training.trainer import train

SEEDS, RESAMPLES = (0, 1, 2), 2_000
LOSSES = ("codiemb", "cosent", "pearson", "gaps", "rank_kl")
ROWS = {"train": 600, "validation": 150, "test": 1_000}


def load_task(folder: Path) -> Task:
    rows = {s: [json.loads(line) for line in (folder / f"{s}.jsonl").open()] for s in ("train", "validation", "test")}
    made = make_task(
        "relatedness", kind="similarity", inputs=["premise", "hypothesis"], target="relatedness", data=rows
    )
    return made.limit(ROWS)


def run(task: Task, loss: str, seed: int, epochs: int) -> dict[str, object]:
    started = time.perf_counter()
    task = task if loss in ("base", "default") else task.weighed(agree=loss)
    model = MultiTaskModel(load_encoder(find_folder("all-MiniLM-L6-v2")), {})
    model.add_task(task.definition, fit_head(model.encoder, task).state)
    if loss != "base":
        train(model, [task], Settings(batch_size=32, epochs=epochs), seed=seed)
    answers = {s: np.asarray(model.answers(task.name, task.splits[s].inputs).predictions).tolist()
               for s in ("validation", "test")}  # fmt: skip
    return {"loss": loss, "seed": seed, "epochs": epochs, "seconds": time.perf_counter() - started, **answers}


def main(data: Path, out: Path, epochs: int) -> None:
    task = load_task(data / "sick")
    found = [json.loads(line) for line in out.open()] if out.exists() else []
    done = {(one["loss"], one["seed"]) for one in found if one["epochs"] == epochs}
    plan = [("base", 0), *((loss, seed) for seed in SEEDS for loss in ("default", *LOSSES))]
    for loss, seed in plan:
        if (loss, seed) not in done and loss != "mse":  # the default is the squared error
            one = run(task, loss, seed, epochs)
            with out.open("a") as file:
                file.write(json.dumps(one) + "\n")
            found.append(one)
            print(loss, seed, {s: score(one[s], task, s) for s in ("validation", "test")}, f"{one['seconds']:.0f} s",
                  flush=True)  # fmt: skip
    show([one for one in found if one["epochs"] == epochs], task)


def score(answers: list[float], task: Task, split: str) -> float:
    return round(100 * float(spearmanr(answers, task.splits[split].targets)[0]), 2)


def show(found: list[dict], task: Task) -> None:
    targets = np.asarray(task.splits["test"].targets)
    answers = {loss: [np.asarray(o["test"]) for o in found if o["loss"] == loss]
               for loss in dict.fromkeys(o["loss"] for o in found)}  # fmt: skip
    draws = np.random.default_rng(0).integers(0, len(targets), (RESAMPLES, len(targets)))

    def means(loss: str, rows: np.ndarray) -> float:
        return float(np.mean([spearmanr(one[rows], targets[rows])[0] for one in answers[loss]]))

    base = {loss: np.array([means(loss, rows) for rows in draws]) for loss in answers}
    whole = np.arange(len(targets))
    print("| loss | Spearman x 100, test | minus the squared error |\n|---|---|---|")
    for loss in answers:
        low, high = np.percentile(100 * (base[loss] - base["default"]), [2.5, 97.5])
        gap = 100 * (means(loss, whole) - means("default", whole))
        print(f"| {loss} | {100 * means(loss, whole):.1f} | {gap:+.1f} [{low:+.1f}, {high:+.1f}] |")


if __name__ == "__main__":
    given = sys.argv[1:]
    main(Path(given[0] if given else "data"), Path(given[1] if len(given) > 1 else "pair_losses.jsonl"),
         int(given[2]) if len(given) > 2 else 2)  # fmt: skip
