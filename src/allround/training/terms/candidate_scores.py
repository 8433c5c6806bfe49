"""candidate_scores: passages are ranked as a teacher's scores rank them, in place of what is relevant or beside it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from allround.core.errors import AllroundError
from allround.core.files import hash_file
from allround.core.reading import MAX_BYTES, parse_json, read_text
from allround.core.registry import method
from allround.models.contrasting import ContrastiveLoss
from allround.models.heads.ranking import Ranking
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.contrast import of_row
from allround.tasks.values import Target
from allround.training.term import Term

if TYPE_CHECKING:
    from allround.models.batch import Batch, Features
    from allround.models.model import Model
    from allround.tasks.task import Task

#: The scores of passages by their ids, by task and query; the task "" stands for each that has the query.
Scored = dict[tuple[str, str], dict[str, float]]


@method(
    paper="Retrieve Anything To Augment Large Language Models",
    source="LLM-Embedder: Zhang et al., 2023, arXiv:2310.07554; checked against research/llm_embedder of "
    "FlagOpen/FlagEmbedding: run_lm_score.py, src/lm/modeling_lm.py and src/retrieval/modeling_dense.py",
)
class CandidateScores(Term):
    """Learns from how useful each candidate of a training query is, such as a language model's log-likelihood of the
    right answer behind it, which `allround.models.language.candidates.score_candidates` computes.

    file: JSON Lines with `query` (the text), `scores` (numbers by the ids of passages, higher is better) and, where
    several tasks have the query, `task`. loss: one of the family `contrast` that follows a teacher, with its
    parameters. weight: factor on it. labels: factor on the loss by what is relevant, beside it.

    A step looks at the passages that the task's `contrast` chooses of each row's target (`positives`, `negatives`), so
    name the scored ones there. Passages that were not scored, and those of other rows, stand behind all that were. Of
    queries without scores the loss has only its part by what is relevant. Steps hold rows of one task. As in the
    paper, a task may have an instruction for its queries (`instruction`) and one for passages (`passage_instruction` of
    `contrast`).

    >>> CandidateScores(file="scores.jsonl")
    Traceback (most recent call last):
    ...
    allround.core.errors.AllroundError: asked: learn from the scores in 'scores.jsonl'
    found: the file is not there
    do:    check the path
    """

    reads_features: ClassVar[bool] = True

    def __init__(self, *, file: str, loss: str = "llm_embedder", weight: float = 1.0, labels: float = 0.0) -> None:
        super().__init__()
        self.file, self.loss, self.weight, self.labels = file, loss, weight, labels
        self._scored = read_scores(Path(file))
        self._rule = ContrastiveLoss.named(loss)
        if not self._rule.needs_teacher:
            raise AllroundError(f"learn from the scores in '{file}' by the loss '{loss}'", "it follows no teacher",
                                "use llm_embedder, kl or margin_mse")  # fmt: skip
        self._targets: dict[str, Sequence[Target]] = {}
        self._taught: dict[str, list[Mapping[str, float]]] = {}
        #: Part of what tells unfinished training from others.
        self.content = hash_file(file)

    def before(self, model: Model, tasks: Sequence[Task]) -> None:
        assert isinstance(model, MultiTaskModel)
        for task in tasks:
            split = task.splits["train"]
            if not isinstance(model.head(task.name), Ranking):
                continue
            queries = [str(row[0]) for row in split.inputs]
            found = [self._scored.get((task.name, one), self._scored.get(("", one), {})) for one in queries]
            known = [one.keys() & target.keys() for one, target in zip(found, split.targets, strict=True)]
            if any(known):
                self._targets[task.name], self._taught[task.name] = split.targets, list(found)
        if not self._taught:
            raise AllroundError(
                f"learn from the scores in '{self.file}'",
                "no training row of a task of the kind retrieval has its query there with a passage of its target",
                "give scores of the rows' own passages, under the same ids, and name these in `target` or `negatives`",
            )

    def own_loss(self, task: str) -> float:
        return self.labels if task in self._taught else 1.0

    def task_loss(self, model: Model, task: str, batch: Batch, features: Features | None) -> Tensor | None:
        if task not in self._taught or task not in batch.numbers:
            return None
        assert isinstance(model, MultiTaskModel) and features is not None
        head, targets = model.head(task), batch.targets[task]
        assert isinstance(head, Ranking)
        rows = [(self._targets[task][number], self._taught[task][number]) for number in batch.numbers[task]]
        columns = [one for target, _ in rows for one in of_row(target, head.contrast)]  # type: ignore[arg-type]
        taught = torch.tensor([[scores.get(one, math.nan) for one in columns] for _, scores in rows])
        found = head.compared(features.take(targets.rows, batch.size).of(task))
        return self.weight * self._rule(found, targets.values, taught.to(found.device))

    def after(self, model: Model) -> None:
        self._targets, self._taught = {}, {}


def read_scores(path: Path) -> Scored:
    """The scores of passages for queries. Errors: no such file; lines without them; a query that stands there twice."""
    asked = f"learn from the scores in '{path}'"
    found: Scored = {}
    for number, line in enumerate(read_text(path, max_bytes=MAX_BYTES, asked=asked).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            key, scores = _scores_of(parse_json(line))
            if key in found:
                raise ValueError(f"the query {key[1][:60]!r} stands there twice")
        except ValueError as error:
            raise AllroundError(
                asked, f"line {number}: {error}", 'give each line as {"query": "...", "scores": {"ID": NUMBER}}'
            ) from error
        found[key] = scores
    return found


def _scores_of(line: object) -> tuple[tuple[str, str], dict[str, float]]:
    if not isinstance(line, dict) or not isinstance(line.get("query"), str) or not isinstance(line.get("scores"), dict):
        raise ValueError("it has no `query` and `scores`")
    task = line.get("task", "")
    wrong = [v for v in line["scores"].values() if isinstance(v, bool) or not isinstance(v, int | float)]
    if wrong or not isinstance(task, str):
        raise ValueError(f"a score is {wrong[0]!r}" if wrong else f"the task is {task!r}")
    scores = {str(one): float(value) for one, value in line["scores"].items()}
    if odd := [value for value in scores.values() if not math.isfinite(value)]:
        raise ValueError(f"a score is {odd[0]}")
    return (task, line["query"]), scores
