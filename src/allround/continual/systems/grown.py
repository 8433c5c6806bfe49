"""Parts that came one after another, and what tells which of them a row is for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from allround.checkpoints.weights import Weights
from allround.continual.parts import Part, PartHolder, mixes
from allround.continual.selecting import RowView, Select, make_select
from allround.core.errors import AllroundError
from allround.core.locks import Lock
from allround.core.registry import method
from allround.core.schema import STRICT, fitted
from allround.models.base import load_encoder
from allround.models.batch import Answers
from allround.models.cost import Cost
from allround.models.encoder import Encoder
from allround.models.model import parameters_of
from allround.models.system import System, check_rows, load, windows
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.definition import Definition
from allround.tasks.kind import kind
from allround.tasks.values import Row

#: Where bodies, what selects among parts, and the base lie in the folder.
BODIES, SELECT, BASE = "bodies", "select.safetensors", "base"


@dataclass(frozen=True)
class _Manifest:
    """What allround.json says under `grown`."""

    __pydantic_config__ = STRICT

    parts: tuple[Part, ...]
    bodies: int
    select: str
    select_settings: dict[str, Any]
    state: tuple[str, ...]


@method(source="experts and residuals of single arrivals; each strategy names its own")
class Grown(PartHolder, System):
    """A task is answered by all parts that know it, weighed for each row.

    A part may know some of a task's labels only, and further ones that are its own affair; its probabilities are those
    among the labels of the task. Where labels do not exclude each other, the part with the largest weight answers.

    Threads are answered one at a time. told: the number of the arrival that all rows are said to be of; None where the
    parts are weighed.
    """

    sort = "grown"

    def __init__(
        self, select: str, select_settings: Mapping[str, Any] | None = None, *, base: Encoder | None = None
    ) -> None:
        self.definitions, self.bodies, self.parts = {}, [], []
        self.select: Select = make_select(select, select_settings)
        self.named = select, dict(select_settings or {})
        self.base = base
        self.told: int | None = None
        self._lock = Lock()  # to read the base, the parts are taken out of the encoder for a while
        self.facts: dict[str, object] = {}

    def parts_of(self, task: str) -> list[int]:
        """The numbers of the parts that know a task; of those of the arrival that was told, where one was."""
        known = [number for number, part in enumerate(self.parts) if part.task == task]
        told = [number for number in known if self.parts[number].arrival == self.told]
        return told or known

    # -- answers -------------------------------------------------------------------------------------------------------

    def answer(
        self, task: str | None, rows: Iterable[Row], *, batch_size: int = 64, scores: bool = False
    ) -> Iterator[Answers]:
        task = self.only_task() if task is None else task
        definition = self.definition(task)
        for some in windows(rows):
            check_rows(definition, some)
            with self._lock:
                made = self._answered(definition, some, batch_size, self.wants_scores(task, scores))
            yield self.finished(task, made, scores)

    @torch.inference_mode()
    def _answered(self, definition: Definition, rows: Sequence[Row], batch_size: int, scores: bool) -> Answers:
        parts = self.parts_of(definition.name)
        view = RowView(self, definition.name, rows, parts, batch_size)
        weights = self._weights(view)
        if not mixes(definition):
            bodies = [(self.bodies[self.parts[part].body], self.parts[part].name) for part in parts]
            found = [body.answers(name, rows, batch_size=batch_size, scores=scores) for body, name in bodies]
            best = weights.argmax(1)
            return Answers.join(found).take([int(best[row]) * len(rows) + row for row in range(len(rows))])
        table, known = np.zeros((len(rows), len(definition.labels))), np.zeros(len(definition.labels))
        for place, part in enumerate(parts):
            labels = self.definition_of(part).labels
            own = [n for n, label in enumerate(labels) if label in definition.labels]
            columns = [definition.labels.index(labels[n]) for n in own]
            weight = weights[:, [place]] if self.select.mix == "sum" else 1.0
            table[:, columns] += weight * self.select.probabilities(view, part).numpy()[:, own]
            known[columns] += 1
        if self.select.mix == "mean":
            table /= np.maximum(known, 1)
        table /= np.maximum(table.sum(1, keepdims=True), 1e-300)
        predictions, confidence = kind(definition.kind).decide(table)
        return Answers(predictions, confidence, table if scores else None)

    @torch.inference_mode()
    def weights(self, task: str, rows: Sequence[Row]) -> NDArray[np.float64]:
        """How much each of `parts_of(task)` has to say about rows, (n, parts); each row's sum to one."""
        with self._lock:
            return self._weights(RowView(self, task, rows, self.parts_of(task)))

    def _weights(self, view: RowView) -> NDArray[np.float64]:
        if len(view.parts) == 1:
            return np.ones((len(view.rows), 1))
        return np.asarray(self.select.scores(view).double().softmax(1).cpu().numpy())

    def picked(self, task: str, rows: Sequence[Row]) -> list[int] | None:
        """The number of the arrival that each row is taken to be of; None where nothing picks one."""
        parts = self.parts_of(task)
        if len(parts) == 1 or not self.select.picks:
            return None
        return [self.parts[parts[place]].arrival for place in self.weights(task, rows).argmax(1)]

    # -- size, and on disk ---------------------------------------------------------------------------------------------

    def to(self, device: torch.device | str) -> Grown:
        for body in self.bodies:
            body.to(device)
        if self.base is not None:
            self.base.to(device)
        return self

    def cost(self, tasks: Iterable[str] | None = None) -> Cost:
        """tasks: of others, no body counts that knows none of these."""
        names = set(self.definitions if tasks is None else tasks)
        always = sum(value.numel() for value in self.select.state.values())
        always += 0 if self.base is None else parameters_of(self.base)
        stored, used = 0, dict.fromkeys(names, 0)
        for number, body in enumerate(self.bodies):
            own = [part for part in self.parts if part.body == number and part.task in names]
            stored += body.cost([part.name for part in own]).parameters_stored if own else 0
            for part in own:
                used[part.task] += body.cost([part.name]).parameters_used
        return Cost(parameters_stored=stored + always, parameters_used=max(used.values(), default=0) + always)

    def write(self, folder: Path) -> None:
        from safetensors.torch import save_file

        for number, body in enumerate(self.bodies):
            (folder / BODIES / str(number)).mkdir(parents=True)
            body.write(folder / BODIES / str(number))
        if self.base is not None:
            (folder / BASE).mkdir()
            self.base.save(folder / BASE)
        if self.select.state:
            state = {name: value.contiguous() for name, value in self.select.state.items()}
            save_file(state, folder / SELECT, {"format": "pt"})
        name, settings = self.named
        about = {"parts": [asdict(part) for part in self.parts], "bodies": len(self.bodies), "select": name,
                 "select_settings": settings, "state": sorted(self.select.state)}  # fmt: skip
        self.write_manifest(folder, grown=about)

    @classmethod
    def read(cls, folder: Path, definitions: Mapping[str, Definition], facts: Mapping[str, object]) -> Grown:
        asked, do = f"load the model in {folder}", "copy the folder again, whole"
        try:
            about = fitted(_Manifest, facts.get("grown"))
            base = load_encoder(folder / BASE) if (folder / BASE).is_dir() else None
            made = cls(about.select, about.select_settings, base=base)
        except (ValueError, TypeError) as error:
            raise AllroundError(asked, f"allround.json is damaged: {error}", do) from error
        if not 0 <= about.bodies <= len(about.parts):
            raise AllroundError(asked, f"allround.json says that {len(about.parts)} parts have {about.bodies} bodies",
                                do)  # fmt: skip
        for number in range(about.bodies):
            body = load(folder / BODIES / str(number))
            if not isinstance(body, MultiTaskModel):
                raise AllroundError(asked, f"its body {number} is a system of the sort '{body.sort}'", do)
            made.bodies.append(body)
        for part in about.parts:
            whole = 0 <= part.body < about.bodies and part.name in made.bodies[part.body].definitions
            if not whole or part.task not in definitions:
                raise AllroundError(asked, f"allround.json names a part '{part.name}' that is not there", do)
        made.parts = list(about.parts)
        made.definitions = dict(definitions)
        if about.state:
            weights = Weights(folder / SELECT)
            if sorted(weights) != list(about.state):
                raise AllroundError(asked, f"{SELECT} does not hold what allround.json lists", do)
            made.select.state = {name: weights.get(name) for name in weights}
        made.facts = {name: value for name, value in facts.items() if name != "grown"}
        return made
