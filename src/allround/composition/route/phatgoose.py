"""phatgoose: each module learns where it is useful; at use, places go to the modules whose gates fit them best."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from allround.composition.gating import check_steps, descend, drawn, frozen, owned
from allround.composition.modules.bank import ModuleBank
from allround.composition.modules.layer import LinearLayer
from allround.composition.router import Router, RouteRows, taken_layers, top_softmax
from allround.core.errors import AllroundError
from allround.core.registry import method
from allround.core.seeds import seed_of


@method(
    source="Muqeeth et al., ICML 2024, arXiv:2402.05859, section 3; mttl's phatgoose_selector.py",
    needs=("rows", "labels"),
)
class Phatgoose(Router):
    """Each module has a vector v for each linear layer. Alone with its own tasks' rows and their labels, the module's
    output is scaled by sigmoid(v . x), and v alone learns. At use a place has the softmax of LN(v) . LN(x) / sqrt(d)
    over the `top` largest; LN is layer normalisation without scale and shift.

    steps: of Adam for each module, the first tenth to warm up, on `batch` rows at the rate `rate`. Modules without rows
    of their own get no weight.
    """

    name = "phatgoose"
    level = "place"

    def __init__(self, *, steps: int = 100, rate: float = 1e-3, batch: int = 4, top: int = 2) -> None:
        super().__init__()
        check_steps(steps, rate, batch)
        if top < 0:
            raise AllroundError(f"route with top={top}", "top must be at least 0", "give 0 for all modules")
        self.steps, self.rate, self.batch, self.top = steps, rate, batch, top
        self.vectors: dict[str, Tensor] = {}
        self.known = torch.empty(0)

    def fit(self, bank: ModuleBank, tasks: Mapping[str, RouteRows], seed: int) -> None:
        super().fit(bank, tasks, seed)
        self.known, self.vectors = torch.zeros(self.count), {}
        for module, groups in owned(tasks, "fit the router 'phatgoose'").items():
            self.known[module] = 1
            for layer, vector in self._learned(bank, module, groups, seed).items():
                self.vectors.setdefault(layer, torch.zeros(self.count, len(vector)))[module] = vector

    def _learned(self, bank: ModuleBank, module: int, groups: list[RouteRows], seed: int) -> dict[str, Tensor]:
        """The vector of one module for each layer that it changes."""
        model, device = groups[0].model, groups[0].model.device
        own = {
            name: torch.zeros(layer.inputs, device=device, requires_grad=True)
            for name, layer in bank.layers.items()
            if isinstance(layer, LinearLayer) and module in layer.users
        }
        if not own:
            return {}
        generator = torch.Generator().manual_seed(seed_of(seed, "phatgoose", *sorted(one.task for one in groups)))
        column = F.one_hot(torch.tensor(module), len(bank)).float().to(device)
        turn = 0

        def gate(layer: str, values: Tensor) -> Tensor:
            if layer not in own:
                return column.expand(len(values), len(bank))
            return torch.sigmoid(values.float() @ own[layer])[..., None] * column

        def loss() -> Tensor:
            nonlocal turn
            rows = groups[turn % len(groups)]
            turn += 1
            with bank.using(gate):
                return rows.losses(drawn(rows, self.batch, generator)).mean

        with frozen(model):
            descend(list(own.values()), loss, steps=self.steps, rate=self.rate, warm=0.1, clip=1.0)
        return {name: vector.detach().cpu() for name, vector in own.items()}

    def state(self) -> dict[str, Tensor]:
        return {"known": self.known, **{f"layer.{layer}": vector for layer, vector in self.vectors.items()}}

    def restore(self, bank: ModuleBank, state: Mapping[str, Tensor]) -> None:
        self.count = len(bank)
        self.vectors, (self.known,) = taken_layers(bank, state, known=(self.count,))

    def gate(self, layer: str, values: Tensor) -> Tensor:
        known = self.known.to(values.device)
        if layer not in self.vectors:
            return (known / known.sum()).expand(len(values), self.count)
        width = values.shape[-1]
        vectors = F.layer_norm(self.vectors[layer].to(values.device), (width,))
        scores = F.layer_norm(values.float(), (width,)) @ vectors.T / width**0.5
        return top_softmax(scores.masked_fill(known == 0, float("-inf")), self.top)
