"""A frozen encoder, and layers on its features whose weights are Gaussians that each task may scale, unit by unit."""

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

#: Where the inner encoder lies in the folder, and the layers and what tasks have of their own.
INNER, ADDED = "inner", "adaptive.safetensors"
#: Deviations of weights to begin with; the temperature of switches in training.
DEVIATION, TEMPERATURE = 0.02, 0.5
#: How many times faster adaptations learn than weights do.
FASTER = 20.0


class GaussianLinear(nn.Module):
    """A linear layer whose numbers are independent Gaussians: their means, and the logarithms of their deviations."""

    def __init__(self, width: int, units: int) -> None:
        super().__init__()
        self.mean = nn.Parameter(nn.init.orthogonal_(torch.empty(units, width), 2**0.5))
        self.log_deviation = nn.Parameter(torch.full((units, width), DEVIATION).log())
        self.bias = nn.Parameter(torch.zeros(units))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The means and deviations of the outputs, (n, units) each."""
        variance = F.linear(x.square(), (2 * self.log_deviation).exp())
        return F.linear(x, self.mean, self.bias), variance.clamp_min(1e-12).sqrt()


class Adaptation(nn.Module):
    """How a task scales the units of a layer.

    switch: the log odds that a unit is adapted; size: the most that it can be; share: how much of that it is, before
    tanh. (units,) each.
    """

    def __init__(self, units: int) -> None:
        super().__init__()
        self.switch = nn.Parameter(torch.zeros(units))
        self.log_size = nn.Parameter(torch.zeros(units))
        self.share = nn.Parameter(torch.zeros(units))

    @property
    def chances(self) -> Tensor:
        """How likely it is that each unit is adapted."""
        return self.switch.sigmoid()

    def forward(self) -> Tensor:
        """What the outputs of the units are multiplied by: drawn in training, and expected otherwise."""
        on = self.chances
        if self.training:
            drawn = torch.rand_like(self.switch).clamp(1e-6, 1 - 1e-6)
            on = ((self.switch + drawn.logit()) / TEMPERATURE).sigmoid()
        return 1 + on * self.log_size.exp() * self.share.tanh()


@method(
    source="CLAW: Adel, Zhao and Turner, ICLR 2020, arXiv:1911.09514, from the abstract; outputs are drawn in place of "
    "weights: Kingma et al., 2015, arXiv:1506.02557"
)
class Adaptive(Wrapping):
    """Linear layers on the features of another encoder, which is frozen. Their weights are Gaussians that all tasks
    share. Of each unit a task has a probability of being adapted, and how much at most.

    Formula: w_j = (1 + b_j s_j tanh(a_j)) v_j for unit j, v_j ~ N(m_j, d_j^2), b_j ~ Bernoulli(p_j), whose concrete
    relaxation is drawn in training; in answers v_j is m_j and b_j is p_j

    sizes: units of each layer. width: of the inner features, of each text where rows are pairs. tasks: those that
    there is room for.
    """

    name = "adaptive"

    def __init__(self, inner: Encoder, width: int, sizes: Sequence[int], tasks: Sequence[str] = ()) -> None:
        super().__init__()
        self.inner, self.width = inner.eval(), width
        self.layers = nn.ModuleList(GaussianLinear(a, b) for a, b in pairwise((width, *sizes)))
        self.adaptations = NamedModules()
        #: Tasks whose adaptations learn; None for all.
        self.learns: tuple[str, ...] | None = None
        for task in tasks:
            self.add_task(task)

    @property
    def gaussians(self) -> list[GaussianLinear]:
        """The layers."""
        return [cast(GaussianLinear, layer) for layer in self.layers]

    @property
    def units(self) -> list[int]:
        """Units of each layer."""
        return [len(layer.bias) for layer in self.gaussians]

    def features(self, definition: Definition) -> int:
        return self.units[-1] * (4 if self.inner.reads_apart(definition) else 1)

    def add_task(self, task: str) -> None:
        """Room for a task, which begins without adaptation."""
        if task not in self.adaptations:
            made = nn.ModuleList(Adaptation(units) for units in self.units)
            self.adaptations[task] = made.to(self.gaussians[0].mean.device)

    def of_task(self, task: str) -> list[Adaptation]:
        """How a task scales each layer."""
        return [cast(Adaptation, one) for one in cast(nn.ModuleList, self.adaptations[task])]

    def forward(self, batch: Batch) -> Features:
        """Features of a batch; where rows are asked for several tasks, those of all tasks side by side."""
        with torch.no_grad():
            found = self.inner(batch)
        tasks = tuple(batch.rows)
        made = [read_apart(partial(self.read, task=task), found.values, self.width) for task in tasks]
        return side_by_side([found._replace(values=values) for values in made], tasks)

    def read(self, values: Tensor, task: str) -> Tensor:
        """What the layers make of features for a task: (n, width) -> (n, units)."""
        for layer, adaptation in zip(self.gaussians, self.of_task(task), strict=True):
            mean, deviation = layer(values)
            drawn = mean + deviation * torch.randn_like(mean) if self.training else mean
            values = F.relu(drawn * adaptation())
        return values

    def train(self, mode: bool = True) -> Adaptive:
        super().train(mode)
        self.inner.eval()
        return self

    def own(self, task: str) -> dict[str, nn.Parameter]:
        module = cast(nn.ModuleList, self.adaptations[task])
        return {f"adaptations.{task}.{name}": p for name, p in module.named_parameters()}

    def added(self) -> dict[int, float]:
        return {id(p): FASTER for task in self.adaptations for p in self.own(task).values()}

    def frozen(self) -> set[int]:
        """The inner encoder, and adaptations of tasks that do not learn."""
        kept = [] if self.learns is None else [task for task in self.adaptations if task not in self.learns]
        return {id(p) for p in (*self.inner.parameters(), *(p for task in kept for p in self.own(task).values()))}

    def _added(self) -> nn.ModuleDict:
        return nn.ModuleDict({"layers": self.layers, "adaptations": self.adaptations})

    def save(self, folder: Path) -> None:
        (folder / INNER).mkdir()
        self.inner.save(folder / INNER)
        save_tensors(self._added(), folder / ADDED)
        settings = {"width": self.width, "sizes": self.units, "tasks": list(self.adaptations)}
        write_json(folder / CONFIG, {"encoder": self.name, "settings": settings})

    @classmethod
    def load(cls, folder: Path, settings: Mapping[str, Any]) -> Adaptive:
        try:
            encoder = cls(load_encoder(folder / INNER), settings["width"], settings["sizes"], settings["tasks"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise AllroundError(
                f"load the encoder in {folder}", f"{CONFIG} is damaged: {error}", "copy the folder again, whole"
            ) from error
        load_tensors(encoder._added(), folder / ADDED)
        return encoder
