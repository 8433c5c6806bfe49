"""The rows of a run, kept where every process finds them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from allround.building.workshop import Workshop
from allround.core.files import hash_json
from allround.core.pieces import Piece
from allround.core.words import plural
from allround.tasks.checks.run import check_task
from allround.tasks.definition import Definition
from allround.tasks.suite import Suite
from allround.tasks.task import SPLITS, Task


@dataclass(frozen=True)
class Data:
    """The tasks of a run by name, and the folder of each in the run folder."""

    tasks: Mapping[str, Task]
    folders: Mapping[str, str]

    @property
    def content(self) -> dict[str, str]:
        """The hash of each task's rows and definition."""
        return {name: task.content for name, task in self.tasks.items()}

    @property
    def definitions(self) -> dict[str, Definition]:
        return {name: task.definition for name, task in self.tasks.items()}

    @property
    def metrics(self) -> dict[str, str]:
        return {name: task.definition.metric for name, task in self.tasks.items()}

    def rows(self, split: str) -> int:
        """Rows of a split, over all tasks."""
        return sum(len(task.splits[split]) for task in self.tasks.values())


def announce(shop: Workshop, suite: Suite, words: str) -> None:
    """Say what is worked on, and what people have to know of the data."""
    rows = sum(len(task.splits["train"]) for task in suite.tasks.values())
    shop.say(f"suite {suite.name}: {plural(len(suite.tasks), 'task')}, {plural(rows, 'training row')}; {words}, "
             f"{plural(shop.workers, 'worker')}")  # fmt: skip
    for name, task in suite.tasks.items():
        for words in (*task.notes, *map(str, check_task(task))):
            shop.say(f"data of {name}: {words}", style="yellow")


def announce_lengths(shop: Workshop, base: Piece, data: Data) -> None:
    """Say which tasks have texts that are longer than the base reads."""
    from allround.models.base import load_encoder
    from allround.models.long_texts import check_lengths

    if base.facts.get("encoder") != "text":
        return
    made = load_encoder(base.folder / "encoder")
    for name, task in data.tasks.items():
        for finding in check_lengths(made, task):
            shop.say(f"data of {name}: {finding}", style="yellow")


def keep_rows(shop: Workshop, tasks: Mapping[str, Task]) -> Data:
    """Write the rows of each task into the run folder, where they are not there yet."""
    folders: dict[str, str] = {}
    for name, task in tasks.items():
        slices = {split: dict(part.slices) for split, part in task.splits.items() if part.slices}
        beside = {"slices": hash_json(slices)} if slices else {}
        piece = shop.pieces.piece(f"data-{name}", content=task.content, **beside)
        if not shop.have(piece):
            with piece.make() as (folder, facts):
                task.write(folder)
                facts["rows"] = {s: len(task.splits[s]) for s in SPLITS}
        folders[name] = str(piece.folder)
    return Data(dict(tasks), folders)
