"""A language model that is shown, before each question, labelled rows that were chosen for it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from allround.checkpoints.weights import Weights
from allround.composition.demonstrating import Demonstrations, make_demonstrations
from allround.composition.examples import Bank, Example, read_examples, row_text, write_examples
from allround.composition.presenting import Presenter
from allround.composition.text_reading import TextReader
from allround.core import registry
from allround.core.errors import AllroundError
from allround.core.registry import method
from allround.core.schema import STRICT, fitted
from allround.core.seeds import seed_of
from allround.models.base import find_folder, load_encoder
from allround.models.batch import Answers
from allround.models.cost import Cost
from allround.models.encoder import Encoder
from allround.models.head_files import HEADS, read_heads, write_heads
from allround.models.model import parameters_of
from allround.models.system import System, check_rows, windows
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.definition import Definition
from allround.tasks.kind import kind
from allround.tasks.prompt import shown
from allround.tasks.prompt_text import answer_text
from allround.tasks.task import Split, Task
from allround.tasks.values import Row

#: Training rows of each task that may be shown, unless it is told otherwise.
ROWS = 1000
#: What the folder holds beside model and examples: what was learned, and the encoder that reads texts.
LEARNED, READER = "demonstrations.safetensors", "reader"


@dataclass(frozen=True)
class _Manifest:
    """What allround.json says under `demonstrated`."""

    __pydantic_config__ = STRICT

    way: str
    settings: dict[str, Any]


@method(source="in-context learning: Brown et al., NeurIPS 2020, arXiv:2005.14165; each way names its own source")
class Demonstrated(System):
    """Answers a row behind demonstrations from training rows, which take the place of those of the task's prompt.

    Tasks with several labels a row, or with a head on vectors, are answered without any. Where a prompt would be too
    long, the demonstrations that were chosen last are left out.

    model: a language model with the heads of all tasks. way: how demonstrations are chosen; it has its bank.
    """

    sort = "demonstrated"

    def __init__(
        self, model: MultiTaskModel, way: Demonstrations, settings: Mapping[str, object] | None = None
    ) -> None:
        self.model, self.way, self.settings = model.eval(), way, dict(settings or {})
        self.presenter = Presenter(model)
        self.definitions = dict(model.definitions)
        self.facts: dict[str, object] = {}

    def answer(
        self, task: str | None, rows: Iterable[Row], *, batch_size: int = 64, scores: bool = False
    ) -> Iterator[Answers]:
        task = self.only_task() if task is None else task
        definition = self.definition(task)
        for some in windows(rows):
            check_rows(definition, some)
            wanted = self.wants_scores(task, scores)
            prepared = self._prepared(task, some)
            made = self.model.answer_prepared(task, prepared, batch_size=batch_size, scores=wanted)
            yield self.finished(task, made, scores)

    def _prepared(self, task: str, rows: Sequence[Row]) -> list[Any]:
        if task not in self.presenter.shown or not self.way.pool(task):
            return self.model.prepare(task, rows)
        return self.presenter.prepared(task, rows, self.chosen(task, rows))

    def chosen(self, task: str, rows: Sequence[Row]) -> list[list[Example]]:
        """The examples that are shown before each row, the best first: it stands next to the question."""
        found = self.way.choose(task, [row_text(row) for row in rows])
        return [[self.way.bank.examples[number] for number in some] for some in found]

    def to(self, device: torch.device | str) -> Demonstrated:
        self.model.to(device)
        self.way.reader.encoder.to(device)
        return self

    # -- size, and on disk ---------------------------------------------------------------------------------------------

    @property
    def _own_reader(self) -> Encoder | None:
        """The encoder of texts, where it is another than the language model."""
        encoder = self.way.reader.encoder
        return None if encoder is self.model.encoder else encoder

    def cost(self, tasks: Iterable[str] | None = None) -> Cost:
        found = self.model.cost(tasks)
        reader = 0 if self._own_reader is None else parameters_of(self._own_reader)
        more = reader + sum(tensor.numel() for tensor in self.way.state().values())
        return Cost(parameters_stored=found.parameters_stored + more, parameters_used=found.parameters_used + more)

    def write(self, folder: Path) -> None:
        (folder / "encoder").mkdir()
        self.model.encoder.save(folder / "encoder")
        write_heads(folder / HEADS, {name: self.model.head(name).stored() for name in self.definitions})
        if self._own_reader is not None:
            (folder / READER).mkdir()
            self._own_reader.save(folder / READER)
        self.write_way(folder)
        self.write_manifest(folder, demonstrated={"way": self.way.name, "settings": self.settings})

    def write_way(self, folder: Path) -> None:
        """Write the examples, and what was learned of them."""
        from safetensors.torch import save_file

        write_examples(folder, self.way.bank)
        state = {name: tensor.cpu().contiguous() for name, tensor in self.way.state().items()}
        if state:
            save_file(state, folder / LEARNED, {"format": "pt"})

    @classmethod
    def read(cls, folder: Path, definitions: Mapping[str, Definition], facts: Mapping[str, object]) -> Demonstrated:
        asked = f"load the model in {folder}"
        try:
            about = fitted(_Manifest, facts.get("demonstrated"))
            way = make_demonstrations(about.way, about.settings)
        except (ValueError, TypeError, AllroundError) as error:
            found = error.found if isinstance(error, AllroundError) else str(error)
            raise AllroundError(asked, f"allround.json is damaged: {found}", "copy the folder again, whole") from error
        model = MultiTaskModel(load_encoder(folder / "encoder"), {})
        model.add_heads(definitions, read_heads(folder / HEADS) if definitions else {})
        reader = load_encoder(folder / READER) if (folder / READER).is_dir() else model.encoder
        read_way(way, folder, reader, definitions, asked)
        made = cls(model, way, about.settings)
        made.facts = {name: value for name, value in facts.items() if name != "demonstrated"}
        return made


def read_way(
    way: Demonstrations, folder: Path, reader: Encoder, definitions: Mapping[str, Definition], asked: str
) -> None:
    """Give a way to choose the examples and the state that `write_way` wrote."""
    way.begin(read_examples(folder, definitions), TextReader(reader))
    try:
        weights = Weights(folder / LEARNED) if (folder / LEARNED).is_file() else None
        way.restore({} if weights is None else {name: weights.get(name) for name in weights})
    except ValueError as error:
        raise AllroundError(asked, f"{LEARNED} is damaged: {error}", "copy the folder again, whole") from error


def demonstrate(
    model: MultiTaskModel, tasks: Sequence[Task], way: str, *, rows: int = ROWS, seed: int = 0
) -> Demonstrated:
    """Show a language model demonstrations from training rows.

    model: with heads for these tasks. way: one of `allround.methods("demonstrations")` with its settings behind a
    colon, such as "coverage:count=4". rows: of each task that may be shown at most, drawn by the seed.
    Errors: a model that is no language model; no task that demonstrations can be shown for.

    ```python
    system = demonstrate(open_model("runs/support/best"), list(suite), "similarity:count=8")
    system.predict("topic", ["My parcel has not come"])
    ```
    """
    name, settings = registry.spelled("demonstrations", way)
    made, presenter = make_demonstrations(name, settings), Presenter(model)
    splits = {task.name: _rows(task, rows, seed) for task in tasks if task.name in presenter.shown}
    splits = {name: split for name, split in splits.items() if len(split)}
    if not splits:
        raise AllroundError(
            f"show a model demonstrations by '{way}'",
            "none of the tasks has training rows and is answered by choices or by writing, with one answer a row",
            "give such a task, or leave demonstrations out",
        )
    bank = Bank([one for name, split in splits.items() for one in _examples(model.definition(name), split)])
    encoder = load_encoder(find_folder(made.encoder)).to(model.device) if made.encoder else model.encoder
    made.begin(bank, TextReader(encoder))
    made.fit(presenter, splits, seed)
    return Demonstrated(model, made, settings)


def _rows(task: Task, most: int, seed: int) -> Split:
    """Some training rows of a task."""
    split = task.splits["train"]
    drawn = np.random.default_rng(seed_of(seed, "demonstrations", task.name)).permutation(len(split))[:most]
    return split.take(sorted(drawn.tolist()))


def _examples(definition: Definition, split: Split) -> list[Example]:
    answers = kind(definition.kind).decode(split.targets, definition)
    return [
        Example(definition.name, tuple(shown(value) for value in row), answer_text(definition, row, answer))
        for row, answer in zip(split.inputs, answers, strict=True)
    ]
