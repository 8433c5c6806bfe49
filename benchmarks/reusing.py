"""Reuse of computation from row to row, on streams made of real images: scores, multiply-adds and time by threshold.

    python benchmarks/reusing.py runs/digits
    python benchmarks/reusing.py runs/mnist --mnist FOLDER
    python benchmarks/reusing.py BASE --store STORE

The last counts the multiply-adds of specialists in a store that reuse what the base computed for its own task. For the
others there is no video: each test image is shown for eight frames. In the stream `held` a frame is the one before (six
times in ten), or the image with fresh noise, or the image moved by a pixel. In `noisy` every frame has fresh noise, as
a camera's have. Noise is normal, with a deviation of 2 of 255. Without --mnist the images are those of `digits`
(8 x 8); FOLDER holds the test images of MNIST (28 x 28) as published. Differences are paired with the model's own
answers, with 95% intervals from 2,000 draws of images, since frames of an image go together. Times are the processor
time of one thread; the ways take turns row by row.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from mnist_streams import read_idx
from PIL import Image

import allround
from allround.composition.systems.residual_store import ResidualStore
from allround.models.reusing import Reusing, ReusingTasks
from allround.models.systems.multi_task_model import MultiTaskModel, open_model
from allround.tasks.values import Row

FRAMES = 8
THRESHOLDS = (0.0, 0.02, 0.05, 0.1, 0.2)


def mnist(folder: Path, limits: dict[str, int]) -> allround.Suite:
    """The digits of MNIST's test images, and whether they are even."""
    images = read_idx(folder / "t10k-images-idx3-ubyte.gz")
    labels = read_idx(folder / "t10k-labels-idx1-ubyte.gz")
    parity = ("even", "odd")
    rows = [{"image": Image.fromarray(image), "digit": str(label), "parity": parity[label % 2]}
            for image, label in zip(images, labels, strict=True)]  # fmt: skip
    order = np.random.default_rng(0).permutation(len(rows))
    parts = dict(zip(("train", "validation", "test"), np.split(order, [7000, 8000]), strict=True))
    data = {split: [rows[row] for row in places] for split, places in parts.items()}
    return allround.Suite("mnist", [
        allround.make_task(name, kind="classification", inputs="image", target=name, limit=limits, data=data)
        for name in ("digit", "parity")
    ])  # fmt: skip


def frames_of(image: Image.Image, held: bool, draw: np.random.Generator) -> list[Image.Image]:
    """What a stream shows of an image."""
    whole = np.asarray(image.convert("L"), dtype=np.float64)

    def noisy() -> Image.Image:
        return Image.fromarray((whole + draw.normal(0, 2, whole.shape)).round().clip(0, 255).astype(np.uint8))

    found = [image.convert("L") if held else noisy()]
    while len(found) < FRAMES:
        kind = draw.random() if held else 0.7
        if kind < 0.6:
            found.append(found[-1])
        elif kind < 0.8:
            found.append(noisy())
        else:
            moved = np.roll(whole, int(draw.choice((-1, 1))), int(draw.integers(2)))
            found.append(Image.fromarray(moved.astype(np.uint8)))
    return found


def gap(new: np.ndarray, old: np.ndarray) -> str:
    """The difference of two accuracies in points, with its interval. new, old: right or wrong, (images, frames)."""
    each = (new.mean(1) - old.mean(1)) * 100
    drawn = np.random.default_rng(0).integers(len(each), size=(2000, len(each)))
    low, high = np.quantile(each[drawn].mean(1), (0.025, 0.975))
    return f"{each.mean():+.1f} [{low:+.1f}, {high:+.1f}]"


def measure(model: MultiTaskModel, suite: allround.Suite, images: int, held: bool) -> None:
    """Print a line for each threshold."""
    rows, targets = {}, {}
    for name, task in suite.tasks.items():
        draw, split = np.random.default_rng(0), task.splits["test"]
        rows[name] = [(frame,) for (image,) in split.inputs[:images] for frame in frames_of(image, held, draw)]
        targets[name] = np.repeat(np.asarray(split.targets[:images]), FRAMES)

    def right(system: MultiTaskModel | Reusing) -> dict[str, np.ndarray]:
        """Which frames a system answers rightly, by task: (images, frames)."""
        found = {name: np.asarray(system.answers(name, some).predictions) for name, some in rows.items()}
        return {name: (found[name] == targets[name]).reshape(-1, FRAMES) for name in rows}

    own = right(model)
    print(", ".join(f"{name} {100 * own[name].mean():.1f}" for name in rows))
    for threshold in THRESHOLDS:
        stream = Reusing(model, threshold)
        found = right(stream)
        gaps = ", ".join(f"{name} {gap(found[name], own[name])}" for name in rows)
        print(f"threshold {threshold:g}: {gaps}; {stream.counts.words()}", flush=True)
    clock(model, rows)


def clock(model: MultiTaskModel, rows: Mapping[str, Sequence[Row]]) -> None:
    """Print the processor time of each way, which take turns row by row."""
    streams = {threshold: Reusing(model, threshold) for threshold in THRESHOLDS}
    times: Counter[str] = Counter()

    def timed(way: str, run: Callable[..., object], name: str, some: Sequence[Row]) -> None:
        start = time.process_time()
        run(name, some)
        times[way] += time.process_time() - start

    for name, some in rows.items():
        for place, row in enumerate(some):
            timed("alone", model.answers, name, [row])
            timed("preparation", model.prepare, name, [row])
            for threshold, stream in streams.items():
                timed(f"threshold {threshold:g}", stream.answers, name, [row])
            if place % 64 == 0:
                timed("batches of 64", model.answers, name, some[place : place + 64])
    count = sum(map(len, rows.values()))
    for way, taken in times.items():
        print(f"  {way}: {1000 * taken / count:.2f} ms a row, {taken / times['alone']:.2f} of alone", flush=True)


def between_tasks(first: MultiTaskModel, store: ResidualStore, suite: allround.Suite, images: int) -> None:
    """Print what the specialists of a store save when each computes what differs from the base, which is the first."""
    specialists = {
        name: copy.deepcopy(first if name in first.definitions else store.open(name)) for name in suite.tasks
    }
    rows = {name: task.splits["test"].inputs[:images] for name, task in suite.tasks.items()}
    targets = {name: np.asarray(task.splits["test"].targets[:images])[:, None] for name, task in suite.tasks.items()}

    def right(answers: dict[str, allround.models.batch.Answers]) -> dict[str, np.ndarray]:
        return {name: np.asarray(answers[name].predictions)[:, None] == targets[name] for name in rows}

    own = right({name: specialists[name].answers(name, some) for name, some in rows.items()})
    print(", ".join(f"{name} {100 * own[name].mean():.1f}" for name in rows))
    for threshold in (0.0, 0.05, 0.15, 0.3, 0.6):
        shared = ReusingTasks(specialists, threshold)
        found = right({name: shared.answers(some)[name] for name, some in rows.items()})
        each = (f"{name} {gap(found[name], own[name])}, {shared.counts[name].share:.1%}" for name in rows)
        print(f"threshold {threshold:g}: " + ", ".join(each), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="where the joint model is, or will be; with --store the base")
    parser.add_argument("--store", type=Path, help="a store of residuals to the base, of the two other tasks")
    parser.add_argument("--mnist", type=Path, help="the folder of MNIST's test images; without it, digits")
    parser.add_argument("--train", type=int, default=1000, help="training rows a task")
    parser.add_argument("--images", type=int, default=100, help="test images in a stream")
    given = parser.parse_args()
    torch.set_num_threads(1)
    limits = {"train": given.train, "validation": 300, "test": given.images}
    suite = (
        mnist(given.mnist, limits)
        if given.mnist
        else allround.Suite.load("digits", only=["digit", "parity", "loops"], limit=limits)
    )
    if given.store:
        found = allround.load(given.store)
        assert isinstance(found, ResidualStore)
        between_tasks(open_model(given.model), found, suite, given.images)
        raise SystemExit
    if not given.model.exists():
        allround.train(suite, out=given.model, settings=allround.Settings(precision="fp32"), base="small_image")
    for held in (True, False):
        print("\nheld" if held else "\nnoisy")
        measure(open_model(given.model), suite, given.images, held)
