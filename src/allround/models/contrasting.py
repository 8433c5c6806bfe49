"""Contrastive losses: what they read, what they share, and the loss that a text names.

A loss reads how alike n queries and m candidates are, scores (n, m) before any temperature, and grades (n, m): above 0
where a candidate is relevant to the query, 0 where it is not, below 0 where nothing is said of the pair, which then
counts nowhere. A query without a relevant candidate adds nothing to the loss.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softplus

from allround.core import registry
from allround.core.errors import AllroundError


@dataclass(frozen=True)
class ContrastiveLoss:
    """A contrastive loss with its parameters.

    needs_teacher: whether it is to be given the scores of a teacher.
    """

    name: str
    function: Callable[..., Tensor]
    settings: Mapping[str, Any]
    needs_teacher: bool

    @classmethod
    def named(cls, text: str) -> ContrastiveLoss:
        """The loss that a text names: `NAME` or `NAME:key=value;key=value`.

        >>> ContrastiveLoss.named("infonce:temperature=1")(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]])).item()
        0.6931471824645996
        """
        name, values = registry.spelled("contrast", text)
        entry = registry.find("contrast", name)
        return cls(name, entry.load(), entry.resolve(values), "teacher" in entry.needs)

    def __call__(self, scores: Tensor, grades: Tensor, teacher: Tensor | None = None) -> Tensor:
        """The loss, (). teacher: (n, m), NaN where the teacher says nothing. Errors: no teacher for a loss that needs
        one."""
        if not self.needs_teacher:
            return self.function(scores, grades, **self.settings)
        if teacher is None:
            raise AllroundError(
                f"train by the loss '{self.name}'",
                "it follows the scores of a teacher, and there are none",
                "give a teacher's scores, or use another loss, such as infonce",
            )
        return self.function(scores, grades, teacher, **self.settings)


def wide(values: Tensor) -> Tensor:
    """Numbers in float32, or in float64 as they are."""
    return values if values.dtype == torch.float64 else values.float()


def logits_of(scores: Tensor, temperature: float) -> Tensor:
    """Scores by temperature, in float32 at least."""
    return wide(scores) / temperature


def log_sum(logits: Tensor, counted: Tensor) -> Tensor:
    """log sum exp over the counted entries of each row, (n,); a large negative number where there is none.

    >>> log_sum(torch.zeros(2, 2), torch.tensor([[True, True], [False, False]])).tolist()[0]
    0.6931471824645996
    """
    return logits.masked_fill(~counted, torch.finfo(logits.dtype).min / 2).logsumexp(1)


def row_mean(values: Tensor, counted: Tensor) -> Tensor:
    """The mean over rows of the mean over each row's counted entries, (); rows without any are left out.

    >>> row_mean(torch.tensor([[1.0, 3.0], [5.0, 9.0], [7.0, 7.0]]), torch.tensor([[1, 1], [1, 0], [0, 0]]).bool())
    tensor(3.5000)
    """
    number = counted.sum(1)
    rows = values.masked_fill(~counted, 0).sum(1) / number.clamp_min(1)
    return rows.sum() / (number > 0).sum().clamp_min(1)


def one_of(scores: Tensor, grades: Tensor, temperature: float) -> Tensor:
    """InfoNCE: each relevant candidate of a query against the query's irrelevant ones; means over both.

    >>> one_of(torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0]]), 1.0)  # log(1 + 1 / e)
    tensor(0.3133)
    """
    logits = logits_of(scores, temperature)
    others = log_sum(logits, grades == 0).unsqueeze(1)
    return row_mean(softplus(others - logits), grades > 0)
