"""The first contract: a system is whatever answers tasks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from allround.core import registry
from allround.core.errors import AllroundError, suggestion
from allround.core.outputs import output_folder
from allround.models.calibration import KEY, Calibration, read_calibrations, sets_of
from allround.models.manifest import read_manifest, write_manifest
from allround.models.prediction.predicts import Predicts
from allround.tasks.choices import in_words, labels_of, wrong_options
from allround.tasks.definition import Definition
from allround.tasks.kind import kind
from allround.tasks.modality import modality_of
from allround.tasks.passages import Passages
from allround.tasks.values import Row

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from allround.models.batch import Answers
    from allround.models.cost import Cost
    from allround.models.prediction.answerer import TaskFound

#: Rows that are read before the first of them are answered, so that rows of like length can go together.
WINDOW = 8192


class System(Predicts, ABC):
    """Answers the tasks in `definitions`, by whatever means.

    A row's answer depends on that row and its task alone, never on the rows beside it. A saved system is a folder whose
    manifest names its sort, and `load` opens any of them.
    """

    #: What the manifest calls it: the name of the file that its class is in.
    sort: ClassVar[str]
    definitions: dict[str, Definition]
    #: What is known of how the system was made; stands in the manifest.
    facts: dict[str, object]
    #: Of tasks that rank passages, those that a query searches which comes alone; `allround.models.indexed.search_in`
    #: sets them. They are not saved.
    passages: Mapping[str, Passages] = MappingProxyType({})

    @abstractmethod
    def answer(
        self, task: str | None, rows: Iterable[Row], *, batch_size: int = 64, scores: bool = False
    ) -> Iterator[Answers]:
        """The answers to rows of a task, in their order, some rows at a time.

        task: may be None where the system can tell by itself. scores: give the probability of each label too, for
        kinds that have labels.
        """

    @abstractmethod
    def cost(self, tasks: Iterable[str] | None = None) -> Cost:
        """What it costs to keep and use the system for these tasks; by default for all."""

    @abstractmethod
    def write(self, folder: Path) -> None:
        """Write the system's files into an existing folder: what `save` does, without the care for what is there."""

    @classmethod
    @abstractmethod
    def read(cls, folder: Path, definitions: Mapping[str, Definition], facts: Mapping[str, object]) -> System:
        """Read what `write` wrote. definitions, facts: as its manifest has them."""

    def calibration(self, task: str) -> Calibration | None:
        """How the scores of a task are corrected, where that was fitted."""
        if KEY not in self.facts:
            return None
        read = self.__dict__.get("_calibrations")
        if read is None or read[0] is not self.facts[KEY]:
            read = self.facts[KEY], read_calibrations(self.facts, self.definitions)
            self.__dict__["_calibrations"] = read
        found: dict[str, Calibration] = read[1]
        return found.get(task)

    def wants_scores(self, task: str, scores: bool) -> bool:
        """Whether scores must be computed: they are wanted, or confidences are corrected from them."""
        return scores or self.calibration(task) is not None

    def finished(self, task: str, made: Answers, scores: bool) -> Answers:
        """Answers as a system gives them: scores and confidences corrected by the task's calibration, if it has one.

        Every `answer` ends with this. made: with scores where `wants_scores` says so. scores: whether they are wanted.
        """
        calibration = self.calibration(task)
        return made if calibration is None else calibration.answers(made, self.definition(task), scores=scores)

    def to(self, device: torch.device | str) -> System:
        """Put the weights on a device, where the system has any; the system itself."""
        return self

    @property
    def parameters_stored(self) -> int:
        """How many numbers must be kept for all its tasks."""
        return self.cost().parameters_stored

    def definition(self, task: str) -> Definition:
        """The definition of a task, or an error that suggests the nearest name."""
        if task not in self.definitions:
            raise AllroundError(
                f"answer task '{task}'", f"the {self.noun} has no head for it", suggestion(task, self.definitions)
            )
        return self.definitions[task]

    def instructed(self, task: str, instruction: str) -> System:
        """The same system, where another instruction stands before the queries of a task: what a user asks for in words
        of their own. Weights are shared, and this system stays as it is. An empty instruction leaves none.

        Errors: a task that ranks no passages; a system of several, such as an ensemble.
        """
        definition = self.definition(task)
        if not kind(definition.kind).ranked:
            raise AllroundError(
                f"put another instruction before the inputs of task '{task}'",
                f"it is of the kind {definition.kind}: its head was trained with the words that it has",
                "name a task of the kind retrieval",
            )
        return self.with_instruction(task, instruction)

    def with_instruction(self, task: str, instruction: str) -> System:
        """What `instructed` gives, for a task that it allows."""
        raise AllroundError(
            f"put another instruction before the queries of task '{task}'",
            f"a system of the sort '{self.sort}' does not take one",
            "ask the model that it was made of",
        )

    def only_task(self) -> str:
        """The task of a system that has one. Errors: it has several."""
        if len(self.definitions) != 1:
            raise AllroundError(
                "answer rows without naming their task",
                f"the {self.noun} has {len(self.definitions)} tasks and cannot tell which one is meant",
                f"name one of: {', '.join(self.definitions)}",
            )
        return next(iter(self.definitions))

    @property
    def finds_tasks(self) -> bool:
        """Whether it can tell which task a row is of."""
        return False

    def find_tasks(self, rows: Sequence[Row], tasks: Sequence[str] | None = None) -> list[TaskFound]:
        """Which task each row is of, for a system that can tell. tasks: those that come into question; by default all
        that read so many columns. Errors: a system that cannot tell."""
        raise AllroundError(
            "find the task of a row",
            f"the {self.noun} cannot tell which task is meant",
            f"name one of: {', '.join(self.definitions)}",
        )

    @property
    def noun(self) -> str:
        """What messages call it."""
        return "model"

    def answers(self, task: str, rows: Sequence[Row], *, batch_size: int = 64, scores: bool = False) -> Answers:
        """All answers to rows of a task at once. At least one row is needed."""
        from allround.models.batch import Answers

        return Answers.join(list(self.answer(task, rows, batch_size=batch_size, scores=scores)))

    def answer_tasks(
        self, tasks: Sequence[str], rows: Sequence[Row], *, batch_size: int = 64, scores: bool = False
    ) -> dict[str, Answers]:
        """The answers of several tasks to the same rows, at least one of them.

        A system whose tasks share an encoder reads each row once.
        """
        return {task: self.answers(task, rows, batch_size=batch_size, scores=scores) for task in tasks}

    def answer_asked(
        self, asked: Mapping[str, Sequence[int]], rows: Sequence[Row], *, batch_size: int = 64, scores: bool = False
    ) -> dict[str, Answers]:
        """The answers of each task to the rows that it is asked of, by their numbers; at least one of each task.

        They come in the order of the numbers. Tasks that are asked of the same rows are answered together.
        """
        together: dict[tuple[int, ...], list[str]] = {}
        for task, numbers in asked.items():
            together.setdefault(tuple(numbers), []).append(task)
        found: dict[str, Answers] = {}
        for numbers, tasks in together.items():
            some = [rows[number] for number in numbers]
            found.update(self.answer_tasks(tasks, some, batch_size=batch_size, scores=scores))
        return {task: found[task] for task in asked}

    def answer_mixed(self, tasks: Sequence[str], rows: Sequence[Row], *, batch_size: int = 64) -> list[Answers]:
        """The answer to each row, of the task that stands beside it: one `Answers` of length 1 a row."""
        asked: dict[str, list[int]] = {}
        for number, task in enumerate(tasks):
            asked.setdefault(task, []).append(number)
        found: dict[int, Answers] = {}
        for task, made in self.answer_asked(asked, rows, batch_size=batch_size).items():
            found.update((number, made.take([place])) for place, number in enumerate(asked[task]))
        return [found[number] for number in range(len(rows))]

    def predict(
        self,
        task: str,
        inputs: Sequence[Any],
        batch_size: int = 64,
        *,
        scores: bool = False,
        top: int | None = None,
    ) -> list[Any]:
        """Readable answers (labels, a row's own choices, lists of labels, numbers, lists of tags) for inputs.

        An input is a text, a pair of texts (as a tuple), an image, a list of words, a tuple of a table's columns, or a
        query and its passages (a list of texts, or texts by id) as a tuple.
        scores: give the probability of each label in place of the answer, the most probable first; for tasks per word a
        list of them. top: only so many labels. Errors: scores of a task without labels.
        """
        definition = self.definition(task)
        if isinstance(inputs, str):
            raise AllroundError(f"answer task '{task}'", "the inputs are a single text", "give a list of inputs")
        if top is not None and (top < 1 or not scores):
            raise AllroundError(
                f"answer task '{task}' with top={top}",
                "top must be at least 1" if scores else "it says how many scores are given, and no scores are wanted",
                "give scores=True and top=1 or more",
            )
        reader = modality_of(definition)
        rows = [reader.row_of(row if isinstance(row, tuple) else (row,)) for row in inputs]
        if task in self.passages:
            rows = [(*row, self.passages[task]) if len(row) == 1 else row for row in rows]
        if not rows:
            return []
        made = self.answers(task, rows, batch_size=batch_size, scores=scores)
        if not scores:
            decoded = kind(definition.kind).decode(made.predictions, definition)
            return [in_words(definition, row, answer) for row, answer in zip(rows, decoded, strict=True)]
        if made.scores is None:
            labelled = kind(definition.kind).labelled
            raise AllroundError(
                f"give the scores of task '{task}'",
                f"a system of the sort '{self.sort}' gives no probabilities of the labels"
                if labelled
                else f"a task of the kind {definition.kind} has no labels to score",
                "leave scores out",
            )
        from allround.models.prediction.answers import ranked_labels

        return [
            ranked_labels(found, labels_of(definition, row), top) for row, found in zip(rows, made.scores, strict=True)
        ]

    def predict_sets(
        self, task: str, inputs: Sequence[Any], batch_size: int = 64
    ) -> list[list[str]] | list[tuple[float, float]]:
        """For each input the set of labels, the most probable first, that holds the right one as often as was asked for
        (`--coverage` of a build); for numbers the ends of an interval.

        Errors: a system without sets for the task.
        """
        definition, calibration = self.definition(task), self.calibration(task)
        if calibration is None or calibration.sets is None:
            raise AllroundError(
                f"give sets of answers to task '{task}'",
                f"the {self.noun} was saved without them",
                "build it with a coverage: allround build ... --coverage 0.9",
            )
        rows = [row if isinstance(row, tuple) else (row,) for row in inputs]
        if not rows:
            return []
        found = sets_of(self.answers(task, rows, batch_size=batch_size, scores=True), calibration.sets, definition)
        if not kind(definition.kind).own_choices:
            return found
        names = [dict(zip(definition.labels, labels_of(definition, row), strict=False)) for row in rows]
        return [[own[str(label)] for label in one] for own, one in zip(names, found, strict=True)]

    def save(self, folder: Path | str, *, force: bool = False) -> None:
        """Write the system into a folder that appears when it is whole.

        A folder that is there is replaced only where `save` wrote it and nothing was changed since, or with `force`.
        """
        with output_folder(folder, f"{type(self).__name__}.save", force=force) as new:
            self.write(new)

    def write_manifest(self, folder: Path, **more: Any) -> None:
        """The file that makes a folder a system. more: what the sort of system needs to be read again."""
        write_manifest(folder, self.definitions, {**self.facts, **more}, self.sort)


def windows(rows: Iterable[Row], size: int = WINDOW) -> Iterator[list[Row]]:
    """Rows, some at a time.

    >>> list(windows([(1,), (2,), (3,)], 2))
    [[(1,), (2,)], [(3,)]]
    """
    left = iter(rows)
    while some := list(islice(left, size)):
        yield some


def load(
    folder: Path | str,
    *,
    module: nn.Module | None = None,
    to_tensor: Callable[[Row], Tensor] | None = None,
    device: str = "cpu",
) -> System:
    """Load a saved system of any sort: a model, an ensemble, boosted trees, a store of residuals, ...

    module, to_tensor: the network, and what turns its rows into tensors, when the model was made from a network of
    the user's own.
    """
    folder = Path(folder)
    sort, definitions, facts = read_manifest(folder)
    if module is not None:
        from allround.models.encoders.module import give

        give(module, to_tensor)
    if sort not in registry.names("system"):
        raise AllroundError(
            f"load the model in {folder}",
            f"allround.json says that it is of the sort '{sort}'",
            suggestion(sort, registry.names("system")),
        )
    try:
        read_calibrations(facts, definitions)
    except ValueError as error:
        raise AllroundError(
            f"load the model in {folder}", f"allround.json is damaged: {error}", "copy the folder again, whole"
        ) from error
    kind_of: type[System] = registry.load("system", sort)  # type: ignore[assignment]
    return kind_of.read(folder, definitions, facts).to(device)


def check_rows(definition: Definition, rows: Sequence[Row]) -> None:
    """An error for the first row that a task cannot read."""
    rules = modality_of(definition)
    for number, row in enumerate(rows):
        asked = f"answer task '{definition.name}'"
        if len(row) != len(definition.inputs):
            do = f"give {len(definition.inputs)}: {', '.join(definition.inputs)}"
            raise AllroundError(asked, f"input {number} has {len(row)} parts", do)
        for column, value in zip(definition.inputs, row, strict=True):
            if not rules.fits(value):
                found = f"'{column}' of input {number} is of type {type(value).__name__}"
                raise AllroundError(asked, found, f"give {rules.noun}")
        if (wrong := wrong_options(definition, row)) is not None:
            do = (
                "give a query and a list of texts"
                if rules.searches
                else "give a list of at least two different choices"
            )
            raise AllroundError(asked, f"input {number} has {wrong}", do)
