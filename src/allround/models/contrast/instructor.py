"""instructor: a query against hard negatives alone, and its relevant candidate against other queries."""

from __future__ import annotations

from torch import Tensor

from allround.core.registry import method
from allround.models.contrasting import one_of


@method(
    source="Su et al., Findings of ACL 2023, arXiv:2212.09741; checked against InstructorTrainer.compute_loss in "
    "train.py of xlang-ai/instructor-embedding, and its README for the temperature",
    paper="One Embedder, Any Task: Instruction-Finetuned Text Embeddings",
)
def instructor(scores: Tensor, grades: Tensor, *, temperature: float = 0.01) -> Tensor:
    """The sum of both directions, where what is relevant to another query is no negative.

    Shapes: scores (n, m), grades (n, m) -> ()
    Formula: L(s, g') + L(s^T, g^T) with L of `infonce`, and g' = g, but nothing is said of a candidate that is relevant
    to another query alone. So a query is compared with the candidates that are relevant to no query of the batch: it
    needs hard negatives.
    temperature: of both. On four small searches of real rows it came out behind `infonce`; see the benchmarks.

    >>> import torch
    >>> scores, grades = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]), torch.eye(2, 3)
    >>> instructor(scores, grades, temperature=1.0)  # log(1 + 1 / e), twice
    tensor(0.6265)
    """
    elsewhere = (grades > 0).any(0) & (grades <= 0)
    return one_of(scores, grades.masked_fill(elsewhere, -1), temperature) + one_of(scores.T, grades.T, temperature)
