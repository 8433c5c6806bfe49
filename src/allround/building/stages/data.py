"""The rows of a run, kept where every process finds them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from allround.building.workshop import Workshop
from allround.core.files import hash_json
from allround.core.pieces import Piece
from allround.core.progress import Progress
from allround.core.words import plural
from allround.tasks.checks.finding import Finding
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

    @property
    def trained(self) -> Data:
        """The tasks alone that training may see."""
        return self.part([name for name, one in self.definitions.items() if one.trained])

    @property
    def unseen(self) -> Data:
        """The tasks alone that nothing is trained on."""
        return self.part([name for name, one in self.definitions.items() if not one.trained])

    def part(self, names: Sequence[str]) -> Data:
        """Some of the tasks."""
        return Data({n: self.tasks[n] for n in names}, {n: self.folders[n] for n in names})

    def rows(self, split: str) -> int:
        """Rows of a split, over all tasks."""
        return sum(len(task.splits[split]) for task in self.tasks.values())


@dataclass
class DataCheck:
    """What is found in the data of a build's tasks. People are told of it, where an earlier build of the run did not.

    found: by task. earlier: the notes and the codes of findings that people were told of, with their tasks.
    """

    found: dict[str, list[Finding]] = field(default_factory=dict)
    earlier: frozenset[tuple[str, str]] = frozenset()
    _told: set[tuple[str, str]] = field(default_factory=set)

    def again(self) -> DataCheck:
        """The check of a further build of the run: people need not be told of the same again."""
        return DataCheck(earlier=self.earlier | self._told)

    def tasks(
        self, progress: Progress, tasks: Mapping[str, Task], *, folds: bool = False
    ) -> Mapping[str, list[Finding]]:
        """Check tasks, and say what people have to know of them. folds: every row is tested, in folds."""
        for name, task in tasks.items():
            for note in task.notes:
                self._say(progress, name, note, note)
            self._add(progress, name, check_task(task, folds=folds))
        return self.found

    def lengths(self, progress: Progress, base: Piece, tasks: Mapping[str, Task]) -> None:
        """Find the tasks with texts that are longer than the base reads, and say so."""
        from allround.models.base import load_encoder
        from allround.models.long_texts import check_lengths

        if base.facts.get("encoder") != "text":
            return
        made = load_encoder(base.folder / "encoder")
        for name, task in tasks.items():
            self._add(progress, name, check_lengths(made, task))

    def answers(self, progress: Progress, prompts: Piece | None, tasks: Mapping[str, Task]) -> None:
        """Find the tasks with right answers that are longer than a model may write, and say so. prompts: as they were
        read."""
        for name, read in ({} if prompts is None else prompts.facts["tasks"]).items():
            prompt = tasks[name].definition.prompt
            shortened, rows = (sum(one.get(k, 0) for one in read["splits"].values()) for k in ("shortened", "rows"))
            if shortened and prompt is not None:
                words = (
                    f"the right answer has more tokens than are written (max_new_tokens {prompt.max_new_tokens}) in "
                    f"{shortened} of {plural(rows, 'row')}: training sees its beginning alone, and no model can write "
                    "it whole"
                )
                do = "raise `max_new_tokens`, or shorten the answers"
                self._add(progress, name, [Finding("answers_too_long", words, do)])

    def _add(self, progress: Progress, task: str, findings: Sequence[Finding]) -> None:
        self.found.setdefault(task, []).extend(findings)
        for finding in findings:
            self._say(progress, task, finding.code, str(finding))

    def _say(self, progress: Progress, task: str, key: str, words: str) -> None:
        self._told.add((task, key))
        if (task, key) not in self.earlier:
            progress.say(f"data of {task}: {words}", style="yellow")


def announce(shop: Workshop, suite: Suite, words: str) -> None:
    """Say what is worked on."""
    rows = sum(len(task.splits["train"]) for task in suite.tasks.values() if task.definition.trained)
    shop.say(f"suite {suite.name}: {plural(len(suite.tasks), 'task')}, {plural(rows, 'training row')}; {words}, "
             f"{plural(shop.workers, 'worker')}")  # fmt: skip


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
