"""similarity: the examples whose texts are nearest to that of the row."""

from __future__ import annotations

from collections.abc import Sequence

from allround.composition.demonstrating import Demonstrations, best
from allround.core.errors import AllroundError
from allround.core.registry import method


@method(source="KATE: Liu et al., What Makes Good In-Context Examples for GPT-3?, DeeLIO 2022, arXiv:2101.06804")
class Similarity(Demonstrations):
    """The `count` examples of the row's task with the largest cosine between vectors of texts.

    tasks: "own", or "all" to show examples of every task, each with the prompt of its own. encoder: a text encoder,
    such as all-MiniLM-L6-v2; left out, the language model reads the texts, and the vector of a text is the mean of the
    states of its tokens after half of the layers.
    """

    name = "similarity"

    def __init__(self, *, count: int = 4, tasks: str = "own", encoder: str = "") -> None:
        super().__init__(count)
        if tasks not in ("own", "all"):
            raise AllroundError(f"show the nearest examples of the tasks '{tasks}'", "there is no such choice",
                                "use one of: own, all")  # fmt: skip
        self.tasks, self.encoder = tasks, encoder

    def pool(self, task: str) -> list[int]:
        return super().pool(task) if self.tasks == "own" else list(range(len(self.bank.examples)))

    def choose(self, task: str, texts: Sequence[str]) -> list[list[int]]:
        numbers = self.pool(task)
        scores = self.reader.vectors(texts) @ self.reader.vectors(self.bank.texts(numbers)).T
        return [best(row, numbers, self.count) for row in scores]
