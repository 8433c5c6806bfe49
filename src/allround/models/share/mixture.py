"""Modules by their owners, and a gate of each task that mixes what they give."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from allround.models.named import NamedModules
from allround.models.share.bank_base import Bank
from allround.models.share.gate_base import Gate
from allround.models.share.plan import Choice, Mixing, part

#: The owner of what belongs to all tasks; no task can have that name.
SHARED = "@shared"


class Mixture(nn.Module):
    """The banks of each owner and the gates of each reader: tasks, and at inner levels the shared stream.

    width: numbers that modules read; outputs: numbers that they give; gate_width: numbers that gates read; further:
    what a gate weighs beside the modules. Tasks come in groups, as they arrived: a gate sees the modules of its own
    group and of earlier ones, so that a task that is added later changes nothing for the others.
    """

    def __init__(
        self, mixing: Mixing, width: int, outputs: int, gate_width: int | None = None, further: int = 0
    ) -> None:
        super().__init__()
        self.mixing, self.width, self.outputs, self.further = mixing, width, outputs, further
        self.gate_width = width if gate_width is None else gate_width
        self.banks, self.gates = NamedModules(), NamedModules()
        self.visible: dict[str, tuple[str, ...]] = {}
        if mixing.owners != "tasks":
            self.banks[SHARED] = self._bank(mixing.shared)

    def _bank(self, count: int) -> Bank:
        made: Bank = part("bank", self.mixing.bank, count, self.width, self.outputs)
        return made

    def add_tasks(self, names: Sequence[str], readers: Sequence[str] | None = None) -> None:
        """Modules and gates of a group of tasks. readers: who gets a gate, where it is not just these tasks."""
        if self.mixing.owners != "shared":
            for name in names:
                self.banks[name] = self._bank(self.mixing.count)
        for reader in names if readers is None else readers:
            self.visible[reader] = owners = self._sees(reader)
            sizes = [self.bank(owner).count for owner in owners]
            shared = reader.startswith(SHARED)
            # Streams of the shared modules one by one (MMoE) have no own module.
            owner = SHARED if shared and self.mixing.owners == "tasks+shared" else reader
            start = sum(sizes[: owners.index(owner)]) if owner in owners else 0
            own = tuple(range(start, start + self.bank(owner).count)) if owner in owners else ()
            gate = self.mixing.shared_gate if shared and self.mixing.shared_gate else self.mixing.gate
            self._put_gate(reader, gate, sum(sizes) + self.further, own)

    def _put_gate(self, reader: str, sort: Choice, count: int, own: tuple[int, ...]) -> None:
        gate: Gate = part("gate", sort, count, self.gate_width, own)
        if reader in self.mixing.start:
            gate.begin(self.mixing.start[reader])
        self.gates[reader] = gate

    def _sees(self, reader: str) -> tuple[str, ...]:
        owners = tuple(self.banks)
        if self.mixing.sees == "all" or reader.startswith(SHARED):
            return owners
        seen = (reader, SHARED) if self.mixing.sees == "own+shared" else (reader,)
        return tuple(owner for owner in owners if owner in seen)

    def bank(self, owner: str) -> Bank:
        found = self.banks[owner]
        assert isinstance(found, Bank)
        return found

    def gate(self, reader: str) -> Gate:
        found = self.gates[reader]
        assert isinstance(found, Gate)
        return found

    def every_gate(self) -> Iterator[Gate]:
        for reader in self.gates:
            yield self.gate(reader)

    def split(self, reader: str, weights: Tensor) -> dict[str, Tensor]:
        """A reader's weights by the owners of the modules."""
        owners = self.visible[reader]
        sizes = [self.bank(owner).count for owner in owners]
        return dict(zip(owners, weights[..., : sum(sizes)].split(sizes, -1), strict=True))

    def mixed(self, values: Tensor, reader: str) -> Tensor:
        """What a reader's gate makes of the modules: (*, width) -> (*, outputs)."""
        weights = self.split(reader, self.gate(reader)(values))
        found = [self.bank(owner).mixed(values, some) for owner, some in weights.items()]
        return found[0] if len(found) == 1 else torch.stack(found).sum(0)

    def penalty(self, reader: str) -> Tensor | None:
        """What a reader's gate adds to the loss, from the weights that it gave last."""
        return self.gate(reader).penalty() if reader in self.gates else None

    def progressed(self, share: float) -> None:
        """Told how much of the training is done."""
        for gate in self.every_gate():
            gate.progressed(share)

    def own(self, task: str, *, last: bool = True) -> dict[str, nn.Parameter]:
        """The parameters that only a task uses. last: whether behind it a task's stream reaches no other."""
        if not last or task not in self.gates:
            return {}
        found = {f"gates.{task}.{name}": p for name, p in self.gates[task].named_parameters()}
        shared_gate = any(reader.startswith(SHARED) for reader in self.gates)  # it sees all modules
        if task in self.banks and self.mixing.sees != "all" and not shared_gate:
            found |= {f"banks.{task}.{name}": p for name, p in self.banks[task].named_parameters()}
        return found
