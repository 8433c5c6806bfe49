"""SMART: the budget goes to representative tasks, and within a task to rows that cover it."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from allround.core.errors import AllroundError
from allround.core.registry import method
from allround.training.sampling import Mixture, Policy, by_size

#: Rows of a feed that are compared with each other, at most: the memory grows with its square.
PIECE = 4096


@method(
    source="Renduchintala et al., Findings of ACL 2024, arXiv:2403.08370, stages 1 and 2",
    paper="SMART: Submodular Data Mixture Strategy for Instruction Tuning",
    needs=("features",),
)
class Smart(Policy):
    """Before training, chooses which rows are used at all; each feed is then drawn as often as it has rows chosen.

    budget: the share of all rows that is used. tasks: how many feeds are kept, or 0 for all. trade: how much feeds
    that resemble chosen ones lose.

    Formula: with s the cosines of the feeds' mean features, feeds are chosen greedily for the largest gain
    g_f = sum_h s_fh - 2 trade sum_(h chosen) s_fh - trade s_ff; the budget is split by 1 + g + g^2 / 2, no feed getting
    more than its rows; within a feed, rows R are chosen greedily for the largest sum_i max_(j in R) max(cos_ij, 0)
    Differs: the features are those of the base, not of another text encoder; each kept feed gets a row at least;
    feeds of more than 4096 rows are chosen from in parts (row i in part i modulo their number).

    >>> policy = Smart(Mixture(("a", "b"), (3, 3), ("classification",) * 2), budget=0.7)
    >>> one = torch.tensor([[1.0, 0.0], [1.0, 0.01], [1.0, 1.0]])
    >>> policy.select([one, one.flip(1)]), policy.shares(0.0)
    ([[0, 1, 2], [1]], [0.75, 0.25])
    """

    def __init__(self, mixture: Mixture, *, budget: float = 0.5, tasks: int = 0, trade: float = 0.4) -> None:
        super().__init__(mixture)
        if not (0 < budget <= 1 and tasks >= 0 and trade >= 0):
            raise AllroundError(
                f"sample by SMART with budget={budget}, tasks={tasks}, trade={trade}",
                "the budget is no share of all rows, or another number is below 0",
                "give a budget above 0 and at most 1, tasks and trade of 0 or more",
            )
        self.budget, self.tasks, self.trade = budget, tasks, trade

    def shares(self, progress: float) -> list[float]:
        if "budgets" not in self.state:
            return by_size(self.mixture.sizes, 1.0)
        budgets = self.state["budgets"].tolist()
        return [budget / sum(budgets) for budget in budgets]

    def select(self, features: Sequence[Tensor]) -> list[list[int]]:
        for name, rows in zip(self.mixture.names, features, strict=True):
            if not bool(rows.isfinite().all()):
                raise AllroundError(
                    f"choose rows of '{name}' by SMART", "some of the base's features are no finite numbers",
                    "check the base and the task's inputs, or sample in another way",
                )  # fmt: skip
        widths = sorted({rows.shape[1] for rows in features})
        if len(widths) > 1:
            raise AllroundError(
                "choose rows by SMART", f"the tasks have features of {len(widths)} lengths: {widths}",
                "use tasks that the encoder reads alike, or sample in another way",
            )  # fmt: skip
        # Feeds are looked at by name, so that those with equal gains do not depend on their order.
        order = sorted(range(len(features)), key=lambda f: self.mixture.names[f])
        sizes = [len(features[f]) for f in order]
        means = normalize(torch.stack([features[f].double().mean(dim=0) for f in order]), dim=1)
        chosen = graph_cut(means @ means.T, min(self.tasks or len(sizes), len(sizes)), self.trade)
        total = max(round(self.budget * sum(sizes)), 1)
        if not len(chosen) <= total <= sum(sizes[place] for place, _ in chosen):
            raise AllroundError(
                f"choose {total} rows of {len(chosen)} tasks by SMART",
                f"they have {sum(sizes[place] for place, _ in chosen)} rows, and each is to keep one at least",
                "give another budget, or another number of tasks",
            )
        split = budgets([gain for _, gain in chosen], [sizes[place] for place, _ in chosen], total)
        rows_of: list[list[int]] = [[] for _ in features]
        for (place, _), budget in zip(chosen, split, strict=True):
            rows_of[order[place]] = _cover(features[order[place]], budget)
        self.state = {"budgets": torch.tensor([len(rows) for rows in rows_of], dtype=torch.float64)}
        return rows_of


def graph_cut(similar: Tensor, number: int, trade: float) -> list[tuple[int, float]]:
    """Greedily chosen numbers of tasks, and what each gained: (T, T) -> `number` pairs.

    >>> graph_cut(torch.eye(2), 2, trade=0.5)
    [(0, 0.5), (1, 0.5)]
    """
    gains = similar.sum(dim=1) - trade * similar.diagonal()
    found = []
    for _ in range(number):
        # Gains are compared up to rounding: equal tasks are taken in their order.
        best = int((gains >= gains.max() - 1e-9).nonzero()[0])
        found.append((best, float(gains[best])))
        gains = gains - 2 * trade * similar[best]
        gains[best] = -torch.inf
    return found


def budgets(gains: Sequence[float], sizes: Sequence[int], total: int) -> list[int]:
    """The total split by the Taylor softmax of second order, each part at least 1 and at most its size; what is over
    goes round, one each.

    >>> budgets([1.0, 0.0], [10, 10], 7), budgets([1.0, 0.0], [3, 10], 7)
    ([5, 2], [3, 4])
    """
    chances = [1 + gain + gain**2 / 2 for gain in gains]
    parts = [int(total * chance / sum(chances)) for chance in chances]
    for place in range(total - sum(parts)):
        parts[place % len(parts)] += 1
    parts = [min(max(part, 1), size) for part, size in zip(parts, sizes, strict=True)]
    while sum(parts) > total:
        parts[parts.index(max(parts))] -= 1
    while (over := total - sum(parts)) > 0:
        for place, size in enumerate(sizes):
            if parts[place] < size and over > 0:
                parts[place] += 1
                over -= 1
    return parts


def _cover(features: Tensor, number: int) -> list[int]:
    """Rows that cover the others best, ascending."""
    size = len(features)
    if number == size:
        return list(range(size))
    pieces = -(-size // PIECE)
    rows = [list(range(piece, size, pieces)) for piece in range(pieces)]
    split = [number // pieces + (piece < number % pieces) for piece in range(pieces)]
    return sorted(
        members[i]
        for members, part in zip(rows, split, strict=True)
        for i in facility_location(normalize(features[members].float(), dim=1), part)
    )


def facility_location(units: Tensor, number: int) -> list[int]:
    """Rows chosen greedily so that each row is similar to one of them: unit vectors (n, d) -> `number` row numbers.

    A gain only falls while rows are chosen; so one that was computed earlier is a bound, and only those at the top
    are computed anew (lazy greedy).

    >>> facility_location(torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0]]), 2)
    [1, 2]
    """
    similar: np.ndarray = (units @ units.T).clamp(min=0).cpu().numpy()
    covered = np.zeros_like(similar[0])
    bounds = [(-float(row.sum()), i) for i, row in enumerate(similar)]
    heapq.heapify(bounds)
    found: list[int] = []
    while len(found) < number:
        _, row = heapq.heappop(bounds)
        gain = float(np.maximum(similar[row] - covered, 0).sum())
        if bounds and (-gain, row) > bounds[0]:
            heapq.heappush(bounds, (-gain, row))
            continue
        found.append(row)
        covered = np.maximum(covered, similar[row])
    return found
