"""A frozen transformer with prompts of four levels in front of what it reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from allround.core.errors import AllroundError
from allround.core.files import write_json
from allround.core.registry import method
from allround.models.base import load_encoder
from allround.models.encoder import CONFIG, Encoder, load_tensors
from allround.models.encoders.sharing import ADDED, INNER, Sharing
from allround.models.named import NamedModules
from allround.models.share.bank.prompt import Prompt
from allround.models.share.insert import routed
from allround.models.share.plan import Plan
from allround.models.share.prompts import EMBEDDINGS, Framed, PutIn, embedding_of


@dataclass(frozen=True)
class Levels:
    """Vectors of each level of prompts. pool: meta prompts that there are; chosen: those that a row gets."""

    general: int = 2
    format: int = 4
    task: int = 8
    meta: int = 4
    pool: int = 30
    chosen: int = 5

    @property
    def length(self) -> int:
        return self.general + self.format + self.task + self.chosen * self.meta


class Assembly(nn.Module):
    """Prompts by their level: one of all tasks, one of each format, one of each owner, and a pool of meta prompts.

    of: the format of each task, and the owner of its prompt; several tasks may share one. keys: of the meta prompts,
    (pool, width); whoever trains sets them.
    """

    def __init__(self, levels: Levels, width: int) -> None:
        super().__init__()
        self.levels, self.width = levels, width
        self.outputs = levels.length * width
        self.of: dict[str, tuple[str, str]] = {}
        self.general = Prompt(1, width, levels.general * width)
        self.formats, self.banks = NamedModules(), NamedModules()
        self.meta = Prompt(levels.pool, width, levels.meta * width)
        self.register_buffer("keys", F.normalize(torch.randn(levels.pool, width), dim=1))

    def add_tasks(self, names: Sequence[str]) -> None:
        for name in names:
            form, owner = self.of.setdefault(name, ("", name))
            for group, key, length in ((self.formats, form, self.levels.format), (self.banks, owner, self.levels.task)):
                if key not in group:
                    group[key] = Prompt(1, self.width, length * self.width)

    def mixed(self, queries: Tensor, task: str) -> Tensor:
        """(rows, width) -> (rows, outputs): the general prompt, the format's, the task's, and the row's meta prompts,
        one behind the other."""
        form, owner = self.of[task]
        found = chosen(queries.detach(), self.get_buffer("keys"), self.levels.chosen)
        fixed = [self.general.vectors, self.formats[form].vectors, self.banks[owner].vectors]
        same = torch.cat([one.flatten() for one in fixed]).expand(len(queries), -1)  # type: ignore[operator]
        return torch.cat([same, self.meta.vectors[found].flatten(1)], 1)

    def own(self, task: str) -> dict[str, nn.Parameter]:
        """The prompt of a task, where it shares it with no other."""
        owner = self.of[task][1]
        alone = sum(other == owner for _, other in self.of.values()) == 1
        return {f"banks.{owner}.{name}": p for name, p in self.banks[owner].named_parameters()} if alone else {}

    def penalty(self, task: str) -> None:
        return None

    def progressed(self, share: float) -> None:
        pass


class Queried(Framed):
    """Before it computes, it asks the network without prompts what it makes of the rows: the mean of its last states,
    (rows, width), is each row's query."""

    query: Tensor

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not self.route.off:
            self.query = self.asked(args, kwargs)
        return super().__call__(*args, **kwargs)

    @torch.no_grad()
    def asked(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
        network: nn.Module = self.forward.__self__  # type: ignore[attr-defined]
        training = network.training
        self.route.off = True
        network.eval()
        try:
            states: Tensor = self.forward(*args, **kwargs).last_hidden_state
        finally:
            self.route.off = False
            network.train(training)
        mask = kwargs.get("attention_mask")
        shares = states.new_ones(states.shape[:2]) if mask is None else mask.to(states.dtype)
        found: Tensor = (states * shares.unsqueeze(-1)).sum(1) / shares.sum(1, keepdim=True)
        return found


class PutPrompts(PutIn):
    """Behind the embedding: put in the prompts that the queries choose."""

    def made(self, read: Tensor) -> Tensor:
        assert isinstance(self.frame, Queried)
        found = routed(self.mixture, self.route, self.frame.query.to(read.dtype))
        return found.reshape(len(read), self.frame.length, read.shape[-1])


@method(source="Diana: Dai et al., Findings of ACL 2023, arXiv:2305.06555; diana/models/metat5.py of DAMO-ConvAI")
class Prompted(Sharing):
    """A text or vision transformer that stays as it is, and reads an `Assembly` of prompts behind its first vector.

    of: the format and the owner of the prompt of each task, in the order in which they came.
    """

    name = "prompted"

    def __init__(
        self, inner: Encoder, levels: Levels, rate: float = 1e-2, of: Mapping[str, Sequence[str]] | None = None
    ) -> None:
        super().__init__(inner, Plan(frozen=True, rate=rate), [], [])
        embedding_of(inner.backbone, packed="texts" in inner.gives)
        self.assembly = Assembly(levels, int(inner.backbone.config.hidden_size))  # type: ignore[union-attr, arg-type]
        self.parts["prompts"] = self.assembly
        self.frame = Queried(inner.backbone.forward, levels.length, self.route)
        inner.backbone.forward = self.frame
        getattr(inner.backbone, EMBEDDINGS).register_forward_hook(PutPrompts(self.assembly, self.route, self.frame))  # type: ignore[arg-type]
        for task, (form, owner) in (of or {}).items():
            self.add_as(task, form, owner)

    def add_as(self, task: str, form: str, owner: str) -> None:
        """Make room for a task of a format, with the prompt of an owner."""
        if task not in self.tasks:
            self.assembly.of[task] = (form, owner)
            self.add_tasks([task])

    def save(self, folder: Path) -> None:
        super().save(folder)
        settings = {"levels": asdict(self.assembly.levels), "rate": self.plan.rate, "of": self.assembly.of}
        write_json(folder / CONFIG, {"encoder": self.name, "settings": settings})

    @classmethod
    def load(cls, folder: Path, settings: Mapping[str, Any]) -> Prompted:
        try:
            encoder = cls(load_encoder(folder / INNER), Levels(**settings["levels"]), settings["rate"], settings["of"])
        except (KeyError, TypeError, ValueError) as error:
            raise AllroundError(
                f"load the encoder in {folder}", f"{CONFIG} is damaged: {error}", "copy the folder again, whole"
            ) from error
        load_tensors(encoder._added(), folder / ADDED)
        return encoder


def chosen(queries: Tensor, keys: Tensor, count: int) -> Tensor:
    """The numbers of the keys that each query takes, (n, count): first the nearest, then one after another that which
    is near and unlike those taken.

    Formula: argmax_i 0.6 cos(q, k_i) - 0.4 max_{j taken} cos(k_i, k_j)
    """
    queries, keys = F.normalize(queries, dim=-1), F.normalize(keys, dim=-1)
    near, alike = queries @ keys.T, keys @ keys.T
    taken = near.argmax(1, keepdim=True)
    while taken.shape[1] < min(count, len(keys)):
        scores = 0.6 * near - 0.4 * alike[taken].amax(1)
        taken = torch.cat([taken, scores.scatter(1, taken, -torch.inf).argmax(1, keepdim=True)], 1)
    return taken
