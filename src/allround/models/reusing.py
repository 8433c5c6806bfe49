"""Reuse of computation from row to row, where rows come as a stream and much of each is as it was in the one before."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from allround.core.errors import AllroundError
from allround.models.batch import Answers, Batch, Features
from allround.models.calibration import Calibration
from allround.models.prediction.answerer import TaskFound
from allround.models.prediction.predicts import Predicts
from allround.models.system import System
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.definition import Definition
from allround.tasks.kind import kind
from allround.tasks.passages import Passages
from allround.tasks.values import Row

#: After so many rows one is computed whole, so that errors of rounding cannot add up.
RENEWED = 1000


@dataclass
class Reused:
    """What came of the rows so far.

    rows: that the encoder was asked for, once for each group of tasks that read rows alike. whole: those of them that
    were computed whole; same: those whose features were taken over from the row before, whole. needed: multiply-adds of
    the layers without reuse. computed: those of the entries of their inputs that changed.

    >>> Reused(rows=4, whole=1, same=2, needed=400, computed=150).words()
    '37.5% of the multiply-adds were computed; of 4 rows 1 was computed whole, and 2 were as the row before'
    """

    rows: int = 0
    whole: int = 0
    same: int = 0
    needed: int = 0
    computed: int = 0

    @property
    def share(self) -> float:
        """The share of the multiply-adds that was computed; 1 before the first row."""
        return self.computed / self.needed if self.needed else 1.0

    def words(self) -> str:
        whole, same = ("1 was" if n == 1 else f"{n:,} were" for n in (self.whole, self.same))
        return (f"{self.share:.1%} of the multiply-adds were computed; of {self.rows:,} rows {whole} computed whole, "
                f"and {same} as the row before")  # fmt: skip


@dataclass
class _Memory:
    """What is kept of the rows of some tasks. read: the encoder's input, as far as changes were followed. layers: of
    each layer and call in a pass, the input that was followed, and the output to it without bias. work: multiply-adds
    of a pass. rows: since one was computed whole."""

    read: dict[str, Tensor]
    lengths: tuple[int, ...]
    layers: dict[tuple[str, int], tuple[Tensor, Tensor]] = field(default_factory=dict)
    features: Features | None = None
    work: int = 0
    rows: int = 0

    def fits(self, batch: Batch) -> bool:
        """Whether a row has the shape of these."""
        shapes = [{n: (t.shape, t.dtype) for n, t in some.items()} for some in (self.read, batch.tensors)]
        return shapes[0] == shapes[1] and self.lengths == batch.lengths and self.rows < RENEWED


class Reusing(Predicts):
    """A model that answers a stream of rows, one row after the other, and computes what changed since the row before.

    Each linear layer and convolution keeps an input and the output to it. Of the next row's input only entries that
    differ by more than the threshold are read: what they change is added to the output, and they are kept in turn.
    Everything else (norms, activations, attention) is computed anew. The error does not grow with the rows, since the
    other entries are compared with what is kept again. Where no entry of the encoder's own input differs by more, all
    features are those of the row before. So **an answer depends on the rows before it**, within what the threshold
    allows; no other part of allround is so, and serving has none of this. With threshold 0 answers are those of the
    model, but for rounding.

    Formula: c = [|x - r| > threshold], r' = r + c * (x - r), y' = y + W (r' - r), output y' + bias
    Source: computation sharing over time in Shoouri et al., ICCV 2023, arXiv:2303.09663. Differs: the threshold is one
    for all layers, and is held against inputs of layers; their code simulates the reuse, with a threshold for each
    block that is held against outputs.

    The counted multiply-adds are those of a machine that skips entries that did not change. Dense kernels do not skip
    them: time is saved only by rows that are taken over whole, and by layers whose input did not change at all.

    threshold: in the units of what the layers read, 0 or more. The weights are the model's own; what is kept must be
    forgotten (`forget`) if they are changed. One thread at a time. Errors: systems other than a model with one encoder,
    language models, encoders that give each task features of its own, and networks without such layers in float32 or
    float64.

    >>> from allround.models.encoders.module import Module
    >>> task = Definition("big", "classification", ("x",), "table", "accuracy", ("no", "yes"))
    >>> stream = Reusing(MultiTaskModel(Module(nn.Linear(1, 2), dim=2), {"big": task}), threshold=0.5)
    >>> len(stream.answers("big", [(1.0,), (1.2,), (3.0,)])), stream.counts
    (3, Reused(rows=3, whole=1, same=1, needed=6, computed=4))
    """

    def __init__(self, model: System, threshold: float = 0.05) -> None:
        checked = _checked(model, threshold, "reuse computation from row to row")
        self.threshold, self.counts = float(threshold), Reused()
        self.definitions: dict[str, Definition] = checked.definitions
        self.passages: Mapping[str, Passages] = MappingProxyType({})
        # A copy, so that the model itself goes on to compute every row by itself.
        self._model = _copied(checked)
        for name, layer in _layers(self._model).items():
            layer.forward = self._reusing(name, layer)  # type: ignore[method-assign, assignment]
        self._encode: Callable[[Batch], Features] = self._model.encoder.forward
        self._model.encoder.forward = self._features  # type: ignore[method-assign]
        self._memories: dict[tuple[str, ...], _Memory] = {}
        self._now: _Memory | None = None
        self._calls: Counter[str] = Counter()

    def forget(self) -> None:
        """Compute the next row whole."""
        self._memories.clear()

    # -- what prediction asks for --------------------------------------------------------------------------------------

    @property
    def finds_tasks(self) -> bool:
        return self._model.finds_tasks

    def find_tasks(self, rows: Sequence[Row], tasks: Sequence[str] | None = None) -> list[TaskFound]:
        return self._model.find_tasks(rows, tasks)

    def definition(self, task: str) -> Definition:
        return self._model.definition(task)

    def calibration(self, task: str) -> Calibration | None:
        return self._model.calibration(task)

    def answers(self, task: str, rows: Sequence[Row], *, scores: bool = False) -> Answers:
        """All answers to the next rows of the stream, at least one, for a task."""
        return self.answer_tasks([task], rows, scores=scores)[task]

    def answer_tasks(
        self, tasks: Sequence[str], rows: Sequence[Row], *, batch_size: int = 1, scores: bool = False
    ) -> dict[str, Answers]:
        """The answers of several tasks to the next rows of the stream, at least one. batch_size: has no effect, since
        rows are read one by one. Errors: tasks that rank passages."""
        for task in tasks:
            _check_task(self.definition(task), "reuse computation from row to row")
        try:
            made = [self._model.answer_tasks(tasks, [row], batch_size=1, scores=scores) for row in rows]
        except BaseException:
            self.forget()  # part of a pass may be in it, or numbers that are not finite
            raise
        return {task: Answers.join([one[task] for one in made]) for task in tasks}

    # -- in the copy's passes ------------------------------------------------------------------------------------------

    def _features(self, batch: Batch) -> Features:
        """What takes the place of the encoder's forward, for a batch of one row."""
        asked, counts = tuple(batch.rows), self.counts
        kept = self._memories.get(asked)
        counts.rows += 1
        if kept is None or not kept.fits(batch):
            kept = _Memory({name: tensor.clone() for name, tensor in batch.tensors.items()}, batch.lengths)
            self._memories[asked] = kept
            counts.whole += 1
        else:
            changed = {
                name: _changed(tensor, kept.read[name], self.threshold) for name, tensor in batch.tensors.items()
            }
            if kept.features is not None and not any(bool(places.any()) for places in changed.values()):
                counts.same += 1
                counts.needed += kept.work
                kept.rows += 1
                return kept.features
            kept.read = {n: torch.where(changed[n], t, kept.read[n]) for n, t in batch.tensors.items()}
        before = counts.needed
        self._now = kept
        self._calls.clear()
        kept.features = self._encode(batch)
        kept.work = counts.needed - before
        kept.rows += 1
        return kept.features

    def _reusing(self, name: str, layer: nn.Linear | nn.Conv2d) -> Callable[[Tensor], Tensor]:
        """What takes the place of a layer's forward."""
        per_output = layer.weight[0].numel()

        def forward(x: Tensor) -> Tensor:
            assert self._now is not None
            place = name, self._calls[name]
            self._calls[name] += 1
            kept = self._now.layers.get(place)
            if kept is None or kept[0].shape != x.shape:
                read, gave, share = x.clone(), _without_bias(layer, x), 1.0
            else:
                read, gave = kept
                changed = _changed(x, read, self.threshold)
                share = int(changed.sum()) / max(1, changed.numel())
                if share:
                    gave = gave + _without_bias(layer, torch.where(changed, x - read, 0))
                    read = torch.where(changed, x, read)
            self._now.layers[place] = read, gave
            work = gave.numel() * per_output
            self.counts.needed += work
            self.counts.computed += round(share * work)
            if layer.bias is None:
                return gave.clone()  # what follows may write into it
            return gave + (layer.bias if isinstance(layer, nn.Linear) else layer.bias.view(-1, 1, 1))

        return forward


class ReusingTasks:
    """Specialists of one base that answer the same rows, where each computes what differs from the first of them.

    The first task is computed whole. Of the others, each linear layer and convolution takes over those entries of its
    input that differ by at most the threshold from the first task's. Its weights are the first task's and a change, of
    which the entries that are not zero are counted: few, where the specialists lie in a store of sparse residuals. An
    answer depends on its row alone, and with threshold 0 it is the specialist's own.

    Formula: c = [|x - r| > threshold], x' = r + c * (x - r), output (W + R) x' + bias; of the multiply-adds of W x' the
    share of entries with c = 1 is counted, and of R x' the share of entries of R that are not zero; together at most 1
    Source: computation sharing between tasks in Shoouri et al., ICCV 2023, arXiv:2303.09663. Differs: as `Reusing`, and
    nothing is trained, where the paper trains specialists so that both shares are small.

    This counts what a machine for sparse numbers could save. On others, every task takes the time of a whole pass.

    specialists: by the task that each is asked, with networks of one shape; of a store, which has one task's weights at
    a time, copies. counts: by task. Errors: as `Reusing`, and networks of other shapes.

    >>> from allround.models.encoders.module import Module
    >>> tasks = [Definition(name, "regression", ("x",), "table", "spearman") for name in ("one", "two")]
    >>> both = {d.name: MultiTaskModel(Module(nn.Linear(1, 2), dim=2), {d.name: d}) for d in tasks}
    >>> shared = ReusingTasks(both, threshold=0.5)
    >>> len(shared.answers([(1.0,), (3.0,)])["two"]), shared.counts["one"].share
    (2, 1.0)
    """

    def __init__(self, specialists: Mapping[str, System], threshold: float = 0.05) -> None:
        asked = "reuse computation from task to task"
        self.threshold = float(threshold)
        self._models = {task: _copied(_checked(one, threshold, asked)) for task, one in specialists.items()}
        if not self._models:
            raise AllroundError(asked, "no specialist is given", "give two or more, by task")
        self.counts = {task: Reused() for task in self._models}
        for task, model in self._models.items():
            _check_task(model.definition(task), asked)
        self._read: dict[tuple[str, int], Tensor] = {}
        self._calls: Counter[str] = Counter()
        self._first = next(iter(self._models))
        first = _layers(self._models[self._first])
        weights = {name: layer.weight for name, layer in first.items()}
        for task, model in self._models.items():
            layers = _layers(model)
            if {n: one.weight.shape for n, one in layers.items()} != {n: w.shape for n, w in weights.items()}:
                raise AllroundError(asked, f"the network of '{task}' has other layers than that of '{self._first}'",
                                    "give specialists that were tuned from one base")  # fmt: skip
            for name, layer in layers.items():
                differs = float((layer.weight != weights[name]).float().mean())
                layer.forward = self._reusing(task, name, layer, differs)  # type: ignore[method-assign, assignment]

    def answers(self, rows: Sequence[Row], *, scores: bool = False) -> dict[str, Answers]:
        """The answers of every specialist to the same rows, at least one, which are read one by one."""
        made: dict[str, list[Answers]] = {task: [] for task in self._models}
        for row in rows:
            self._read.clear()
            for task, model in self._models.items():  # the first task's inputs are there when the others come
                self._calls.clear()
                made[task].append(model.answers(task, [row], batch_size=1, scores=scores))
                self.counts[task].rows += 1
                self.counts[task].whole += task == self._first
        return {task: Answers.join(parts) for task, parts in made.items()}

    def _reusing(
        self, task: str, name: str, layer: nn.Linear | nn.Conv2d, differs: float
    ) -> Callable[[Tensor], Tensor]:
        """What takes the place of a layer's forward. differs: which share of its weights is not the first task's."""
        whole, counts, per_output = layer.forward, self.counts[task], layer.weight[0].numel()

        def forward(x: Tensor) -> Tensor:
            place = name, self._calls[name]
            self._calls[name] += 1
            share = 1.0
            if task == self._first:
                self._read[place] = x.clone()
            elif place in self._read and self._read[place].shape == x.shape:
                changed = _changed(x, self._read[place], self.threshold)
                share = min(1.0, int(changed.sum()) / max(1, changed.numel()) + differs)
                x = torch.where(changed, x, self._read[place])
            found: Tensor = whole(x)
            counts.needed += found.numel() * per_output
            counts.computed += round(share * found.numel() * per_output)
            return found

        return forward


def _checked(model: System, threshold: float, asked: str) -> MultiTaskModel:
    """The model, if its computation can be reused. asked: what for, in messages."""
    if not 0 <= threshold < float("inf"):
        raise AllroundError(asked, f"the threshold is {threshold}", "give 0 or more, such as 0.05")
    if not isinstance(model, MultiTaskModel):
        raise AllroundError(asked, f"a system of the sort '{model.sort}' has no single encoder that reads all rows",
                            "give a model that allround tuned, trained or merged")  # fmt: skip
    if "texts" in model.encoder.gives:
        raise AllroundError(asked, "the encoder is a language model, which reads and writes texts of any length",
                            "give a model of images, tables or short texts")  # fmt: skip
    if model.encoder.by_task:
        raise AllroundError(asked, f"the encoder '{model.encoder.name}' gives each task features of its own",
                            "give a model whose tasks read the same features")  # fmt: skip
    if not _layers(model):
        raise AllroundError(asked, f"the encoder '{model.encoder.name}' has no linear layers or convolutions in "
                            "float32 or float64", "give another model")  # fmt: skip
    return model


def _check_task(definition: Definition, asked: str) -> None:
    """An error for a task that ranks passages."""
    if kind(definition.kind).ranked:
        raise AllroundError(f"{asked} for task '{definition.name}'", "it compares a query with many passages, whose "
                            "vectors are kept anyway", "leave the reuse out, or name other tasks")  # fmt: skip


def _copied(model: MultiTaskModel) -> MultiTaskModel:
    """A copy with the same weights, whose layers can be changed."""
    return copy.deepcopy(model, {id(t): t for t in (*model.parameters(), *model.buffers())})


def _layers(model: MultiTaskModel) -> dict[str, nn.Linear | nn.Conv2d]:
    """The layers whose computation is reused, by name: those that compute as their class in PyTorch does, in numbers
    that many small changes can be added up in."""
    found = {}
    for name in model.adapted_layers():
        layer = model.encoder.backbone.get_submodule(name)
        plain = type(layer).forward in (nn.Linear.forward, nn.Conv2d.forward)
        if plain and isinstance(layer, nn.Linear | nn.Conv2d) and layer.weight.dtype in (torch.float32, torch.float64):
            found[name] = layer
    return found


def _changed(x: Tensor, reference: Tensor, threshold: float) -> Tensor:
    """Where an input differs by more than the threshold; numbers of tokens and the like wherever they differ. NaN
    differs from everything."""
    return ~((x - reference).abs() <= threshold) if x.is_floating_point() else x != reference


def _without_bias(layer: nn.Linear | nn.Conv2d, x: Tensor) -> Tensor:
    if isinstance(layer, nn.Linear):
        return F.linear(x, layer.weight)
    found: Tensor = layer._conv_forward(x, layer.weight, None)
    return found
