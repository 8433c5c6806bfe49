"""Pooling: searches over one collection, in which the instruction alone says what sort of passage is looked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from allround.core.errors import AllroundError
from allround.core.seeds import seed_of
from allround.core.words import listed, plural
from allround.tasks.kind import kind
from allround.tasks.passages import Passages
from allround.tasks.task import Split, Task


@dataclass(frozen=True)
class Pool:
    """The passages of several searches as one collection, in which each text stands once.

    ids: of each task, the id in the pool of each of its own.
    """

    passages: Passages
    ids: Mapping[str, Mapping[str, str]]

    @classmethod
    def of(cls, corpora: Mapping[str, Passages]) -> Pool:
        """From the passages of tasks, by their names. An id is the task's name and its own; a text that several have
        keeps its first one.

        >>> pool = Pool.of({"a": Passages.of({"1": "A cat.", "2": "A dog."}), "b": Passages.of({"1": "A dog."})})
        >>> pool.passages.ids, pool.ids["b"]
        (['a/1', 'a/2'], {'1': 'a/2'})
        """
        import pyarrow as pa

        owners = [(task, one) for task, passages in corpora.items() for one in passages.ids]
        coded = pa.concat_arrays(
            [passages.arrays[1].cast(pa.large_string()) for passages in corpora.values()]
        ).dictionary_encode()
        places = coded.indices.to_numpy().tolist()
        names: list[str] = []
        ids: dict[str, dict[str, str]] = {task: {} for task in corpora}
        for (task, one), place in zip(owners, places, strict=True):
            if place == len(names):  # texts are numbered as they come
                names.append(f"{task}/{one}")
            ids[task][one] = names[place]
        return cls(Passages(pa.array(names, pa.large_string()), coded.dictionary), ids)

    def target(self, task: str, target: Mapping[str, float]) -> dict[str, float]:
        """Grades by the ids of the pool; of two for one text the higher."""
        found: dict[str, float] = {}
        for one, grade in target.items():
            name = self.ids[task][one]
            found[name] = max(grade, found.get(name, grade))
        return found


def pooled(tasks: Sequence[Task], negatives: int = 1) -> list[Task]:
    """The tasks, of which those that rank passages of one collection all search the union of their collections.

    negatives: of each training query that is a training query of other tasks too, so many passages that are relevant
    there and not here are known not to be relevant here: right in topic, wrong in sort. They are drawn, and stand
    before the negatives that a row has. Where a query has none, nothing changes; tasks that are held out give none and
    get none. Rows with candidates of their own stay as they are.

    Source: the instruction-unfollowing negatives and the pooled evaluation X^2-Retrieval of TART: Asai et al., Findings
    of ACL 2023, arXiv:2211.09260. Differs: the authors take a passage that Contriever finds for the query in the other
    task's collection; here it is one that is relevant to the same query there, so that nothing has to be found. (In
    create_tart_dual_train_data.py of facebookresearch/tart the default settings add none: one is drawn for a query, and
    more than one is asked for.) What is relevant in both tasks is never a negative. Errors: fewer than two searches.
    """
    corpora = {task.name: passages for task in tasks if (passages := _shared(task)) is not None}
    if len(corpora) < 2 or negatives < 0:
        found = f"{negatives} negatives are asked for" if negatives < 0 else (
            f"{plural(len(corpora), 'task')} of the kind retrieval {'has' if len(corpora) == 1 else 'have'} one "
            "collection of passages for all rows"
        )  # fmt: skip
        raise AllroundError(
            "pool the passages of tasks",
            found,
            "give 0 or more" if negatives < 0 else "give two such tasks, or leave `pool` out",
        )
    pool = Pool.of(corpora)
    searches = [_searching(task, pool) for task in tasks if task.name in corpora]
    relevant = {task.name: _relevant(task) for task in searches if task.definition.trained}
    made = {task.name: _told_apart(task, relevant, negatives) for task in searches}
    return [made.get(task.name, task) for task in tasks]


def _shared(task: Task) -> Passages | None:
    """The passages of all rows of a task, where they have the same ones."""
    if not kind(task.definition.kind).ranked:
        return None
    held = {id(row[1]): row[1] for split in task.splits.values() for row in split.inputs}
    first, *others = held.values()
    assert isinstance(first, Passages)
    return first if all(first == other for other in others) else None


def _searching(task: Task, pool: Pool) -> Task:
    """The task over the pool."""
    splits = {
        name: replace(
            split,
            inputs=[(row[0], pool.passages) for row in split.inputs],
            targets=[pool.target(task.name, target) for target in split.targets],
        )
        for name, split in task.splits.items()
    }
    note = f"it searches {len(pool.passages)} passages, those of {listed(list(pool.ids))}"
    return replace(task, splits=splits, notes=(*task.notes, note))


def _relevant(task: Task) -> dict[str, list[str]]:
    """What is relevant to each training query, whichever of its rows says so."""
    found: dict[str, dict[str, None]] = {}
    for query, target in _training(task.splits["train"]):
        found.setdefault(query, {}).update(dict.fromkeys(one for one, grade in target.items() if grade > 0))
    return {query: list(own) for query, own in found.items()}


def _told_apart(task: Task, relevant: Mapping[str, Mapping[str, list[str]]], negatives: int) -> Task:
    """The task with negatives from other tasks in its training targets."""
    if task.name not in relevant or not negatives:
        return task
    targets: list[dict[str, float]] = []
    count = 0
    for number, (query, target) in enumerate(_training(task.splits["train"])):
        own = relevant[task.name][query]
        others = dict.fromkeys(
            one for name, there in relevant.items() if name != task.name for one in there.get(query, ())
        )
        found = [one for one in others if one not in own and one not in target]
        turns = np.random.default_rng(seed_of(0, "pool", task.name, number)).permutation(len(found))[:negatives]
        drawn = {found[turn]: 0.0 for turn in turns.tolist()}
        above = {one: grade for one, grade in target.items() if grade > 0}
        targets.append({**above, **drawn, **target})
        count += bool(drawn)
    note = f"{count} of {len(targets)} training queries have negatives that are relevant to them in other tasks"
    split = replace(task.splits["train"], targets=targets)
    return replace(task, splits={**task.splits, "train": split}, notes=(*task.notes, note))


def _training(split: Split) -> list[tuple[str, dict[str, float]]]:
    return [(str(row[0]), dict(target)) for row, target in zip(split.inputs, split.targets, strict=True)]
