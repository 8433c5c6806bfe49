"""What each module of a bank answers to rows of a task by itself, as values and as texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from allround.composition.modules.bank import ModuleBank
from allround.models.batch import Answers
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.definition import Definition
from allround.tasks.kind import kind
from allround.tasks.values import Row, Target


@dataclass(frozen=True)
class ModuleAnswers:
    """The answers of one module to rows.

    made: as the task's head gives them. values: readable. texts: the task's name and the answer. confidence: of each
    answer; 1 where the task has none.
    """

    made: Answers
    values: list[Target]
    texts: list[str]
    confidence: list[float]

    def take(self, rows: Sequence[int]) -> ModuleAnswers:
        """Those to some of the rows."""
        values, texts = [self.values[row] for row in rows], [self.texts[row] for row in rows]
        return ModuleAnswers(self.made.take(rows), values, texts, [self.confidence[row] for row in rows])


def module_answers(
    model: MultiTaskModel,
    bank: ModuleBank,
    task: str,
    rows: Sequence[Row],
    batch_size: int = 64,
    *,
    scores: bool = False,
) -> list[ModuleAnswers]:
    """What the task's head answers to rows through each module alone: a pass for each module."""
    definition, prepared = model.definition(task), model.prepare(task, rows)
    found = []
    for one in torch.eye(len(bank), device=model.device):
        with bank.using(one[None]):
            made = model.answer_prepared(task, prepared, batch_size=batch_size, scores=scores)
        values = kind(definition.kind).decode(made.predictions, definition)
        texts = [answer_text(definition, value) for value in values]
        found.append(ModuleAnswers(made, values, texts, made.confidence or [1.0] * len(values)))
    return found


def chosen_answers(asked: Sequence[ModuleAnswers], modules: Sequence[int]) -> Answers:
    """The answers to rows, each of its module. modules: the number of each row's.

    >>> import numpy as np
    >>> one, two = (ModuleAnswers(Answers(np.array(said)), [], [], []) for said in ([1, 2, 3], [4, 5, 6]))
    >>> chosen_answers([one, two], [1, 0, 1]).predictions.tolist()
    [4, 2, 6]
    """
    rows = sorted(range(len(modules)), key=modules.__getitem__)
    parts = [asked[module].made.take([row for row in rows if modules[row] == module]) for module in sorted({*modules})]
    return Answers.join(parts).take(sorted(range(len(rows)), key=rows.__getitem__))


def answer_text(definition: Definition, value: Target) -> str:
    """An answer with the name of its task before it; numbers have three digits.

    >>> answer_text(Definition("stars", "regression", ("text",), "text", "pearson"), 3.14159)
    'stars: 3.14'
    """
    said = f"{value:.3g}" if isinstance(value, float) else kind(definition.kind).spoken(value)
    return f"{definition.name}: {said}"
