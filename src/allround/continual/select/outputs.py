"""outputs: the outputs of all parts compete as if they were those of one head."""

from __future__ import annotations

import torch
from torch import Tensor

from allround.continual.selecting import RowView, Select
from allround.core.registry import method


@method(source="one softmax over the labels of all arrivals, as in class-incremental prompts (OVOR, arXiv:2402.04129)")
class Outputs(Select):
    """The weight of a part is the sum of exp(output) over its labels, so that a label has the probability that it would
    have in one head with all labels; -log of that sum is the energy of the row."""

    def scores(self, view: RowView) -> Tensor:
        return torch.stack([torch.logsumexp(view.outputs(part).double(), 1) for part in view.parts], 1)
