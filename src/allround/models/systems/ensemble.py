"""Ensemble: the mean of what several systems answer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from allround.core.errors import AllroundError
from allround.core.registry import method
from allround.models.batch import Answers
from allround.models.cost import Cost
from allround.models.system import System, load, windows
from allround.tasks.definition import Definition
from allround.tasks.kind import kind
from allround.tasks.values import Row


@method(source="linear opinion pool: Stone, Annals of Mathematical Statistics 32, 1961; Dietterich, MCS 2000")
class Ensemble(System):
    """Answers each task by all members that know it: the mean of their probabilities, or of their numbers.

    The members may be systems of any sort; those of one task must know it by the same labels, and count numbers alike.
    A row passes every member, so the cost of an answer is the sum of theirs.
    """

    sort = "ensemble"

    def __init__(self, members: Sequence[System]) -> None:
        if not members:
            raise AllroundError("make an ensemble", "no member is given", "give one system or more")
        self.members = list(members)
        self.definitions: dict[str, Definition] = {}
        for member in self.members:
            for name, definition in member.definitions.items():
                first = self.definitions.setdefault(name, definition)
                if _read_alike(first) != _read_alike(definition):
                    raise AllroundError(
                        f"make an ensemble of {len(self.members)} systems",
                        f"they do not know the task '{name}' alike: {_difference(first, definition)}",
                        "use systems that were made with the same suite",
                    )
        self.facts: dict[str, object] = {}

    def answer(
        self, task: str | None, rows: Iterable[Row], *, batch_size: int = 64, scores: bool = False
    ) -> Iterator[Answers]:
        if task is None:
            task = self.only_task()
        rules = kind(self.definition(task).kind)
        able = [member for member in self.members if task in member.definitions]
        if rules.written or rules.ranked:
            if len(able) > 1:
                raise AllroundError(
                    f"average the answers of {len(able)} systems to task '{task}'",
                    f"its answers are {'rankings' if rules.ranked else 'texts'}, which cannot be averaged",
                    "ask one of the systems, or leave the task out",
                )
            yield from able[0].answer(task, rows, batch_size=batch_size)
            return
        for some in windows(rows):
            given = [member.answers(task, some, batch_size=batch_size, scores=True) for member in able]
            tables = [one.scores for one in given if one.scores is not None]
            if rules.numeric:
                yield Answers(np.mean([one.predictions for one in given], 0))
                continue
            if len(tables) < len(given):
                silent = next(one.sort for one, made in zip(able, given, strict=True) if made.scores is None)
                raise AllroundError(
                    f"average the answers of {len(able)} systems to task '{task}'",
                    f"a system of the sort '{silent}' gives no probabilities of the labels",
                    "use systems that do",
                )
            mean = _mean(tables)
            predictions, confidence = rules.decide(mean)
            wanted = self.wants_scores(task, scores)
            yield self.finished(task, Answers(predictions, confidence, mean if wanted else None), scores)

    def to(self, device: torch.device | str) -> Ensemble:
        for member in self.members:
            member.to(device)
        return self

    def cost(self, tasks: Iterable[str] | None = None) -> Cost:
        names = list(self.definitions if tasks is None else tasks)
        stored, used = 0, dict.fromkeys(names, 0)
        for member in self.members:
            own = [name for name in names if name in member.definitions]
            stored += member.cost(own).parameters_stored if own else 0
            for name in own:
                used[name] += member.cost([name]).parameters_used
        return Cost(parameters_stored=stored, parameters_used=max(used.values(), default=0))

    def write(self, folder: Path) -> None:
        for number, member in enumerate(self.members):
            place = folder / "members" / str(number)
            place.mkdir(parents=True)
            member.write(place)
        self.write_manifest(folder, members=len(self.members))

    @classmethod
    def read(cls, folder: Path, definitions: Mapping[str, Definition], facts: Mapping[str, object]) -> Ensemble:
        count = facts.get("members")
        if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= MOST:
            raise AllroundError(
                f"load the model in {folder}", f"allround.json says that it has {count!r} members",
                "copy the folder again, whole",
            )  # fmt: skip
        made = cls([load(folder / "members" / str(number)) for number in range(count)])
        if made.definitions != dict(definitions):
            raise AllroundError(
                f"load the model in {folder}", "allround.json lists other tasks than its members have",
                "copy the folder again, whole",
            )  # fmt: skip
        made.facts = {name: value for name, value in facts.items() if name != "members"}
        return made


#: More members than anyone keeps; a file that says more is damaged.
MOST = 10_000


def _read_alike(definition: Definition) -> tuple[Any, ...]:
    d = definition
    return d.kind, d.labels, d.center, d.scale, d.inputs, d.modality


def _difference(one: Definition, other: Definition) -> str:
    words = ("kind", "labels", "center", "scale", "inputs", "modality")
    pairs = zip(words, _read_alike(one), _read_alike(other), strict=True)
    word, first, second = next(pair for pair in pairs if pair[1] != pair[2])
    return f"its {word} is {first} in one and {second} in another"


def _mean(tables: Sequence[np.ndarray | list[np.ndarray]]) -> np.ndarray | list[np.ndarray]:
    if isinstance(tables[0], list):
        return [np.mean(rows, 0) for rows in zip(*tables, strict=True)]
    return np.asarray(np.mean(np.stack([np.asarray(table) for table in tables]), 0))
