"""Arrow: at each layer a place goes to the modules whose change answers most to it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from allround.composition.modules.bank import ModuleBank
from allround.composition.modules.changes import Change, LowRankChange
from allround.composition.modules.layer import LinearLayer
from allround.composition.router import Router, RouteRows, taken_layers, top_softmax
from allround.core.errors import AllroundError
from allround.core.registry import method


@method(
    source="Ostapenko et al., ICML 2024, arXiv:2405.11157, section 4.2; mttl's arrow_selector.py and PEFT's arrow.py",
    paper="Towards Modular LLMs by Building and Reusing a Library of LoRAs",
)
class Arrow(Router):
    """Weighs each module by softmax(|v . x| / temperature), where v is the direction of what a layer reads to which the
    module's change answers most: the first right singular vector. Needs no rows.

    top: only so many of the largest weights are kept (0: all); the paper keeps 4. temperature: of the softmax. As in
    the authors' code x is not normalised. Convolutions and embeddings have no vector; there all modules weigh the same.
    """

    name = "arrow"
    level = "place"

    def __init__(self, *, top: int = 4, temperature: float = 1.0) -> None:
        super().__init__()
        if top < 0 or not temperature > 0:
            raise AllroundError(f"route with top={top} and temperature={temperature}",
                                "top must be at least 0, and the temperature above 0", "give such numbers")  # fmt: skip
        self.top, self.temperature = top, temperature
        self.directions: dict[str, Tensor] = {}

    def fit(self, bank: ModuleBank, tasks: Mapping[str, RouteRows], seed: int) -> None:
        super().fit(bank, tasks, seed)
        self.directions = {}
        for module in range(self.count):  # one after the other, so that a large library is never held whole
            for name, layer in bank.layers.items():
                if not isinstance(layer, LinearLayer) or module not in layer.users:
                    continue
                found = _direction(bank.read(module, name, "weight"), layer.flipped)
                if found is not None:
                    self.directions.setdefault(name, torch.zeros(self.count, layer.inputs))[module] = found

    def state(self) -> dict[str, Tensor]:
        return {f"layer.{name}": found for name, found in self.directions.items()}

    def restore(self, bank: ModuleBank, state: Mapping[str, Tensor]) -> None:
        self.count = len(bank)
        self.directions, _ = taken_layers(bank, state)

    def gate(self, layer: str, values: Tensor) -> Tensor:
        if layer not in self.directions:
            return torch.full((len(values), self.count), 1 / self.count, device=values.device)
        scores = (values.float() @ self.directions[layer].to(values.device).T).abs() / self.temperature
        return top_softmax(scores, self.top)


def _direction(change: Change | None, flipped: bool) -> Tensor | None:
    """The unit vector of what a layer reads to which a change of its weight answers most; None where there is none."""
    if change is None:
        return None
    if isinstance(change, LowRankChange):
        down, up = (change.up.T, change.down.T) if flipped else (change.down, change.up)
        # of up @ down with orthonormal rows of q: the first right singular vector of a small matrix, turned back
        q, r = torch.linalg.qr(down.T)
        if change.factor is not None and not flipped:
            up = change.factor[:, None] * up
        _, _, vh = torch.linalg.svd(up @ r.T, full_matrices=False)
        return torch.as_tensor(q @ vh[0])
    values = change.values.T if flipped else change.values
    _, _, vh = torch.linalg.svd(values, full_matrices=False)
    return torch.as_tensor(vh[0])
