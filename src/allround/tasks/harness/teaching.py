"""Right answers to the documents of a task of the harness, and the documents that training may see."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from allround.core.seeds import seed_of
from allround.tasks.harness.configuration import build
from allround.tasks.harness.requests import LIKELIHOOD, WRITING, Asked

#: The share of the training documents that validation gets, where the task has no validation documents beside its test.
HELD = 0.2


@dataclass(frozen=True)
class TaughtDocuments:
    """A task that asks about its training documents, and the numbers of those to train and to validate on."""

    task: Any
    train: list[int]
    validation: list[int]


def taught_documents(
    source: str | Mapping[str, Any], more: Mapping[str, Any], limits: Mapping[str, int], validation: bool
) -> TaughtDocuments | None:
    """The training documents of a task, drawn where limits are smaller; None of a task that has none.

    A document never stands among the worked examples before itself. source: plain. more: changes of the configuration.
    limits: the most rows by split. validation: whether some are set aside for validation.
    """
    made = build(source, more)
    if "class" in made.config.__dict__ or not hasattr(made, "fewshot_cfg") or not made.has_training_docs():
        return None
    split = made.config.training_split
    changes = {**more, "test_split": split}
    if made.fewshot_cfg.split is None and made.fewshot_cfg.samples is None:
        changes["fewshot_split"] = split
    task = build(source, changes)
    count = len(task.eval_docs)
    order = np.random.default_rng(seed_of(0, "limit", str(made.config.task))).permutation(count).tolist()
    held = 0
    if validation:
        held = min(limits.get("validation", count), math.ceil(HELD * count), count - 1)
    train = order[held : held + limits.get("train", count)]
    return TaughtDocuments(task, sorted(train), sorted(order[:held]))


def right_answer(task: Any, document: Any, asked: Asked) -> str | int | None:
    """The right answer to what a task of the harness asks about a document: the number of a request, or the text to
    write behind the context; None where it is not known, or the probability of a whole text is asked for."""
    if asked.sort == LIKELIHOOD:
        return _right_request(task, document, len(asked.requests))
    if asked.sort != WRITING:
        return None
    target = task.doc_to_target(document)
    text = target[0] if isinstance(target, list) and target else target
    if task.config.doc_to_choice is not None and isinstance(text, int):
        text = task.doc_to_choice(document)[text]
    said = "" if isinstance(text, list) or text is None else str(text)
    return _gap(task, document, asked) + said if said.strip() else None


def _right_request(task: Any, document: Any, requests: int) -> int | None:
    if task.OUTPUT_TYPE != "multiple_choice":
        return 0
    right = task.doc_to_text(document) if task.multiple_input else task.doc_to_target(document)
    right = right[0] if isinstance(right, list) and right else right
    if isinstance(right, str):
        choices = task.doc_to_choice(document)
        right = choices.index(right) if right in choices else -1
    return right if isinstance(right, int) and 0 <= right < requests else None


def _gap(task: Any, document: Any, asked: Asked) -> str:
    """What stands between a context and the answer: as between those of worked examples, and nothing in a chat."""
    if task.doc_to_prefix(document):
        return " "
    context = asked.contexts[0]
    if not isinstance(context, str) or context[-1:].isspace():
        return ""
    return str(task.config.target_delimiter)
