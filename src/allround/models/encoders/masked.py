"""A frozen encoder, and layers on its features of which each task uses some units, chosen by a mask of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from allround.core.errors import AllroundError
from allround.core.files import write_json
from allround.core.registry import method
from allround.models.base import load_encoder
from allround.models.batch import Batch, Features
from allround.models.encoder import CONFIG, Encoder, load_tensors, save_tensors
from allround.models.named import NamedModules
from allround.models.wrapping import Wrapping, read_apart, side_by_side
from allround.tasks.definition import Definition

#: Where the inner encoder lies in the folder, and the layers and codes.
INNER, ADDED = "inner", "masked.safetensors"


@method(
    source="CoTASP: Yang et al., ICML 2023, arXiv:2305.18444; MetaPolicy in jaxrl/networks/policies.py of "
    "stevenyangyj/CoTASP"
)
class Masked(Wrapping):
    """Linear layers on the features of another encoder, which is frozen. A task has a code for each layer, and uses the
    units whose number in it is above zero.

    Formula: x_l = gelu(step(code_l) * (W_l x_{l-1} + b_l)); the gradient of step is 1 between 0 and 1, and 0 elsewhere

    sizes: units of each layer. width: of the inner features, of each text where rows are pairs. tasks: those that
    there is room for.
    """

    name = "masked"

    def __init__(self, inner: Encoder, width: int, sizes: Sequence[int], tasks: Sequence[str] = ()) -> None:
        super().__init__()
        self.inner, self.width = inner.eval(), width
        widths = (width, *sizes)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        for layer in self.linear:
            nn.init.orthogonal_(layer.weight, 2**0.5)
            nn.init.zeros_(layer.bias)
        self.codes = NamedModules()
        #: Tasks whose codes learn; None for all.
        self.learns: tuple[str, ...] | None = None
        for task in tasks:
            self.add_task(task)

    @property
    def linear(self) -> list[nn.Linear]:
        """The layers."""
        return [cast(nn.Linear, layer) for layer in self.layers]

    @property
    def units(self) -> list[int]:
        """Units of each layer."""
        return [layer.out_features for layer in self.linear]

    def features(self, definition: Definition) -> int:
        return self.units[-1] * (4 if self.inner.reads_apart(definition) else 1)

    # -- tasks -------------------------------------------------------------------------------------------------------

    def add_task(self, task: str) -> None:
        """Room for a task, which begins with all units."""
        if task not in self.codes:
            device = self.linear[0].weight.device
            self.codes[task] = nn.ParameterList([torch.full((size,), 0.5, device=device) for size in self.units])

    def of_task(self, task: str) -> list[nn.Parameter]:
        """The code of a task for each layer."""
        return list(cast(nn.ParameterList, self.codes[task]))

    def masks(self, task: str) -> list[Tensor]:
        """The units that a task uses, (units,) bool of each layer."""
        return [code.detach() > 0 for code in self.of_task(task)]

    # -- what an encoder does ----------------------------------------------------------------------------------------

    def forward(self, batch: Batch) -> Features:
        """Features of a batch; where rows are asked for several tasks, those of all tasks side by side."""
        with torch.no_grad():
            found = self.inner(batch)
        tasks = tuple(batch.rows)
        made = [read_apart(partial(self.read, task=task), found.values, self.width) for task in tasks]
        return side_by_side([found._replace(values=values) for values in made], tasks)

    def read(self, values: Tensor, task: str) -> Tensor:
        """What the layers make of features for a task: (n, width) -> (n, units)."""
        for layer, code in zip(self.layers, self.of_task(task), strict=True):
            values = F.gelu(layer(values) * step(code))
        return values

    def train(self, mode: bool = True) -> Masked:
        super().train(mode)
        self.inner.eval()
        return self

    def own(self, task: str) -> dict[str, nn.Parameter]:
        return {f"codes.{task}.{number}": code for number, code in enumerate(self.of_task(task))}

    def frozen(self) -> set[int]:
        """The inner encoder, and codes of tasks that do not learn."""
        kept = [] if self.learns is None else [task for task in self.codes if task not in self.learns]
        return {id(p) for p in (*self.inner.parameters(), *(code for task in kept for code in self.of_task(task)))}

    def _added(self) -> nn.ModuleDict:
        return nn.ModuleDict({"layers": self.layers, "codes": self.codes})

    def save(self, folder: Path) -> None:
        (folder / INNER).mkdir()
        self.inner.save(folder / INNER)
        save_tensors(self._added(), folder / ADDED)
        settings = {"width": self.width, "sizes": self.units, "tasks": list(self.codes)}
        write_json(folder / CONFIG, {"encoder": self.name, "settings": settings})

    @classmethod
    def load(cls, folder: Path, settings: Mapping[str, Any]) -> Masked:
        try:
            encoder = cls(load_encoder(folder / INNER), settings["width"], settings["sizes"], settings["tasks"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise AllroundError(
                f"load the encoder in {folder}", f"{CONFIG} is damaged: {error}", "copy the folder again, whole"
            ) from error
        load_tensors(encoder._added(), folder / ADDED)
        return encoder


def step(code: Tensor) -> Tensor:
    """1 where a number is above zero, and 0 elsewhere; the gradient is 1 between 0 and 1, and 0 elsewhere.

    >>> step(torch.tensor([-1.0, 0.0, 0.2, 3.0])).tolist()
    [0.0, 0.0, 1.0, 1.0]
    """
    inside = (code > 0) & (code < 1)
    return (code > 0).to(code) + (code - code.detach()) * inside
