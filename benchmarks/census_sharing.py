"""Seconds of one epoch on the whole census with shared experts, and of what comes before it.

python benchmarks/census_sharing.py [--share mmoe] [--rows N] [--batch-size 1024] [--threads 2]

Three targets on the 199,523 training rows of the folder `census` of ALLROUND_DATA (see its `train.parquet`): the rows
are read, the table encoder is pretrained on them, heads are fitted on the network that the tasks share, and one epoch
is trained. The first 90% of the shuffled rows are trained on, the rest is for validation, which is scored before and
after the epoch. Prints seconds and seconds of processor time of each part.
"""

from __future__ import annotations

import argparse
import os
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from allround.core.registry import spelled
from allround.models.base import open_encoder
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.make import make_task
from allround.tasks.task import Task
from allround.training.settings import Settings
from allround.training.sharing import shared_by
from allround.training.trainer import TrainingRun

TARGETS = ("income_over_50k", "never_married", "college")


@contextmanager
def timed(what: str) -> Iterator[None]:
    wall, processor = time.perf_counter(), time.process_time()
    yield
    print(f"{what:34s} {time.perf_counter() - wall:7.1f} s {time.process_time() - processor:7.1f} s", flush=True)


def census(rows: int | None, seed: int) -> list[Task]:
    """The three tasks of the census."""
    import pandas

    folder = Path(os.environ["ALLROUND_DATA"]) / "census"
    frame = pandas.read_parquet(folder / "train.parquet").sample(frac=1.0, random_state=seed)[:rows]
    held = pandas.read_parquet(folder / "test.parquet")[:rows]
    cut = int(0.9 * len(frame))
    data = {"train": frame[:cut], "validation": frame[cut:], "test": held}
    inputs = [column for column in frame.columns if column not in TARGETS]
    return [
        make_task(n, kind="classification", inputs=inputs, target=n, data=data, table="census", metric="auroc")
        for n in TARGETS
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--share", default="mmoe")
    parser.add_argument("--rows", type=int)
    parser.add_argument("--batch-size", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    print(f"{'':34s} {'elapsed':>9s} {'processor':>9s}")
    with timed("read the rows of three tasks"):
        tasks = census(asked.rows, asked.seed)
    with timed("pretrain the table encoder"):
        model = MultiTaskModel(
            open_encoder("small_table", tasks, asked.seed, {}), {t.name: t.definition for t in tasks}
        )
    share, values = spelled("share", asked.share)
    settings = Settings(share=share, share_settings=values, mix="all", epochs=1, batch_size=asked.batch_size,
                        device="cpu", precision="fp32")  # fmt: skip
    with timed("fit heads on the shared network"):
        model, settings = shared_by(model, settings, tasks, asked.seed)
    with timed("prepare the rows"):
        run = TrainingRun(model, tasks, settings, asked.seed)
    with timed("validate"):
        run.evaluate()
    with timed(f"one epoch on {len(tasks[0].splits['train'])} rows"):
        course = run.run()
    print(f"AUROC on validation: { {n: round(score, 4) for n, score in course.evaluations[-1]['scores'].items()} }")
    print(f"steps: {course.steps}; peak of memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MB")


if __name__ == "__main__":
    main()
