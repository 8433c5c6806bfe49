"""cosine: the part whose key has the direction of the row, in the features of the base."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from allround.continual.parts import PartHolder
from allround.continual.rows import Memory
from allround.continual.selecting import RowView, Select
from allround.core.registry import method
from allround.tasks.task import Task


@method(
    source="keys of prompts: Wang et al., CVPR 2022, arXiv:2112.08654 (L2P); each trained on the rows of its own task: "
    "Yadav et al., ACL 2023, arXiv:2307.02435 (PP-TF)"
)
class Cosine(Select):
    """Each part has one key, which is as near as can be to the queries of its rows: features of the base. A part has
    the weight softmax(cosine / temperature), so that a small temperature picks one.

    Formula: key_p = sum_i q_i / |q_i| over the rows of p, which is the direction of the largest sum of cosines
    Differs: keys are solved for, where the authors train them by gradient descent on the same sum.
    """

    def __init__(self, *, temperature: float = 0.01) -> None:
        super().__init__()
        self.temperature = temperature

    def arrived(self, system: PartHolder, arrived: Mapping[int, Task], memory: Memory, seed: int) -> None:
        for part, task in arrived.items():
            queries = RowView(system, system.parts[part].task, task.splits["train"].inputs, ()).base
            self.state[f"key {part}"] = F.normalize(F.normalize(queries.double(), dim=1).sum(0), dim=0).float()

    def scores(self, view: RowView) -> Tensor:
        keys = torch.stack([self.state[f"key {part}"] for part in view.parts])
        return F.normalize(view.base.double(), dim=1) @ keys.double().T / self.temperature
