"""A cross-encoder, a bi-encoder trained on labels, and a bi-encoder that learns from the cross-encoder.

Each is tuned from the same base on the same rows; the student by `distillation`. The time is that of all pairs of two
lists of texts: a bi-encoder reads each text once, a cross-encoder each pair, of which `--pairs` are measured.

    python benchmarks/pairs.py mrpc --data data --out runs/pairs --train 3576 --test 1725 --epochs 4
    python benchmarks/pairs.py sick --data data --out runs/pairs --train 4500 --test 4927 --epochs 4
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from pathlib import Path
from typing import Any

import allround
from allround.evaluation.intervals import Bootstrap, interval
from allround.evaluation.predict import predict_split
from allround.models.system import load
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.training.settings import Settings

BASE = "all-MiniLM-L6-v2"
TASKS: dict[str, dict[str, Any]] = {
    "sick": {"kind": "similarity", "inputs": ["premise", "hypothesis"], "target": "relatedness"},
    "mrpc": {"kind": "classification", "inputs": ["sentence1", "sentence2"], "target": "label"},
}


def read_suite(name: str, data: Path, train: int, test: int, head: str | None = None) -> allround.Suite:
    """The task with its published splits, and a limit of rows."""
    rows = {split: [json.loads(line) for line in (data / name / f"{split}.jsonl").read_text().splitlines()]
            for split in ("train", "validation", "test")}  # fmt: skip
    task = allround.make_task(name, data=rows, head=head, **TASKS[name])
    return allround.Suite(name, [task.limit({"train": train, "validation": 300, "test": test})])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", choices=sorted(TASKS))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--train", type=int, default=1000)
    parser.add_argument("--test", type=int, default=1000)
    parser.add_argument("--pairs", type=int, default=300, help="pairs on which the cross-encoder is timed; 0: none")
    parser.add_argument("--texts", type=int, default=1000, help="texts of each of the two lists")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, help="of the cross-encoder; default: the base's")
    parser.add_argument("--answers", type=float, default=1.0, help="how much of the student's loss is the teacher's")
    parser.add_argument("--only", default="cross,bi,student")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    places = {name: given.out / f"{given.task}-{name}-{given.seed}" for name in ("cross", "bi", "student")}
    if given.answers != 1:
        places["student"] = given.out / f"{given.task}-student-{given.seed}-{given.answers:g}"
    # DSE's head is a perceptron on the pair's features; a similarity has the cosine alone.
    heads = {"sick": None, "mrpc": "mlp_relu"}
    for name in given.only.split(","):
        if places[name].exists():
            continue
        settings = Settings(heads="frozen" if given.task == "sick" or name == "cross" else "tuned")
        if name == "cross":
            settings = settings.with_(epochs=given.epochs)
        if name == "student":
            settings = settings.with_(
                terms={"distillation": {"teacher": str(places["cross"]), "answers": given.answers}}
            )
        head = None if name == "cross" else heads[given.task]
        suite = read_suite(given.task, given.data, given.train, given.test, head)
        board = allround.tune(suite, out=places[name], base=BASE, settings=settings, seed=given.seed,
                              encoder={"pairs": "joint"} if name == "cross" else {})  # fmt: skip
        print(f"{given.task} {name} seed {given.seed}", flush=True)
        board.print()
    compare(given, places)
    if given.pairs:
        time_pairs(given, places)


def compare(given: argparse.Namespace, places: dict[str, Path]) -> None:
    """How far the student is from the others on the test rows, paired over rows."""
    task = read_suite(given.task, given.data, given.train, given.test)[given.task]
    found = {}
    for name, place in places.items():
        if place.exists():
            system = load(place)
            found[name, task.name] = predict_split(system, task.as_defined(system.definition(task.name)), "test")
    drawn = Bootstrap.make(found, seed=given.seed)
    for name, _ in found:
        if name != "student" and ("student", task.name) in found:
            gap = interval(
                drawn.points["student", task.name] - drawn.points[name, task.name],
                drawn.resampled["student", task.name] - drawn.resampled[name, task.name],
            )
            print(
                f"student minus {name}: {100 * gap.value:.1f} [{100 * gap.low:.1f}, {100 * gap.high:.1f}]", flush=True
            )


def time_pairs(given: argparse.Namespace, places: dict[str, Path]) -> None:
    """Seconds for all pairs of two lists of texts."""
    rows = read_suite(given.task, given.data, given.train, 2 * given.texts)[given.task].splits["train"].inputs
    every = list(dict.fromkeys(str(text) for row in rows for text in row))
    firsts, seconds = every[: given.texts], every[given.texts : 2 * given.texts]
    count = len(firsts) * len(seconds)
    cross, student = load(places["cross"]), load(places["student"])
    assert isinstance(student, MultiTaskModel)
    some = list(itertools.islice(zip(itertools.cycle(firsts), seconds, strict=False), given.pairs))
    started = time.perf_counter()
    cross.answers(given.task, some)
    slow = (time.perf_counter() - started) / len(some) * count
    started = time.perf_counter()
    from allround.building.mining import vectors_of
    from allround.models.text_rows import paired

    u, v = vectors_of(student.encoder, firsts), vectors_of(student.encoder, seconds)
    for vector in u:
        student.output_head(given.task)(paired(vector.expand_as(v), v))
    fast = time.perf_counter() - started
    print(f"{len(firsts):,} x {len(seconds):,} texts: cross-encoder {slow:,.0f} s (from {len(some)} pairs), "
          f"student {fast:.1f} s, {slow / fast:,.0f} times as fast")  # fmt: skip


if __name__ == "__main__":
    main()
