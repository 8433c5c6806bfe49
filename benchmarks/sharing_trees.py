"""Trees of an encoder's stages on five alphabets of Omniglot: accuracy beside hard sharing and specialists.

Each alphabet is a task: which of its characters is it? Of the 20 drawings of a character 12 are for training, 4 for
validation and 4 for testing, by who drew them; images are 12 x 12. All begin with the same random weights of the small
convolutional net. The interval of a difference is over test rows, resampled within alphabets, of the mean over seeds.

    python benchmarks/sharing_trees.py DATA --seeds 2

DATA is the folder that holds `omniglot/images_background_small1.zip`.
"""

from __future__ import annotations

import argparse
import io
import time
import zipfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from allround.models.encoders.small_image import SmallImage
from allround.models.model import parameters_of
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.make import make_task
from allround.tasks.task import Task
from allround.training.settings import Settings
from allround.training.sharing import shared_by
from allround.training.trainer import train

SIZE, TRAIN, VALIDATION = 12, 12, 4
SHARES: dict[str, dict[str, object]] = {"hard": {}, "learning_to_branch": {"copies": 3}, "mtsl": {}}


def load(place: Path) -> list[Task]:
    """A task for each alphabet."""
    rows: dict[str, dict[str, list[dict[str, object]]]] = {}
    with zipfile.ZipFile(place / "omniglot" / "images_background_small1.zip") as archive:
        for name in sorted(name for name in archive.namelist() if name.endswith(".png")):
            _, alphabet, character, file = name.split("/")
            image = ImageOps.invert(Image.open(io.BytesIO(archive.read(name))).convert("L")).resize((SIZE, SIZE))
            drawer = int(file.removesuffix(".png").split("_")[1])
            split = "train" if drawer <= TRAIN else "validation" if drawer <= TRAIN + VALIDATION else "test"
            splits = rows.setdefault(alphabet, {"train": [], "validation": [], "test": []})
            splits[split].append({"image": image, "character": character})
    return [
        make_task(alphabet.lower(), kind="classification", inputs="image", target="character", data=splits)
        for alphabet, splits in rows.items()
    ]


def right(model: MultiTaskModel, task: Task) -> np.ndarray:
    split = task.splits["test"]
    return np.asarray(model.answers(task.name, split.inputs).predictions) == np.asarray(split.targets)


def run(tasks: list[Task], share: str, seed: int, epochs: int) -> dict[str, np.ndarray]:
    """Which test rows a way to share gets right, by task. Specialists are trained task by task."""
    groups = [[task] for task in tasks] if share == "specialists" else [tasks]
    started, size = time.process_time(), 0
    found: dict[str, np.ndarray] = {}
    for group in groups:
        torch.manual_seed(seed)
        model = MultiTaskModel(SmallImage(channels=1, size=SIZE), {task.name: task.definition for task in group})
        settings = Settings(share="hard" if share == "specialists" else share, share_settings=SHARES.get(share, {}),
                            epochs=epochs, batch_size=32, learning_rate=1e-3, heads="tuned", device="cpu",
                            precision="fp32")  # fmt: skip
        model, settings = shared_by(model, settings, group, seed)
        train(model, group, settings, seed=seed)
        size += parameters_of(model)
        found |= {task.name: right(model, task) for task in group}
    mean = 100 * np.mean([one.mean() for one in found.values()])
    print(f"{share:20} seed {seed}  {mean:.1f} %  {size / 1e3:.0f} k parameters  {time.process_time() - started:.0f} s "
          "of one core", flush=True)  # fmt: skip
    for line in model.encoder.tree():
        print(f"    {line}", flush=True)
    return found


def difference(one: list[dict[str, np.ndarray]], other: list[dict[str, np.ndarray]]) -> tuple[float, float, float]:
    """The mean difference in accuracy over tasks and seeds, and its interval over test rows, in percent."""
    generator = np.random.default_rng(0)
    drawn = np.zeros(2000)
    middle = 0.0
    for task in one[0]:
        apart = np.mean([a[task].astype(float) - b[task] for a, b in zip(one, other, strict=True)], 0)
        middle += 100 * apart.mean() / len(one[0])
        rows = generator.integers(len(apart), size=(len(drawn), len(apart)))
        drawn += 100 * apart[rows].mean(1) / len(one[0])
    low, high = np.quantile(drawn, [0.025, 0.975])
    return middle, float(low), float(high)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=30)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    tasks = load(chosen.data)
    ways = ["specialists", *SHARES]
    found = {way: [run(tasks, way, seed, chosen.epochs) for seed in range(chosen.seeds)] for way in ways}
    for way in ways:
        accuracy = {t.name: 100 * np.mean([one[t.name].mean() for one in found[way]]) for t in tasks}
        middle, low, high = difference(found[way], found["hard"])
        listed = ", ".join(f"{name} {value:.1f}" for name, value in accuracy.items())
        print(f"{way:20} {np.mean(list(accuracy.values())):.1f}  {middle:+.1f} ({low:+.1f} to {high:+.1f})  {listed}")


if __name__ == "__main__":
    main()
