"""A merge as one adapter of the base: each merged weight is cut to a low rank as it is made."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from allround.checkpoints.source import Source
from allround.core.errors import AllroundError
from allround.core.version import __version__
from allround.merging.extract import Extracted, extract_lora
from allround.merging.plan import Plan
from allround.merging.tensors import Merger, Tensors, answers_of, merge_item


class Merged(Source):
    """What a plan gives, one tensor after the other; nothing is written, and nothing kept. Not for several threads."""

    def __init__(self, plan: Plan, device: str = "cpu") -> None:
        assert plan.base is not None
        self.plan, self.path = plan, plan.base.path
        self.items = {item.name: item for item in plan.items}
        self.merger = Merger(plan, torch.device(device), answers_of(plan, threads=1, device=device))

    def __iter__(self) -> Iterator[str]:
        return iter(self.items)

    def shape(self, name: str) -> tuple[int, ...]:
        return self.items[name].shape

    def dtype(self, name: str) -> str:
        return self.items[name].dtype

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        item = self.items[name]
        held = Tensors([item])
        merge_item(self.plan, item, held, self.merger)
        return held.found[name].view(-1)[start:stop]

    @property
    def files(self) -> list[Path]:
        return [file for source in (self.plan.base, *self.plan.models) if source is not None for file in source.files]


def merge_as_lora(plan: Plan, out: Path | str, rank: int, *, device: str = "cpu", force: bool = False) -> Extracted:
    """Carry out a plan, and write what it changes of the base as one adapter of PEFT of at most this rank, into `out`.

    The merged model is never written. Errors: a merge without a base; as `extract_lora`.
    """
    recipe = plan.recipe
    if plan.base is None or recipe.base is None:
        raise AllroundError(
            f"write a merge as an adapter of rank {rank}",
            "an adapter is a change of a base, and the merge has none",
            "give the base first, and leave --no-base out; or leave --as-lora out",
        )
    about = {
        "method": recipe.method,
        "base": str(recipe.base),
        "models": [str(model) for model in recipe.models],
        "parameters": plan.entry.resolve(recipe.values),
        "rank": rank,
        "allround": __version__,
    }
    return extract_lora(Merged(plan, device), plan.base, out, rank, device=device, force=force, merged=about)
