"""Rows put to a language model behind demonstrations that were chosen for each of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from allround.composition.examples import Example
from allround.core.errors import AllroundError
from allround.models.batch import Answers, taken
from allround.models.encoders.language_model import LanguageModel
from allround.models.running import by_length
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.definition import Definition
from allround.tasks.kind import Encoded, kind
from allround.tasks.prompt import Demonstration
from allround.tasks.prompt_text import prompt_of, question_text
from allround.tasks.values import Row


class Presenter:
    """A language model with the heads of its tasks.

    shown: the tasks that demonstrations are shown for: those that it answers by choices or by writing, with one prompt
    for a row. Errors: a model that is no language model.
    """

    def __init__(self, model: MultiTaskModel) -> None:
        if not isinstance(model.encoder, LanguageModel):
            raise AllroundError(
                "show a model demonstrations",
                f"its encoder '{model.encoder.name}' is no language model",
                "use a language model, such as smollm2-135m",
            )
        self.model, self.encoder = model, model.encoder
        self.shown = [name for name, definition in model.definitions.items() if self._can_show(definition)]

    def _can_show(self, definition: Definition) -> bool:
        one = not kind(definition.kind).indicators
        return one and self.model.head(definition.name).sort in ("choices", "generate")

    def prepared(
        self, task: str, rows: Sequence[Row], examples: Sequence[Sequence[Example]], targets: Encoded | None = None
    ) -> list[Any]:
        """Rows as the model reads them. examples: of each, the best first; it stands next to the question, and the last
        ones are left out where the prompt would be too long. targets: where the rows are to be taught."""
        return [
            self._prepared(task, row, some, None if targets is None else taken(targets, [number]))
            for number, (row, some) in enumerate(zip(rows, examples, strict=True))
        ]

    def _prepared(self, task: str, row: Row, examples: Sequence[Example], targets: Encoded | None) -> Any:
        definition = self.model.definition(task)
        head = self.model.head(task).sort
        shots = [self._shot(task, one) for one in reversed(examples)]
        asked = _with(definition, shots)
        while shots and not self.encoder.asker.fits(asked, head, row):
            asked = _with(definition, shots := shots[1:])
        return self.encoder.prepare([row], asked, targets)[0]

    def _shot(self, task: str, example: Example) -> Demonstration:
        other = self.model.definitions[example.task]
        question = "" if example.task == task else question_text(other, example.inputs)
        return Demonstration(example.inputs, example.answer, question)

    def answers(self, task: str, rows: Sequence[Row], examples: Sequence[Sequence[Example]], **options: Any) -> Answers:
        """The answers to rows, each behind its own examples. options: as of
        `Model.answer_prepared`."""
        return self.model.answer_prepared(task, self.prepared(task, rows, examples), **options)

    @torch.inference_mode()
    def log_likelihoods(
        self, task: str, rows: Sequence[Row], targets: Encoded, examples: Sequence[Sequence[Example]]
    ) -> NDArray[np.float64]:
        """How probable the right answer to each row is behind its examples: (n,). Of choices, the logarithm of its
        probability among them; of an answer that is written, the mean over its tokens."""
        definition = self.model.definition(task)
        if self.model.head(task).sort == "choices" and not kind(definition.kind).numeric:
            scores = self.answers(task, rows, examples, scores=True).scores
            assert scores is not None
            return np.log([max(float(row[int(t)]), 1e-12) for row, t in zip(scores, targets, strict=True)])
        self.model.eval()
        prepared = self.prepared(task, rows, examples, targets)
        found = np.zeros(len(rows))
        for numbers in by_length([self.model.size(one) for one in prepared], 32):
            own = taken(targets, numbers)
            batch = self.encoder.collate([prepared[number] for number in numbers], definition, own)
            features = self.encoder(batch.to(self.model.device))
            parts = features.values.flatten().split(list(features.lengths))
            found[numbers] = [float(part.mean()) for part in parts]
        return found


def _with(definition: Definition, shots: Sequence[Demonstration]) -> Definition:
    return replace(definition, prompt=replace(prompt_of(definition), demonstrations=tuple(shots)))
