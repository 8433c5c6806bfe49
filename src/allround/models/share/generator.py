"""What makes the weights of a task's modules, in place of weights of their own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from allround.models.named import NamedModules
from allround.models.share.bank_base import Bank
from allround.models.share.plan import Generator
from allround.models.share.vectors import TaskVectors

#: The tensors of a module, by name.
Shapes = Mapping[str, torch.Size]
#: The number of a block, and of a place in it.
Place = tuple[int, int]


class WeightGenerator(nn.Module, ABC):
    """Makes the tensors of a module at a place for a task."""

    @abstractmethod
    def forward(self, task: str, place: Place) -> dict[str, Tensor]: ...

    def add_tasks(self, names: Sequence[str]) -> None:
        """Make room for tasks."""

    def own(self, task: str) -> dict[str, nn.Parameter]:
        """The parameters that only a task uses."""
        return {}


class FromVectors(WeightGenerator):
    """A network that reads the task's vector, one of the block and one of the place in it, and gives each tensor by a
    matrix of its own; modules with like tensors share these. Where places have no vectors, each has a network.
    """

    def __init__(self, plan: Generator, vectors: TaskVectors, shapes: Mapping[Place, Shapes]) -> None:
        super().__init__()
        self.plan, self.shapes = plan, dict(shapes)
        self._apart = (vectors,)
        blocks, sites = (1 + max(place[n] for place in shapes) for n in (0, 1))
        width = vectors.size + 2 * plan.places
        self.blocks = nn.Parameter(torch.randn(blocks, plan.places)) if plan.places else None
        self.sites = nn.Parameter(torch.randn(sites, plan.places)) if plan.places else None
        self.networks, self.tensors = nn.ModuleDict(), nn.ModuleDict()
        for place, tensors in shapes.items():
            own = self._name(place)
            if own not in self.networks:
                self.networks[own] = nn.Sequential(
                    nn.Linear(width, plan.units), nn.ReLU(), nn.Linear(plan.units, plan.units), nn.LayerNorm(plan.units)
                )
            for name, shape in tensors.items():
                if (key := self._tensor(place, name, shape)) not in self.tensors:
                    made = nn.Linear(plan.units, shape.numel())
                    nn.init.normal_(made.weight, std=plan.deviation * plan.units**-0.5)
                    nn.init.zeros_(made.bias)
                    self.tensors[key] = made

    def _name(self, place: Place) -> str:
        return "all" if self.plan.places else f"{place[0]}-{place[1]}"

    def _tensor(self, place: Place, name: str, shape: torch.Size) -> str:
        return f"{self._name(place)}-{name}-{'x'.join(map(str, shape))}"

    def forward(self, task: str, place: Place) -> dict[str, Tensor]:
        read: Tensor = self._apart[0](task)
        if self.blocks is not None and self.sites is not None:
            read = torch.cat([read, self.blocks[place[0]], self.sites[place[1]]])
        hidden = self.networks[self._name(place)](read)
        return {
            name: self.tensors[self._tensor(place, name, shape)](hidden).reshape(shape)
            for name, shape in self.shapes[place].items()
        }


class FromFactors(WeightGenerator):
    """A tensor that all tasks share, times the product of two thin matrices of the task, entry by entry."""

    def __init__(self, plan: Generator, shapes: Mapping[Place, Shapes]) -> None:
        super().__init__()
        self.plan, self.shapes = plan, dict(shapes)
        self.common, self.tasks = nn.ModuleDict(), NamedModules()
        for place, tensors in shapes.items():
            self.common[f"{place[0]}-{place[1]}"] = nn.ParameterDict(
                {name: torch.randn(shape) for name, shape in tensors.items()}
            )

    def add_tasks(self, names: Sequence[str]) -> None:
        """Thin matrices, whose product begins near 1 everywhere."""
        ranks, off = self.plan.ranks, self.plan.deviation
        for task in names:
            own = self.tasks[task] = nn.ParameterDict()
            for place, tensors in self.shapes.items():
                for name, (_, rows, columns) in tensors.items():
                    for side, size in (("u", (rows, ranks)), ("v", (ranks, columns))):
                        numbers = ranks**-0.5 + off * torch.randn(size)
                        own[f"{place[0]}-{place[1]}-{name}-{side}"] = nn.Parameter(numbers)

    def forward(self, task: str, place: Place) -> dict[str, Tensor]:
        name = f"{place[0]}-{place[1]}"
        own, common = self.tasks[task], self.common[name]
        assert isinstance(own, nn.ParameterDict) and isinstance(common, nn.ParameterDict)
        return {
            tensor: common[tensor] * (own[f"{name}-{tensor}-u"] @ own[f"{name}-{tensor}-v"])
            for tensor in self.shapes[place]
        }

    def own(self, task: str) -> dict[str, nn.Parameter]:
        return {f"tasks.{task}.{name}": p for name, p in self.tasks[task].named_parameters()}


class Generated(Bank):
    """A module of a task whose tensors a generator makes each time."""

    def __init__(self, pattern: Bank, generator: WeightGenerator, task: str, place: Place) -> None:
        super().__init__(pattern.count, pattern.width, pattern.outputs)
        self._apart = (pattern, generator)
        self.task, self.place = task, place

    def forward(self, values: Tensor) -> Tensor:
        pattern, generator = self._apart
        assert isinstance(pattern, Bank) and isinstance(generator, WeightGenerator)
        pattern.train(self.training)
        made: Tensor = functional_call(pattern, generator(self.task, self.place), (values,))
        return made
