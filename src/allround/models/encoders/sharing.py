"""An encoder whose tasks share parts of it: modules inside another encoder, and a network behind it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from allround.core.errors import AllroundError
from allround.core.files import write_json
from allround.core.registry import method
from allround.models.base import load_encoder
from allround.models.batch import Batch, Features
from allround.models.encoder import CONFIG, Encoder, load_tensors, save_tensors
from allround.models.share.generator import WeightGenerator
from allround.models.share.insert import Replaced, Route, attach, replace_module
from allround.models.share.inserting import put_inside
from allround.models.share.mixture import Mixture
from allround.models.share.network import Network
from allround.models.share.plan import Plan
from allround.models.share.tree import FoundTree, Tree
from allround.models.share.trees import make_tree
from allround.models.share.vectors import TaskVectors
from allround.models.wrapping import Wrapping, side_by_side
from allround.tasks.definition import Definition

#: Where the encoder that is shared lies in the folder, and the tensors of what was added to it.
INNER, ADDED = "inner", "added.safetensors"


@method(source="the parts of a plan put together; each preset of the family `share` names its papers")
class Sharing(Wrapping):
    """Another encoder, with what a plan adds to it.

    Tasks come in groups: those it is made with, and later ones, which leave the answers to the others as they are.
    widths: lengths of the inner features that the network behind the encoder takes; the first is that of its streams.
    paths: which copy of each stage a task goes through, where a tree was found already. bare: only tasks that are added
    by `add_tasks` get modules; all others read the inner encoder as it is, to the bit.
    """

    name = "sharing"

    def __init__(
        self,
        inner: Encoder,
        plan: Plan,
        groups: Sequence[Sequence[str]],
        widths: Sequence[int],
        paths: Mapping[str, Sequence[int]] | None = None,
        *,
        bare: bool = False,
    ) -> None:
        super().__init__()
        beside = all(one.site == "linear" and one.generator is None for one in plan.inserts)
        if bare and (plan.levels or plan.tree or plan.vectors or not beside):
            raise ValueError("tasks without modules need a plan whose modules sit beside layers")
        self.inner, self.plan, self.widths = inner, plan, tuple(widths)
        self.groups: list[tuple[str, ...]] = []
        self.route = Route()
        self.route.bare = self.bare = bare
        self._asked: tuple[str, ...] = ()
        #: Tasks of which only what came with them learns; None where all that is added does.
        self.learns: tuple[str, ...] | None = None
        self.vectors = TaskVectors(plan.vectors) if plan.vectors is not None else None
        packed = "texts" in inner.gives
        made = put_inside(inner.backbone, plan.inserts, self.route, self.vectors, packed=packed)
        self.parts, self.generators, self.replaced = made.parts, made.generators, [*made.replaced]
        #: The names of the parts, and of where they sit.
        self.sites = [(name, name.partition("-")[2].replace("/", ".")) for name in self.parts]
        #: Rows that stand in one sequence belong to one task.
        self._one_task = packed and bool(plan.inserts)
        self.network: Network | None = Network(plan.levels, widths) if plan.levels else None
        self.branches: Tree | None = None
        if plan.tree is not None:
            first = tuple(groups[0])
            stages = inner.stages()
            self.branches = FoundTree(stages, paths) if paths else make_tree(plan.tree, stages, first)
        for group in groups:
            self.add_tasks(group)

    # -- what the inner encoder has ----------------------------------------------------------------------------------

    @property
    def learning_rate(self) -> float:  # type: ignore[override]
        """The rate of the inner encoder; of what is added, where the encoder is frozen."""
        return self.plan.rate if self.plan.frozen and self.plan.rate else self.inner.learning_rate

    # -- features ----------------------------------------------------------------------------------------------------

    def features(self, definition: Definition) -> int:
        return self.network.outputs if self.network else self.inner.features(definition)

    def forward(self, batch: Batch) -> Features:
        """Features of a batch, of each row for the tasks that it is asked for.

        Where rows are asked for one task each, a vector is that of its task; else it holds those of all tasks side by
        side.
        """
        asked = self._asked = tuple(batch.rows)
        if self.branches is not None:
            through = self.branches(self.inner.entering(batch), asked)
            return side_by_side([self.inner.leaving(batch, through[task]) for task in asked], asked)
        own = self._task_of_rows(batch, asked)
        if not self.parts or (own is not None and (len(own) == 1 or not self._one_task)):
            self.route.tasks = own or asked[:1]
            found = self.inner(batch)
            return self._behind(found, asked) if self.network else found
        every = []
        for task in asked:
            self.route.tasks = (task,)
            one = self.inner(replace(batch, rows={task: tuple(range(batch.size))}))
            every.append(self._behind(one, (task,)) if self.network else one)
        return side_by_side(every, asked)

    def _task_of_rows(self, batch: Batch, asked: tuple[str, ...]) -> tuple[str, ...] | None:
        """One task for all rows, or the task of each; None where a row has several, or none."""
        if len(asked) == 1:
            return asked
        tasks: dict[int, str] = {}
        for task, rows in batch.rows.items():
            if tasks.keys() & set(rows):
                return None
            tasks.update(dict.fromkeys(rows, task))
        # A row that nobody asks for is computed as one of the first task, and read by no head.
        return tuple(tasks.get(row, asked[0]) for row in range(batch.size))

    def _behind(self, found: Features, asked: tuple[str, ...]) -> Features:
        """What the network behind the encoder makes of features."""
        assert self.network is not None
        made = self.network(found.values, asked)
        return side_by_side([found._replace(values=made[task]) for task in asked], asked)

    def penalties(self) -> dict[str, dict[str, Tensor]]:
        """What gates add, of those inside the encoder the mean over the layers of an insert, behind it the sum; and
        what a tree of stages adds."""
        found: dict[str, dict[str, Tensor]] = {}
        for task in self._asked:
            terms: dict[tuple[str, str], list[Tensor]] = {}
            for number, mixture in enumerate(self.mixtures()):
                penalty = mixture.penalty(task)
                if penalty is not None:
                    insert = self.sites[number][0].partition("-")[0] if number < len(self.sites) else ""
                    terms.setdefault((mixture.mixing.gate.name, insert), []).append(penalty)
            for (name, insert), some in terms.items():
                own = found.setdefault(task, {})
                whole = torch.stack(some).mean() if insert else torch.stack(some).sum()
                own[name] = own[name] + whole if name in own else whole
        return found

    def progressed(self, share: float) -> None:
        for mixture in self.mixtures():
            mixture.progressed(share)
        if self.branches is not None:
            self.branches.progressed(share)
            if share >= 1:
                self.branches = self.branches.found()

    # -- tasks and parameters ----------------------------------------------------------------------------------------

    @property
    def tasks(self) -> tuple[str, ...]:
        """All tasks that there is room for, in the order in which they came."""
        return tuple(task for group in self.groups for task in group)

    def add_task(self, task: str) -> None:
        if task not in self.tasks and not self.bare:
            self.add_tasks([task])

    def add_tasks(self, names: Iterable[str]) -> None:
        """Make room for a group of tasks. They see what is there, and nothing that is there sees them."""
        group = tuple(names)
        if not group:
            return
        for beside in (self.vectors, *self.generators.values()):
            if beside is not None:
                cast(TaskVectors | WeightGenerator, beside).add_tasks(group)
        for part in self.parts.values():
            cast(Mixture, part).add_tasks(group)
        if self.network is not None:
            self.network.add_tasks(group)
        if self.branches is not None:
            self.branches.add_tasks(group)
        self.groups.append(group)
        device = next(self.inner.parameters()).device
        self._added().to(device)

    def mixtures(self) -> Iterator[Mixture]:
        """All mixtures: those inside the encoder first, then the levels behind it."""
        yield from (cast(Mixture, part) for part in self.parts.values())
        if self.network is not None:
            yield from (cast(Mixture, mixture) for mixture in self.network.mixtures)

    def _mixture(self, name: str) -> Mixture:
        return cast(Mixture, self.parts[name])

    def own(self, task: str) -> dict[str, nn.Parameter]:
        found: dict[str, nn.Parameter] = {}
        for name, part in self.parts.items():
            found |= {f"parts.{name}.{n}": p for n, p in cast(Mixture, part).own(task).items()}
        for name, generator in self.generators.items():
            found |= {f"generators.{name}.{n}": p for n, p in cast(WeightGenerator, generator).own(task).items()}
        if self.vectors is not None:
            found |= {f"vectors.{n}": p for n, p in self.vectors.own(task).items()}
        if self.network is not None:
            found |= {f"network.{n}": p for n, p in self.network.own(task).items()}
        return found

    def brought(self, task: str) -> dict[str, nn.Parameter]:
        """The parameters that came with a task: its own, and its modules, which later tasks may use too."""
        found = self.own(task)
        for name in self.parts:
            banks = self._mixture(name).banks
            bank = banks[task].named_parameters() if task in banks else ()
            found |= {f"parts.{name}.banks.{task}.{n}": p for n, p in bank}
        return found

    def tree(self) -> list[str]:
        return self.branches.lines() if self.branches is not None else []

    def added(self) -> dict[int, float]:
        rate = self.plan.rate or self.learning_rate
        learning = list(self._added().parameters())
        if self.learns is not None:
            learning = [p for task in self.learns for p in self.brought(task).values()]
        elif self.branches is not None:  # copies of stages learn as the encoder does
            learning = list(self.branches.choices())
        return {id(p): rate / self.learning_rate for p in learning}

    @property
    def head_factor(self) -> float:
        """Behind a network heads begin anew, and learn as fast as it does."""
        return (self.plan.rate or self.learning_rate) / self.learning_rate if self.network is not None else 1.0

    def frozen(self) -> set[int]:
        if self.learns is None and not self.plan.frozen:
            return self.inner.frozen() | self._fixed()
        added = self.added()
        return {id(p) for p in self.parameters() if id(p) not in added}

    def _fixed(self) -> set[int]:
        """The weights of layers of which only changes learn."""
        fixed = {f"insert{number}" for number, one in enumerate(self.plan.inserts) if one.fixed}
        layers = [layer for name, layer in self.sites if name.partition("-")[0] in fixed]
        return {id(p) for layer in layers for p in cast(Replaced, self.backbone.get_submodule(layer)).base.parameters()}

    # -- on disk -----------------------------------------------------------------------------------------------------

    @contextmanager
    def plain(self) -> Iterator[Encoder]:
        """The inner encoder without what a plan put inside it."""
        inserted = {layer: cast(Replaced, self.backbone.get_submodule(layer)) for layer in self.replaced}
        for layer, module in inserted.items():
            replace_module(self.backbone, layer, module.base)
        self.route.off = True
        try:
            yield self.inner
        finally:
            self.route.off = False
            attach(self.backbone, inserted, list(inserted))

    def save(self, folder: Path) -> None:
        (folder / INNER).mkdir()
        with self.plain() as inner:
            inner.save(folder / INNER)
        save_tensors(self._added(), folder / ADDED)
        settings: dict[str, Any] = {"plan": self.plan.to_json(), "groups": self.groups, "widths": self.widths}
        if isinstance(self.branches, FoundTree):
            settings["paths"] = self.branches.paths()
        if self.bare:
            settings["bare"] = True
        write_json(folder / CONFIG, {"encoder": self.name, "settings": settings})

    def _added(self) -> nn.ModuleDict:
        """All that was added to the inner encoder."""
        found = {
            "parts": self.parts,
            "generators": self.generators,
            "vectors": self.vectors,
            "network": self.network,
            "branches": self.branches,
        }
        return nn.ModuleDict({name: module for name, module in found.items() if module is not None})

    @classmethod
    def load(cls, folder: Path, settings: Mapping[str, Any]) -> Sharing:
        try:
            plan = Plan.from_json(settings["plan"])
            groups, widths, paths = settings["groups"], settings["widths"], settings.get("paths")
            bare = bool(settings.get("bare", False))
        except (KeyError, TypeError, ValueError) as error:
            raise AllroundError(
                f"load the encoder in {folder}", f"{CONFIG} is damaged: {error}", "copy the folder again, whole"
            ) from error
        encoder = cls(load_encoder(folder / INNER), plan, groups, widths, paths, bare=bare)
        load_tensors(encoder._added(), folder / ADDED)
        return encoder
