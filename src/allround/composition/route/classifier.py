"""classifier: a small network says from the base's vector of a row which module it belongs to."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from allround.composition.modules.bank import ModuleBank
from allround.composition.router import Router, RouteRows, Seen, labelled_vectors, taken_state
from allround.core.registry import method
from allround.core.seeds import seed_of

#: What is added for a module without rows of its own, so that its probability is zero.
NEVER = -1e4


@method(
    source="the router of Twin-Merging: Lu et al., NeurIPS 2024, arXiv:2406.15479, and LZY-the-boys/Twin-Merging",
    needs=("rows",),
)
class Classifier(Router):
    """Predicts from the base's vector of a row which module's task it is of; the probabilities are the weights.

    hidden: width of its hidden layer (0: none). steps: of training with AdamW at the rate 1e-3, on batches of 256 rows.
    Differs from the authors': one hidden layer with GELU in place of two with BatchNorm, since a row's answer must not
    depend on its batch; a tenth of the training rows says when to stop, and no test rows. Modules without rows of
    their own get no weight.
    """

    name = "classifier"

    def __init__(self, *, hidden: int = 256, steps: int = 400) -> None:
        super().__init__()
        self.hidden, self.steps = hidden, steps
        self.tensors: dict[str, Tensor] = {}

    def fit(self, bank: ModuleBank, tasks: Mapping[str, RouteRows], seed: int) -> None:
        super().fit(bank, tasks, seed)
        vectors, modules = labelled_vectors(bank, tasks)
        generator = torch.Generator().manual_seed(seed_of(seed, "classifier"))
        order = torch.randperm(len(vectors), generator=generator)
        held, train = order[: len(order) // 10], order[len(order) // 10 :]
        center, scale = vectors[train].mean(0), vectors[train].std(0, correction=0).clamp_min(1e-6)
        known = torch.bincount(modules, minlength=self.count) > 0
        network = self._network(vectors.shape[1], known, generator)
        optimiser = torch.optim.AdamW(list(network.values()), lr=1e-3, weight_decay=0.01)
        ready = (vectors - center) / scale
        best, kept = -1.0, {n: t.detach().clone() for n, t in network.items()}
        for step in range(self.steps):
            rows = train[torch.randint(len(train), (min(256, len(train)),), generator=generator)]
            loss = F.cross_entropy(_logits(network, ready[rows]), modules[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            if step % 20 == 19 or step == self.steps - 1:
                with torch.no_grad():
                    said = _logits(network, ready[held if len(held) else train])
                right = float((said.argmax(1) == modules[held if len(held) else train]).float().mean())
                if right > best:
                    best, kept = right, {n: t.detach().clone() for n, t in network.items()}
        self.tensors = {"center": center, "scale": scale, **kept}

    def _network(self, width: int, known: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        sizes = [(self.hidden, width), (self.count, self.hidden)] if self.hidden else [(self.count, width)]
        made: dict[str, Tensor] = {}
        for number, (rows, columns) in enumerate(sizes):
            bound = columns**-0.5
            last = number == len(sizes) - 1  # begins at zero: the order of the modules does not matter
            values = (torch.rand(rows, columns, generator=generator) * 2 - 1) * bound * (not last)
            made[f"weight{number}"] = nn.Parameter(values)
            made[f"bias{number}"] = nn.Parameter(torch.where(known, 0.0, NEVER) if last else torch.zeros(rows))
        return made

    def state(self) -> dict[str, Tensor]:
        return dict(self.tensors)

    def restore(self, bank: ModuleBank, state: Mapping[str, Tensor]) -> None:
        self.count = len(bank)
        width = len(state.get("center", ()))
        shapes: dict[str, tuple[int | None, ...]] = {"center": (width,), "scale": (width,)}
        sizes = [(self.hidden, width), (self.count, self.hidden)] if self.hidden else [(self.count, width)]
        for number, size in enumerate(sizes):
            shapes |= {f"weight{number}": size, f"bias{number}": size[:1]}
        self.tensors = dict(zip(shapes, taken_state(state, **shapes), strict=True))

    def weights(self, seen: Seen) -> Tensor:
        tensors = {name: tensor.to(seen.features.device) for name, tensor in self.tensors.items()}
        return _logits(tensors, (seen.features - tensors["center"]) / tensors["scale"]).softmax(-1)


def _logits(tensors: Mapping[str, Tensor], vectors: Tensor) -> Tensor:
    found = F.linear(vectors, tensors["weight0"], tensors["bias0"])
    return F.linear(F.gelu(found), tensors["weight1"], tensors["bias1"]) if "weight1" in tensors else found
