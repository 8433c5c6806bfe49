"""What an estimator may look at: training rows of each task, a frozen base, specialists, and measured transfer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from allround.core.errors import AllroundError, suggestion
from allround.models.encoder import LINEAR, Encoder
from allround.models.head import OutputHead
from allround.models.running import features_of
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.definition import Definition
from allround.tasks.kind import kind
from allround.tasks.suite import Suite
from allround.tasks.task import Task
from allround.tasks.values import Row
from allround.transfer.costs import Costs
from allround.transfer.deltas import alike, deltas
from allround.transfer.headed_base import HeadedBase, fisher, fit_linear
from allround.transfer.matrix import TaskMatrix, Values
from allround.transfer.task_rows import Classes, TaskRows, text_of


class TransferView:
    """What is known of sources and targets before any transfer between them is measured.

    A source is a task with training rows, or a specialist, or both; a target is a task with training rows. Nothing else
    of the tasks is read: no validation and no test rows. What the view gives is made once and kept.

    rows: by task. base: a frozen encoder, or a model whose encoder it is. models: specialists by the source that they
    were tuned on, from the same base where weights are compared. runs: measured transfer between other tasks.
    sources, targets: all tasks where they are None. Errors: a target without rows; a source without rows and model; a
    model of several tasks, of which none is called as its source.

    Where a task is per word, words stand for rows: `n` below counts them. An array is None where it cannot be made,
    such as the class of each row of a regression; `unread` says why the rows of a task cannot be read.

    >>> from allround.models.encoders.small_image import SmallImage
    >>> from allround.tasks.suite import Suite
    >>> view = TransferView.of(Suite.load("digits", only=["digit", "parity"]), SmallImage(size=8), limit=40)
    >>> view.features("digit").shape, view.probabilities("parity", "digit").shape
    ((40, 128), (40, 2))
    """

    def __init__(
        self,
        rows: Mapping[str, TaskRows],
        base: Encoder | MultiTaskModel | None = None,
        *,
        models: Mapping[str, MultiTaskModel] | None = None,
        runs: TaskMatrix | None = None,
        sources: Sequence[str] | None = None,
        targets: Sequence[str] | None = None,
        batch_size: int = 64,
    ) -> None:
        self.rows = dict(rows)
        self.encoder = base.encoder if isinstance(base, MultiTaskModel) else base
        self.models = dict(models or {})
        self.runs = runs
        known = dict.fromkeys([*self.rows, *self.models])
        self.sources = tuple(known if sources is None else sources)
        self.targets = tuple(self.rows if targets is None else targets)
        for names, there, what in (
            (self.sources, list(known), "no training rows of it, and no model"),
            (self.targets, list(self.rows), "no training rows of it"),
        ):
            if odd := [name for name in names if name not in there]:
                raise AllroundError(
                    f"estimate transfer of the task '{odd[0]}'", f"there are {what}", suggestion(odd[0], there)
                )
        for name, model in self.models.items():
            _own(model, name)
        self.batch_size = batch_size
        self.costs = Costs()
        self.unread: dict[str, str] = {}

    @classmethod
    def of(
        cls,
        tasks: Suite | Iterable[Task],
        base: Encoder | MultiTaskModel | None = None,
        *,
        limit: int | None = 300,
        seed: int = 0,
        **more: Any,
    ) -> TransferView:
        """The view of a suite's tasks. limit: training rows of each task that are looked at, drawn by `seed` with one
        of each class at least. more: as for the class."""
        rows = {}
        for task in tasks.tasks.values() if isinstance(tasks, Suite) else tasks:
            size = len(task.splits["train"])
            some = (task if limit is None else task.limit({"train": limit}, seed)).splits["train"]
            if size:
                rows[task.name] = TaskRows(task.definition, some.inputs, some.targets, size)
        return cls(rows, base, **more)

    @property
    def has(self) -> frozenset[str]:
        """What can be looked at, in the words of what estimators need."""
        found = {"rows", "labels"}
        if self.encoder is not None:
            found |= {"features", "heads", "gradients"}
        if any(name in self.models for name in self.sources):
            found |= {"models", "heads"}
        return frozenset(found if self.runs is None else {*found, "runs"})

    # -- tables --------------------------------------------------------------------------------------------------------

    def table(self, value: Callable[..., float], read: Callable[[str, str], Sequence[Any]]) -> Values:
        """(sources, targets): `value` of what `read` gives for a source and a target; NaN where a part is None."""
        found = np.full((len(self.sources), len(self.targets)), np.nan)
        for row, source in enumerate(self.sources):
            for column, target in enumerate(self.targets):
                parts = read(source, target)
                if all(part is not None for part in parts):
                    found[row, column] = value(*parts)
        return found

    def between(
        self, value: Callable[[Any, Any], float], of: Callable[[str], Any], *, symmetric: bool = True
    ) -> Values:
        """(sources, targets): `value` of what `of` gives for each of the two, asked once a task; NaN where that is
        None. symmetric: whether it is the same in both directions, and is asked for in one alone."""
        known = {name: of(name) for name in dict.fromkeys((*self.sources, *self.targets))}
        found: dict[Any, float] = {}

        def one(source: str, target: str) -> float:
            key = frozenset((source, target)) if symmetric else (source, target)
            if key not in found:
                found[key] = value(known[source], known[target])
            return found[key]

        return self.table(one, lambda s, t: (None if known[s] is None else s, None if known[t] is None else t))

    def of_models(self, names: Sequence[str], values: Values) -> Values:
        """(sources, targets) from values of pairs of specialists, (names, names); NaN for tasks without one."""
        places = {name: place for place, name in enumerate(names)}
        return self.table(lambda s, t: float(values[s, t]), lambda s, t: (places.get(s), places.get(t)))

    # -- rows and labels -----------------------------------------------------------------------------------------------

    def definition(self, task: str) -> Definition:
        """What is asked in a task, or in the task of a source that is a model alone."""
        return self.rows[task].definition if task in self.rows else _own(self.models[task], task)

    def size(self, task: str) -> int | None:
        """How many training rows a task has in all."""
        return self.rows[task].size if task in self.rows else None

    def classes(self, task: str) -> Classes | None:
        """As `TaskRows.classes`; None for a source without rows."""
        return self.rows[task].classes if task in self.rows else None

    def columns(self, task: str) -> Values | None:
        """As `TaskRows.columns`; None for a source without rows."""
        return self.rows[task].columns if task in self.rows else None

    # -- features ------------------------------------------------------------------------------------------------------

    def features(self, task: str, by: str | None = None) -> Values | None:
        """The features of a task's rows, (n, d). by: a source through which they are read: as its specialist gives
        them; or, where the view has none, as the outputs of the source's head on the base. The base's where it is None.
        """
        return self._features(task, by, whole=True)

    def common(self, task: str, by: str | None = None) -> Values | None:
        """The part of the features that means the same for all tasks: of a pair of texts, the mean of both."""
        return self._features(task, by, whole=False)

    def described(self, task: str) -> Values | None:
        """The base's features of what a task says of itself, (d,); None where the base does not read texts."""
        encoder, text = self.encoder, text_of(self.definition(task))
        if encoder is None or "text" not in encoder.modalities:
            return None
        about = Definition(f"what {task} says", "regression", ("text",), "text", "rmse", head=LINEAR)
        found = self.costs.once(("described", text), lambda: self._read(encoder, about, [(text,)]))
        return None if found is None else found[0]

    def head(self, source: str, task: str) -> tuple[OutputHead, Tensor] | None:
        """The head of a source, and the features of a task's rows for it, (n, d); None where it cannot read these."""
        # a head of the base reads what means the same for all tasks; that of a specialist reads what it was tuned on
        features = self.features(task, source) if source in self.models else self.common(task)
        if features is None or (head := self._head(source)) is None or features.shape[1] != head.width:
            return None
        return head, torch.from_numpy(features).float()

    def outputs(self, source: str, task: str) -> Values | None:
        """What the head of a source gives for a task's rows, (n, k): of a specialist, or fitted on the base."""
        return self.costs.once(("outputs", source, task), lambda: self._outputs(source, task))

    def probabilities(self, source: str, task: str) -> Values | None:
        """How probable each label of a source is for each row of a task, (n, labels); None where these labels do not
        exclude each other."""
        definition = self.definition(source)
        rules = kind(definition.kind)
        if not rules.fixed_labels or not rules.exclusive or (outputs := self.outputs(source, task)) is None:
            return None
        head = self._head(source)
        assert head is not None
        scores = head.likelihood.scores(torch.from_numpy(outputs))
        return None if scores is None else np.asarray(scores.double())

    def _features(self, task: str, by: str | None, *, whole: bool) -> Values | None:
        if task not in self.rows:
            return None
        if by is not None and by not in self.models:
            return self.outputs(by, task)
        encoder = self.encoder if by is None else self.models[by].encoder
        if encoder is None:
            return None
        about = self.rows[task].definition
        # an encoder with parts of each task's own has those of the source's task
        about = replace(about, name=_own(self.models[by], by).name) if by is not None and encoder.by_task else about
        # sources of one model with an encoder for all tasks see the same
        seen = by if encoder.by_task else id(encoder)
        found = self.costs.once(("features", task, seen), lambda: self._read(encoder, about, self.rows[task].inputs))
        return found if whole or found is None else np.asarray(encoder.common(torch.from_numpy(found)))

    def _read(self, encoder: Encoder, definition: Definition, inputs: Sequence[Row]) -> Values | None:
        """The features of rows; None where an encoder cannot read them, and why in `unread`."""
        if kind(definition.kind).for_language_models:
            definition = replace(definition, kind="regression", labels=(), prompt=None, harness="")
        definition = encoder.headed(definition, LINEAR)
        try:
            encoder.check(definition)
            prepared = encoder.prepare(inputs, definition)
        except AllroundError as error:
            self.unread[definition.name] = error.found
            return None
        return np.asarray(features_of(encoder, prepared, definition, self.batch_size).values.double())

    def _outputs(self, source: str, task: str) -> Values | None:
        if (found := self.head(source, task)) is None:
            return None
        head, features = found
        with torch.no_grad():
            return np.asarray(head(features).double())

    def _head(self, source: str) -> OutputHead | None:
        """The head of a source: its specialist's, or a linear one on the common features of the base."""
        if source in self.models:
            model = self.models[source]
            head = model.head(_own(model, source).name)
            return head if isinstance(head, OutputHead) else None
        return self._base_head(source)

    def _base_head(self, task: str, *, whole: bool = False) -> OutputHead | None:
        """A linear head fitted on a task's rows: on the features that mean the same for all tasks, or on the whole."""

        def fit() -> OutputHead | None:
            features = self.features(task) if whole else self.common(task)
            rules = kind(self.definition(task).kind)
            if features is None or not len(features) or rules.for_language_models or rules.ranked:
                return None
            return fit_linear(self.definition(task), torch.from_numpy(features).float(), self.rows[task].targets)

        return self.costs.once(("head", task, whole), fit)

    # -- gradients and changes of weights ------------------------------------------------------------------------------

    def fisher(self, task: str, *, observed: bool = False) -> Values | None:
        """The Fisher information of each of the base's common features in answering a task's rows, (d,). observed: by
        the answers that the rows have, and not by those that the head expects."""
        features, head = self.common(task), self._base_head(task)
        if features is None or head is None:
            return None
        targets = self.rows[task].targets if observed else None
        return self.costs.once(
            ("fisher", task, observed), lambda: fisher(head, torch.from_numpy(features), targets).numpy()
        )

    def gradient(self, task: str, rows: int) -> list[Tensor] | None:
        """The gradient of a task's loss with respect to each parameter of the base, as `headed` gives it.

        The gradients of all tasks are kept: as much memory for each as the base takes."""
        base = self.headed(rows)
        return self.costs.once(("gradient", task, rows), lambda: base.gradient(task)) if task in base.rows else None

    def headed(self, rows: int) -> HeadedBase:
        """The base with linear heads, fitted on all rows of the view; it looks at no more than so many of each task."""

        def make() -> HeadedBase:
            assert self.encoder is not None
            heads = {name: head for name in self.rows if (head := self._base_head(name, whole=True)) is not None}
            return HeadedBase(
                self.encoder, heads, {name: self.rows[name].some(rows) for name in heads}, self.batch_size
            )

        return self.costs.once(("headed", rows), make)

    def deltas(self) -> tuple[list[str], Iterator[Tensor]]:
        """The specialists that have the base's parameters, and for each stretch of these what each of them changed:
        (specialists, entries)."""
        encoder = self.encoder
        if encoder is None:
            return [], iter(())
        encoders = {name: model.encoder for name, model in self.models.items()}
        names = alike(encoder, encoders)
        return names, deltas(encoder, {name: encoders[name] for name in names})


def _own(model: MultiTaskModel, source: str) -> Definition:
    """The task that a specialist was tuned on."""
    return model.definitions[source] if source in model.definitions else model.definition(model.only_task())
