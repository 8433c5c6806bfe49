"""gaussians: each expert tells labels by Gaussians of its features, and the mean over experts answers."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from allround.continual.gaussians import Gaussian, fit
from allround.continual.parts import PartHolder
from allround.continual.rows import Memory
from allround.continual.select.even import Even
from allround.continual.selecting import RowView
from allround.core.registry import method
from allround.tasks.task import Task


@method(source="SEED: Rypesc et al., ICLR 2024, arXiv:2401.10191, section 3.4; src/approach/seed.py of grypesc/SEED")
class Gaussians(Even):
    """No head is asked. Each label that an expert has seen is a Gaussian with a covariance of its own, fitted when the
    label arrived; an expert gives softmax(log density / temperature) over all labels that it knows, and a label has the
    mean over the experts that know it.

    Differs: a share `ridge` of the mean variance is added to each variance, where the authors add the least power of
    ten with which the covariance can be inverted; rows are not mirrored.
    """

    def __init__(self, *, temperature: float = 3.0, ridge: float = 0.01) -> None:
        super().__init__()
        self.temperature, self.ridge = temperature, ridge

    def arrived(self, system: PartHolder, arrived: Mapping[int, Task], memory: Memory, seed: int) -> None:
        for part, task in arrived.items():
            split = task.splits["train"]
            x = RowView(system, system.parts[part].task, split.inputs, ()).features(part)
            made = [fit(x[torch.as_tensor(split.targets) == label], self.ridge)
                    for label in range(len(task.definition.labels))]  # fmt: skip
            self.state[f"mean {part}"] = torch.stack([one.mean for one in made]).float()
            self.state[f"root {part}"] = torch.stack([one.root for one in made]).float()

    def probabilities(self, view: RowView, part: int) -> Tensor:
        body = view.system.parts[part].body
        of_expert = [one for one in view.parts if view.system.parts[one].body == body]
        x = view.features(part)
        found = {one: torch.stack([Gaussian(*pair).log_density(x) for pair in zip(
            self.state[f"mean {one}"], self.state[f"root {one}"], strict=True)], 1) for one in of_expert}  # fmt: skip
        own: Tensor = (torch.cat(list(found.values()), 1) / self.temperature).softmax(1)
        start = sum(value.shape[1] for one, value in found.items() if one < part)
        return own[:, start : start + found[part].shape[1]]
