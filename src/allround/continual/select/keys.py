"""keys: the part whose key is nearest to the row, in the features of the base."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from allround.continual.parts import PartHolder
from allround.continual.rows import Memory
from allround.continual.selecting import RowView, Select
from allround.core.registry import method
from allround.tasks.task import Task


@method(
    source="keys of tasks in the features of a frozen encoder: S-Prompts, Wang et al., NeurIPS 2022, arXiv:2207.12819; "
    "the distance of linear discriminant analysis"
)
class Keys(Select):
    """Each label of each part has a key, the mean of its rows as the base sees them; a part is as near as its nearest
    key. Distances are those of one covariance within labels, from sums over all rows that ever came, so that the order
    of arrivals does not matter.

    Formula: score_p = -min_{c in p} (f - m_c)^T S^-1 (f - m_c) / (2 temperature), S being the covariance plus `ridge`
    times its mean variance

    ridge: share of the mean variance.
    """

    def __init__(self, *, ridge: float = 0.01, temperature: float = 1.0) -> None:
        super().__init__()
        self.ridge, self.temperature = ridge, temperature

    def arrived(self, system: PartHolder, arrived: Mapping[int, Task], memory: Memory, seed: int) -> None:
        for part, task in arrived.items():
            split = task.splits["train"]
            x = RowView(system, system.parts[part].task, split.inputs, ()).base.double()
            groups = groups_of(task)
            means = torch.stack([x[groups == group].mean(0) for group in groups.unique()])
            centred = x - means[torch.searchsorted(groups.unique(), groups)]
            self.state[f"keys {part}"] = means.float()
            old = self.state.get(f"squares {x.shape[1]}")
            added = centred.T @ centred
            self.state[f"squares {x.shape[1]}"] = added if old is None else old + added
            rows = self.state.get(f"rows {x.shape[1]}", torch.zeros((), dtype=torch.float64))
            self.state[f"rows {x.shape[1]}"] = rows + len(x)

    def scores(self, view: RowView) -> Tensor:
        x = view.base.double()
        width = x.shape[1]
        within = self.state[f"squares {width}"] / self.state[f"rows {width}"]
        within = within + self.ridge * within.diagonal().mean().clamp_min(1e-12) * torch.eye(width)
        root = torch.linalg.cholesky(torch.linalg.inv(within))
        found = [torch.cdist(x @ root, self.state[f"keys {part}"].double() @ root).square().amin(1)
                 for part in view.parts]  # fmt: skip
        return -torch.stack(found, 1) / (2 * self.temperature)


def groups_of(task: Task) -> Tensor:
    """The label of each training row, (n,); zeros where rows have no single label."""
    split = task.splits["train"]
    single = task.definition.kind == "classification"
    return torch.as_tensor(split.targets) if single else torch.zeros(len(split), dtype=torch.int64)
