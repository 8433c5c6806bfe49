"""Reranked: one system finds passages, and another reads each of the best ones together with the query."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from pathlib import Path

import numpy as np
import torch

from allround.core.errors import AllroundError
from allround.core.registry import method
from allround.models.batch import Answers
from allround.models.cost import Cost
from allround.models.system import System, check_rows, load, windows
from allround.tasks.definition import Definition
from allround.tasks.kind import kind
from allround.tasks.kinds.retrieval import MOST
from allround.tasks.passages import Passages
from allround.tasks.values import Row

#: The folders of the two systems.
RETRIEVER, JUDGE = "retriever", "judge"
#: What a judge says of a query and a passage, where its task has labels: the second is a passage that answers.
LABELS = ("no", "yes")


@method(
    source="train_cross_encoder.py of slowwavesleep/llms4subjects-submission; Nogueira and Cho 2019, arXiv:1901.04085; "
    "TART: Asai et al., Findings of ACL 2023, arXiv:2211.09260, checked against BERRI/create_tart_dual_train_data.py, "
    "BERRI/create_tart_full_train_data.py and TART/src/rerank.py of facebookresearch/tart",
    paper=(
        "TartuNLP at SemEval-2025 Task 5: Subject Tagging as Two-Stage Information Retrieval",
        "Task-aware Retrieval with Instructions",
    ),
)
class Reranked(System):
    """Answers tasks of the kind retrieval in two stages: the retriever ranks all passages of a row, and the judge reads
    the query and one passage together, and so puts the first `candidates` of them into a new order.

    retriever: any system that answers the tasks. judge: any system with a task of the same name that reads a pair, the
    query and a passage: a number, or the labels no and yes. Tasks that it does not know are answered by the retriever
    alone. A query passes the retriever once and the judge once for each candidate.
    Differs: TartuNLP finds its candidates by an approximate index, and trains its judge on drawn negatives;
    `judging_task` takes them from the retriever's own candidates.

    Of searches with instructions over one pool (`Suite.pooled`) it is TART: the retriever (TART-dual) and the judge
    (TART-full) read an instruction before the query, each training row has one of several, what is relevant to the same
    query in another search is a negative for both, and `instructed` puts a user's own words before queries. Differs:
    negatives are as `allround.tasks.pooling` says; a row has another instruction in each epoch, where the authors write
    two copies of it; a space stands between instruction and query, where they have a mark; any base will do, where
    TART-full has one that was tuned on instructions; the judge has a head for each task, by which it knows the task
    without an instruction too, where TART-full has one for all; it labels no passages for the retriever.
    """

    sort = "reranked"

    def __init__(self, retriever: System, judge: System, candidates: int = 20) -> None:
        if not 1 <= candidates <= MOST:
            raise AllroundError(f"re-rank {candidates} candidates", f"a retriever gives 1 to {MOST}",
                                f"give 1 to {MOST}")  # fmt: skip
        self.retriever, self.judge, self.candidates = retriever, judge, candidates
        self.definitions = {n: d for n, d in retriever.definitions.items() if kind(d.kind).ranked}
        if not self.definitions.keys() & judge.definitions.keys():
            raise AllroundError(
                "re-rank what a retriever finds",
                f"it ranks passages for {', '.join(self.definitions) or 'no task'}, and the judge has none of these "
                f"tasks: {', '.join(judge.definitions)}",
                "train a judge under the name of the retrieval task",
            )
        for name in self.definitions.keys() & judge.definitions.keys():
            _check_judge(judge.definition(name))
        self.facts: dict[str, object] = {}

    def answer(
        self, task: str | None, rows: Iterable[Row], *, batch_size: int = 64, scores: bool = False
    ) -> Iterator[Answers]:
        task = self.only_task() if task is None else task
        definition = self.definition(task)
        for some in windows(rows):
            check_rows(definition, some)
            found = self.retriever.answers(task, some, batch_size=batch_size)
            if task not in self.judge.definitions:
                yield found
                continue
            yield Answers(self._reranked(task, some, list(found.predictions), batch_size))

    def _reranked(self, task: str, rows: Sequence[Row], ranked: list[Sequence[str]], batch_size: int) -> list[object]:
        pairs = [pair for row, ids in zip(rows, ranked, strict=True) for pair in _pairs(row, ids[: self.candidates])]
        scores = self._scores(task, pairs, batch_size) if pairs else np.zeros(0)
        made: list[object] = []
        at = 0
        for ids in ranked:
            few = ids[: self.candidates]
            own = scores[at : at + len(few)]
            at += len(few)
            order = np.argsort(-own, kind="stable")  # of equal scores the retriever's order
            made.append((*(few[place] for place in order), *ids[self.candidates :]))
        return made

    def _scores(self, task: str, pairs: Sequence[Row], batch_size: int) -> np.ndarray:
        """How well each passage answers its query, by the judge."""
        labelled = kind(self.judge.definition(task).kind).labelled
        found = self.judge.answers(task, pairs, batch_size=batch_size, scores=labelled)
        return np.asarray(found.scores)[:, 1] if labelled else np.asarray(found.predictions)

    def with_instruction(self, task: str, instruction: str) -> System:
        """The judge reads the instruction too, where it was trained with one."""
        made = copy(self)
        made.retriever = self.retriever.with_instruction(task, instruction)
        made.definitions = {**self.definitions, task: made.retriever.definition(task)}
        if task in self.judge.definitions and self.judge.definition(task).instruction:
            made.judge = self.judge.with_instruction(task, instruction)
        return made

    def to(self, device: torch.device | str) -> Reranked:
        self.retriever.to(device)
        self.judge.to(device)
        return self

    def cost(self, tasks: Iterable[str] | None = None) -> Cost:
        """parameters_used are those of both systems; the judge's are passed once for each candidate."""
        names = list(self.definitions if tasks is None else tasks)
        judged = [name for name in names if name in self.judge.definitions]
        stored = self.retriever.cost(names).parameters_stored
        stored += self.judge.cost(judged).parameters_stored if judged else 0
        used = [
            self.retriever.cost([name]).parameters_used
            + (self.judge.cost([name]).parameters_used if name in judged else 0)
            for name in names
        ]
        return Cost(parameters_stored=stored, parameters_used=max(used, default=0))

    def write(self, folder: Path) -> None:
        for name, system in ((RETRIEVER, self.retriever), (JUDGE, self.judge)):
            (folder / name).mkdir()
            system.write(folder / name)
        self.write_manifest(folder, candidates=self.candidates)

    @classmethod
    def read(cls, folder: Path, definitions: Mapping[str, Definition], facts: Mapping[str, object]) -> Reranked:
        asked, count = f"load the model in {folder}", facts.get("candidates")
        if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= MOST:
            raise AllroundError(asked, f"allround.json says that {count!r} candidates are re-ranked",
                                "copy the folder again, whole")  # fmt: skip
        made = cls(load(folder / RETRIEVER), load(folder / JUDGE), count)
        if made.definitions != dict(definitions):
            raise AllroundError(asked, "allround.json lists other tasks than its retriever has",
                                "copy the folder again, whole")  # fmt: skip
        made.facts = {name: value for name, value in facts.items() if name != "candidates"}
        return made


def _check_judge(definition: Definition) -> None:
    """An error where a task cannot judge how well a passage answers a query."""
    rules = kind(definition.kind)
    if not definition.pair or not (rules.numeric or (rules.labelled and len(definition.labels) == 2)):
        raise AllroundError(
            f"judge passages by the task '{definition.name}'",
            f"it is of the kind {definition.kind} and reads {', '.join(definition.inputs)}",
            "give a task that reads a query and a passage, and answers with a number or one of two labels",
        )


def _pairs(row: Row, ids: Sequence[str]) -> list[Row]:
    query, passages = row
    assert isinstance(passages, Passages)
    return [(str(query), passages[one]) for one in ids]
