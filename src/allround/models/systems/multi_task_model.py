"""One encoder, and a head for each task."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from allround.core.errors import AllroundError
from allround.core.registry import method
from allround.models.base import check_one_model, load_encoder
from allround.models.batch import Answers, Batch, Features, Targets, TaskLoss, taken
from allround.models.cost import Cost
from allround.models.encoder import LINEAR, Encoder
from allround.models.head import Head, HeadState, NotFinite, OutputHead, make_head
from allround.models.head_files import HEADS, read_heads, write_heads
from allround.models.mining import with_mined
from allround.models.model import Model, Prepared, parameters_of
from allround.models.named import NamedModules
from allround.models.prompts import write_prompts
from allround.models.running import batches, by_length, features_of, not_finite
from allround.models.searching import Searcher, VectorReader
from allround.models.system import check_rows
from allround.tasks.definition import Definition
from allround.tasks.kind import Encoded, kind
from allround.tasks.task import Task
from allround.tasks.values import Row


@dataclass(frozen=True)
class Outputs:
    """What a head gave for a list of rows, in their order. `lengths`: words of each row, for tasks per word."""

    logits: Tensor
    lengths: tuple[int, ...]


@method(source="shared encoder with a head for each task: Caruana, Machine Learning 28, 1997")
class MultiTaskModel(Model):
    """One encoder and a head per task.

    >>> from allround.models.encoders.small_image import SmallImage
    >>> from allround.tasks.definition import Definition
    >>> parity = Definition("parity", "classification", ("image",), "image", "accuracy", ("even", "odd"))
    >>> MultiTaskModel(SmallImage(), {"parity": parity}).heads["parity"].weight.shape
    torch.Size([2, 128])
    """

    sort = "multi_task_model"

    def __init__(self, encoder: Encoder, definitions: Mapping[str, Definition]) -> None:
        super().__init__()
        self.encoder = encoder
        self.definitions: dict[str, Definition] = {}
        self.heads = NamedModules()
        for definition in definitions.values():
            self.add_task(definition)
        self.facts: dict[str, object] = {}
        self.searcher = Searcher()

    def add_task(
        self, definition: Definition, head: Mapping[str, Tensor] | None = None, sort: str | None = None
    ) -> None:
        """Add a task with an untrained head of a sort, or with the head's tensors: of a linear head, `weight`
        (outputs, features) and `bias`."""
        sort = sort or (head.sort if isinstance(head, HeadState) else self.encoder.head(definition))
        definition = self.encoder.headed(definition, sort)
        self.encoder.check(definition)
        self.encoder.add_task(definition.name)
        made = make_head(sort, definition, self.encoder.features(definition), head)
        self.definitions[definition.name] = definition
        self.heads[definition.name] = made

    def head(self, task: str) -> Head:
        """The head of a task."""
        found = self.heads[task]
        assert isinstance(found, Head)
        return found

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def learning_rate(self) -> float:  # type: ignore[override]
        return self.encoder.learning_rate

    @property
    def epochs(self) -> int:  # type: ignore[override]
        return self.encoder.epochs

    @property
    def lora_rate(self) -> float | None:  # type: ignore[override]
        return self.encoder.lora_rate

    @property
    def lora_rank(self) -> int:  # type: ignore[override]
        return self.encoder.lora_rank

    @property
    def least_steps(self) -> int:  # type: ignore[override]
        return self.encoder.least_steps

    # -- rows and batches ------------------------------------------------------------------------------------------

    def prepare(self, task: str, inputs: Sequence[Row], targets: Encoded | None = None) -> list[Prepared]:
        return self.encoder.prepare(inputs, self.definition(task), targets)

    @property
    def preparation(self) -> object:
        return self.encoder.preparation

    def reading(self, task: str) -> Hashable:
        d = self.definition(task)
        alone = (d.name, d.head) if self.encoder.head(d) != LINEAR or d.prompt is not None else ()
        return d.inputs, d.modality, d.instruction, kind(d.kind).per_token, self.encoder.features(d), alone

    def entries(self, task: str, rows: Sequence[Prepared], targets: Encoded) -> list[int]:
        return self.encoder.entries(rows, self.definition(task), targets)

    def size(self, row: Prepared) -> int:
        return self.encoder.length(row)

    def collate(
        self,
        rows: Sequence[Prepared],
        tasks: Mapping[str, Sequence[int]],
        targets: Mapping[str, Encoded] | None = None,
    ) -> Batch:
        asked = {task: tuple(places) for task, places in tasks.items()}
        first = next(iter(tasks))
        whole = targets is not None and len(asked) == 1 and len(asked[first]) == len(rows)
        batch = self.encoder.collate(rows, self.definitions[first], targets[first] if targets and whole else None)
        found = {n: Targets(asked[n], self.head(n).tensor(values)) for n, values in (targets or {}).items()}
        return replace(batch, rows=asked, targets=found)

    def features(self, batch: Batch) -> Features:
        found: Features = self.encoder(batch)
        return found

    def width(self, task: str) -> int:
        return self.encoder.features(self.definition(task))

    def losses(self, batch: Batch, features: Features | None = None) -> dict[str, TaskLoss]:
        features = self.features(batch) if features is None else features
        extra = self.encoder.penalties()
        found = {}
        for task, targets in batch.targets.items():
            if targets.rows:
                loss = self.head(task).loss(features.take(targets.rows, batch.size).of(task), targets.values)
                found[task] = replace(loss, extra={**loss.extra, **extra.get(task, {})}) if extra else loss
        return found

    @property
    def backbone(self) -> nn.Module:
        return self.encoder.backbone

    def shared(self) -> dict[str, nn.Parameter]:
        own = {id(p) for task in self.definitions for p in self.encoder.own(task).values()}
        return {f"encoder.{name}": p for name, p in self.encoder.named_parameters() if id(p) not in own}

    def own(self, task: str) -> dict[str, nn.Parameter]:
        added = {f"encoder.{name}": p for name, p in self.encoder.own(task).items()}
        return {**added, **{f"heads.{task}.{name}": p for name, p in self.head(task).named_parameters()}}

    def of_head(self, task: str) -> dict[str, nn.Parameter]:
        return {f"heads.{task}.{name}": p for name, p in self.head(task).named_parameters()}

    def across(self, task: str) -> bool:
        return self.head(task).across

    def mined(self, task: Task) -> Task:
        return with_mined(self.encoder, self.head(task.name), task)

    def untrained(self, task: str) -> bool:
        own = (head := self.head(task)).stored()
        begun = make_head(head.sort, head.definition, head.width, own)
        begun.reset()
        return bool(own) and all(torch.equal(value, own[name]) for name, value in begun.stored().items())

    # -- answers ---------------------------------------------------------------------------------------------------

    def forward(self, task: str, batch: Batch) -> Tensor:
        """Outputs of a task's head for a batch: (n, outputs), or (words, outputs)."""
        found: Tensor = self.output_head(task)(self.encoder(batch).values)
        return found

    def output_head(self, task: str) -> OutputHead:
        """The head of a task, where it gives numbers that answers are read from."""
        head = self.head(task)
        if not isinstance(head, OutputHead):
            raise AllroundError(
                f"look at the outputs of task '{task}'",
                f"its head, of the sort '{head.sort}', has none",
                "look at its answers",
            )
        return head

    def outputs(self, task: str, inputs: Sequence[Row], batch_size: int = 64) -> Outputs:
        """What the head of a task gives for rows, before it is read as answers: logits, or numbers."""
        definition, head = self.definition(task), self.output_head(task)
        check_rows(definition, inputs)
        if not inputs:
            return Outputs(torch.empty(0, head.outputs), ())
        self.eval()
        found = features_of(self.encoder, self.prepare(task, inputs), definition, batch_size, head)
        return Outputs(found.values, found.lengths)

    def answered(self, task: str, features: Features, *, scores: bool = False) -> Answers:
        """What a task's head answers to features."""
        made = self.head(task).answer(features.of(task), scores=self.wants_scores(task, scores))
        return self.finished(task, made, scores)

    def answer(
        self, task: str | None, rows: Iterable[Row], *, batch_size: int = 64, scores: bool = False
    ) -> Iterator[Answers]:
        with self.searcher.keeping():
            yield from super().answer(task, rows, batch_size=batch_size, scores=scores)

    def answer_prepared(
        self, task: str, rows: Sequence[Prepared], *, batch_size: int = 64, scores: bool = False
    ) -> Answers:
        return answer_alike([self], task, rows, batch_size=batch_size, scores=scores)[0]

    def answer_tasks(
        self, tasks: Sequence[str], rows: Sequence[Row], *, batch_size: int = 64, scores: bool = False
    ) -> dict[str, Answers]:
        """The answers of several tasks to the same rows. Tasks that read rows alike share the encoder's work."""
        return self.answer_asked(dict.fromkeys(tasks, range(len(rows))), rows, batch_size=batch_size, scores=scores)

    @torch.inference_mode()
    def answer_asked(
        self, asked: Mapping[str, Sequence[int]], rows: Sequence[Row], *, batch_size: int = 64, scores: bool = False
    ) -> dict[str, Answers]:
        """Tasks that read rows alike share batches: the encoder reads a row once, whichever of them ask it."""
        self.eval()
        together: dict[Hashable, dict[str, Sequence[int]]] = {}
        for task, numbers in asked.items():
            check_rows(self.definition(task), [rows[number] for number in numbers])
            together.setdefault(self.reading(task), {})[task] = numbers
        found: dict[str, Answers] = {}
        for alike in together.values():
            found.update(self._answer_alike(alike, rows, batch_size, scores))
        return {task: found[task] for task in asked}

    def _answer_alike(
        self, asked: Mapping[str, Sequence[int]], rows: Sequence[Row], batch_size: int, scores: bool
    ) -> dict[str, Answers]:
        """The answers of tasks that read rows alike."""
        if kind(self.definitions[next(iter(asked))].kind).ranked:
            return {t: self.answers(t, [rows[n] for n in own], batch_size=batch_size) for t, own in asked.items()}
        wanted = {task: set(numbers) for task, numbers in asked.items()}
        numbers = sorted(set[int]().union(*wanted.values()))
        first = next(iter(asked))
        ready = self.prepare(first, [rows[number] for number in numbers])
        parts: dict[str, list[Answers]] = {task: [] for task in asked}
        order: dict[str, list[int]] = {task: [] for task in asked}
        odd: dict[str, list[int]] = {}
        for places, batch in batches(self.encoder, ready, self.definitions[first], batch_size):
            some = [numbers[place] for place in places]
            own = {t: at for t in asked if (at := tuple(i for i, n in enumerate(some) if n in wanted[t]))}
            features = self.features(replace(batch, rows=own))
            for task, at in own.items():
                order[task] += [some[place] for place in at]
                try:
                    parts[task].append(self.answered(task, features.take(at, batch.size), scores=scores))
                except NotFinite as error:
                    odd.setdefault(task, []).extend(some[at[row]] for row in error.rows)
        for task, wrong in odd.items():
            raise not_finite(self.encoder, self.definitions[task], sorted(wrong), len(rows))
        found = {}
        for task, made in parts.items():
            place_of = {number: place for place, number in enumerate(order[task])}
            found[task] = Answers.join(made).take([place_of[number] for number in asked[task]])
        return found

    @torch.inference_mode()
    def validate(
        self, task: str, rows: Sequence[Prepared], targets: Encoded, batch_size: int = 64, *, scores: bool = False
    ) -> tuple[Answers, float]:
        losses: list[TaskLoss] = []

        def see(numbers: list[int], features: Features) -> None:
            values = self.head(task).tensor(taken(targets, numbers)).to(self.device)
            losses.append(self.head(task).loss(features, values))

        (answers,) = answer_alike([self], task, rows, batch_size=batch_size, scores=scores, see=see)
        if kind(self.definition(task).kind).ranked:  # its loss looks at other texts than its answers
            for some in by_length([self.size(row) for row in rows], batch_size):
                batch = self.collate([rows[n] for n in some], {task: range(len(some))}, {task: taken(targets, some)})
                losses.append(self.losses(batch.to(self.device))[task])
        count = sum(one.count for one in losses)
        return answers, sum(float(one.mean) * one.count for one in losses) / count if count else 0.0

    # -- on disk -----------------------------------------------------------------------------------------------------

    def cost(self, tasks: Iterable[str] | None = None) -> Cost:
        heads = [parameters_of(self.head(task)) for task in (self.definitions if tasks is None else tasks)]
        encoder = self.encoder.numbers
        return Cost(parameters_stored=encoder + sum(heads), parameters_used=encoder + max(heads, default=0))

    def write(self, folder: Path) -> None:
        (folder / "encoder").mkdir()
        self.encoder.save(folder / "encoder")
        self.encoder.save_beside(folder, "encoder", [self.head(name) for name in self.definitions])
        write_prompts(folder / "encoder", self.definitions.values())
        self.write_parts(folder)

    def write_parts(self, folder: Path) -> None:
        """Write all but the encoder: heads, and the manifest."""
        write_heads(folder / HEADS, {name: self.head(name).stored() for name in self.definitions})
        self.write_manifest(folder)

    @classmethod
    def read(cls, folder: Path, definitions: Mapping[str, Definition], facts: Mapping[str, object]) -> MultiTaskModel:
        model = cls(load_encoder(folder / "encoder"), {})
        model.add_heads(definitions, read_heads(folder / HEADS) if definitions else {})
        model.facts = dict(facts)
        return model.eval()

    def add_heads(self, definitions: Mapping[str, Definition], heads: Mapping[str, HeadState]) -> None:
        """Add tasks with their heads."""
        for name, definition in definitions.items():
            self.add_task(definition, heads.get(name, HeadState({}, self.encoder.head(definition))))

    def added(self) -> dict[int, float]:
        return self.encoder.added()

    def head_factor(self) -> float:
        return self.encoder.head_factor

    def chunk(self, rows: int) -> None:
        self.encoder.chunk(rows)

    def progressed(self, share: float) -> None:
        self.encoder.progressed(share)

    def adapted_layers(self) -> list[str]:
        return self.encoder.adapted_layers()

    def frozen(self) -> set[int]:
        return self.encoder.frozen()


@torch.inference_mode()
def answer_alike(
    models: Sequence[MultiTaskModel],
    task: str,
    rows: Sequence[Prepared],
    *,
    batch_size: int = 64,
    scores: bool = False,
    see: Callable[[list[int], Features], None] | None = None,
) -> list[Answers]:
    """What each model answers to prepared rows, for models that share one encoder: it is run once.

    see: is shown the row numbers and features of each batch. Errors: models with encoders of their own.
    """
    first, definition = models[0], models[0].definition(task)
    if any(model.encoder is not first.encoder for model in models):
        raise ValueError("the models have encoders of their own")
    if kind(definition.kind).ranked:
        return [first.searcher.answers(VectorReader.of(first.encoder, m.head(task), batch_size), rows) for m in models]
    for model in models:
        model.eval()
    parts: list[list[Answers]] = [[] for _ in models]
    order: list[int] = []
    odd: list[int] = []
    for numbers, batch in batches(first.encoder, rows, definition, batch_size):
        features = first.features(batch)
        order += numbers
        try:
            for model, found in zip(models, parts, strict=True):
                found.append(model.answered(task, features, scores=scores))
            if see is not None:
                see(numbers, features)
        except NotFinite as error:
            odd += [numbers[row] for row in error.rows]
    if odd:
        raise not_finite(first.encoder, definition, sorted(odd), len(rows))
    places = sorted(range(len(order)), key=order.__getitem__)
    return [Answers.join(found).take(places) for found in parts]


def open_model(folder: Path | str, device: str = "cpu") -> MultiTaskModel:
    """A saved system that has one encoder and a head for each task. Errors: systems of other sorts."""
    from allround.models.system import load

    found = load(folder, device=device)
    check_one_model(Path(folder), found.facts, f"open {folder} as a model with one encoder")
    if not isinstance(found, MultiTaskModel):
        raise AllroundError(
            f"open {folder} as a model with one encoder",
            f"it is a system of the sort '{found.sort}'",
            "give the folder of a model that allround tuned or merged",
        )
    return found
