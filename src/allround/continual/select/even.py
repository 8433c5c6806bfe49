"""even: all parts that know a task have the same weight."""

from __future__ import annotations

import torch
from torch import Tensor

from allround.continual.selecting import RowView, Select
from allround.core.registry import method


@method(source="the mean of what experts answer, as in SEED: Rypesc et al., ICLR 2024, arXiv:2401.10191, section 3.4")
class Even(Select):
    """Nothing is selected: a label has the mean of its probabilities over the parts that know it."""

    picks = False
    mix = "mean"

    def scores(self, view: RowView) -> Tensor:
        return torch.zeros(len(view.rows), len(view.parts))
