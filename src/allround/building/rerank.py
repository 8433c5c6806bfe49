"""`rerank`: a cross-encoder for what a retriever finds, trained on the retriever's own candidates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from allround.building.following import Following, what_happened
from allround.building.single import board_of
from allround.core.errors import AllroundError
from allround.core.growing import remove_work
from allround.core.outputs import check_out, output_folder, work_folder
from allround.core.progress import Progress
from allround.core.seeds import seed_everything, seed_of
from allround.evaluation.scoreboard import Scoreboard
from allround.models.base import open_encoder
from allround.models.fitting import fit_head
from allround.models.system import System, load
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.models.systems.reranked import LABELS, Reranked
from allround.tasks.definition import Definition
from allround.tasks.kind import kind
from allround.tasks.passages import Passages
from allround.tasks.suite import Suite, as_suite
from allround.tasks.task import SPLITS, Split, Task
from allround.tasks.values import Row
from allround.training import trainer
from allround.training.settings import Settings


def rerank(
    suite: Suite | str | Path,
    *,
    retriever: Path | str,
    out: Path | str,
    base: str | Path | None = None,
    candidates: int = 20,
    negatives: int = 4,
    settings: Settings | None = None,
    seed: int = 0,
    encoder: Mapping[str, object] | None = None,
    progress: Progress | None = None,
    force: bool = False,
) -> Scoreboard:
    """Train a cross-encoder that re-ranks what a retriever finds, save both as one system, and score it on test.

    suite: its tasks of the kind retrieval that the retriever answers are taken. retriever: the folder of a saved
    system. base: of the cross-encoder. candidates: the first passages of each query that are put into a new order.
    negatives: passages for each relevant one in training, drawn from the candidates. settings, encoder: of the
    cross-encoder's training, which reads query and passage together. The scoreboard is of the two stages; `evaluate`
    the retriever for that of one. A folder that is there is replaced only where `rerank` wrote it and nothing was
    changed since, or with `force`. Unfinished training is kept in `out`.unfinished.
    """
    suite = as_suite(suite)
    settings, progress = settings or Settings(), progress or Progress()
    base = str(suite.own_base(f"re-rank on '{suite.name}'") if base is None else base)
    first = load(retriever)
    tasks = [task for task in suite.to_train if task.name in first.definitions and kind(task.definition.kind).ranked]
    if not tasks:
        raise AllroundError(
            f"re-rank on '{suite.name}'",
            f"it has no task of the kind retrieval that {retriever} answers",
            "give a suite with such a task, and a retriever that was trained on it",
        )
    out = check_out(out, "rerank", force=force, inputs=[retriever, base], data=suite.files)
    scratch = out.parent / f"{out.name}.unfinished"
    following = Following(progress)
    with ExitStack() as stack:
        stack.callback(following.close)
        stack.enter_context(progress.watch())
        stack.enter_context(work_folder(scratch, "rerank", force=force))
        folder = stack.enter_context(output_folder(out, "rerank", force=force))
        judging = [judging_task(task, first, candidates, negatives, seed) for task in tasks]
        for task in judging:
            counts = np.bincount(np.asarray(task.splits["train"].targets), minlength=2)
            progress.say(f"{task.name}: {counts[1]} relevant pairs, {counts[0]} candidates that are not")
        seed_everything(seed_of(seed, "base"))
        made = open_encoder(base, judging, seed_of(seed, "base"), {**(encoder or {}), "pairs": "joint"})
        judge = MultiTaskModel(made, {})
        for task in judging:
            judge.add_task(task.definition, fit_head(made, task).state)
        course = trainer.train(judge, judging, settings, seed=seed, scratch=scratch, callbacks=[following],
                               name="judge")  # fmt: skip
        for words in what_happened(course, settings):
            progress.say(words)
        system = Reranked(first, judge, candidates)
        board = board_of(system, Suite(suite.name, tasks, files=suite.files), "test", "reranked", course)
        system.facts = {"made_by": {"base": base, "retriever": str(retriever), "negatives": negatives,
                                    "settings": settings.to_json(), "seed": seed}}  # fmt: skip
        system.write(folder)
    remove_work(scratch)
    return board


def judging_task(task: Task, retriever: System, candidates: int = 20, negatives: int = 4, seed: int = 0) -> Task:
    """The task of telling passages that answer a query from other candidates of the retriever.

    For each query every relevant passage, and for each of these up to `negatives` others: first those that are known
    not to be relevant, then such as are drawn from the retriever's first `candidates`. Passages of the whole
    collection would be too easy: at work a judge sees candidates. The task's instruction stands before the query, one
    of several where it has them, as in TART's cross-encoder (Asai et al., Findings of ACL 2023): of a pooled suite,
    what is relevant to the query in another task is known not to be relevant here, and the judge learns to tell them
    apart.
    Test rows are there for the form alone: systems are scored on the retrieval task.
    """
    query, passage = task.definition.inputs[0], "passage"
    definition = Definition(task.name, "classification", (query, passage), "text", "auroc", LABELS,
                            instruction=task.definition.instruction,
                            rewordings=task.definition.rewordings)  # fmt: skip
    splits = {}
    for name in SPLITS:
        rows, targets = _judged(task.splits[name], retriever, task.name, candidates, negatives, seed_of(seed, name))
        splits[name] = Split(rows, np.asarray(targets, dtype=np.int64))
    return Task(definition, splits)


def _judged(
    split: Split, retriever: System, task: str, candidates: int, negatives: int, seed: int
) -> tuple[list[Row], list[int]]:
    rows: list[Row] = []
    targets: list[int] = []
    generator = np.random.default_rng(seed)
    if not len(split):
        return rows, targets
    found: Sequence[Sequence[str]] = list(retriever.answers(task, split.inputs).predictions)
    for (query, passages), grades, ids in zip(split.inputs, split.targets, found, strict=True):
        assert isinstance(passages, Passages)
        relevant = [one for one, grade in grades.items() if grade > 0 and one in passages]
        known = [one for one, grade in grades.items() if grade <= 0 and one in passages][: negatives * len(relevant)]
        others = [one for one in ids[:candidates] if one not in grades]
        drawn = generator.permutation(len(others))[: negatives * len(relevant) - len(known)].tolist()
        kept = [*known, *(others[place] for place in sorted(drawn))]
        for one, target in [*((one, 1) for one in relevant), *((one, 0) for one in kept)]:
            rows.append((str(query), passages[one]))
            targets.append(target)
    return rows, targets
