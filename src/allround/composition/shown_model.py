"""A language model that learns to answer behind demonstrations which are chosen for each row."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from allround.composition.demonstrating import Demonstrations
from allround.composition.examples import Example, row_text
from allround.composition.systems.demonstrated import Demonstrated
from allround.core.files import hash_folder
from allround.models.base import find_folder
from allround.models.model import Prepared
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.kind import Encoded
from allround.tasks.values import Row

if TYPE_CHECKING:
    from typing_extensions import Self


class ShownModel(MultiTaskModel):
    """The language model of a `Demonstrated`, whose encoder and heads it shares, as the trainer takes it.

    A row, of training or validation, is prepared behind the examples that are chosen for it, and never behind one with
    its own text. Examples are chosen by the model as it is when rows are prepared: before training.
    After Mueller et al., Meta-training with Demonstration Retrieval, Findings of ACL 2023. Differs: rows are prepared
    once, and all examples stand in one prompt, where RAG weighs the answers behind each of them.
    """

    def __init__(self, shown: Demonstrated) -> None:
        super().__init__(shown.model.encoder, {})
        self.definitions, self.heads = shown.model.definitions, shown.model.heads
        self.presenter, self.way, self.settings = shown.presenter, shown.way, shown.settings

    def prepare(self, task: str, inputs: Sequence[Row], targets: Encoded | None = None) -> list[Prepared]:
        if task not in self.presenter.shown or not self.way.pool(task):
            return super().prepare(task, inputs, targets)
        return self.presenter.prepared(task, inputs, others(self.way, task, inputs), targets)

    def with_instruction(self, task: str, instruction: str) -> Self:
        made = super().with_instruction(task, instruction)
        made.presenter = copy.copy(self.presenter)
        made.presenter.model = made
        return made

    @property
    def preparation(self) -> object:
        reader = hash_folder(find_folder(self.way.encoder)) if self.way.encoder else ""
        return [super().preparation, self.way.name, self.settings, reader]


def others(way: Demonstrations, task: str, rows: Sequence[Row]) -> list[list[Example]]:
    """The examples that a way chooses for each row, without those that have the row's own text; the best first."""
    texts = [row_text(row) for row in rows]
    alike = Counter(one.text for one in way.bank.examples)
    more = copy.copy(way)
    more.count = way.count + max(alike[text] for text in texts)
    found = [[way.bank.examples[number] for number in some] for some in more.choose(task, texts)]
    return [[one for one in some if one.text != text][: way.count] for some, text in zip(found, texts, strict=True)]
