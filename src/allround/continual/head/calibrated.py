"""calibrated: means of labels as weights, beside which a layer of attention learned to put new ones."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from allround.continual.features import row_features
from allround.continual.heads import HeadPolicy, grown, labels_of
from allround.continual.rows import Memory
from allround.core.registry import method
from allround.core.seeds import seed_of
from allround.models.head import HeadState
from allround.models.heads.calibrated import Calibrated as Head
from allround.models.model import Model
from allround.tasks.definition import Definition
from allround.tasks.task import Task

#: Queries of an episode, at most.
QUERIES = 32


@method(
    source="LIMIT: Zhou et al., TPAMI 2023, arXiv:2203.17030; models/limit/ of zhoudw-zdw/TPAMI-Limit",
    paper="Few-Shot Class-Incremental Learning by Sampling Multi-Phase Tasks",
)
class Calibrated(HeadPolicy):
    """The weight of a label is the mean of its rows, and a head `calibrated` reads weights and a row. The attention of
    that head learns from the first arrival, by episodes that are like later arrivals: half of the labels are taken for
    new, and have the mean of `shots` rows as their weight; rows of all labels are to be told. Later arrivals take no
    gradient step.

    episodes: of each step. steps, rate: of Adam.
    Differs: the encoder stays as it is, where the authors tune it in the episodes; attention begins where it changes
    nothing, so that the head begins as the nearest mean.
    """

    def __init__(self, *, shots: int = 1, episodes: int = 4, steps: int = 100, rate: float = 0.001) -> None:
        super().__init__()
        self.shots, self.episodes, self.steps, self.rate = shots, episodes, steps, rate

    def make(self, model: Model, task: Task, memory: Memory) -> HeadState:
        labels = torch.from_numpy(labels_of(task))
        x = torch.from_numpy(row_features(model, task.name, task.splits["train"].inputs))
        kept, count = self.state.setdefault(task.name, {}), len(task.definition.labels)
        ones = F.one_hot(labels, count).double()
        kept["sums"] = grown(kept.get("sums"), (count, x.shape[1])) + ones.T @ x
        kept["rows"] = grown(kept.get("rows"), (count,)) + ones.sum(0)
        weight = (kept["sums"] / kept["rows"].clamp_min(1)[:, None]).float()
        if "query" not in kept:
            kept.update(self.learned(task.definition, x.float(), labels, weight))
        attention = {name: value for name, value in kept.items() if name not in ("sums", "rows")}
        return HeadState({"weight": weight, **attention}, "calibrated")

    def learned(self, definition: Definition, x: Tensor, labels: Tensor, weight: Tensor) -> dict[str, Tensor]:
        """The attention after episodes on rows x (n, d) with labels (n,) and weights (k, d)."""
        head = Head(definition, x.shape[1])
        generator = torch.Generator().manual_seed(seed_of(0, "limit", definition.name) % 2**63)
        with torch.inference_mode(False), torch.enable_grad():
            rows, means = x.clone(), weight.clone()
            for name in ("query", "key", "value"):
                drawn = torch.randn(head.query.shape, generator=generator) / x.shape[1] ** 0.5
                getattr(head, name).data.copy_(drawn)
            learning = {name: p for name, p in head.named_parameters() if name != "weight"}
            optimiser = torch.optim.Adam(learning.values(), lr=self.rate)
            known = labels.unique()
            for _ in range(self.steps if len(known) > 1 else 0):
                optimiser.zero_grad()
                for _ in range(self.episodes):
                    some = torch.randperm(len(rows), generator=generator)[:QUERIES]
                    outputs = head.compare(rows[some], self.episode(rows, labels, means, known, generator))
                    (
                        F.cross_entropy(outputs[:, known], torch.searchsorted(known, labels[some])) / self.episodes
                    ).backward()
                optimiser.step()
        return {name: p.detach() for name, p in learning.items()}

    def episode(self, x: Tensor, labels: Tensor, weight: Tensor, known: Tensor, generator: torch.Generator) -> Tensor:
        """Weights of which half are those of few rows."""
        made = weight.clone()
        for label in known[torch.randperm(len(known), generator=generator)[: max(1, len(known) // 2)]]:
            own = (labels == label).nonzero().flatten()
            made[label] = x[own[torch.randperm(len(own), generator=generator)[: self.shots]]].mean(0)
        return made
