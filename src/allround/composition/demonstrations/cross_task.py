"""cross_task: examples of other tasks, for a task that has no labelled row of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from allround.composition.demonstrating import Demonstrations, best
from allround.composition.examples import Bank, Example, row_text
from allround.composition.presenting import Presenter
from allround.core.errors import AllroundError
from allround.core.registry import method
from allround.core.seeds import seed_of
from allround.tasks.kind import kind
from allround.tasks.prompt import shown
from allround.tasks.prompt_text import answer_text
from allround.tasks.task import Split


@method(
    source="Chatterjee et al., ACL 2024, arXiv:2405.10548, sections 3 and 5",
    paper="Language Models can Exploit Cross-Task In-context Learning for Data-Scarce Novel Tasks",
)
class CrossTask(Demonstrations):
    """Shows the `count` examples of other tasks that are nearest to the row by cosine, each with the prompt of its own
    task; no label of the row's own task is looked at.

    pseudo: above 0, so many training rows of each task are labelled first, without looking at their labels: each other
    task in turn gives its nearest example as the only demonstration, and the answer that most of these prompts lead to
    counts (of equally many, that of the nearest example). The `count` nearest of these rows are the demonstrations.
    encoder: as for `similarity`.
    Differs: the paper takes a vector of a sentence encoder, and fixes the source task of a prompt.
    """

    name = "cross_task"

    def __init__(self, *, count: int = 1, pseudo: int = 0, encoder: str = "") -> None:
        super().__init__(count)
        if pseudo < 0:
            raise AllroundError(
                f"label {pseudo} rows of each task", "there cannot be fewer than none", "give 0 or more"
            )
        self.pseudo, self.encoder = pseudo, encoder

    def pool(self, task: str) -> list[int]:
        return self.bank.of(task) if self.pseudo else self.bank.others(task)

    def fit(self, presenter: Presenter, rows: Mapping[str, Split], seed: int) -> None:
        if len(self.bank.tasks) < 2:
            raise AllroundError(
                "show examples of other tasks",
                f"there is one task with examples, '{self.bank.tasks[0]}'",
                "give a suite of two tasks or more",
            )
        if self.pseudo:
            made = [self._labelled(presenter, task, split, seed) for task, split in rows.items()]
            self.bank = Bank([one for some in made for one in some])

    def _labelled(self, presenter: Presenter, task: str, split: Split, seed: int) -> list[Example]:
        """Some rows of a task with the answers that other tasks lead to."""
        order = np.random.default_rng(seed_of(seed, "pseudo", task)).permutation(len(split))[: self.pseudo]
        inputs = [split.inputs[row] for row in order]
        texts = [row_text(row) for row in inputs]
        votes: list[list[tuple[float, str]]] = [[] for _ in inputs]
        definition = presenter.model.definition(task)
        for source in self.bank.tasks:
            if source == task:
                continue
            near = self._nearest(self.bank.of(source), texts, 1)
            shots = [[self.bank.examples[number] for number, _ in some] for some in near]
            made = presenter.answers(task, inputs, shots).predictions
            said = kind(definition.kind).decode(made, definition)
            for number, (row, answer) in enumerate(zip(inputs, said, strict=True)):
                votes[number].append((near[number][0][1], answer_text(definition, row, answer)))
        found = []
        for row, cast in zip(inputs, votes, strict=True):
            often = Counter(answer for _, answer in cast)
            _, _, answer = max((often[answer], score, answer) for score, answer in cast)
            found.append(Example(task, tuple(shown(value) for value in row), answer))
        return found

    def choose(self, task: str, texts: Sequence[str]) -> list[list[int]]:
        return [[number for number, _ in some] for some in self._nearest(self.pool(task), texts, self.count)]

    def _nearest(self, numbers: Sequence[int], texts: Sequence[str], count: int) -> list[list[tuple[int, float]]]:
        """The nearest of some examples to each text, with their cosines."""
        scores = self.reader.vectors(texts) @ self.reader.vectors(self.bank.texts(numbers)).T
        places = range(len(numbers))
        return [[(numbers[place], float(row[place])) for place in best(row, places, count)] for row in scores]
