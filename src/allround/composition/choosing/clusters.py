"""Groups of modules that change the base alike, each merged into one module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from allround.checkpoints.adapter_config import CONFIG
from allround.checkpoints.source import Source
from allround.composition.library.sketching import product
from allround.composition.modules.changes import Changes, LowRankChange, stacked
from allround.composition.systems.routed import Member
from allround.core.errors import AllroundError
from allround.core.files import write_json


def group_modules(modules: Sequence[Changes], count: int, seed: int = 0) -> list[int]:
    """The group of each module, of `count` groups, by k-means on the directions of their changes.

    Ostapenko et al., ICML 2024, arXiv:2405.11157 (model-based clustering). Differs: theirs flattens the factors A and B
    as they are, keeps the largest entries and projects them; here the changes B A themselves are compared, whose
    cosines do not depend on how a change is split into factors, or on its rank. Groups are numbered in the order of
    their first modules.
    """
    from sklearn.cluster import KMeans

    if not 1 <= count <= len(modules):
        raise AllroundError(f"put {len(modules)} modules into {count} groups", "there cannot be so many",
                            f"give 1 to {len(modules)}")  # fmt: skip
    values, vectors = np.linalg.eigh(cosines(modules).numpy())
    places = vectors * np.sqrt(np.clip(values, 0, None))  # rows whose inner products are the cosines
    found = KMeans(count, n_init=10, random_state=seed % 2**32).fit_predict(places).tolist()
    order = list(dict.fromkeys(found))
    return [order.index(group) for group in found]


def cosines(modules: Sequence[Changes]) -> Tensor:
    """The cosine between the changes of each two modules, over all tensors: (modules, modules)."""
    found = torch.zeros(len(modules), len(modules), dtype=torch.float64)
    for row, one in enumerate(modules):
        for column in range(row, len(modules)):
            found[row, column] = found[column, row] = product(one, modules[column])
    norms = found.diagonal().clamp_min(1e-30).sqrt()
    return found / norms / norms[:, None]


def merge_groups(
    base: Source, members: Sequence[Member], groups: Sequence[int], out: Path, *, rank: int | None = None
) -> list[Member]:
    """One module for each group, the mean of its members' changes, written as adapters below a new folder `out`.

    rank: of the merged adapters; by default the sum of the members' ranks, with which they are exact. Differs from the
    paper: there each group is trained again on the rows of all of its tasks. Errors: modules that change more than
    weights by plain low-rank factors.
    """
    found = []
    for group in sorted(set(groups)):
        own = [member for member, number in zip(members, groups, strict=True) if number == group]
        changes = mean_change([Changes(base, member.folder) for member in own], rank)
        name = own[0].name if len(own) == 1 else f"group{group + 1}"
        write_adapter(out / name, changes)
        found.append(Member(name, out / name, tuple(task for member in own for task in member.tasks)))
    return found


def mean_change(modules: Sequence[Changes], rank: int | None = None) -> dict[str, LowRankChange]:
    """The mean of low-rank changes, as `summed_change` gives it."""
    return summed_change(modules, [1 / len(modules)] * len(modules), rank)


def summed_change(
    modules: Sequence[Changes], weights: Sequence[float], rank: int | None = None
) -> dict[str, LowRankChange]:
    """The sum of low-rank changes, each times its weight, by tensor. rank: cut to the largest singular values.
    Errors: modules that change more than weights by plain low-rank factors."""
    found: dict[str, LowRankChange] = {}
    for name in dict.fromkeys(name for module in modules for name in module):
        changes: dict[int, LowRankChange] = {}
        for number, module in enumerate(modules):
            change = module.get(name)
            if change is None:
                continue
            if not isinstance(change, LowRankChange) or change.factor is not None:
                raise AllroundError(
                    f"merge {len(modules)} modules into one",
                    f"{module.folder} changes '{name}' otherwise than by plain low-rank factors",
                    "leave it in a group of its own, or make a plain adapter of it: allround extract-lora",
                )
            changes[number] = LowRankChange(change.down, change.up * weights[number])
        down, up = stacked(changes)
        found[name] = LowRankChange(*(cut(down, up, rank) if rank is not None and rank < len(down) else (down, up)))
    return found


def cut(down: Tensor, up: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The factors of up @ down cut to its largest singular values, shared evenly between both.

    >>> down, up = cut(torch.eye(2), torch.diag(torch.tensor([4.0, 1.0])), 1)
    >>> (up @ down).tolist()
    [[4.0, 0.0], [0.0, 0.0]]
    """
    left, first = torch.linalg.qr(up)
    right, second = torch.linalg.qr(down.T)
    u, values, vh = torch.linalg.svd(first @ second.T)
    root = values[:rank].sqrt()
    return root[:, None] * (vh[:rank] @ right.T), (left @ u[:, :rank]) * root


def write_adapter(folder: Path, changes: Mapping[str, LowRankChange]) -> None:
    """Low-rank changes as an adapter of PEFT, in a new folder."""
    from safetensors.torch import save_file

    tensors: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    for name, change in changes.items():
        layer = name.removesuffix(".weight")
        ranks[layer] = change.rank
        tensors[f"base_model.model.{layer}.lora_A.weight"] = change.down.contiguous()
        tensors[f"base_model.model.{layer}.lora_B.weight"] = change.up.contiguous()
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    first = next(iter(ranks.values()))
    others = {layer: rank for layer, rank in ranks.items() if rank != first}
    write_json(
        folder / CONFIG,
        {"peft_type": "LORA", "r": first, "lora_alpha": first, "target_modules": list(ranks), "bias": "none",
         "lora_dropout": 0.0, "base_model_name_or_path": None, "task_type": None, "rank_pattern": others,
         "alpha_pattern": dict(others)},
    )  # fmt: skip
