"""tabular_ncd: a head learns the groups of the rows from pairs of them that look alike, beside one of known classes."""

from __future__ import annotations

from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from allround.continual.discovering import Discovery, NovelClasses, NovelRows, estimate_count
from allround.continual.discovery_net import batches
from allround.core.errors import AllroundError
from allround.core.registry import Search, method

#: Rows of a batch, the share of numbers that pretraining corrupts, and the weight of restoring them.
SIZE, CORRUPT, RESTORE = 512, 0.3, 2.0


@method(
    source="Troisemaine et al., ICKG 2022, arXiv:2209.01217; ColinTr/TabularNCD: src/training_procedures.py",
    paper=(
        "A Method for Discovering Novel Classes in Tabular Data",
        "Découvrir de nouvelles classes dans des données tabulaires",
    ),
)
class TabularNcd(Discovery):
    """Pretrains an encoder on all rows (VIME: which numbers were exchanged with those of other rows, and what they
    were), then trains it with two heads in turn: one tells the known classes and one class for all novel rows, the
    other groups the novel rows.

    Losses: share * cross-entropy + (1 - share) * gap, and pairs * (binary cross-entropy of p_i . p_j, which is to be 1
    where one of two rows is among the `top` share of rows nearest to the other in the encoder's space) + (1 - pairs) *
    gap. A gap is the mean squared difference to the outputs of the row moved towards one of its `neighbours` nearest.
    Differs: neighbours are those among all rows of the same side, where the code looks among the batch and the 2,000
    rows before it; corrupted numbers come from any row, where it shuffles whole rows; `top` is a share of the novel
    rows of a batch, where it is one of half the batch's size. Defaults lie between the authors' settings of two tables.
    """

    name = "tabular_ncd"

    def __init__(
        self,
        *,
        share: Annotated[float, Search(0.2, 0.8)] = 0.5,
        pairs: float = 0.8,
        top: Annotated[float, Search(0.06, 0.1, 0.2)] = 0.06,
        neighbours: int = 10,
        epochs: int = 30,
        rate: float = 8e-3,
        dropout: float = 0.2,
    ) -> None:
        if not (0 <= share <= 1 and 0 <= pairs <= 1 and 0 < top < 1 and neighbours > 0 and epochs > 0 and rate > 0
                and 0 <= dropout < 1):  # fmt: skip
            raise AllroundError(
                f"find classes by tabular_ncd with share={share}, pairs={pairs}, top={top}, neighbours={neighbours}, "
                f"epochs={epochs}, rate={rate} and dropout={dropout}",
                "shares lie from 0 to 1, neighbours and epochs are at least 1, and the rate is above 0",
                "give such numbers",
            )
        self.share, self.pairs, self.top, self.neighbours = share, pairs, top, neighbours
        self.epochs, self.rate, self.dropout = epochs, rate, dropout

    def space(self, rows: NovelRows, seed: int) -> NDArray[np.float64]:
        """The novel rows as the pretrained encoder sees them."""
        with torch.random.fork_rng(devices=[]):
            encoder = self._pretrained(rows, seed).eval()
            with torch.no_grad():
                made: Tensor = encoder(rows.novel.float())
        return made.double().numpy()

    def find(self, rows: NovelRows, count: int | None, seed: int) -> NovelClasses:
        count = estimate_count(self.space(rows, seed), seed) if count is None else count
        with torch.random.fork_rng(devices=[]):
            encoder = self._pretrained(rows, seed)
            head = self._trained(encoder, rows, count, seed)
            encoder.eval()
            with torch.no_grad():
                groups = head(encoder(rows.novel.float())).argmax(1).numpy()
        return NovelClasses(groups, count)

    def _pretrained(self, rows: NovelRows, seed: int) -> nn.Sequential:
        torch.manual_seed(seed % 2**63)
        every = torch.cat([rows.known, rows.novel]).float()
        d = every.shape[1]
        encoder = nn.Sequential(nn.Linear(d, d), nn.Dropout(self.dropout), nn.ReLU(), nn.Linear(d, d))
        exchanged, restored = nn.Linear(d, d), nn.Linear(d, d)
        parts = nn.ModuleList([encoder, exchanged, restored])
        optimiser = torch.optim.AdamW(parts.parameters(), lr=self.rate)
        for some in batches(len(every), SIZE, self.epochs, torch.Generator().manual_seed(seed % 2**63)):
            right = every[some]
            others = every[torch.randint(len(every), right.shape), torch.arange(d)]
            given = torch.where(torch.rand(right.shape) < CORRUPT, others, right)
            made = encoder(given)
            loss = F.binary_cross_entropy_with_logits(exchanged(made), (given != right).float())
            loss = loss + RESTORE * F.mse_loss(restored(made), right)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        return encoder

    def _trained(self, encoder: nn.Sequential, rows: NovelRows, count: int, seed: int) -> nn.Linear:
        """The head that groups novel rows; the encoder is trained in place."""
        every = torch.cat([rows.known, rows.novel]).float()
        known = len(rows.known)
        targets = torch.cat([torch.from_numpy(rows.labels), torch.full((len(every) - known,), rows.classes)])
        near = torch.cat([nearest(every[:known], self.neighbours), known + nearest(every[known:], self.neighbours)])
        discrete = torch.tensor([len(torch.unique(column)) <= 2 for column in every.T])
        classes, groups = nn.Linear(every.shape[1], rows.classes + 1), nn.Linear(every.shape[1], count)
        first = torch.optim.AdamW([*encoder.parameters(), *classes.parameters()], lr=self.rate)
        second = torch.optim.AdamW([*encoder.parameters(), *groups.parameters()], lr=self.rate)
        encoder.train()
        for some in batches(len(every), SIZE, self.epochs, torch.Generator().manual_seed(seed % 2**63)):
            moved = towards(every, near, some, discrete)
            made = classes(encoder(every[some]))
            loss = self.share * F.cross_entropy(made, targets[some])
            loss = loss + (1 - self.share) * F.mse_loss(made, classes(encoder(moved)))
            first.zero_grad()
            loss.backward()
            first.step()
            novel = targets[some] == rows.classes
            if int(novel.sum()) < 2:
                continue
            space = encoder(every[some][novel])
            made = groups(space)
            loss = self.pairs * pair_loss(made, alike(space.detach(), self.top))
            loss = loss + (1 - self.pairs) * F.mse_loss(made, groups(encoder(moved[novel])))
            second.zero_grad()
            loss.backward()
            second.step()
        return groups


def nearest(rows: Tensor, count: int) -> Tensor:
    """The numbers of the nearest other rows of each, by cosine: (n, count or n - 1)."""
    unit = F.normalize(rows, dim=-1)
    found = []
    for start in range(0, len(unit), 1024):
        scores = unit[start : start + 1024] @ unit.T
        scores[torch.arange(len(scores)), torch.arange(start, start + len(scores))] = -2
        found.append(scores.topk(min(count, len(unit) - 1), 1).indices)
    return torch.cat(found)


def towards(every: Tensor, near: Tensor, some: Tensor, discrete: Tensor) -> Tensor:
    """Rows moved a random part of the way towards one of their neighbours; what has two values becomes what most
    neighbours have (SMOTE-NC: Chawla et al., 2002).

    Shapes: every (n, d), near (n, k), some (b,), discrete (d,) -> (b, d)
    """
    neighbours = near[some]
    chosen = neighbours.gather(1, torch.randint(neighbours.shape[1], (len(some), 1))).squeeze(1)
    moved = every[some] + (every[chosen] - every[some]) * torch.rand(len(some), 1)
    if discrete.any():
        moved[:, discrete] = every[:, discrete][neighbours].mode(1).values
    return moved


def alike(space: Tensor, top: float) -> Tensor:
    """Which two rows count as of one class: one is among the `top` share of rows that are nearest to the other by
    cosine. (n, n), 0 or 1.

    >>> alike(torch.tensor([[1.0, 0], [1, 0.1], [0, 1], [0.1, 1]]), 0.25).tolist()
    [[0.0, 1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0], [0.0, 0.0, 1.0, 0.0]]
    """
    unit = F.normalize(space, dim=-1)
    scores = unit @ unit.T
    scores.fill_diagonal_(-2)
    count = min(max(1, round(top * len(space))), len(space) - 1)
    found = torch.zeros_like(scores).scatter_(1, scores.topk(count, 1).indices, 1.0)
    return torch.maximum(found, found.T)


def pair_loss(outputs: Tensor, alike: Tensor) -> Tensor:
    """Binary cross-entropy of how probable two rows are of one group, over all pairs.

    Shapes: outputs (n, groups), alike (n, n) -> ()

    >>> float(pair_loss(torch.tensor([[9.0, -9.0], [9.0, -9.0]]), torch.ones(2, 2))) < 1e-4
    True
    """
    probable = outputs.softmax(-1)
    first, second = torch.triu_indices(len(outputs), len(outputs), 1)
    same = (probable[first] * probable[second]).sum(1).clamp(1e-7, 1 - 1e-7)
    return F.binary_cross_entropy(same, alike[first, second])
