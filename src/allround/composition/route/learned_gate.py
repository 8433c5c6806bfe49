"""learned_gate: a softmax over the modules that is trained on the tasks' losses, the base and the modules frozen."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from allround.composition.gating import check_steps, descend, drawn, frozen, weighed_loss
from allround.composition.modules.bank import ModuleBank
from allround.composition.modules.layer import LinearLayer
from allround.composition.router import Router, RouteRows, Seen, base_vectors, taken_layers, taken_state, top_softmax
from allround.core.errors import AllroundError
from allround.core.registry import method
from allround.core.seeds import seed_of


@method(
    source="the softmax gate of mixtures of experts: Jacobs et al., Neural Computation 3, 1991; the modules are frozen",
    needs=("rows", "labels"),
)
class LearnedGate(Router):
    """Weighs modules by softmax(W x + b), which begins uniform and is trained on the losses of the tasks.

    per: "row" is one gate that reads the base's vector of a row, each number scaled by its spread over training rows;
    "layer" is a gate for each linear layer that modules change, which reads what the layer reads at a place, and
    normalises it. steps: of Adam, each on `batch` rows of each task at the rate `rate`. top: above 0, the largest so
    many weigh alone, by a softmax over them; the first half of the steps still weighs all, so that each is tried.
    """

    name = "learned_gate"

    def __init__(self, *, per: str = "row", steps: int = 100, rate: float = 1e-2, batch: int = 8, top: int = 0) -> None:
        super().__init__()
        check_steps(steps, rate, batch)
        if per not in ("row", "layer"):
            raise AllroundError(f"learn a gate per '{per}'", "there is no such way", "use one of: row, layer")
        if top < 0:
            raise AllroundError(f"weigh the {top} best modules", "there cannot be fewer than none",
                                "give 0 for all, or a number such as 2")  # fmt: skip
        self.level = "row" if per == "row" else "place"
        self.steps, self.rate, self.batch, self.top = steps, rate, batch, top
        #: How many modules weigh at the moment; 0 are all.
        self.weighing = top
        #: Of a gate per row: center, scale, weight and bias. Of gates per layer: the weights of each, (modules, width).
        self.tensors: dict[str, Tensor] = {}

    def fit(self, bank: ModuleBank, tasks: Mapping[str, RouteRows], seed: int) -> None:
        super().fit(bank, tasks, seed)
        used = {name: rows for name, rows in tasks.items() if len(rows)}
        if not used:
            raise AllroundError(f"fit the router '{self.name}'", "there are no rows", "give training rows of the tasks")
        model = next(iter(used.values())).model
        draws = {name: torch.Generator().manual_seed(seed_of(seed, self.name, name)) for name in used}
        vectors = {name: base_vectors(bank, rows) for name, rows in used.items()} if self.level == "row" else {}
        begun, learned = self._begun(bank, vectors)
        self.tensors = {name: tensor.to(model.device) for name, tensor in begun.items()}
        for name in learned:
            self.tensors[name].requires_grad_()

        steps = iter(range(self.steps))

        def loss() -> Tensor:
            self.weighing = self.top if 2 * next(steps) >= self.steps else 0
            parts = []
            for name, rows in used.items():
                some = drawn(rows, self.batch, draws[name])
                weights = self.weights(Seen(vectors[name][some].to(model.device))) if vectors else None
                parts.append(weighed_loss(bank, rows, some, self.gate if weights is None else weights))
            return torch.stack(parts).sum()

        with frozen(model):
            descend([self.tensors[name] for name in learned], loss, steps=self.steps, rate=self.rate)
        self.weighing = self.top
        self.tensors = {name: tensor.detach().cpu() for name, tensor in self.tensors.items()}

    def _begun(self, bank: ModuleBank, vectors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """Gates before they are trained, and the names of what is trained."""
        if self.level == "row":
            every = torch.cat(list(vectors.values()))
            begun = {
                "center": every.mean(0),
                "scale": every.std(0, correction=0).clamp_min(1e-6),
                "weight": torch.zeros(self.count, every.shape[1]),
                "bias": torch.zeros(self.count),
            }
            return begun, ["weight", "bias"]
        layers = {name: layer for name, layer in bank.layers.items() if isinstance(layer, LinearLayer)}
        begun = {f"layer.{name}": torch.zeros(self.count, layer.inputs) for name, layer in layers.items()}
        return begun, list(begun)

    def state(self) -> dict[str, Tensor]:
        return dict(self.tensors)

    def restore(self, bank: ModuleBank, state: Mapping[str, Tensor]) -> None:
        self.count = len(bank)
        if self.level == "row":
            width = len(state.get("center", ()))
            shapes = {"center": (width,), "scale": (width,), "weight": (self.count, width), "bias": (self.count,)}
            self.tensors = dict(zip(shapes, taken_state(state, **shapes), strict=True))
        else:
            layers, _ = taken_layers(bank, state)
            self.tensors = {f"layer.{name}": tensor for name, tensor in layers.items()}

    def weights(self, seen: Seen) -> Tensor:
        own = {name: tensor.to(seen.features.device) for name, tensor in self.tensors.items()}
        scores = F.linear((seen.features - own["center"]) / own["scale"], own["weight"], own["bias"])
        return top_softmax(scores, self.weighing)

    def gate(self, layer: str, values: Tensor) -> Tensor:
        weight = self.tensors.get(f"layer.{layer}")
        if weight is None:
            return torch.full((len(values), self.count), 1 / self.count, device=values.device)
        read = F.layer_norm(values.float(), values.shape[-1:])
        return top_softmax(F.linear(read, weight.to(values.device)), self.weighing)
