"""One base with a library of modules, and a router that picks among them for each row."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from allround.checkpoints.weights import Weights
from allround.composition.combining import Combine, make_combine
from allround.composition.module_answers import ModuleAnswers, chosen_answers, module_answers
from allround.composition.modules.bank import Gate, ModuleBank
from allround.composition.modules.changes import Changes
from allround.composition.modules.layer import EmbeddingLayer
from allround.composition.router import Router, Seen, make_router, read_plainly, read_state, row_vectors
from allround.composition.search_weights import SearchWeights
from allround.core.errors import AllroundError
from allround.core.files import check_name
from allround.core.registry import method
from allround.core.schema import STRICT, fitted
from allround.models.base import load_encoder
from allround.models.batch import Answers
from allround.models.cost import Cost
from allround.models.encoder import Encoder
from allround.models.head import NotFinite
from allround.models.head_files import HEADS, read_heads, write_heads
from allround.models.indexed import IndexedPassages
from allround.models.model import parameters_of
from allround.models.prediction.answerer import TaskFound
from allround.models.running import batches, by_length, not_finite
from allround.models.system import System, check_rows, windows
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.definition import Definition
from allround.tasks.kind import kind
from allround.tasks.modality import modality_of
from allround.tasks.values import Row

#: Where the modules lie in the folder, and what the router and the combination have learned.
MODULES, ROUTER, COMBINE = "modules", "router.safetensors", "combine.safetensors"
#: Where a larger model lies that the modules' changes are added to, and what names it in the settings.
LARGER = "larger"


@dataclass(frozen=True)
class Member:
    """A module of a routed system. folder: an adapter of PEFT, or a model that was tuned from the base. tasks: those
    that it was tuned on."""

    name: str
    folder: Path
    tasks: tuple[str, ...]


@dataclass(frozen=True)
class _Manifest:
    """What allround.json says under `routed`."""

    __pydantic_config__ = STRICT

    modules: dict[str, list[str]]
    router: str
    router_settings: dict[str, Any]
    combine: str
    combine_settings: dict[str, Any]
    threshold: float | None = None


@method(source="a base, a library of modules, a router and a combination; each router and combination names its own")
class Routed(System):
    """Answers rows by the modules that a router gives them. It is never told which task a row belongs to; the task that
    is asked for chooses the head. Where no task is asked for, the router says which one a row is of.

    model: the base with the heads of all tasks. members: the modules, in the order in which weights speak of them.
    bank: these modules on the model's encoder. threshold: a row whose task is less certain than this is of no task.
    None: every row is of one. search_weights: those of rows that rank passages. None: the router's.
    """

    sort = "routed"

    def __init__(
        self,
        model: MultiTaskModel,
        members: Sequence[Member],
        router: Router,
        combine: Combine,
        bank: ModuleBank,
        *,
        router_settings: Mapping[str, object] | None = None,
        combine_settings: Mapping[str, object] | None = None,
        threshold: float | None = None,
        search_weights: SearchWeights | None = None,
    ) -> None:
        if router.level not in combine.levels:
            raise AllroundError(
                f"combine by '{combine.name}' what the router '{router.name}' weighs",
                f"it decides {'at each layer' if router.level == 'place' else 'once for a row'}",
                f"use a combination for it, such as {'outputs' if combine.name != 'outputs' else 'pick'}",
            )
        self.model, self.members, self.router, self.combine = model, tuple(members), router, combine
        self.settings = {
            "router_settings": dict(router_settings or {}),
            "combine_settings": dict(combine_settings or {}),
        }
        self.threshold, self.search_weights = threshold, search_weights
        self.bank = bank
        self.definitions = dict(model.definitions)
        self.facts: dict[str, object] = {}
        #: The number of the module that was tuned on a task.
        self.module_of = {task: number for number, one in enumerate(members) for task in one.tasks}
        #: Whether rows of several tasks stand in one sequence of the encoder, so that a pass has one set of weights.
        self._packed = "texts" in model.encoder.gives

    # -- answers -------------------------------------------------------------------------------------------------------

    def answer(
        self, task: str | None, rows: Iterable[Row], *, batch_size: int = 64, scores: bool = False
    ) -> Iterator[Answers]:
        task = self.only_task() if task is None else task
        self.definition(task)
        with self.model.searcher.keeping():
            for some in windows(rows):
                check_rows(self.definition(task), some)
                yield self._answered(task, some, batch_size, scores)

    @torch.inference_mode()
    def _answered(self, task: str, rows: Sequence[Row], batch_size: int, scores: bool) -> Answers:
        self.model.eval()
        wanted = self.wants_scores(task, scores)
        asked = self._asked(task, rows, batch_size, scores=wanted)
        weights = self._row_weights(task, rows, batch_size, asked) if self.router.level == "row" else None
        if asked and self.combine.plain and weights is not None and not self.router.mixes:
            return self.finished(task, chosen_answers(asked, weights.argmax(1).tolist()), scores)
        if kind(self.definition(task).kind).ranked:
            return self.finished(task, self._ranked(task, rows, weights, batch_size), scores)
        prepared = self.model.prepare(task, rows)
        found: list[Answers] = []
        order: list[int] = []
        odd: list[int] = []
        for numbers in self._batches(prepared, weights, batch_size):
            batch = self.model.collate([prepared[n] for n in numbers], {task: range(len(numbers))})
            batch = batch.to(self.model.device)
            weighing: Tensor | Gate = self.router.gate
            if weights is not None:
                weighing = weights[numbers[:1] if self._packed else numbers].to(self.model.device)
            order += numbers
            try:
                found.append(self.combine.answer(self.model, self.bank, task, batch, weighing, scores=wanted))
            except NotFinite as error:
                odd += [numbers[row] for row in error.rows]
        if odd:
            raise not_finite(self.model.encoder, self.definition(task), sorted(odd), len(rows))
        places = sorted(range(len(order)), key=order.__getitem__)
        return self.finished(task, Answers.join(found).take(places), scores)

    def _ranked(self, task: str, rows: Sequence[Row], weights: Tensor | None, batch_size: int) -> Answers:
        """The answers to rows of a task that ranks passages."""
        if any(isinstance(row[1], IndexedPassages) for row in rows):
            found = "its vectors are those of one model, and a routed system reads passages with the modules of a query"
            do = "give the passages themselves, or search with the model that the index was made with"
            raise AllroundError(f"search an index for task '{task}'", found, do)
        if weights is not None and self.search_weights is not None and not self.combine.by_module:
            weights = self.search_weights.of(weights)
        weighing = self.router.gate if weights is None else weights
        prepared = self.model.prepare(task, rows)
        return self.combine.rank(self.model, self.bank, task, prepared, weighing, batch_size=batch_size)

    def with_instruction(self, task: str, instruction: str) -> Routed:
        made = copy.copy(self)
        told = self.model.with_instruction(task, instruction)
        assert isinstance(told, MultiTaskModel)
        made.model, made.definitions = told, dict(told.definitions)
        return made

    def _batches(self, prepared: Sequence[Any], weights: Tensor | None, batch_size: int) -> Iterator[list[int]]:
        """Row numbers of batches of like length; in each, rows of one module stand together."""
        sizes = [self.model.size(row) for row in prepared]
        if weights is None:
            yield from by_length(sizes, batch_size)
            return
        if self._packed:
            used, group = torch.unique(self.combine.weighed(weights), dim=0, return_inverse=True)
            for number in range(len(used)):
                own = (group == number).nonzero().squeeze(1).tolist()
                for some in by_length([sizes[row] for row in own], batch_size):
                    yield [own[place] for place in some]
            return
        best = weights.argmax(1).tolist()
        for some in by_length(sizes, batch_size):
            yield sorted(some, key=lambda row: (best[row], row))

    def module_weights(self, task: str, rows: Sequence[Row], batch_size: int = 64) -> Tensor:
        """How much each module has to say about rows, (n, modules): the weights of a router of rows, or the mean of a
        gate's over all layers and places. task: says which columns the rows are, and, of a gate, how they are read."""
        self.model.eval()
        if self.router.level == "row":
            return self.row_weights(task, rows, batch_size)
        return self._mean_gates(task, rows, batch_size)

    @torch.inference_mode()
    def row_weights(self, task: str, rows: Sequence[Row], batch_size: int = 64) -> Tensor:
        """The weights of the modules for rows, (n, modules), of a router that decides once for a row. task: says which
        columns the rows are, and nothing else, unless the router is told."""
        return self._row_weights(task, rows, batch_size, self._asked(task, rows, batch_size))

    def _asked(
        self, task: str, rows: Sequence[Row], batch_size: int, *, scores: bool = False
    ) -> Sequence[ModuleAnswers]:
        """What each module answers to rows, for a router that looks at it."""
        if not self.router.asks:
            return ()
        return module_answers(self.model, self.bank, task, rows, batch_size, scores=scores)

    def _row_weights(self, task: str, rows: Sequence[Row], batch_size: int, asked: Sequence[ModuleAnswers]) -> Tensor:
        encoder = self.model.encoder
        reading, prepared = read_plainly(encoder, self.definition(task), rows)
        found: list[Tensor] = [torch.empty(0)] * len(rows)
        for numbers, batch in batches(encoder, prepared, reading, batch_size):
            features = row_vectors(encoder, encoder(batch), len(numbers)).float()
            seen = Seen(features, task if self.router.told else None, [one.take(numbers) for one in asked])
            for number, one in zip(numbers, self.router.weights(seen), strict=True):
                found[number] = one.cpu()
        return torch.stack(found)

    # -- which task a row is of ----------------------------------------------------------------------------------------

    def candidates(self, row: Row) -> list[str]:
        """The tasks that a row may belong to: those that read so many columns of such values, and have a module."""
        return [
            name
            for name, definition in self.definitions.items()
            if name in self.module_of
            and len(definition.inputs) == len(row)
            and all(modality_of(definition).fits(value) for value in row)
        ]

    @property
    def finds_tasks(self) -> bool:
        return not self.router.told

    @torch.inference_mode()
    def find_tasks(self, rows: Sequence[Row], tasks: Sequence[str] | None = None) -> list[TaskFound]:
        """Which task each row is of, by the shares that the router gives the modules of the tasks.

        Errors: a row that no task reads; a router that is told the task.
        """
        if not self.finds_tasks:
            return super().find_tasks(rows, tasks)
        self.model.eval()
        together: dict[tuple[str, ...], list[int]] = {}
        for number, row in enumerate(rows):
            names = tuple(name for name in self.candidates(row) if tasks is None or name in tasks)
            if not names:
                raise AllroundError(
                    "find the task of a row",
                    f"row {number} has {len(row)} columns that no task of the {self.noun} reads",
                    f"give what one of them reads: {', '.join(self.definitions)}",
                )
            together.setdefault(names, []).append(number)
        found: dict[int, TaskFound] = {}
        for names, numbers in together.items():
            shared = self._shares(names, [rows[number] for number in numbers])
            for number, share in zip(numbers, shared.tolist(), strict=True):
                best = max(range(len(names)), key=share.__getitem__)
                sure = self.threshold is None or share[best] >= self.threshold
                shares = dict(zip(names, share, strict=True))
                found[number] = TaskFound(names[best] if sure else None, share[best], shares)
        return [found[number] for number in range(len(rows))]

    def _shares(self, names: Sequence[str], rows: Sequence[Row]) -> Tensor:
        """How much of the routing of rows goes to each of some tasks, (n, tasks), each row's summing to one."""
        weights = self.module_weights(names[0], rows)
        own = weights[:, [self.module_of[name] for name in names]].clamp_min(0)
        return own / own.sum(1, keepdim=True).clamp_min(1e-12)

    @torch.inference_mode()
    def _mean_gates(self, task: str, rows: Sequence[Row], batch_size: int) -> Tensor:
        """The mean weights over all layers and places, of a router that decides there."""
        prepared = self.model.prepare(task, rows)
        found: list[Tensor] = [torch.empty(0)] * len(prepared)
        alone = 1 if self._packed else batch_size  # rows in one sequence could not be told apart
        for numbers in by_length([self.model.size(row) for row in prepared], alone):
            batch = self.model.collate([prepared[n] for n in numbers], {task: range(len(numbers))})
            seen: list[Tensor] = []

            def look(layer: str, values: Tensor, seen: list[Tensor] = seen, count: int = len(numbers)) -> Tensor:
                weights = self.combine.weighed(self.router.gate(layer, values))
                # What all rows share, such as the table of positions, says nothing of a row.
                if not isinstance(self.bank.layers[layer], EmbeddingLayer) and len(weights) % count == 0:
                    each = self.bank.mean(weights) if weights.dim() > 2 else weights
                    seen.append(each.view(-1, count, each.shape[-1]).mean(0))
                return weights

            with self.bank.using(look):
                self.model.features(batch.to(self.model.device))
            for number, one in zip(numbers, torch.stack(seen).mean(0), strict=True):
                found[number] = one.cpu()
        return torch.stack(found)

    # -- size, and on disk ---------------------------------------------------------------------------------------------

    def to(self, device: torch.device | str) -> Routed:
        self.model.to(device)
        if self.combine.larger is not None:
            self.combine.larger.to(device)
        return self

    def cost(self, tasks: Iterable[str] | None = None) -> Cost:
        """tasks: of others, no heads count, and where rows use one module each no modules. Used is what the costliest
        row can use."""
        names = list(self.definitions if tasks is None else tasks)
        mixes = (self.combine.mixes and self.router.mixes) or self.router.asks
        own = dict.fromkeys(self.module_of[name] for name in names if name in self.module_of)
        sizes = [self.bank.numbers(n) for n in (range(len(self.members)) if mixes or tasks is None else own)]
        heads = [parameters_of(self.model.head(name)) for name in names]
        base = parameters_of(self.model.encoder) + self.router.parameters + self.combine.parameters
        base += 0 if self.combine.larger is None else parameters_of(self.combine.larger)
        used = sum(sizes) if mixes else max(sizes, default=0)
        stored = base + sum(sizes) + sum(heads)
        return Cost(parameters_stored=stored, parameters_used=base + used + max(heads, default=0))

    def write(self, folder: Path) -> None:
        self.bank.remove()
        try:
            (folder / "encoder").mkdir()
            self.model.encoder.save(folder / "encoder")
        finally:
            self.bank.attach()
        write_heads(folder / HEADS, {name: self.model.head(name).stored() for name in self.definitions})
        for member in self.members:
            shutil.copytree(member.folder, folder / MODULES / member.name)
        self.write_states(folder)
        settings = {name: dict(values) for name, values in self.settings.items()}
        if self.combine.larger is not None:  # it is part of the folder, wherever it came from
            (folder / LARGER).mkdir()
            self.combine.larger.save(folder / LARGER)
            settings["combine_settings"].pop(LARGER, None)
        about = {
            "modules": {member.name: list(member.tasks) for member in self.members},
            "router": self.router.name,
            "combine": self.combine.name,
            **settings,
            "threshold": self.threshold,
        }
        self.write_manifest(folder, routed=about)

    def write_states(self, folder: Path) -> None:
        """Write what the router and the combination have learned, where they have."""
        from safetensors.torch import save_file

        for part, file in ((self.router, ROUTER), (self.combine, COMBINE)):
            state = {name: tensor.cpu().contiguous() for name, tensor in part.state().items()}
            if state:
                save_file(state, folder / file, {"format": "pt"})
        if self.search_weights is not None:
            self.search_weights.write(folder)

    @classmethod
    def read(cls, folder: Path, definitions: Mapping[str, Definition], facts: Mapping[str, object]) -> Routed:
        asked = f"load the model in {folder}"
        try:
            about = fitted(_Manifest, facts.get("routed"))
            for name in about.modules:
                check_name(name, "module")
            router = make_router(about.router, about.router_settings)
            combine = make_combine(about.combine, about.combine_settings)
        except (ValueError, TypeError, AllroundError) as error:
            found = error.found if isinstance(error, AllroundError) else str(error)
            raise AllroundError(asked, f"allround.json is damaged: {found}", "copy the folder again, whole") from error
        model = MultiTaskModel(load_encoder(folder / "encoder"), {})
        model.add_heads(definitions, read_heads(folder / HEADS) if definitions else {})
        model.eval()
        members = [Member(n, folder / MODULES / n, tuple(tasks)) for n, tasks in about.modules.items()]
        bank = bank_of(model.encoder, members, folder / "encoder")
        if (folder / LARGER).is_dir():
            combine.take(load_encoder(folder / LARGER), model.encoder)
        try:
            for part, file in ((router, ROUTER), (combine, COMBINE)):
                part.restore(bank, read_state(folder / file))
            file = SearchWeights.file
            searches = SearchWeights.read(folder, len(members))
        except ValueError as error:
            raise AllroundError(asked, f"{file} is damaged: {error}", "copy the folder again, whole") from error
        made = cls(model, members, router, combine, bank, router_settings=about.router_settings,
                   combine_settings=about.combine_settings, threshold=about.threshold,
                   search_weights=searches)  # fmt: skip
        made.facts = {name: value for name, value in facts.items() if name != "routed"}
        return made


def bank_of(encoder: Encoder, members: Sequence[Member], base: Path, *, keep: int | None = None) -> ModuleBank:
    """The modules of a system on its encoder. base: the folder of the encoder's weights."""
    weights = Weights(base)
    return ModuleBank(encoder, [Changes(weights, member.folder) for member in members], keep=keep)
