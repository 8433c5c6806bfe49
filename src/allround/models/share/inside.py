"""The modules at one layer inside an encoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from allround.models.share.bank_base import Bank
from allround.models.share.gate.noisy_topk import NoisyTopk
from allround.models.share.gate_base import Gate
from allround.models.share.gate_combining import Combiner
from allround.models.share.generator import Generated, Place, WeightGenerator
from allround.models.share.mixture import SHARED, Mixture
from allround.models.share.plan import Mixing, part
from allround.models.share.vectors import TaskVectors


class Inside(Mixture):
    """A mixture whose gates may read the task's vector, be those of another layer, or be one for all tasks, and whose
    modules may be made by a generator.

    vectors: of the tasks. tied: the mixture whose gates these are too. generator: what makes each task's module, with
    the place for which it does.
    """

    def __init__(
        self,
        mixing: Mixing,
        width: int,
        outputs: int,
        gate_width: int | None = None,
        *,
        vectors: TaskVectors | None = None,
        tied: Inside | None = None,
        generator: tuple[WeightGenerator, Place] | None = None,
    ) -> None:
        self._apart = (vectors, tied, generator)
        read = width if gate_width is None else gate_width
        size = vectors.size if vectors is not None else 0
        super().__init__(mixing, width, outputs, {"vectors": read, "task": size, "both": read + size}[mixing.reads])
        self._added: dict[str, Tensor] = {}
        if mixing.stages:
            self.register_buffer("composed", torch.zeros(()))

    def add_tasks(self, names: Sequence[str], readers: Sequence[str] | None = None) -> None:
        _, tied, generator = self._apart
        if generator is not None:
            for name in names:
                pattern = part("bank", self.mixing.bank, self.mixing.count, self.width, self.outputs)
                self.banks[name] = Generated(pattern, generator[0], name, generator[1])
        elif self.mixing.owners != "shared":
            for name in names:
                self.banks[name] = self._bank(self.mixing.count)
        if self.mixing.gates == "common":
            for name in (SHARED, *names):
                self.visible[name] = (SHARED,)
            if tied is None and not self.gates.keys():
                self._add_gate(SHARED)
            return
        for name in names:
            self.visible[name] = self._sees(name)
            if tied is None:
                self._add_gate(name)

    def _add_gate(self, reader: str) -> None:
        owners = self.visible[reader]
        sizes = [self.bank(owner).count for owner in owners]
        start = sum(sizes[: owners.index(reader)]) if reader in owners and reader != SHARED else 0
        own = range(start, start + self.bank(reader).count) if reader in owners and reader != SHARED else range(0)
        self._put_gate(reader, self.mixing.gate, sum(sizes), tuple(own))

    def gate(self, reader: str) -> Gate:
        tied = self._apart[1]
        if tied is not None:
            return tied.gate(reader)
        return super().gate(SHARED if self.mixing.gates == "common" else reader)

    def _reads(self, values: Tensor, reader: str) -> Tensor:
        """What a reader's gate reads."""
        vectors = self._apart[0]
        if self.mixing.reads == "vectors":
            return values
        assert vectors is not None
        own: Tensor = vectors(reader)
        return own if self.mixing.reads == "task" else torch.cat([values, own.expand(*values.shape[:-1], -1)], -1)

    def weights(self, values: Tensor, reader: str) -> Tensor:
        """A reader's weights of modules, from what gates read where the modules are."""
        gate = self.gate(reader)
        found: Tensor = gate(self._reads(values, reader))
        self._remember(reader, gate)
        return found

    def mixed(self, values: Tensor, reader: str) -> Tensor:
        if self.mixing.stages and not self.get_buffer("composed"):
            own = self.bank(reader)
            return own.mixed(values, values.new_ones(own.count))
        gate = self.gate(reader)
        if isinstance(gate, Combiner):
            stack = [self.bank(owner)(values.unsqueeze(-2)) for owner in self.visible[reader]]
            found = torch.cat(stack, -2)
            made = gate.combine(self._reads(values, reader), found.detach() if self.mixing.stages else found)
            self._remember(reader, gate)
            return made
        weights = self.split(reader, self.weights(values, reader))
        parts = [self.bank(owner).mixed(values, some) for owner, some in weights.items()]
        return parts[0] if len(parts) == 1 else torch.stack(parts).sum(0)

    def own(self, task: str, *, last: bool = True) -> dict[str, nn.Parameter]:
        found: dict[str, nn.Parameter] = {}
        if task in self.gates:
            found |= {f"gates.{task}.{name}": p for name, p in self.gates[task].named_parameters()}
        if task in self.banks and self.mixing.sees != "all":
            found |= {f"banks.{task}.{name}": p for name, p in self.banks[task].named_parameters()}
        return found

    # -- penalties -----------------------------------------------------------------------------------------------------

    def _remember(self, reader: str, gate: Gate) -> None:
        """Keep what the gate adds to the loss of a reader until it is asked for."""
        if not self.training:
            return
        terms = [term for term in (gate.penalty(), self._mutual(reader, gate)) if term is not None]
        if terms:
            self._added[reader] = torch.stack(terms).sum()

    def _mutual(self, reader: str, gate: Gate) -> Tensor | None:
        """Minus the reader's part of the mutual information of tasks and modules: how far its use of modules is from
        that of all tasks on average."""
        if not self.mixing.mutual:
            return None
        assert isinstance(gate, NoisyTopk) and gate.usage is not None
        others = [self.gate(task).get_buffer("seen") for task in self.gates if task != reader]
        own = (gate.usage / gate.usage.sum()).clamp_min(1e-8)
        every = torch.stack([own, *(seen / seen.sum() for seen in others)]).mean(0).clamp_min(1e-8)
        return -self.mixing.mutual * (own * (own / every).log()).sum()

    def penalty(self, reader: str) -> Tensor | None:
        return self._added.pop(reader, None)

    def progressed(self, share: float) -> None:
        super().progressed(share)
        if self.mixing.stages:
            self.get_buffer("composed").fill_(float(share >= 0.5))


def shapes_of(mixing: Mixing, width: int, outputs: int) -> dict[str, torch.Size]:
    """The tensors of a task's module."""
    pattern: Bank = part("bank", mixing.bank, mixing.count, width, outputs)
    return {name: tensor.shape for name, tensor in pattern.named_parameters()}
