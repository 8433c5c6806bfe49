"""Learned merges of low-rank changes: the model and its adapters are held, and no change as a whole matrix."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from allround.checkpoints.adapted import Adapted
from allround.checkpoints.adapter import Adapter
from allround.checkpoints.weights import Weights
from allround.merging.learn.learning import Learning
from allround.merging.learn.material import Rows
from allround.merging.learn.parametrisation import Coefficients
from allround.merging.learn.steps import Execution, LearningSteps
from allround.models.adapted import base_of
from allround.models.encoder import Encoder
from allround.models.pretrained import saved_names


@dataclass(frozen=True)
class Factors:
    """The changes that k models make to a linear layer: up @ down, where model t has `ranks[t]` columns and rows.

    Shapes: down (sum of ranks, in), up (out, sum of ranks).
    """

    down: Tensor
    up: Tensor
    ranks: tuple[int, ...]

    def weighted(self, coefficients: Tensor) -> Tensor:
        """A coefficient for each of the ranks, from one for each model: (k,) -> (sum of ranks,)."""
        return coefficients.repeat_interleave(torch.tensor(self.ranks, device=coefficients.device))

    def change(self, coefficients: Tensor) -> Tensor:
        """sum_t c_t d_t as a whole matrix."""
        return (self.up * self.weighted(coefficients)) @ self.down

    def to(self, device: torch.device) -> Factors:
        return Factors(self.down.to(device), self.up.to(device), self.ranks)


def gather_factors(shell: Encoder, encoders: Sequence[Path]) -> dict[str, Factors] | None:
    """The changes of models that are stored as adapters of this base, by the name of the weight in it.

    None where one is stored otherwise, or changes more than linear layers by plain factors: DoRA, biases, embeddings.
    """
    parts: dict[str, dict[int, tuple[Tensor, Tensor]]] = {}
    prefix = _prefix(shell)
    for number, folder in enumerate(encoders):
        base = base_of(folder)
        if base is None:
            return None
        source = Adapted(Weights(base), Adapter(folder))
        names = {stored: name for name, stored in saved_names(shell.backbone).items()}
        for stored in source.edits:
            found = _plain_factors(shell, source, stored, names.get(stored))
            if found is None:
                return None
            parts.setdefault(prefix + names[stored], {})[number] = found
    order = [name for name, _ in shell.named_parameters() if name in parts]
    return {name: _stacked(parts[name], len(encoders)) for name in order}


def _prefix(shell: Encoder) -> str:
    """What the names of the backbone's parameters begin with among those of the encoder."""
    inside = {id(p): name for name, p in shell.backbone.named_parameters()}
    for name, parameter in shell.named_parameters():
        if id(parameter) in inside:
            return name.removesuffix(inside[id(parameter)])
    return ""


def _plain_factors(shell: Encoder, source: Adapted, stored: str, name: str | None) -> tuple[Tensor, Tensor] | None:
    edits = source.edits[stored]
    if name is None or len(edits) != 1 or edits[0].factors is None or not name.endswith(".weight"):
        return None
    part, weights = edits[0].factors, edits[0].adapter.weights
    module = shell.backbone.get_submodule(name.removesuffix(".weight"))
    odd = part.magnitude or part.bias or part.parameter or part.flipped or part.experts > 1
    if odd or not isinstance(module, nn.Linear):
        return None
    with torch.no_grad():
        if not torch.equal(module.weight, source.base_source.get(stored).to(module.weight.dtype)):
            return None  # the adapter changes another base
    down, up = weights.get(part.a).float(), weights.get(part.b).float()
    return down, part.scale * up


def _stacked(of: Mapping[int, tuple[Tensor, Tensor]], count: int) -> Factors:
    ranks = tuple(len(of[number][0]) if number in of else 0 for number in range(count))
    return Factors(torch.cat([down for down, _ in of.values()]), torch.cat([up for _, up in of.values()], 1), ranks)


def can_be_factored(learning: Learning, kind: Callable[..., Any], start: object) -> bool:
    """Whether a merge is learned the same from factors: coefficients of whole changes, from the base on."""
    plain = learning.keep == 1.0 and not learning.elect and not learning.centred
    linear = isinstance(kind, type) and issubclass(kind, Coefficients) and kind.forward is Coefficients.forward
    return plain and start is None and linear


class LowRankSteps(LearningSteps):
    """The same steps on factors: each layer adds sum_t c_t up_t (down_t x) to what it gives.

    So no weight is merged in a step, and no gradient of a whole matrix is computed.
    """

    def __init__(
        self,
        shell: Encoder,
        made: Coefficients,
        factors: Mapping[str, Factors],
        rows: Mapping[str, Rows],
        learning: Learning,
        execution: Execution,
    ) -> None:
        own = dict(shell.named_parameters())
        super().__init__(shell, made, {name: own[name] for name in factors}, rows, learning, execution)
        self.coefficients = made
        self.factors = {name: one.to(execution.device) for name, one in factors.items()}
        for parameter in shell.parameters():
            parameter.requires_grad_(False)

    def run(self) -> dict[str, object]:
        with self._added():
            return super().run()

    @contextmanager
    def _added(self) -> Iterator[None]:
        handles = [
            self.shell.get_submodule(name.removesuffix(".weight")).register_forward_hook(self._adding(name, one))
            for name, one in self.factors.items()
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _adding(self, name: str, factors: Factors) -> Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor]:
        def add(module: nn.Module, given: tuple[Any, ...], found: Tensor) -> Tensor:
            column = self.coefficients.coefficients()[self.coefficients.group[name]]
            inner = F.linear(given[0], factors.down.to(given[0].dtype)) * factors.weighted(column).to(given[0].dtype)
            return found + F.linear(inner, factors.up.to(found.dtype))

        return add

    def weights(self) -> dict[str, Tensor]:
        """Nothing while the steps are taken: the layers add their changes themselves."""
        return {}

    def merged(self) -> dict[str, Tensor]:
        """The merged weights as they are now, without a graph."""
        own = dict(self.shell.named_parameters())
        with torch.no_grad():
            columns = self.coefficients.coefficients()
            return {
                name: own[name] + one.change(columns[self.coefficients.group[name]]).to(own[name].dtype)
                for name, one in self.factors.items()
            }


def placeholders(factors: Mapping[str, Factors], models: int, device: torch.device) -> dict[str, Tensor]:
    """What a parametrisation sees of changes that are held as factors: their names, and how many models there are."""
    return {name: torch.empty(models, 0, device=device) for name in factors}
