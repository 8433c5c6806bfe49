"""learned: a retriever that learns from the language model which examples help it to the right answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from allround.composition.demonstrating import Demonstrations, best
from allround.composition.examples import Bank, Example
from allround.composition.presenting import Presenter
from allround.composition.text_reading import TextReader
from allround.core.errors import AllroundError
from allround.core.registry import method
from allround.core.seeds import seed_of
from allround.models.batch import taken
from allround.tasks.task import Split

#: What a cosine is multiplied by, so that a softmax over examples can tell them apart.
SCALE = 20.0
#: Weight of the ranking beside the choice within the batch.
RANKING = 4.0
#: Steps of each round, and their learning rate.
STEPS, RATE = 100, 1e-3
#: One of so many rows judges whether the retriever got better than it began.
HELD = 4


@dataclass
class _Query:
    """A training row that the retriever learns from. scores: of examples that were tried, by their numbers."""

    task: str
    number: int
    row: int
    scores: dict[int, float] = field(default_factory=dict)

    @property
    def ranked(self) -> list[int]:
        """The examples that were tried, the most helpful first."""
        return sorted(self.scores, key=lambda number: -self.scores[number])


@method(
    source="Li et al., ACL 2023, arXiv:2305.04320, section 3; KaiLv69/UDR",
    paper="Unified Demonstration Retriever for In-Context Learning",
)
class Learned(Demonstrations):
    """One retriever for all tasks: two linear maps of the vectors of texts, one for rows behind the name of their task,
    and one for examples with their answers.

    `queries` training rows of all tasks are taken in turn; for each, `candidates` other examples of its task are ranked
    by how probable the right answer is behind each of them alone. The maps learn this order (LambdaRank with reciprocal
    ranks, four times), and to tell the best example of a row from those of other rows. In each of `rounds` half of the
    candidates are those that the retriever finds nearest by then, the others are drawn. Where held-out rows would be
    shown less helpful first examples than before, the maps stay as they began, which is cosine similarity. encoder: as
    for `similarity`.
    Tasks with no more examples than candidates are not learned from.
    Differs: maps of vectors that stay as they are, where the authors tune two BERTs; the task's name in place of an
    instruction; first candidates by cosine and by lot, where the authors take those of BM25.
    """

    name = "learned"

    def __init__(
        self, *, count: int = 4, queries: int = 64, candidates: int = 8, rounds: int = 2, encoder: str = ""
    ) -> None:
        super().__init__(count)
        for what, value, low in (("queries", queries, 8), ("candidates", candidates, 2), ("rounds", rounds, 1)):
            if value < low:
                raise AllroundError(f"learn to retrieve examples with {what}={value}", f"{what} must be at least {low}",
                                    f"give {low} or more")  # fmt: skip
        self.queries, self.candidates, self.rounds, self.encoder = queries, candidates, rounds, encoder

    def begin(self, bank: Bank, reader: TextReader) -> None:
        super().begin(bank, reader)
        self.maps = torch.eye(reader.width), torch.eye(reader.width)

    @cached_property
    def _examples(self) -> Tensor:
        return torch.from_numpy(self.reader.vectors([_said(one) for one in self.bank.examples]))

    def fit(self, presenter: Presenter, rows: Mapping[str, Split], seed: int) -> None:
        every = self._drawn(rows, seed)
        if len(every) < HELD:
            return
        vectors = self._vectors([(one.task, self.bank.examples[one.number].text) for one in every])
        learning = [place for place in range(len(every)) if place % HELD]
        generator = np.random.default_rng(seed_of(seed, "candidates"))
        maps = self.maps
        for _ in range(self.rounds):
            near = _cosines(vectors, self._examples, maps)
            for one, row in zip(every, near, strict=True):
                self._mine(one, row.numpy(), generator)
            self._score(presenter, rows, every)
            maps = _taught(maps, vectors[learning], self._examples, [every[place].ranked for place in learning])
        judging = [place for place in range(len(every)) if place % HELD == 0]
        before, after = (_helped(every, judging, _cosines(vectors, self._examples, one)) for one in (self.maps, maps))
        self.maps = maps if after > before else self.maps

    def _drawn(self, rows: Mapping[str, Split], seed: int) -> list[_Query]:
        """Rows to learn from, of each task in turn."""
        able = [task for task in rows if len(self.bank.of(task)) > self.candidates]
        each = -(-self.queries // max(len(able), 1))
        found: list[list[_Query]] = []
        for task in able:
            numbers = self.bank.of(task)
            order = np.random.default_rng(seed_of(seed, "queries", task)).permutation(len(numbers))[:each]
            found.append([_Query(task, numbers[row], int(row)) for row in order])
        turns = [(place, task, one) for task, some in enumerate(found) for place, one in enumerate(some)]
        return [one for *_, one in sorted(turns, key=lambda turn: turn[:2])]

    def _mine(self, query: _Query, near: np.ndarray, generator: np.random.Generator) -> None:
        """Candidates of a round, still without a score."""
        numbers = [n for n in self.bank.of(query.task) if n != query.number and n not in query.scores]
        nearest = best(near[numbers], numbers, self.candidates // 2)
        others = [number for number in numbers if number not in nearest]
        drawn = generator.permutation(others)[: self.candidates - len(nearest)].tolist() if others else []
        query.scores |= dict.fromkeys([*nearest, *drawn], np.nan)

    def _score(self, presenter: Presenter, rows: Mapping[str, Split], queries: Sequence[_Query]) -> None:
        """Ask the language model about the candidates without a score."""
        for task in dict.fromkeys(one.task for one in queries):
            own = [one for one in queries if one.task == task]
            asked = [(one, n) for one in own for n, score in one.scores.items() if np.isnan(score)]
            numbers = [one.row for one, _ in asked]
            if not asked:
                continue
            inputs, targets = [rows[task].inputs[row] for row in numbers], taken(rows[task].targets, numbers)
            shots = [[self.bank.examples[number]] for _, number in asked]
            found = presenter.log_likelihoods(task, inputs, targets, shots)
            for (one, number), score in zip(asked, found, strict=True):
                one.scores[number] = float(score)

    def _vectors(self, rows: Sequence[tuple[str, str]]) -> Tensor:
        """Vectors of rows, each with its task."""
        return torch.from_numpy(self.reader.vectors([f"{task.replace('_', ' ')}: {text}" for task, text in rows]))

    def choose(self, task: str, texts: Sequence[str]) -> list[list[int]]:
        numbers = self.pool(task)
        scores = _cosines(self._vectors([(task, text) for text in texts]), self._examples[numbers], self.maps)
        return [best(row.numpy(), numbers, self.count) for row in scores]

    def state(self) -> dict[str, Tensor]:
        return {"rows": self.maps[0], "examples": self.maps[1]}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        if set(state) != {"rows", "examples"}:
            raise ValueError(f"it holds {', '.join(sorted(state)) or 'nothing'}, and not examples, rows")
        width = self.reader.width
        if {tuple(tensor.shape) for tensor in state.values()} != {(width, width)}:
            raise ValueError(f"its maps are not {width} x {width}")
        self.maps = state["rows"].float(), state["examples"].float()


def _said(example: Example) -> str:
    """An example with its answer."""
    return f"{example.text}\n{example.answer}"


def _cosines(rows: Tensor, examples: Tensor, maps: tuple[Tensor, Tensor]) -> Tensor:
    return F.normalize(rows @ maps[0], dim=-1) @ F.normalize(examples @ maps[1], dim=-1).T


def ranking_loss(scores: Tensor) -> Tensor:
    """How far scores are from the order of their columns, the best first: the mean over pairs of log(1 + exp(lower -
    higher)) times the difference of the reciprocal ranks that the two have by these scores.

    Shapes: scores (n, k) -> ()

    >>> ranking_loss(torch.tensor([[0.0, 0.0]]))
    tensor(0.3466)
    """
    count = scores.shape[1]
    rank = (-scores).argsort(dim=1, stable=True).argsort(dim=1) + 1
    weight = (1 / rank[:, :, None] - 1 / rank[:, None, :]).abs()
    loss = F.softplus(scores[:, None, :] - scores[:, :, None]) * weight
    first, second = torch.triu_indices(count, count, 1)
    mean: Tensor = loss[:, first, second].mean()
    return mean


def _taught(
    maps: tuple[Tensor, Tensor], rows: Tensor, examples: Tensor, ranked: Sequence[Sequence[int]]
) -> tuple[Tensor, Tensor]:
    """Maps that have learned the order of the candidates of each row."""
    made = [one.clone().requires_grad_() for one in maps]
    optimiser = torch.optim.AdamW(made, lr=RATE, weight_decay=0.0)
    used = sorted({number for some in ranked for number in some})
    place = {number: at for at, number in enumerate(used)}
    width = min(map(len, ranked))
    listed = torch.tensor([[place[number] for number in some[:width]] for some in ranked])
    with torch.enable_grad():
        for _ in range(STEPS):
            scores = SCALE * _cosines(rows, examples[used], (made[0], made[1]))
            chosen = F.cross_entropy(scores, listed[:, 0])
            loss = RANKING * ranking_loss(scores.gather(1, listed)) + chosen
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return made[0].detach(), made[1].detach()


def _helped(queries: Sequence[_Query], places: Sequence[int], near: Tensor) -> float:
    """The mean score of the example that is put first, among those that were tried. near: of all examples, by row."""
    firsts = []
    for place in places:
        scores = queries[place].scores
        firsts.append(scores[max(scores, key=lambda number: float(near[place, number]))])
    return float(np.mean(firsts))
