"""How much each candidate passage of a query helps a language model: the likelihood of the right answer behind it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import cast

from allround.core.errors import AllroundError
from allround.models.encoder import Encoder
from allround.models.encoders.language_model import LanguageModel
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.contrast import Contrast, of_row
from allround.tasks.definition import Definition
from allround.tasks.harness.requests import LIKELIHOOD, Asked
from allround.tasks.passages import Passages
from allround.tasks.prompt import fill, parse
from allround.tasks.prompt_text import spaced
from allround.tasks.task import Task

#: How a passage is shown where nobody says how.
PROMPT = "Knowledge: {passage}\n\nQuestion: {query}\n\nAnswer:"
_ASKED = Definition("requests", "lm_eval", ("requests",), "text", "lm_eval", head="requests")


def score_candidates(
    task: Task,
    answers: Mapping[str, str],
    model: Encoder,
    *,
    prompt: str = PROMPT,
    batch_size: int = 16,
) -> list[dict[str, object]]:
    """For each training query that has an answer the scores of the passages that a step of training looks at.

    task: of the kind retrieval. answers: what a language model should say, by query. model: a language model, as
    `allround.models.base.load_encoder` gives it. prompt: what stands before the answer, with {passage} and {query}.
    A score is the mean log-likelihood of the answer's tokens; the task's `contrast` says how many passages of a query
    there are (`positives`, `negatives`). Returns rows as the term `candidate_scores` reads them, a line of JSON each,
    with `task`, `query` and `scores`.
    Source: Zhang et al., 2023, arXiv:2310.07554 (LLM-Embedder); run_lm_score.py of FlagOpen/FlagEmbedding.
    Errors: no task of the kind retrieval; no language model; a prompt without {passage}; no query with an answer.
    """
    asked = f"score the candidates of task '{task.name}'"
    if task.definition.kind != "retrieval" or not isinstance(model, LanguageModel):
        found = f"it is of the kind {task.definition.kind}"
        if task.definition.kind == "retrieval":
            found = f"'{model.name}' is no language model"
        raise AllroundError(asked, found, "give a task of the kind retrieval, and a language model, such as "
                            "smollm2-135m")  # fmt: skip
    names = {name for _, name in parse(prompt) if name is not None}
    if not {"passage"} <= names <= {"passage", "query"}:
        raise AllroundError(asked, f"the prompt has the places {', '.join(sorted(names)) or '-'}",
                            "write it with {passage} and {query}")  # fmt: skip
    split = task.splits["train"]
    contrast = task.definition.contrast or Contrast()
    chosen: dict[str, dict[str, str]] = {}
    for row, target in zip(split.inputs, split.targets, strict=True):
        query, passages = str(row[0]), cast(Passages, row[1])
        if query in answers:
            chosen[query] = {one: passages[one] for one in of_row(target, contrast)}
    if not chosen:
        raise AllroundError(asked, "no training row has a query with an answer", "give answers by the text of queries")
    questions, counts = [], []
    for query, own in chosen.items():
        contexts = tuple(fill(prompt, {"passage": text, "query": query}) for text in own.values())
        texts = [spaced(context, answers[query]) for context in contexts]
        questions.append((Asked(LIKELIHOOD, contexts, tuple(enumerate(texts))).to_text(),))
        counts += [len(model.requester.pair(*one)[1]) for one in zip(contexts, texts, strict=True)]
    said = MultiTaskModel(model, {_ASKED.name: _ASKED}).answers(_ASKED.name, questions, batch_size=batch_size)
    tokens = iter(counts)
    likelihoods = [[value / next(tokens) for value, _ in json.loads(text)] for (text,) in said.predictions]
    return [
        {"task": task.name, "query": query, "scores": dict(zip(own, values, strict=True))}
        for (query, own), values in zip(chosen.items(), likelihoods, strict=True)
    ]
