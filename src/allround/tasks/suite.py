"""A suite: named tasks that are evaluated together."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from allround.core import registry
from allround.core.errors import AllroundError, suggestion
from allround.core.files import check_name
from allround.core.problems import Problems
from allround.tasks.harness.making import harness_task
from allround.tasks.kind import kind
from allround.tasks.make import make_task
from allround.tasks.mteb.making import PREFIX, mteb_task, mteb_tasks
from allround.tasks.passages import Passages
from allround.tasks.pooling import pooled
from allround.tasks.roles import HELD_OUT, HoldOut, held_out
from allround.tasks.sources.load import load_raw, place_of
from allround.tasks.sources.passages import beir_folder, passages_file, read_beir, read_passages
from allround.tasks.spec import SuiteSpec, TaskSpec, read_suite
from allround.tasks.task import SPLITS, Task, check_limit, row_key, text_row
from allround.tasks.values import Row

if TYPE_CHECKING:
    from datasets import Dataset

    from allround.tasks.sources.text_files import Columns


class Suite:
    """Tasks by name, with the base that they are made for, if one is named.

    >>> rows = [{"x": i, "y": 2 * i} for i in range(10)]
    >>> double = make_task("double", kind="regression", inputs="x", target="y", data={"train": rows})
    >>> suite = Suite("sums", [double])
    >>> suite, len(suite), suite["double"].definition.kind
    (Suite('sums': double), 1, 'regression')
    """

    def __init__(
        self,
        name: str,
        tasks: Sequence[Task],
        *,
        description: str | None = None,
        base: str | None = None,
        files: Sequence[Path] = (),
    ) -> None:
        """files: what the tasks were read from (a suite file, a data folder): no output may replace it."""
        self.name = check_name(name, "suite")
        self.description = description
        self.base = base
        self.files = tuple(files)
        self.tasks: dict[str, Task] = {}
        for task in tasks:
            # Names become file names, and some disks do not tell "A" from "a".
            if task.name.lower() in {known.lower() for known in self.tasks}:
                raise AllroundError(
                    f"make the suite '{name}'", f"two of its tasks are called '{task.name}'", "rename one"
                )
            self.tasks[task.name] = task
        if not self.tasks:
            raise AllroundError(f"make the suite '{name}'", "it has no tasks", "give at least one task")
        _check_tables(f"make the suite '{name}'", self.tasks.values())

    def __len__(self) -> int:
        return len(self.tasks)

    def __iter__(self) -> Iterator[Task]:
        return iter(self.tasks.values())

    def __getitem__(self, name: str) -> Task:
        if name not in self.tasks:
            raise AllroundError(f"take the task '{name}' of the suite '{self.name}'", "it has no such task",
                                suggestion(name, self.tasks))  # fmt: skip
        return self.tasks[name]

    def __contains__(self, name: object) -> bool:
        return name in self.tasks

    def __repr__(self) -> str:
        return f"Suite({self.name!r}: {', '.join(self.tasks)})"

    def part(self, names: Sequence[str]) -> Suite:
        """The suite with these of its tasks only, in this order."""
        return self._of([self[name] for name in names])

    def _of(self, tasks: Sequence[Task]) -> Suite:
        return Suite(self.name, tasks, description=self.description, base=self.base, files=self.files)

    def weighed(self, class_weights: str | None = None, focal: float | None = None, agree: str | None = None) -> Suite:
        """The suite with weights of labels and a focal loss in all tasks that have labels, and another loss in all of
        the kind similarity; tasks keep their own.

        class_weights, focal, agree: as for `Task.weighed`.
        """
        tasks = []
        for task in self:
            own, labelled = task.definition, kind(task.definition.kind).fixed_labels
            weights = None if own.weights or not labelled else class_weights
            focal_of = None if own.focal or not labelled else focal
            tasks.append(task.weighed(weights, focal_of, None if own.agree or own.kind != "similarity" else agree))
        return self._of(tasks)

    def holding_out(self, asked: HoldOut) -> Suite:
        """The suite with some of its tasks held out. asked: their names, a share, or categories; see `HoldOut`."""
        categories = {task.name: task.definition.category for task in self if task.definition.trained}
        names = held_out(asked, categories, self.name)
        return self._of([task.with_role(HELD_OUT) if task.name in names else task for task in self])

    def pooled(self, negatives: int = 1) -> Suite:
        """The suite with its searches over the union of their passages; see `allround.tasks.pooling.pooled`."""
        return self._of(pooled(list(self), negatives))

    def own_base(self, asked: str) -> str:
        """The base that the suite names, where none was given. asked: for the error, where it names none."""
        if self.base is None:
            raise AllroundError(
                asked,
                f"no base was given, and the suite '{self.name}' names none",
                "give --base: a model folder, a Hub id, all-MiniLM-L6-v2, small_image, small_table or multitab",
            )
        return self.base

    @property
    def to_train(self) -> Suite:
        """The suite with the tasks alone that training may see. Errors: there are none."""
        names = [task.name for task in self if task.definition.trained]
        if not names:
            raise AllroundError(
                f"train on the suite '{self.name}'",
                "all of its tasks are held out or guards",
                "give it a task with `role: train`",
            )
        return self if len(names) == len(self) else self.part(names)

    @property
    def notes(self) -> dict[str, tuple[str, ...]]:
        """Task -> what the user should know of its data; tasks without notes are left out."""
        return {name: task.notes for name, task in self.tasks.items() if task.notes}

    @classmethod
    def load(
        cls,
        source: str | Path,
        *,
        data_dir: Path | str | None = None,
        only: Sequence[str] | None = None,
        limit: Mapping[str, int] | None = None,
        problems: Problems | None = None,
    ) -> Suite:
        """A suite from a YAML file, a built-in one by its name, or tasks of MTEB as `mteb:NAME,NAME`.

        data_dir: a folder that holds the data of tasks that name a `local` folder, used instead of the Hub.
        only: load these tasks alone. limit: split -> the most rows, before what the suite says. problems: gathers what
        is wrong with tasks of a file, which are then left out; without it, all of it is raised as one error.
        """
        data_dir = Path(data_dir) if data_dir is not None else None
        if data_dir is not None and not data_dir.is_dir():
            raise AllroundError(f"use the data folder '{data_dir}'", "there is no such folder", "check the path")
        known = registry.names("suite")
        if isinstance(source, str) and source in known:
            found: Suite = registry.load("suite", source)(data_dir=data_dir, only=only, limit=limit)
            return found
        if isinstance(source, str) and source.startswith(PREFIX):
            names = choose(source.removeprefix(PREFIX).split(","), only, source)
            return cls("mteb", mteb_tasks(",".join(names), limit=limit))
        path = Path(source)
        if not path.exists() and not path.suffix and path.name == str(source):
            raise AllroundError(
                f"load the suite '{source}'",
                "there is no built-in suite and no file of that name",
                f"{suggestion(str(source), known)}; or give the path of a suite file",
            )
        made = load_spec(read_suite(path), path.parent, data_dir=data_dir, only=only, limit=limit, problems=problems)
        made.files += (path,)
        return made


def as_suite(
    suite: Suite | str | Path,
    *,
    data_dir: Path | str | None = None,
    only: Sequence[str] | None = None,
    limit: Mapping[str, int] | None = None,
) -> Suite:
    """A suite as it is, or what `Suite.load` makes of a file or a name. Errors: a suite with more to load."""
    if not isinstance(suite, Suite):
        return Suite.load(suite, data_dir=data_dir, only=only, limit=limit)
    given = {"data_dir": data_dir, "only": only, "limit": limit}
    for name, value in given.items():
        if value:
            raise AllroundError(f"use {suite!r} with {name}", "it is already loaded", f"give {name} to Suite.load")
    return suite


def load_spec(
    spec: SuiteSpec,
    base_dir: Path,
    *,
    data_dir: Path | None = None,
    only: Sequence[str] | None = None,
    limit: Mapping[str, int] | None = None,
    problems: Problems | None = None,
) -> Suite:
    """Load the data of a suite file. base_dir: where its relative paths begin; the rest as in `Suite.load`."""
    tasks = []
    tables: dict[str | None, dict[str, Dataset | Columns]] = {}
    given, problems = problems, problems or Problems()
    chosen = choose(spec.tasks, only, spec.name)
    searches = [] if spec.pool is None else [name for name, one in spec.tasks.items() if kind(one.kind).ranked]
    for name in [name for name in spec.tasks if name in chosen or name in searches]:  # a pool needs all of its passages
        about = spec.tasks[name]
        members = [about] if about.table is None else [t for t in spec.tasks.values() if t.table == about.table]
        rows: dict[str, int] = {}
        for most_rows in (spec.limit, about.limit, check_limit(limit)):
            rows.update({str(split): most for split, most in most_rows.items()})
        with problems.gathered():
            role = HELD_OUT if name in spec.held_out else about.role
            if about.source.lm_eval is not None:
                tasks.append(_of_harness(name, about, rows, role, base_dir))
                continue
            if about.source.mteb is not None:
                tasks.append(_of_mteb(name, about, rows, role, base_dir, data_dir))
                continue
            data = tables.get(about.table) or _read(name, about, _labels(members), base_dir, data_dir)
            if about.table is not None:  # read once: a file that changes meanwhile would give its tasks other rows
                tables[about.table] = data
            passages = _passages(name, about, base_dir, data_dir)
            tasks.append(_make(name, about, data, rows, role, passages))
    if given is None or not tasks:
        problems.check(f"load the suite '{spec.name}'")
    sources = [spec.tasks[task.name].source for task in tasks]
    places = [name for one in sources for name in (one.name, one.path, *one.files.values()) if name is not None]
    places += [about.passages for task in tasks if (about := spec.tasks[task.name]).passages is not None]
    files = [base_dir / os.path.expanduser(name) for name in places]  # noqa: PTH111 (which never raises)
    if data_dir is not None:
        files.append(data_dir)
    made = Suite(spec.name, tasks, description=spec.description, base=spec.base, files=files)
    return made if spec.pool is None else made.pooled(spec.pool.negatives).part([n for n in chosen if n in made])


def choose(known: Sequence[str] | Mapping[str, object], only: Sequence[str] | None, suite: str) -> list[str]:
    """The tasks to load, in the suite's order; an unknown name is an error.

    >>> choose(["trec", "sst2", "subj"], ["subj", "trec"], "text8")
    ['trec', 'subj']
    """
    if only is None:
        return list(known)
    only = [only] if isinstance(only, str) else only
    for name in only:
        if name not in known:
            raise AllroundError(
                f"load the task '{name}' of the suite '{suite}'", "it has no task of that name", suggestion(name, known)
            )
    return [name for name in known if name in only]


def _check_tables(asked: str, tasks: Iterable[Task]) -> None:
    """Tasks of one table must have the same row under the same number, and in the same split."""
    tables: dict[str, list[Task]] = {}
    for task in tasks:
        if task.table is not None:
            tables.setdefault(task.table, []).append(task)
    for table, members in tables.items():
        first = members[0]
        known: dict[int, tuple[str, str, Row]] = {}
        for task in members if len(members) > 1 else ():
            one, other = first.definition, task.definition
            for what, here, there in (
                ("input columns", ", ".join(one.inputs), ", ".join(other.inputs)),
                ("modalities", one.modality, other.modality),
            ):
                if here != there:
                    raise AllroundError(
                        asked,
                        f"'{one.name}' and '{other.name}' are tasks of the table '{table}', and have different {what}: "
                        f"{here}; {there}",
                        "give both the same, or name another table for one of them",
                    )
            for split in SPLITS:
                part = task.splits[split]
                for number, row in zip(() if part.rows is None else part.rows.tolist(), part.inputs, strict=True):
                    name, place, seen = known.setdefault(number, (task.name, split, row))
                    if place != split:
                        found = f"is in {place} of '{name}' and in {split} of '{task.name}'"
                    elif seen is not row and seen != row and row_key(text_row(seen)) != row_key(text_row(row)):
                        found = f"has one input in '{name}' and another in '{task.name}'"
                    else:
                        continue
                    raise AllroundError(
                        asked,
                        f"row {number} of the table '{table}' {found}",
                        "make both from the same rows, with the same splits given; or name another table for one",
                    )


def _labels(tasks: Sequence[TaskSpec]) -> set[str]:
    """The columns that are text as it is written: labels, slices, chosen categories. Columns of 0 and 1 are numbers."""
    targets = {task.target for task in tasks if isinstance(task.target, str) and not kind(task.kind).numeric}
    read = {name for task in tasks for name in (*task.inputs, *([] if isinstance(task.target, str) else task.target))}
    chosen = {name for task in tasks for name, type_ in task.types.items() if type_ == "category"}
    return targets | chosen | {name for task in tasks for name in task.slices if name not in read}


def _read(
    name: str, spec: TaskSpec, labels: set[str], base_dir: Path, data_dir: Path | None
) -> dict[str, Dataset | Columns]:
    local = data_dir is not None and spec.local is not None
    try:
        if kind(spec.kind).ranked and (folder := beir_folder(spec, base_dir, data_dir)) is not None:
            return read_beir(folder, spec.inputs[0], str(spec.target))
        source = spec.local if local and spec.local is not None else spec.source
        return load_raw(source, base_dir=base_dir, data_dir=data_dir if local else None, as_written=labels)
    except AllroundError as error:
        raise AllroundError(f"load the task '{name}': {error.asked}", error.found, error.do) from error


def _passages(name: str, spec: TaskSpec, base_dir: Path, data_dir: Path | None) -> Passages | None:
    """The passages of all rows of a task, where it has such."""
    if not kind(spec.kind).ranked or (spec.passages is None and beir_folder(spec, base_dir, data_dir) is None):
        return None
    try:
        return read_passages(passages_file(spec, base_dir, data_dir))
    except AllroundError as error:
        raise AllroundError(f"load the task '{name}': {error.asked}", error.found, error.do) from error


def _of_mteb(
    name: str, spec: TaskSpec, limit: Mapping[str, int], role: str, base_dir: Path, data_dir: Path | None
) -> Task:
    assert spec.source.mteb is not None
    folder = None
    if data_dir is not None and spec.local is not None:
        folder = place_of(spec.local.path or spec.local.name or "", base_dir, data_dir)
    return mteb_task(name, spec.source.mteb, config=spec.source.config, folder=folder, role=role, limit=limit,
                     category=spec.category, instruction=spec.instruction, head=spec.head,
                     contrast=spec.contrast)  # fmt: skip


def _of_harness(name: str, spec: TaskSpec, limit: Mapping[str, int], role: str, base_dir: Path) -> Task:
    assert spec.source.lm_eval is not None
    return harness_task(
        name,
        spec.source.lm_eval,
        metric=spec.metric,
        role=role,
        category=spec.category,
        limit=limit,
        shots=spec.shots,
        chat=spec.chat or "no",
        system=spec.system or "",
        base_dir=base_dir,
    )


def _make(
    name: str,
    spec: TaskSpec,
    data: Mapping[str, Dataset | Columns],
    limit: Mapping[str, int],
    role: str,
    passages: Passages | None = None,
) -> Task:
    made = make_task(
        name,
        kind=spec.kind,
        inputs=spec.inputs,
        target=spec.target,
        data=data,
        metric=spec.metric,
        modality=spec.modality,
        labels=spec.labels,
        instruction=spec.instruction,
        limit=limit,
        missing=spec.missing,
        table=spec.table,
        slices=spec.slices,
        types=spec.types,
        stray=spec.stray,
        split=spec.split.given if spec.split else None,
        head=spec.head,
        role=role,
        category=spec.category,
        passages=spec.passages if passages is None else passages,
        negatives=spec.negatives,
        contrast=spec.contrast,
        **spec.words,
    )
    made = made.weighed(spec.class_weights, spec.focal, spec.agree)
    notes = [note for rows in data.values() for note in getattr(rows, "notes", ())]
    return replace(made, notes=(*dict.fromkeys(notes), *made.notes)) if notes else made
