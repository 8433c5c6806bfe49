"""average_activation: at each layer a place goes to the modules on whose rows the layer read what is most like it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from allround.composition.gating import owned
from allround.composition.modules.bank import ModuleBank
from allround.composition.modules.layer import LinearLayer
from allround.composition.router import Router, RouteRows, taken_layers, top_softmax
from allround.core.errors import AllroundError
from allround.core.registry import method
from allround.models.running import batches


@method(
    source="mttl: HiddenStateComputer and average_activation_selector.py",
    needs=("rows",),
)
class AverageActivation(Router):
    """Weighs each module by softmax(x . p / temperature), where p is the mean of what a layer reads over rows of the
    module's tasks, which go through that module, scaled to length 1.

    rows: of each module. top: only so many of the largest weights are kept (0: all). temperature: 0 is the square root
    of the layer's width, as in mttl. center: from x and each p the mean over the modules is taken away first.
    Differs: mttl averages the last token of each of 10 rows, and takes nothing away. Encoders read both ways, so here
    all words of a row count, and no padding. Modules without rows of their own get no weight.
    """

    name = "average_activation"
    level = "place"

    def __init__(self, *, rows: int = 100, top: int = 0, temperature: float = 0.0, center: bool = False) -> None:
        super().__init__()
        if rows < 1 or top < 0 or temperature < 0:
            raise AllroundError(f"route with rows={rows}, top={top} and temperature={temperature}",
                                "rows must be at least 1, and the others at least 0", "give such numbers")  # fmt: skip
        self.rows, self.top, self.temperature, self.center = rows, top, temperature, center
        self.means: dict[str, Tensor] = {}
        self.known = torch.empty(0)

    def fit(self, bank: ModuleBank, tasks: Mapping[str, RouteRows], seed: int) -> None:
        super().fit(bank, tasks, seed)
        self.known = torch.zeros(self.count)
        sums: dict[str, Tensor] = {}
        for module, groups in owned(tasks, "fit the router 'average_activation'").items():
            self.known[module] = 1
            each = -(-self.rows // len(groups))
            for rows in groups:
                for layer, mean in _means(bank, module, rows, each).items():
                    sums.setdefault(layer, torch.zeros(self.count, len(mean)))[module] += mean / len(groups)
        self.means = sums

    def state(self) -> dict[str, Tensor]:
        return {"known": self.known, **{f"layer.{layer}": mean for layer, mean in self.means.items()}}

    def restore(self, bank: ModuleBank, state: Mapping[str, Tensor]) -> None:
        self.count = len(bank)
        self.means, (self.known,) = taken_layers(bank, state, known=(self.count,))

    def gate(self, layer: str, values: Tensor) -> Tensor:
        known = self.known.to(values.device)
        if layer not in self.means:
            return (known / known.sum()).expand(len(values), self.count)
        means, values = self.means[layer].to(values.device), values.float()
        if self.center:
            middle = (means * known[:, None]).sum(0) / known.sum()
            means, values = means - middle, values - middle
        scores = values @ F.normalize(means, dim=-1).T / (self.temperature or values.shape[-1] ** 0.5)
        return top_softmax(scores.masked_fill(known == 0, float("-inf")), self.top)


@torch.inference_mode()
def _means(bank: ModuleBank, module: int, rows: RouteRows, count: int) -> dict[str, Tensor]:
    """The mean of what each linear layer reads over the first rows of a task, which go through one module alone."""
    sums: dict[str, Tensor] = {}
    seen: dict[str, int] = {}
    alone = torch.zeros(1, len(bank))
    alone[0, module] = 1

    def look(layer: str, values: Tensor) -> Tensor:
        if isinstance(bank.layers[layer], LinearLayer):
            found = bank.mean(values).float()
            sums[layer] = sums.get(layer, 0) + found.sum(0).cpu()
            seen[layer] = seen.get(layer, 0) + len(found)
        return alone.to(values.device)

    bank.encoder.eval()
    with bank.using(look):
        for _, batch in batches(bank.encoder, rows.prepared[:count], rows.definition, 64):
            bank.encoder(batch)
    return {layer: total / seen[layer] for layer, total in sums.items()}
