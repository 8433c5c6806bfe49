"""What a router is: it says how much each module of a library has to say about a row."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from allround.checkpoints.weights import Weights
from allround.composition.module_answers import ModuleAnswers
from allround.composition.modules.bank import ModuleBank
from allround.composition.modules.layer import LinearLayer, layer_for
from allround.core import registry
from allround.core.errors import AllroundError
from allround.models.batch import Batch, Features, TaskLoss, taken
from allround.models.encoder import Encoder
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.definition import Definition
from allround.tasks.kind import Encoded, kind
from allround.tasks.prompt import Prompt
from allround.tasks.values import Row


@dataclass(frozen=True)
class RouteRows:
    """Rows of one task that a router is fitted on: of training, never of test.

    model: the base with the heads of all tasks. module: the number of the module that was tuned on the task; None where
    there is none. targets: encoded. validation: rows of validation, by which a setting may be chosen; None where there
    are none.
    """

    model: MultiTaskModel
    task: str
    module: int | None
    inputs: Sequence[Row]
    targets: Encoded
    validation: RouteRows | None = None

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def definition(self) -> Definition:
        return self.model.definition(self.task)

    @cached_property
    def prepared(self) -> list[Any]:
        """The rows for the base, without their targets."""
        return self.model.prepare(self.task, self.inputs)

    @cached_property
    def labelled(self) -> list[Any]:
        """The rows for the base, as it learns from them."""
        return self.model.prepare(self.task, self.inputs, self.targets)

    def batch(self, rows: Sequence[int], *, targets: bool = False) -> Batch:
        """Some of the rows, ascending, on the base's device. targets: with what their losses need."""
        kept = self.labelled if targets else self.prepared
        asked = {self.task: range(len(rows))}
        values = {self.task: taken(self.targets, rows)} if targets else None
        return self.model.collate([kept[row] for row in rows], asked, values).to(self.model.device)

    def losses(self, rows: Sequence[int]) -> TaskLoss:
        """The loss on some of the rows, ascending, with its graph."""
        return self.losses_of(self.batch(rows, targets=True))

    def losses_of(self, batch: Batch) -> TaskLoss:
        """The loss on a batch of them with targets, with its graph."""
        return self.model.losses(batch)[self.task]

    def apart(self, rows: Sequence[int]) -> Tensor:
        """The loss of each of some rows, ascending, by itself, as far as it looks at no other: (n,)."""
        features = self.model.features(self.batch(rows, targets=True)).of(self.task)
        return self.model.head(self.task).each(features, taken(self.targets, rows))

    def spread(self, weights: Tensor, batch: Batch) -> Tensor:
        """Weights of the rows of a batch, (n, *), for the sequences that the base reads of them: a row of a search has
        a query and passages."""
        if not kind(self.definition.kind).ranked or not batch.lengths:
            return weights
        return weights.repeat_interleave(torch.tensor(batch.lengths, device=weights.device), 0)


@dataclass
class Seen:
    """What a router looks at of a batch of rows.

    features: of the base alone, (n, d), the mean over a row's words where it has several vectors. task: that of all
    rows, for a router that is told. answers: of each module to these rows, for a router that asks for them.
    """

    features: Tensor
    task: str | None = None
    answers: Sequence[ModuleAnswers] = ()


class CannotRoute(AllroundError):
    """A router finds nothing in an encoder, or in what modules change of it, that it could decide by."""


class Router(ABC):
    """Weighs the modules of a bank: for a row at once, or for each place of a row at each layer.

    A router is made with its settings, then fitted on rows or given the state that it had. Its weights of a row depend
    on that row alone.
    """

    name: ClassVar[str]
    #: Where it decides: once for a row ("row"), or at each layer for each place ("place").
    level: str = "row"
    #: Whether it gives weights to several modules of a row; else to one.
    mixes: bool = True
    #: Whether it is told which task a row is of.
    told: bool = False
    #: Whether it looks at what each module answers to a row, and so takes a pass for each.
    asks: bool = False

    def __init__(self) -> None:
        self.count = 0

    def check(self, encoder: Encoder) -> None:
        """An error, `CannotRoute`, where an encoder has nothing that it decides by, whatever modules change."""
        sorts = (layer_for(layer) for layer in encoder.backbone.modules())
        if self.level == "place" and not any(sort is not None and issubclass(sort, LinearLayer) for sort in sorts):
            raise self.cannot("the encoder has no linear layer")

    def check_task(self, definition: Definition) -> None:  # noqa: B027
        """An error, `CannotRoute`, for a task whose rows it cannot route."""

    def cannot(self, found: str) -> CannotRoute:
        """An error that says why it cannot route."""
        return CannotRoute(f"route by '{self.name}'", found, "use a router of rows, such as classifier or uniform")

    def fit(self, bank: ModuleBank, tasks: Mapping[str, RouteRows], seed: int) -> None:
        """Fit it on rows of the tasks. The bank's encoder is left as it was. Errors: `CannotRoute`."""
        self.check(bank.encoder)
        for rows in tasks.values():
            self.check_task(rows.definition)
        if self.level == "place" and not any(isinstance(layer, LinearLayer) for layer in bank.layers.values()):
            raise self.cannot("no module changes a linear layer")
        self.count = len(bank)

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """What was fitted, as tensors."""

    @abstractmethod
    def restore(self, bank: ModuleBank, state: Mapping[str, Tensor]) -> None:
        """Take up a state. Errors: ValueError for tensors that are none of its own."""

    def weights(self, seen: Seen) -> Tensor:
        """(n, modules), of a router that decides once for a row."""
        raise NotImplementedError(f"the router '{self.name}' decides at each layer")

    def gate(self, layer: str, values: Tensor) -> Tensor:
        """(n, *, modules) from what a layer reads, of a router that decides there."""
        raise NotImplementedError(f"the router '{self.name}' decides once for a row")

    @property
    def parameters(self) -> int:
        """How many numbers it stores."""
        return sum(t.numel() for t in self.state().values())


def read_plainly(encoder: Encoder, definition: Definition, rows: Sequence[Row]) -> tuple[Definition, list[Any]]:
    """Rows prepared so that the encoder gives each a vector that says nothing of the task, and the task that reads them
    so: without its instruction, for language models with the inputs alone in place of its prompt, and of a search the
    query alone."""
    if kind(definition.kind).per_token:
        return definition, encoder.prepare(rows, definition)
    inputs = definition.inputs
    if kind(definition.kind).ranked:
        inputs, rows = inputs[:1], [row[:1] for row in rows]
    prompt = None
    if "texts" in encoder.gives:
        prompt = Prompt(("\n".join(f"{{{name}}}" for name in inputs),), chat="no")
    reading = replace(definition, kind="classification", metric="accuracy", labels=("0", "1"), center=0.0, scale=1.0,
                      inputs=inputs, instruction=None, prompt=prompt, head="linear", weights=(), focal=0.0, harness="",
                      agree="", contrast=None)  # fmt: skip
    return reading, encoder.prepare(rows, reading)


def make_router(name: str, values: Mapping[str, object] | None = None) -> Router:
    """A router by its name, with its settings, not fitted yet."""
    entry = registry.find("route", name)
    made: Router = entry.load()(**entry.resolve(values or {}))
    return made


def row_vectors(encoder: Encoder, features: Features, count: int) -> Tensor:
    """One vector for each of `count` rows, of one length for all tasks: the mean over its words, where each has one.

    >>> from allround.models.encoders.small_image import SmallImage
    >>> row_vectors(SmallImage(), Features(torch.tensor([[1.0], [3.0], [5.0]]), (2, 1)), 2).tolist()
    [[2.0], [5.0]]
    """
    values = encoder.common(features.values)
    if not features.lengths:
        return values
    parts = values.split(list(features.lengths))
    return torch.stack([p.mean(0) if len(p) else p.new_zeros(p.shape[-1]) for p in parts[:count]])


def base_vectors(bank: ModuleBank, rows: RouteRows, batch_size: int = 64) -> Tensor:
    """What the base alone makes of rows, (n, d), in their order."""
    return plain_vectors(bank.encoder, rows.definition, rows.inputs, batch_size)


@torch.inference_mode()
def plain_vectors(encoder: Encoder, definition: Definition, rows: Sequence[Row], batch_size: int = 64) -> Tensor:
    """The vectors that an encoder gives rows when it is told nothing of their task, (n, d), in their order."""
    from allround.models.running import batches

    encoder.eval()
    reading, prepared = read_plainly(encoder, definition, rows)
    found: list[Tensor] = [torch.empty(0)] * len(prepared)
    for numbers, batch in batches(encoder, prepared, reading, batch_size):
        made = row_vectors(encoder, encoder(batch), batch.size).float().cpu()
        for number, vector in zip(numbers, made, strict=True):
            found[number] = vector
    return torch.stack(found)


def labelled_vectors(bank: ModuleBank, tasks: Mapping[str, RouteRows]) -> tuple[Tensor, Tensor]:
    """The base's vectors of all rows of tasks that have a module, and the number of that module for each."""
    vectors, modules = [], []
    for rows in tasks.values():
        if rows.module is not None and len(rows):
            made = base_vectors(bank, rows)
            vectors.append(made)
            modules.append(torch.full((len(made),), rows.module))
    if not vectors:
        raise AllroundError(
            "fit a router", "none of the tasks has a module of its own", "give rows of the tasks of the modules"
        )
    return torch.cat(vectors), torch.cat(modules)


def read_state(file: Path) -> dict[str, Tensor]:
    """What a router has learned. Some learn nothing and have no file."""
    weights = Weights(file) if file.is_file() else None
    return {} if weights is None else {name: weights.get(name) for name in weights}


def taken_state(state: Mapping[str, Tensor], **shapes: tuple[int | None, ...]) -> list[Tensor]:
    """Tensors of a state by their names, in that order. None in a shape: any length. Errors: ValueError."""
    if set(state) != set(shapes):
        raise ValueError(f"it holds {', '.join(sorted(state)) or 'nothing'}, and not {', '.join(sorted(shapes))}")
    for name, shape in shapes.items():
        found = tuple(state[name].shape)
        if len(found) != len(shape) or any(w is not None and w != f for w, f in zip(shape, found, strict=True)):
            raise ValueError(f"'{name}' has the shape {found}, and not {shape}")
    return [state[name].float() for name in shapes]


def taken_layers(
    bank: ModuleBank, state: Mapping[str, Tensor], **others: tuple[int | None, ...]
) -> tuple[dict[str, Tensor], list[Tensor]]:
    """Tensors (modules, width) of linear layers, each called `layer.` and its name, and those of a state beside them.
    Errors: ValueError."""
    layers = {name: name.removeprefix("layer.") for name in state if name not in others}
    shapes: dict[str, tuple[int | None, ...]] = {}
    for name, layer in layers.items():
        found = bank.layers.get(layer)
        if not isinstance(found, LinearLayer):
            raise ValueError(f"'{layer}' is no linear layer that modules change")
        shapes[name] = (len(bank), found.inputs)
    tensors = taken_state(state, **shapes, **others)
    return dict(zip(layers.values(), tensors, strict=False)), tensors[len(layers) :]


def top_softmax(scores: Tensor, top: int) -> Tensor:
    """Softmax over the `top` largest of each row (0: all); the others are zero.

    >>> top_softmax(torch.tensor([[0.0, 1.0, 1.0]]), 2).tolist()
    [[0.0, 0.5, 0.5]]
    """
    if not 0 < top < scores.shape[-1]:
        return scores.softmax(-1)
    values, places = scores.topk(top, -1)
    return torch.zeros_like(scores).scatter_(-1, places, values.softmax(-1))
