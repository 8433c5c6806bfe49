"""Late interaction: texts are compared by the vectors of their tokens, each token of a query with all of a passage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from allround.core.errors import AllroundError
from allround.models.contrasting import wide
from allround.tasks.contrast import TOKENS, Contrast
from allround.tasks.definition import Definition

#: Tokens of queries, and products of tokens, that are computed at once.
ROWS, PRODUCTS = 4096, 2**22


@dataclass(frozen=True)
class TokenVectors:
    """The vectors of texts' tokens: (tokens, d) of each text, without any for padding."""

    texts: Sequence[Tensor]

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, some: slice | Sequence[int]) -> TokenVectors:
        return TokenVectors(self.texts[some] if isinstance(some, slice) else [self.texts[place] for place in some])


#: The vectors of texts: one of each, (n, d), or those of their tokens.
Vectors = Tensor | TokenVectors


def count_of(vectors: Vectors) -> int:
    """How many vectors there are."""
    return len(vectors) if isinstance(vectors, Tensor) else sum(map(len, vectors.texts))


def products(queries: Vectors, passages: Vectors) -> Tensor:
    """The products of vectors of texts, one of each: (n, m)."""
    assert isinstance(queries, Tensor) and isinstance(passages, Tensor)
    return queries @ passages.T


def late(queries: TokenVectors, passages: TokenVectors, temperature: float) -> Tensor:
    """How alike texts are by their tokens: soft late interaction.

    Shapes: n queries, m passages -> (n, m), from -1 to 1
    Formula: mean_i sum_j A_ij cos(q_i, p_j), A_ij = softmax over j of q_i . p_j / T, for a query's tokens i and a
    passage's tokens j. As T goes to 0, each token of a query has the cosine with the one token of the passage that it
    has the largest product with (MaxSim).
    Source: De Lange, Decorte and Van Hautte, 2025, arXiv:2511.07969.
    Differs: the mean over the tokens of a query, where the paper has their sum, so that scores are on the scale of
    cosines whatever a query's length is, as the temperature of losses and the margin of mining take them to be. The
    ranking for a query is the same; trained with the sum, at the default temperature, a model gained nothing (see
    docs/benchmarks.md).
    temperature: T. Passages of one length are compared together, so there is no padding. A passage without tokens has
    the score 0. In float32 at least, whatever training computes in: products are large beside T.

    >>> q, p = torch.eye(2), torch.tensor([[2.0, 0.0]])
    >>> late(TokenVectors([q, q[:1]]), TokenVectors([p, torch.cat([p, -p])]), 1.0)  # 0.964 = tanh 2
    tensor([[0.5000, 0.4820],
            [1.0000, 0.9640]])
    """
    rows = wide(torch.cat(list(queries.texts)))
    places: dict[int, list[int]] = {}
    for place, text in enumerate(passages.texts):
        places.setdefault(len(text), []).append(place)
    found, order = [], []
    with torch.autocast(rows.device.type, enabled=False):
        for length, alike in places.items():
            step = max(1, PRODUCTS // (min(len(rows), ROWS) * length + 1))
            for start in range(0, len(alike), step):
                some = alike[start : start + step]
                block = wide(torch.stack([passages.texts[place] for place in some]))
                found.append(torch.cat([_attended(part, block, temperature) for part in rows.split(ROWS)]))
                order += some
        every = torch.cat([rows.new_zeros(len(rows), 0), *found], 1)[:, torch.tensor(order).argsort().to(rows.device)]
        lengths = torch.tensor([len(text) for text in queries.texts])
        owner = torch.arange(len(lengths)).repeat_interleave(lengths).to(rows.device)
        sums = every.new_zeros(len(lengths), every.shape[1]).index_add(0, owner, every)
        return sums / lengths.clamp_min(1).unsqueeze(1).to(rows.device)


def _attended(rows: Tensor, block: Tensor, temperature: float) -> Tensor:
    """Of each token (t, d) the mean of its cosines with the tokens of each passage (k, length, d), weighed by the
    softmax of their products: (t, k)."""
    raw = (rows @ block.flatten(0, 1).T).unflatten(1, block.shape[:2])
    sizes = rows.norm(dim=-1)[:, None, None] * block.norm(dim=-1)
    weights = (raw / temperature).softmax(-1)
    found: Tensor = (weights * raw / sizes.clamp_min(1e-12)).sum(-1)
    return found


def check_single(definition: Definition, asked: str) -> None:
    """An error where a task compares the vectors of tokens, so that there is none of a text as a whole."""
    if (definition.contrast or Contrast()).compare == TOKENS:
        raise AllroundError(
            asked,
            f"task '{definition.name}' compares the vectors of tokens, and has no single one of a text",
            "use the model as it is (allround predict, allround serve), or train it with compare: cosine",
        )
