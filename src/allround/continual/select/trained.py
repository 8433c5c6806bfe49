"""trained: a small network that was trained on remembered rows to tell the parts that they are of."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from allround.continual.parts import PartHolder
from allround.continual.pruning import prune
from allround.continual.rows import ARRIVAL, Memory
from allround.continual.selecting import RowView, Select
from allround.core.errors import AllroundError
from allround.core.registry import method
from allround.tasks.task import Task


@method(source="the selector network of TAME: Zhu et al., 2022, arXiv:2210.03869; checked against unsigned public code")
class Trained(Select):
    """One hidden layer on the features of the base, trained anew after each arrival on the rows that are remembered,
    with cross-entropy; then the smallest numbers of its matrices are set to zero, and the others trained on.

    hidden: units. steps: of Adam, on all remembered rows at once, before and again after they are pruned. rate: of
    learning. share: of each matrix that is set to zero.
    Differs: reads the base's features, where that code trains a second network on the inputs.

    Errors: no row of a task is remembered.
    """

    def __init__(self, *, hidden: int = 64, steps: int = 200, rate: float = 0.01, share: float = 0.5) -> None:
        super().__init__()
        self.hidden, self.steps, self.rate, self.share = hidden, steps, rate, share

    def arrived(self, system: PartHolder, arrived: Mapping[int, Task], memory: Memory, seed: int) -> None:
        for name in {system.parts[part].task for part in arrived}:
            parts = [number for number, part in enumerate(system.parts) if part.task == name]
            if len(parts) > 1:
                if name not in memory.tasks:
                    raise AllroundError(f"tell the parts of '{name}' apart", "no row of it is remembered",
                                        "use a strategy with a memory, and give it more bytes")  # fmt: skip
                self.fit(system, name, parts, memory, seed)

    def fit(self, system: PartHolder, name: str, parts: list[int], memory: Memory, seed: int) -> None:
        """Train the network of a task."""
        split = memory.tasks[name].splits["train"]
        numbers = [system.parts[part].arrival for part in parts]
        of = torch.tensor([numbers.index(int(str(mark).partition(":")[0])) for mark in split.slices[ARRIVAL]])
        x = RowView(system, name, split.inputs, ()).base
        mean, deviation = x.mean(0), x.std(0, correction=0).clamp_min(1e-6)
        generator = torch.Generator().manual_seed(seed % 2**63)
        with torch.inference_mode(False), torch.enable_grad():
            rows = ((x - mean) / deviation).clone()
            weights = []
            for outputs, width in ((self.hidden, rows.shape[1]), (len(parts), self.hidden)):
                drawn = torch.randn(outputs, width, generator=generator) * (2 / width) ** 0.5
                weights += [drawn.requires_grad_(), torch.zeros(outputs).requires_grad_()]
            for share in (0.0, self.share):
                prune({str(n): value for n, value in enumerate(weights)}, share)
                free = [(value != 0) | (value.dim() == 1) | (share == 0) for value in weights]
                optimiser = torch.optim.Adam(weights, lr=self.rate)
                for _ in range(self.steps):
                    optimiser.zero_grad()
                    F.cross_entropy(outputs_of(rows, *weights), of).backward()
                    optimiser.step()
                    with torch.no_grad():
                        for value, moves in zip(weights, free, strict=True):
                            value.mul_(moves)
        names = ("hidden", "hidden bias", "output", "output bias")
        found = dict(zip(names, [value.detach() for value in weights], strict=True))
        self.state |= {
            f"{what} {name}": value for what, value in {**found, "mean": mean, "deviation": deviation}.items()
        }

    def scores(self, view: RowView) -> Tensor:
        mean, deviation, *weights = (
            self.state[f"{what} {view.task}"]
            for what in ("mean", "deviation", "hidden", "hidden bias", "output", "output bias")
        )
        return outputs_of((view.base - mean) / deviation, *weights)


def outputs_of(x: Tensor, hidden: Tensor, hidden_bias: Tensor, output: Tensor, output_bias: Tensor) -> Tensor:
    return F.linear(F.linear(x, hidden, hidden_bias).relu(), output, output_bias)
