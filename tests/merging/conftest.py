"""Tiny tuned models for learned merges: a small network with three specialists, and the small BERT with five.

Fixtures of a session must not be changed; their folders are compared with what they were at the end.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from torch import Tensor

    from allround.merging.learn.material import Specialist
    from allround.models.encoder import Encoder
    from allround.tasks.suite import Suite
    from allround.tasks.task import Task

Head = dict[str, "Tensor"]


@dataclass(frozen=True)
class Tuned:
    """A base and models tuned from it, as folders that allround saved, in the order of the tasks."""

    suite: Suite
    base: Path
    folders: Mapping[str, Path]

    def specialists(self, *tasks: str, heads: bool = True) -> list[Specialist]:
        from allround.merging.learn.material import Specialist
        from allround.models.head_files import read_heads

        found = []
        for name in tasks or self.folders:
            folder = self.folders[name]
            found.append(
                Specialist(folder / "encoder", (name,), read_heads(folder / "heads.safetensors") if heads else {})
            )
        return found

    def encoder(self, task: str | None = None) -> Encoder:
        from allround.models.base import load_encoder

        return load_encoder(self.base if task is None else self.folders[task] / "encoder")

    def weights(self, task: str | None = None) -> dict[str, Tensor]:
        return {n: p.detach().clone() for n, p in self.encoder(task).named_parameters()}

    def deltas(self, *tasks: str) -> dict[str, Tensor]:
        import torch

        base, tuned = self.weights(), [self.weights(task) for task in tasks or self.folders]
        return {n: torch.stack([t[n] - w for t in tuned]) for n, w in base.items()}


def _tune(base: Path, task: Task, out: Path, *, steps: int, rate: float, body: bool = True) -> None:
    """A model of one task: a head fitted on the frozen base, and a few steps on all training rows at once."""
    import torch

    from allround.models.base import load_encoder
    from allround.models.fitting import fit_head
    from allround.models.likelihood import likelihood
    from allround.models.systems.multi_task_model import MultiTaskModel

    encoder, rules = load_encoder(base), likelihood(task.definition)
    model = MultiTaskModel(encoder, {})
    head = fit_head(encoder, task)
    model.add_task(task.definition, head.state)
    rows = task.splits["train"]
    batch = encoder.batch(encoder.prepare(rows.inputs, task.definition), task.definition)
    targets = rules.tensor(rows.targets)
    optimiser = torch.optim.Adam(encoder.parameters(), lr=rate)
    for _ in range(steps):
        loss = rules.loss(model(task.name, batch), targets)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    model.save(out)


@pytest.fixture(scope="session")
def bert_specialists(bert_folder: Path, text_suite: Suite, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tuned]:
    """The small BERT tuned on each of the five tasks of `text_suite`."""
    from allround.core.files import hash_folder

    folder = tmp_path_factory.mktemp("specialists")
    folders = {name: folder / name for name in text_suite.tasks}
    for name, task in text_suite.tasks.items():
        _tune(bert_folder, task, folders[name], steps=6, rate=2e-3)
    before = {place: hash_folder(place) for place in (bert_folder, *folders.values())}
    yield Tuned(text_suite, bert_folder, folders)
    assert {place: hash_folder(place) for place in before} == before, "a merge changed what it read"


@pytest.fixture(scope="session")
def point_suite() -> Suite:
    """Points of four numbers as three tasks with two or three classes; 24, 8 and 8 rows."""
    from allround.tasks.make import make_task
    from allround.tasks.suite import Suite

    draw = random.Random(0)
    columns = ["a", "b", "c", "d"]
    rows: list[dict[str, Any]] = [{name: draw.gauss(0, 1) for name in columns} for _ in range(40)]
    for row in rows:
        row["side"] = "left" if row["a"] + 0.5 * row["b"] > 0 else "right"
        row["largest"] = max(columns[:3], key=lambda name: row[name])
        row["far"] = "yes" if row["c"] ** 2 + row["d"] ** 2 > 1.4 else "no"
    data = {"train": rows[:24], "validation": rows[24:32], "test": rows[32:]}
    targets = ("side", "largest", "far")
    return Suite("points", [make_task(t, kind="classification", inputs=columns, target=t, data=data) for t in targets])


@pytest.fixture(scope="session")
def point_specialists(point_suite: Suite, tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    """A network of the user's own with eight numbers inside, tuned on each of the three tasks of `point_suite`."""
    return make_points(point_suite, tmp_path_factory.mktemp("points"))


def make_points(suite: Suite, folder: Path) -> Tuned:
    import torch
    from torch import nn

    from allround.models.encoders.module import Module

    class Points(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Linear(4, 8)
            self.two = nn.Linear(8, 6)

        def forward(self, x: Tensor) -> Tensor:
            return self.two(self.one(x).tanh()).tanh()

    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Points()
    network.one.weight.data.mul_(3)
    network.two.weight.data.mul_(3)
    (folder / "base").mkdir()
    Module(network, dim=6).save(folder / "base")
    folders = {name: folder / name for name in suite.tasks}
    for name, task in suite.tasks.items():
        _tune(folder / "base", task, folders[name], steps=20, rate=3e-2)
    return Tuned(suite, folder / "base", folders)


@pytest.fixture(scope="session")
def digit_specialists(tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    """A small image encoder tuned to tell scikit-learn's real digits apart, and from there three specialists."""
    from allround.models.base import load_encoder
    from allround.models.encoders.small_image import SmallImage
    from allround.models.fitting import fit_head
    from allround.models.systems.multi_task_model import MultiTaskModel
    from allround.tasks.suite import Suite
    from allround.training.settings import Settings
    from allround.training.trainer import train

    folder = tmp_path_factory.mktemp("digits")
    suite = Suite.load("digits", only=["digit", "loops", "mirrored", "inverted"])

    def tune(encoder: Encoder, task: Task, out: Path) -> None:
        model, head = MultiTaskModel(encoder, {}), fit_head(encoder, task)
        model.add_task(task.definition, head.state)
        train(model, [task], Settings(epochs=2, device="cpu", precision="fp32"))
        model.save(out)

    first, *others = suite.tasks.values()
    tune(SmallImage.create(first.splits["train"].inputs, first.definition, 0), first, folder / first.name)
    base = folder / first.name / "encoder"
    for task in others:
        tune(load_encoder(base), task, folder / task.name)
    return Tuned(suite, base, {task.name: folder / task.name for task in others})


@pytest.fixture(scope="session")
def tune_on() -> Callable[..., None]:
    """`tune_on(base, task, out, steps=..., rate=...)` writes a model of one task."""
    return _tune
