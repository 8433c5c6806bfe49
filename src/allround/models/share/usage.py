"""Who uses what: how much the gate of each task weighs each module, and which modules are dead or twins."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from allround.models.encoders.sharing import Sharing
from allround.models.running import batches
from allround.models.share.bank_base import Bank
from allround.models.share.mixture import SHARED, Mixture
from allround.models.share.tree import Tree
from allround.tasks.definition import Definition

#: A module whose weight stays below this share of an even one for every task is dead.
DEAD = 0.05
#: Modules are twins where their weights point into the same direction up to this cosine.
TWIN = 0.99


@dataclass(frozen=True)
class ModuleUse:
    """How much a task uses a module.

    place: where the module sits. owner: the task that has it for itself, or "" where all share it. number: among those
    of its owner, from 1 on. weight: the mean size of what the task's gate gives it over rows.
    """

    place: str
    owner: str
    number: int
    task: str
    weight: float

    @property
    def module(self) -> str:
        """The module in words.

        >>> ModuleUse("level 1", "", 2, "a", 0.5).module
        'shared 2'
        """
        return f"{self.owner or 'shared'} {self.number}"


@torch.inference_mode()
def module_uses(
    encoder: Sharing, rows: Mapping[str, Sequence[Any]], definitions: Mapping[str, Definition]
) -> list[ModuleUse]:
    """How much each task uses each module that it sees, over prepared rows of its own. rows: by task."""
    encoder.eval()
    found: list[ModuleUse] = [] if encoder.branches is None else _tree_uses(encoder.branches)
    for task, prepared in rows.items():
        with _watched(encoder, task) as seen:
            for _, batch in batches(encoder, prepared, definitions[task], 64):
                encoder(batch)
        for place, mixture in places(encoder):
            if place in seen:
                total, count = seen[place]
                for owner, weights in mixture.split(task, total / count).items():
                    own = "" if owner == SHARED else owner
                    found += [ModuleUse(place, own, n + 1, task, float(w)) for n, w in enumerate(weights.tolist())]
    return found


def places(encoder: Sharing) -> Iterator[tuple[str, Mixture]]:
    """The mixtures of an encoder, by the names of the places where they sit."""
    for name, layer in encoder.sites:
        mixture = encoder.parts[name]
        assert isinstance(mixture, Mixture)
        yield layer, mixture
    for number, mixture in enumerate(encoder.network.mixtures if encoder.network is not None else ()):
        assert isinstance(mixture, Mixture)
        yield f"level {number + 1}", mixture


def _tree_uses(tree: Tree) -> list[ModuleUse]:
    """Which copy of each stage of an encoder a task goes through."""
    paths = tree.paths()
    return [
        ModuleUse(f"stage {stage + 1}", "", number + 1, task, float(path[stage] == number))
        for stage, numbers in enumerate(zip(*paths.values(), strict=True))
        for task, path in paths.items()
        for number in sorted(set(numbers))
    ]


@contextmanager
def _watched(encoder: Sharing, task: str) -> Iterator[dict[str, tuple[Tensor, int]]]:
    """By place, the sum of the sizes of the weights that a task's gates give, and how many vectors they were for."""
    seen: dict[str, tuple[Tensor, int]] = {}

    def watch(place: str) -> Any:
        def hook(gate: torch.nn.Module, given: tuple[Tensor, ...], weights: Tensor) -> None:
            sizes = weights.abs().mean(-1) if gate.channels else weights.abs()
            sizes = sizes.reshape(-1, sizes.shape[-1])
            total, count = seen.get(place, (torch.zeros(sizes.shape[-1], device=sizes.device), 0))
            seen[place] = total + sizes.sum(0), count + len(sizes)

        return hook

    handles = [
        mixture.gate(task).register_forward_hook(watch(place))
        for place, mixture in places(encoder)
        if task in mixture.visible
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def dead_modules(uses: Sequence[ModuleUse]) -> list[str]:
    """The modules that no task uses, in words: every task gives them less than `DEAD` of an even weight.

    >>> dead_modules([ModuleUse("level 1", "", n, "a", weight) for n, weight in ((1, 1.0), (2, 0.0))])
    ['shared 2 of level 1']
    """
    used: dict[tuple[str, str, int], bool] = {}
    for use in uses:
        of = [other.weight for other in uses if other.place == use.place and other.task == use.task]
        key = use.place, use.owner, use.number
        used[key] = used.get(key, False) or use.weight >= DEAD * sum(of) / len(of)
    return [f"{owner or 'shared'} {number} of {place}" for (place, owner, number), some in used.items() if not some]


@torch.no_grad()
def twin_modules(encoder: Sharing) -> list[str]:
    """Pairs of modules of one bank with nearly the same weights, in words."""
    found = []
    for place, mixture in places(encoder):
        for owner in mixture.banks:
            name = "shared" if owner == SHARED else owner
            bank = mixture.bank(owner)
            found += [f"{name} {a + 1} and {b + 1} of {place}" for a, b in _twins(bank)]
    return found


def _twins(bank: Bank) -> list[tuple[int, int]]:
    parts = [p.detach().flatten(1) for p in bank.parameters() if p.dim() > 1 and len(p) == bank.count]
    if bank.count < 2 or not parts:
        return []
    directions = torch.nn.functional.normalize(torch.cat(parts, 1), dim=1)
    near = directions @ directions.T
    return [(a, b) for a in range(bank.count) for b in range(a + 1, bank.count) if float(near[a, b]) > TWIN]
