"""entropy_gate: each feed-forward part weighs the modules by a small network that makes answers decided."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from allround.composition.gating import check_steps, descend, drawn, frozen, owned
from allround.composition.modules.bank import Gate, ModuleBank
from allround.composition.modules.layer import LinearLayer
from allround.composition.router import Router, RouteRows, taken_state
from allround.core.errors import AllroundError
from allround.core.registry import method
from allround.core.seeds import seed_of
from allround.models.encoder import Encoder
from allround.models.share.sites import blocks_of

#: The tensors of a gate: a hidden layer, and one that gives the weights.
_PARTS = ("hidden", "hidden_bias", "weight", "bias")


@method(
    source="Tang et al., ICML 2024, arXiv:2402.00433, section 3.2; fusion_bench's we_moe.py. shared: arXiv:2410.21804",
    paper="Merging Multi-Task Models via Weight-Ensembling Mixture of Experts",
    needs=("rows",),
    exempt={"twin": "gates begin at random numbers, and weights do not compete: a twin adds to its module"},
)
class EntropyGate(Router):
    """Outside of feed-forward parts each module has the weight `scale`, as in task arithmetic. In a feed-forward part
    the weights are b + W relu(V x + c), where x is the mean over a row's words of what the part reads. They begin near
    `scale`, need not add up to 1, and are fitted so that the heads' answers to training rows have little entropy. Needs
    no labels.

    shared: one gate for all feed-forward parts, as in E-WEMoE. steps: of Adam, each on `batch` rows of each task.
    hold: how much it costs that the mean answer to a batch leaves that of task arithmetic: the loss of a task is the
    mean entropy + hold * KL(mean answer || mean answer at `scale`). Without it the least entropy is one answer to all.
    Differs: the authors hold nothing, fit on the test rows of each task, weigh a whole batch alike by default, count
    padding as words, and take 1,000 steps at the rate 1e-4 with 16 rows. E-WEMoE prunes the modules too; here they stay
    whole.
    """

    name = "entropy_gate"
    level = "place"

    def __init__(
        self,
        *,
        scale: float = 0.3,
        shared: bool = False,
        steps: int = 40,
        rate: float = 1e-3,
        batch: int = 8,
        hold: float = 3.0,
    ) -> None:
        super().__init__()
        check_steps(steps, rate, batch)
        if hold < 0:
            raise AllroundError(f"hold mean answers with the weight {hold}", "it must be at least 0", "give 0 or more")
        self.scale, self.shared, self.steps, self.rate, self.batch = scale, shared, steps, rate, batch
        self.hold = hold
        self.gates: dict[str, Tensor] = {}
        self._take_up(None)

    def _take_up(self, bank: ModuleBank | None) -> None:
        self.bank = bank
        #: The first layer of each feed-forward part that modules change, for each of its layers.
        self.first = first_layers(bank) if bank is not None else {}
        self._now: dict[str, Tensor] = {}

    def check(self, encoder: Encoder) -> None:
        super().check(encoder)
        if "texts" in encoder.gives:  # the mean over the words of a row is taken, and a pass has them in one sequence
            raise self.cannot("several rows of a language model stand in one sequence")

    def fit(self, bank: ModuleBank, tasks: Mapping[str, RouteRows], seed: int) -> None:
        super().fit(bank, tasks, seed)
        self._take_up(bank)
        if not self.first:
            raise self.cannot("no module changes a feed-forward part of the encoder")
        used = {name: rows for name, rows in tasks.items() if len(rows) and _undecided(rows)}
        if not used:
            raise self.cannot("none of the tasks has labels to be undecided between")
        generator = torch.Generator().manual_seed(seed_of(seed, self.name))
        model = next(iter(used.values())).model
        self.gates = {name: t.to(model.device).requires_grad_() for name, t in self._begun(tasks, generator).items()}
        draws = {name: torch.Generator().manual_seed(seed_of(seed, self.name, name)) for name in used}

        even = torch.full((1, self.count), self.scale, device=model.device)

        def loss() -> Tensor:
            parts = []
            for name, rows in used.items():
                some = drawn(rows, self.batch, draws[name])
                found = _answers(rows, some, bank, self.gate)
                parts.append(-(found.exp() * found).sum(-1).mean())
                if self.hold:
                    with torch.no_grad():
                        held = _mean(_answers(rows, some, bank, lambda _, values: even.expand(len(values), -1)))
                    mean = _mean(found)
                    parts.append(self.hold * (mean.exp() * (mean - held)).sum(-1).mean())
            return torch.stack(parts).sum()

        with frozen(model):
            descend(list(self.gates.values()), loss, steps=self.steps, rate=self.rate)
        self.gates = {name: tensor.detach().cpu() for name, tensor in self.gates.items()}

    def _begun(self, tasks: Mapping[str, RouteRows], generator: torch.Generator) -> dict[str, Tensor]:
        """Gates before they are fitted. Modules draw in the order of their tasks, so that their own does not matter."""
        assert self.bank is not None
        firsts = list(dict.fromkeys(self.first.values()))
        order = list(dict.fromkeys([*owned(tasks, f"fit the router '{self.name}'"), *range(self.count)]))
        made: dict[str, Tensor] = {}
        for first in firsts[:1] if self.shared else firsts:
            layer = self.bank.layers[first]
            assert isinstance(layer, LinearLayer)
            width, name = layer.inputs, self._called(first)
            weight = torch.empty(self.count, width)
            made[f"{name}.hidden"] = 0.01 * torch.randn(width, width, generator=generator)
            weight[order] = 0.01 * torch.randn(self.count, width, generator=generator)
            made[f"{name}.hidden_bias"] = torch.zeros(width)
            made[f"{name}.weight"] = weight
            made[f"{name}.bias"] = torch.full((self.count,), self.scale)
        return made

    def _called(self, first: str) -> str:
        return "all" if self.shared else first

    def state(self) -> dict[str, Tensor]:
        return dict(self.gates)

    def restore(self, bank: ModuleBank, state: Mapping[str, Tensor]) -> None:
        self.count = len(bank)
        self._take_up(bank)
        shapes: dict[str, tuple[int | None, ...]] = {}
        for first in dict.fromkeys(self.first.values()):
            layer = bank.layers[first]
            assert isinstance(layer, LinearLayer)
            sizes = ((layer.inputs,) * 2, (layer.inputs,), (self.count, layer.inputs), (self.count,))
            shapes |= {f"{self._called(first)}.{part}": size for part, size in zip(_PARTS, sizes, strict=True)}
        self.gates = dict(zip(shapes, taken_state(state, **shapes), strict=True))

    def gate(self, layer: str, values: Tensor) -> Tensor:
        first = self.first.get(layer)
        if first is None or self.bank is None:
            return torch.full((len(values), self.count), self.scale, device=values.device)
        if layer == first:
            name = self._called(first)
            hidden, hidden_bias, weight, bias = (self.gates[f"{name}.{part}"].to(values.device) for part in _PARTS)
            read = self.bank.mean(values).float()
            self._now[first] = F.linear(F.relu(F.linear(read, hidden, hidden_bias)), weight, bias)
        return self._now[first]


def first_layers(bank: ModuleBank) -> dict[str, str]:
    """For each linear layer of a feed-forward part that modules change, the one of them that the part computes first.

    Layers of a part are computed in the order in which the network lists them.
    """
    found: dict[str, str] = {}
    for block in blocks_of(bank.encoder.backbone):
        names = [name.removesuffix(".base") for name in block.feed_forward]
        own = [name for name in dict.fromkeys(names) if isinstance(bank.layers.get(name), LinearLayer)]
        found |= dict.fromkeys(own, own[0]) if own else {}
    return found


def _answers(rows: RouteRows, some: Sequence[int], bank: ModuleBank, gate: Gate) -> Tensor:
    """The logarithms of what a head gives the labels for rows: (n, *, labels)."""
    with bank.using(gate):
        features = rows.model.features(rows.batch(some)).of(rows.task).values
    head = rows.model.output_head(rows.task)
    found = head.likelihood.log_probabilities(head(features).float())
    assert found is not None
    return found


def _mean(answers: Tensor) -> Tensor:
    """The logarithm of the mean answer to rows: (n, *, labels) -> (*, labels)."""
    return answers.logsumexp(0) - math.log(len(answers))


def _undecided(rows: RouteRows) -> bool:
    """Whether answers to a task have an entropy."""
    head = rows.model.output_head(rows.task)
    return head.likelihood.log_probabilities(torch.zeros(1, head.outputs)) is not None
