"""mse: the squared distance of an answer from its target."""

from __future__ import annotations

from torch import Tensor

from allround.core.registry import method
from allround.models.contrasting import wide


@method(
    source="Reimers and Gurevych, EMNLP 2019, arXiv:1908.10084; pinned to CosineSimilarityLoss of "
    "sentence-transformers",
    reads="answers",
)
def mse(answers: Tensor, targets: Tensor) -> Tensor:
    """The mean squared error. A head reads its answers from cosines by a line that is fitted on the base.

    Shapes: answers (n,), targets (n,) -> ()
    Formula: mean (a_i - t_i)^2.

    >>> import torch
    >>> mse(torch.tensor([0.5, 1.0]), torch.tensor([0.0, 1.0]))
    tensor(0.1250)
    """
    return (wide(answers) - wide(targets)).square().mean()
