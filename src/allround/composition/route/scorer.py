"""scorer: the module whose answer to a row a small scorer holds to be the most right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from allround.composition.gating import drawn, owned
from allround.composition.module_answers import ModuleAnswers, answer_text, module_answers
from allround.composition.modules.bank import ModuleBank
from allround.composition.router import Router, RouteRows, Seen, base_vectors, taken_state
from allround.composition.text_reading import TextReader
from allround.core.errors import AllroundError
from allround.core.registry import method
from allround.core.seeds import seed_of
from allround.models.batch import taken
from allround.models.encoder import Encoder
from allround.models.encoders.language_model import LanguageModel
from allround.models.encoders.text import Text
from allround.tasks.definition import Definition
from allround.tasks.kind import kind
from allround.tasks.values import Target

#: Strengths of the penalty that are tried.
PENALTIES = (1e-2, 1e-1, 1.0, 1e1, 1e2)
#: Weights of the confidence that are tried.
SURE = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)


class Pairs(NamedTuple):
    """Rows with an answer each. Shapes: rows (n, d), answers (n, d), scores (n,); row: the number of each one's row."""

    rows: Tensor
    answers: Tensor
    scores: Tensor
    row: Tensor

    def take(self, some: Tensor) -> Pairs:
        return Pairs(*(part[some] for part in self))


@method(
    source="Tan et al., NeurIPS 2023, arXiv:2311.06720, and tanyuqian/cappy: cappy_bigbench.py",
    paper="Cappy: Outperforming and Boosting Large Multi-Task LMs with a Small Scorer",
    needs=("rows", "labels"),
)
class Scorer(Router):
    """Learns by regression how right an answer to a row is, lets each module answer, and takes the module whose answer
    has the largest score plus `sure` times the module's confidence.

    Formula: score = [1, a]' W [1, x]; x is the base's vector of the row, a that of the answer's text. W is fitted with
    squared error to the scores of the right answer, the right answer to another row, and the answer of each module.
    An answer's score is ROUGE-L of its labels, tags or words beside the right ones; of a number, 1 less its error in
    standard deviations of the task, and at least 0. rows: of each task. sure: left out, the one of `SURE` whose choices
    are the most right on so many validation rows of each task, or 1 where there are none. A row costs a pass for each
    module, and the task that is asked for chooses the head, so that the scorer cannot say which task a row is of.
    Differs: a ridge regression on frozen vectors of row and answer, in place of an encoder that is tuned on both as one
    text; its penalty is chosen on a fifth of the rows. The paper gives the answer to another row 0 in any case, and
    does not look at confidence, which here chooses between modules that agree. Its scorer also answers tasks with no
    model beside it; this one only chooses.
    """

    name = "scorer"
    mixes = False
    told = True
    asks = True

    def __init__(self, *, rows: int = 100, sure: float | None = None) -> None:
        super().__init__()
        if rows < 2 or (sure is not None and sure < 0):
            raise AllroundError(f"score answers to {rows} rows with the weight {sure} for confidence",
                                "rows must be at least 2, and the weight at least 0", "give such numbers")  # fmt: skip
        self.rows, self.given, self.sure = rows, sure, 1.0 if sure is None else sure
        self.weight = torch.empty(0, 0)
        self.reader: TextReader | None = None

    def check(self, encoder: Encoder) -> None:
        super().check(encoder)
        if not isinstance(encoder, Text | LanguageModel):
            raise self.cannot("the encoder reads no texts, and answers are scored by their texts")

    def check_task(self, definition: Definition) -> None:
        if kind(definition.kind).ranked:
            raise self.cannot(f"an answer to task '{definition.name}' is a list of passages, and no text to be scored")

    def fit(self, bank: ModuleBank, tasks: Mapping[str, RouteRows], seed: int) -> None:
        super().fit(bank, tasks, seed)
        owned(tasks, "fit the router 'scorer'")
        self.reader = TextReader(bank.encoder)
        found = [self._pairs(bank, rows, seed_of(seed, "scorer", name)) for name, rows in tasks.items() if len(rows)]
        starts = torch.tensor([0, *(int(one.row.max()) + 1 for one in found)]).cumsum(0)
        found = [one._replace(row=one.row + start) for one, start in zip(found, starts, strict=False)]
        pairs = Pairs(*(torch.cat(parts) for parts in zip(*found, strict=True)))
        self.weight = bilinear(pairs, seed_of(seed, "scorer"))
        held = {name: rows.validation for name, rows in tasks.items() if rows.validation is not None}
        if self.given is None and held:
            gains = [self._gains(bank, rows, seed_of(seed, "sure", name)) for name, rows in held.items()]
            self.sure = SURE[int(torch.stack(gains).mean(0).argmax())]

    def _drawn(self, rows: RouteRows, generator: torch.Generator) -> tuple[RouteRows, list[list[Target]]]:
        """Some rows of a task, and the right answers to each."""
        chosen = drawn(rows, self.rows, generator)
        some = replace(rows, inputs=[rows.inputs[row] for row in chosen], targets=taken(rows.targets, chosen))
        rules = kind(rows.definition.kind)
        targets = rules.decode(some.targets, rows.definition)
        # A text may have several right answers; any other list is one answer.
        return some, [list(one) if rules.written and isinstance(one, list) else [one] for one in targets]

    def _gains(self, bank: ModuleBank, rows: RouteRows, seed: int) -> Tensor:
        """How right the chosen answers to rows of a task are with each weight of `SURE`."""
        some, right = self._drawn(rows, torch.Generator().manual_seed(seed))
        said = module_answers(rows.model, bank, rows.task, some.inputs)
        scores, sure = self._scores(base_vectors(bank, some), said)
        scale = rows.definition.scale
        rows_of = [zip(one.values, right, strict=True) for one in said]
        agreed = torch.tensor([[rightness(*pair, scale) for pair in pairs] for pairs in rows_of]).T
        picked = [(scores + weight * sure).argmax(1, keepdim=True) for weight in SURE]
        return torch.stack([agreed.gather(1, one).mean() for one in picked])

    def _pairs(self, bank: ModuleBank, rows: RouteRows, seed: int) -> Pairs:
        """Some rows of a task with the right answer, that to another row, and those of the modules."""
        generator = torch.Generator().manual_seed(seed)
        some, right = self._drawn(rows, generator)
        definition = rows.definition
        others = torch.randint(len(some), (len(some),), generator=generator).tolist()
        said = module_answers(rows.model, bank, rows.task, some.inputs)
        texts: list[str] = []
        scores: list[float] = []
        row: list[int] = []
        for number, accepted in enumerate(right):
            values = [accepted[0], right[others[number]][0], *(one.values[number] for one in said)]
            scored = {answer_text(definition, value): rightness(value, accepted, definition.scale) for value in values}
            texts += scored
            scores += scored.values()
            row += [number] * len(scored)
        at = torch.tensor(row)
        return Pairs(base_vectors(bank, some)[at], self._vectors(texts), torch.tensor(scores), at)

    def _vectors(self, texts: Sequence[str]) -> Tensor:
        assert self.reader is not None
        return torch.from_numpy(self.reader.vectors(texts))

    def state(self) -> dict[str, Tensor]:
        return {"weight": self.weight, "sure": torch.tensor([self.sure])}

    def restore(self, bank: ModuleBank, state: Mapping[str, Tensor]) -> None:
        self.count = len(bank)
        self.reader = TextReader(bank.encoder)
        self.weight, sure = taken_state(state, weight=(1 + self.reader.width, None), sure=(1,))
        self.sure = float(sure)

    def _scores(self, vectors: Tensor, answers: Sequence[ModuleAnswers]) -> tuple[Tensor, Tensor]:
        """The scores of the modules' answers to rows, and the confidence of each: (n, modules). vectors: (n, d)."""
        by_row = with_one(vectors) @ self.weight.to(vectors.device).T
        scores = [(by_row * with_one(self._vectors(one.texts)).to(by_row)).sum(1) for one in answers]
        return torch.stack(scores, 1), by_row.new_tensor([one.confidence for one in answers]).T

    def weights(self, seen: Seen) -> Tensor:
        plain, sure = self._scores(seen.features, seen.answers)
        scores = plain + self.sure * sure
        return torch.zeros_like(scores).scatter_(1, scores.argmax(1, keepdim=True), 1.0)


def rightness(answer: Target, accepted: Sequence[Target], scale: float) -> float:
    """How right an answer is where several are accepted, from 0 to 1."""
    return max(agreement(answer, one, scale) for one in accepted)


def agreement(answer: Target, target: Target, scale: float) -> float:
    """How right an answer is, from 0 to 1.

    >>> agreement("a red car", "a car", 1.0), agreement(2.5, 2.0, 2.0), agreement(["x", "y"], ["z"], 1.0)
    (0.8, 0.75, 0.0)
    """
    if isinstance(answer, float) and isinstance(target, float):
        return max(0.0, 1 - abs(answer - target) / scale)
    said, right = (value if isinstance(value, list) else str(value).split() for value in (answer, target))
    if not said or not right:
        return float(said == right)
    common = [0] * (len(right) + 1)  # of what was said so far: the longest subsequence in common with each start
    for one in said:
        before = common
        common = [0]
        for place, other in enumerate(right):
            common.append(before[place] + 1 if one == other else max(before[place + 1], common[place]))
    return 2 * common[-1] / (len(said) + len(right))


def bilinear(pairs: Pairs, seed: int) -> Tensor:
    """W of [1, a]' W [1, x] that is near to the scores of pairs: (1 + d of answers, 1 + d of rows).

    Vectors are centred and have the mean squared length 1 where the squares of W are penalised. The penalty is the one
    of `PENALTIES` by which a fifth of the rows is best predicted from the others.
    """
    rows, of_rows = standardised(pairs.rows.double())
    answers, of_answers = standardised(pairs.answers.double())
    ready = Pairs(rows, answers, pairs.scores.double(), pairs.row)
    count = int(pairs.row.max()) + 1
    held = torch.randperm(count, generator=torch.Generator().manual_seed(seed))[: max(1, count // 5)]
    outside = torch.isin(ready.row, held)
    known, unknown = ready.take(~outside), ready.take(outside)
    errors = []
    for penalty in PENALTIES:
        weight = solved(known, penalty)
        errors.append(float(F.mse_loss((unknown.rows @ weight.T * unknown.answers).sum(1), unknown.scores)))
    best = PENALTIES[errors.index(min(errors))]
    return (of_answers.T @ solved(ready, best) @ of_rows).float()


def solved(pairs: Pairs, penalty: float) -> Tensor:
    """The ridge regression of scores on all products of a row's and an answer's numbers: (answers, rows)."""
    alike = (pairs.rows @ pairs.rows.T) * (pairs.answers @ pairs.answers.T)
    alike.diagonal().add_(penalty)
    shares: Tensor = torch.linalg.solve(alike, pairs.scores)
    return (pairs.answers * shares[:, None]).T @ pairs.rows


def standardised(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Vectors (n, d), centred and scaled, with a one before each, (n, 1 + d), and the matrix that makes them so."""
    center = vectors.mean(0)
    scale = (vectors - center).square().sum(1).mean().sqrt().clamp_min(1e-6)
    made = torch.block_diag(torch.ones(1, 1), torch.eye(len(center)) / scale).to(vectors)
    made[1:, 0] = -center / scale
    return with_one(vectors) @ made.T, made


def with_one(vectors: Tensor) -> Tensor:
    """Vectors with a one before each: (n, d) -> (n, 1 + d)."""
    return torch.cat([vectors.new_ones(len(vectors), 1), vectors], 1)
