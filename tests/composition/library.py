"""A library of tiny modules, and systems that route between them, for the tests of routers and combinations."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from allround.composition.router import Router
from allround.composition.routing import make_routed
from allround.composition.systems.routed import Member, Routed
from allround.models.base import load_encoder
from allround.models.encoder import Encoder
from allround.models.head import HeadState
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.task import Task

#: Layers of a BERT that modules change.
BERT = ("query", "intermediate.dense", "output.dense")
#: Few steps: what routers learn is looked at elsewhere.
FAST = {
    "classifier": {"steps": 20, "hidden": 8},
    "phatgoose": {"steps": 2},
    "regressed_loss": {"rows": 4},
    "scorer": {"rows": 4},
    "entropy_gate": {"steps": 2},
    "learned_gate": {"steps": 2},
}


@dataclass
class Library:
    """A base, modules of one task each, and a task that has none."""

    base: Path
    encoder: Encoder
    tasks: dict[str, Task]
    heads: dict[str, HeadState]
    members: list[Member]

    def routed(
        self,
        router: str,
        combine: str = "outputs",
        *,
        members: Sequence[Member] | None = None,
        wrap: Callable[[Router], Router] = lambda router: router,
        combine_settings: Mapping[str, object] | None = None,
        **settings: object,
    ) -> Routed:
        made = make_routed(
            self.base,
            self.members if members is None else members,
            self.tasks,
            self.heads,
            router=router,
            combine=combine,
            router_settings={**FAST.get(router, {}), **settings},
            combine_settings=combine_settings,
            encoder=copy.deepcopy(self.encoder),
        )
        made.router = wrap(made.router)
        return made


def make_library(base: Path, place: Path, tasks: Sequence[Task], targets: tuple[str, ...] = BERT) -> Library:
    """Tasks with training rows alone, heads that answer at random, and a module for each task but the last."""
    encoder = load_encoder(base)
    # There are no rows but those of training that a router could look at.
    kept = {task.name: replace(task, splits={"train": task.splits["train"]}) for task in tasks}
    model = MultiTaskModel(encoder, {task.name: task.definition for task in tasks})
    generator = torch.Generator().manual_seed(5)
    heads = {}
    for name in kept:
        state = model.head(name).stored()
        heads[name] = HeadState(
            {k: 0.5 * torch.randn(v.shape, generator=generator) for k, v in state.items()}, state.sort
        )
    members = []
    for number, name in enumerate(list(kept)[:-1]):
        write_adapter(encoder.backbone, place / name, rank=2 + number % 2, seed=number, targets=targets)
        members.append(Member(name, place / name, (name,)))
    return Library(base, encoder, kept, heads, members)


def write_adapter(
    network: nn.Module,
    folder: Path,
    *,
    rank: int,
    seed: int,
    scale: float = 0.3,
    targets: tuple[str, ...] = BERT,
) -> None:
    """Write low-rank changes as PEFT does."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, layer in network.named_modules():
        if isinstance(layer, nn.Linear) and name.endswith(targets):
            down = torch.randn(rank, layer.in_features, generator=generator)
            up = scale * torch.randn(layer.out_features, rank, generator=generator)
            tensors[f"base_model.model.{name}.lora_A.weight"] = down
            tensors[f"base_model.model.{name}.lora_B.weight"] = up
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": list(targets), "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
