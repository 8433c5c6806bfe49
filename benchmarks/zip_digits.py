"""Two nets from different seeds and of disjoint digits, made one without training: accuracy and FLOPs by depth.

One net knows the digits 0 to 4, the other 5 to 9 (scikit-learn's, 8 x 8 pixels). Both are merged from 256 unlabelled
training rows of each: by averaging as they stand, by permutation alignment, and by ZipIt up to several depths. Beside
them stand the two nets, and their ensemble. `joint` is the accuracy over all ten digits, by the largest of the logits
of both heads; `low` and `high` are those of each task by its own head. FLOPs are of one row.

    python benchmarks/zip_digits.py --seeds 3
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from allround.merging.align.models import batches_from, zip_models
from allround.merging.align.networks import learn
from allround.merging.align.spaces import spaces_of
from allround.merging.align.zipping import cuts_of
from allround.models.encoders.module import Module
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.make import make_task
from allround.tasks.suite import Suite

TASKS = {"low": range(5), "high": range(5, 10)}


class Residual(nn.Module):
    """Two convolutions beside the input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(*convolution(width, width), nn.Conv2d(width, width, 3, padding=1, bias=False),
                                   nn.BatchNorm2d(width))  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.inner(x))


def convolution(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]


def cnn() -> nn.Module:
    return nn.Sequential(
        *convolution(1, 16), *convolution(16, 32), nn.MaxPool2d(2), *convolution(32, 32), Residual(32),
        *convolution(32, 64), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )  # fmt: skip


def mlp() -> nn.Module:
    layers = [nn.Linear(64, 128), nn.ReLU()]
    for _ in range(3):
        layers += [nn.Linear(128, 128), nn.ReLU()]
    return nn.Sequential(nn.Flatten(), *layers)


NETS: dict[str, Callable[[], nn.Module]] = {"CNN": cnn, "MLP": mlp}


@dataclass(frozen=True)
class Row:
    """What one system reached, in percent, and what it costs."""

    joint: float
    low: float
    high: float
    flops: int


def data() -> tuple[Suite, Tensor, Tensor]:
    """The two tasks, and the test rows of all digits."""
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    parts = dict(zip(("train", "validation", "test"), np.split(order, [1000, 1200]), strict=True))
    images = [Image.fromarray(np.round(image * (255 / 16)).astype(np.uint8)) for image in digits.images]
    tasks = []
    for name, known in TASKS.items():
        rows = {
            split: [{"image": images[i], "digit": str(digits.target[i])} for i in part if digits.target[i] in known]
            for split, part in parts.items()
        }
        tasks.append(make_task(name, kind="classification", inputs="image", target="digit", data=rows))
    test = parts["test"]
    x = torch.tensor(np.stack([np.asarray(images[i], dtype=np.float32) / 255 for i in test]))[:, None]
    return Suite("halves", tasks), x, torch.tensor(digits.target[test])


def train(make: Callable[[], nn.Module], suite: Suite, task: str, seed: int, epochs: int) -> MultiTaskModel:
    torch.manual_seed(seed)
    definition = suite.tasks[task].definition
    network = make()
    width = network(torch.zeros(2, 1, 8, 8)).shape[1]
    model = MultiTaskModel(Module(network, dim=width), {task: definition})
    nn.init.normal_(model.heads[task].weight, std=width**-0.5)
    split = suite.tasks[task].splits["train"]
    x = model.encoder.collate(model.encoder.prepare(split.inputs, definition), definition).tensors["x"]
    y = torch.as_tensor(split.targets)
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-2)
    steps = epochs * (len(x) // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps)
    model.train()
    for _ in range(steps):
        rows = torch.randint(len(x), (64,))
        features = model.encoder.network(x[rows])
        loss = F.cross_entropy(model.heads[task](features), y[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return model.eval()


@torch.no_grad()
def logits(model: MultiTaskModel, x: Tensor) -> dict[str, Tensor]:
    definition = next(iter(model.definitions.values()))
    features = model.encoder(model.encoder.collate(list(x), definition))
    return {name: head(features) for name, head in model.heads.items()}


def score(found: dict[str, Tensor], y: Tensor, flops: int) -> Row:
    percent = {name: float("nan") for name in ("joint", *TASKS)}
    for name, known in TASKS.items():
        if name in found:
            mine = (y >= known[0]) & (y <= known[-1])
            percent[name] = 100 * float((found[name][mine].argmax(1) + known[0] == y[mine]).float().mean())
    both = torch.cat([found.get(name, torch.full((len(y), 5), -torch.inf)) for name in TASKS], 1)
    percent["joint"] = 100 * float((both.argmax(1) == y).float().mean())
    return Row(flops=flops, **percent)


def run(make: Callable[[], nn.Module], suite: Suite, x: Tensor, y: Tensor, seed: int, epochs: int,
        alpha: float, beta: float) -> dict[str, Row]:  # fmt: skip
    models = [train(make, suite, task, 10 * seed + i, epochs) for i, task in enumerate(TASKS)]
    batches = batches_from(models, suite, rows=256, seed=seed)
    found: dict[str, Row] = {}
    merges: dict[str, dict[str, Any]] = {"average": {"by": "average"}, "permutation": {"by": "permute"}}
    trace = learn([model.encoder for model in models], batches, free_output=True)
    for _, _, depth in reversed(cuts_of(trace, spaces_of(trace))):
        merges[f"zip to {depth:.2f}"] = {"depth": depth}
    apart = single = 0
    for name, options in merges.items():
        made = zip_models(models, batches, alpha=alpha, beta=beta, **options)
        single, apart = made.flops["single"], made.flops["apart"]
        found[name] = score(logits(made.model, x), y, made.flops["merged"])
    each = [logits(model, x) for model in models]
    ensemble = {"net of " + task: score(one, y, single) for task, one in zip(TASKS, each, strict=True)}
    ensemble["ensemble"] = score({**each[0], **each[1]}, y, apart)
    return {**ensemble, **found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--nets", default="CNN,MLP")
    parser.add_argument("--alpha", type=float, default=0.3)
    parser.add_argument("--beta", type=float, default=0.125)
    given = parser.parse_args()
    torch.set_num_threads(1)  # nets this small take longer in two
    suite, x, y = data()
    print("| net | system | joint | low | high | FLOPs |\n|---|---|---|---|---|---|")
    for net in given.nets.split(","):
        rows: dict[str, list[Row]] = {}
        for seed in range(given.seeds):
            for name, row in run(NETS[net], suite, x, y, seed, given.epochs, given.alpha, given.beta).items():
                rows.setdefault(name, []).append(row)
        single = rows["net of low"][0].flops
        for name, listed in rows.items():
            cells = [np.array([getattr(row, column) for row in listed]) for column in ("joint", *TASKS)]
            text = ["" if np.isnan(cell).all() else f"{cell.mean():.1f} ± {cell.std():.1f}" for cell in cells]
            print(f"| {net} | {name} | {' | '.join(text)} | {listed[0].flops / single:.2f}x |", flush=True)


if __name__ == "__main__":
    main()
