"""boundaries: the part with the nearest key; rows beyond its boundary are left to the part for what is unseen."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from allround.continual.parts import UNSEEN, PartHolder
from allround.continual.rows import ARRIVAL, Memory
from allround.continual.selecting import RowView, Select
from allround.core.errors import AllroundError
from allround.core.registry import method
from allround.tasks.task import Task


@method(
    source="Diana: Dai et al., Findings of ACL 2023, arXiv:2305.06555; metat5.py and utils.py in diana/ of DAMO-ConvAI"
)
class Boundaries(Select):
    """Each part has a key, trained to be near the queries of its rows, features of the base, and far from that
    remembered query of another part which is nearest. Of the rows of a part, the share `inside` has a distance to the
    key, 1 - cosine, within its boundary.

    Formula: loss_p = mean_q exp(1 - cos(q, k_p) + max(0, max_n cos(n, k_p))) over queries q of p, n of others

    steps: of Adam, for all keys of a task together. rate: of learning.
    Differs: a negative is the query nearest to the key; in the authors' code it is that nearest to the row's query,
    which does not move the key. They learn the boundary by a loss whose least value is at the median, `inside` 0.5,
    which would send half of the known rows away.

    Errors: shares outside 0 to 1.
    """

    def __init__(self, *, inside: float = 0.95, steps: int = 100, rate: float = 0.01) -> None:
        super().__init__()
        if not 0 < inside <= 1:
            raise AllroundError("set a boundary around known rows", f"inside is {inside}",
                                "give a share above 0 and up to 1")  # fmt: skip
        self.inside, self.steps, self.rate = inside, steps, rate

    def arrived(self, system: PartHolder, arrived: Mapping[int, Task], memory: Memory, seed: int) -> None:
        for part, task in arrived.items():
            name = system.parts[part].task
            known = [n for n, one in enumerate(system.parts) if one.task == name and one.arrival != UNSEEN]
            queries = remembered_queries(system, name, known, memory)
            queries[part] = queries_of(system, name, task)
            self.fit({n: queries[n] for n in known if n in queries})

    def fit(self, queries: Mapping[int, Tensor]) -> None:
        """Train the keys of parts on their queries, of length 1, and set their boundaries."""
        for part, own in queries.items():
            negatives = torch.cat([other for n, other in queries.items() if n != part] or [own[:0]])
            start = self.state.get(f"key {part}", own.mean(0))
            with torch.inference_mode(False), torch.enable_grad():
                own, negatives = own.clone(), negatives.clone()
                key = F.normalize(start.clone(), dim=0).requires_grad_()
                optimiser = torch.optim.Adam([key], lr=self.rate)
                for _ in range(self.steps):
                    optimiser.zero_grad()
                    key_loss(own, key, negatives).backward()
                    optimiser.step()
            self.state[f"key {part}"] = F.normalize(key.detach(), dim=0)
            distances = 1 - own @ self.state[f"key {part}"]
            self.state[f"boundary {part}"] = distances.quantile(self.inside)

    def scores(self, view: RowView) -> Tensor:
        """Cosines over a temperature of 0.01; a part for what is unseen is far above or far below all others."""
        known = [part for part in view.parts if view.system.parts[part].arrival != UNSEEN]
        keys = torch.stack([self.state[f"key {part}"] for part in known])
        cosines = F.normalize(view.base, dim=1) @ keys.T
        nearest = cosines.max(1)
        limits = torch.stack([self.state[f"boundary {part}"] for part in known])[nearest.indices]
        beyond = torch.where(1 - nearest.values > limits, 1000.0, -1000.0)
        columns = {part: cosines[:, place] / 0.01 for place, part in enumerate(known)}
        return torch.stack([columns.get(part, beyond) for part in view.parts], 1)


def key_loss(queries: Tensor, key: Tensor, negatives: Tensor) -> Tensor:
    """The loss of a key: (n, d), (d,), (m, d) -> (). Queries and negatives have length 1.

    >>> east, north = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    >>> found = key_loss(east[None], torch.tensor([3.0, 4.0]), north[None])  # exp(1 - 0.6 + 0.8)
    >>> round(float(found), 4)
    3.3201
    """
    key = F.normalize(key, dim=0)
    worst = (negatives @ key).amax().clamp_min(0) if len(negatives) else 0.0
    return (1 - queries @ key + worst).exp().mean()


def queries_of(system: PartHolder, name: str, task: Task) -> Tensor:
    """The queries of training rows, (n, d), of length 1."""
    return F.normalize(RowView(system, name, task.splits["train"].inputs, ()).base, dim=1)


def remembered_queries(system: PartHolder, name: str, parts: list[int], memory: Memory) -> dict[int, Tensor]:
    """The queries of what is remembered of each part."""
    if name not in memory.tasks:
        return {}
    whole = memory.tasks[name]
    split = whole.splits["train"]
    found = queries_of(system, name, whole)
    numbers = torch.tensor([int(str(mark).partition(":")[0]) for mark in split.slices[ARRIVAL]])
    of = {part: found[numbers == system.parts[part].arrival] for part in parts}
    return {part: some for part, some in of.items() if len(some)}
