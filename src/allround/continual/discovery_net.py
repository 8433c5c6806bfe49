"""A small net that learns a space for novel classes from rows with and without labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from allround.continual.discovering import NovelRows
from allround.core.errors import AllroundError
from allround.training.feeds import epochs_for

#: The least number of steps of a training.
STEPS = 300


def layers(sizes: Sequence[int], dropout: float) -> nn.Sequential:
    """Linear layers of these sizes, with ReLU, batch normalisation and dropout between them."""
    found: list[nn.Module] = [nn.Linear(sizes[0], sizes[1])]
    for one, other in pairwise(sizes[1:]):
        found += [nn.ReLU(), nn.BatchNorm1d(one), nn.Dropout(dropout), nn.Linear(one, other)]
    return nn.Sequential(*found)


def batches(count: int, size: int, epochs: int, generator: torch.Generator) -> Iterator[Tensor]:
    """The numbers of the rows of each batch; one row alone is left out, since it has no spread. Few rows are gone
    through more often, until `STEPS` steps are taken."""
    for _ in range(epochs_for(epochs, STEPS, -(-count // size))):
        for some in torch.randperm(count, generator=generator).split(size):
            if len(some) > 1:
                yield some


def projection(
    rows: NovelRows, seed: int, *, weight: float, width: int, epochs: int, rate: float, dropout: float, size: int = 512
) -> Tensor:
    """The novel rows in a space that was learned from all: (m, width), each of length 1.

    An encoder is trained on weight * cross-entropy of the known classes + (1 - weight) * squared error of a decoder,
    summed over the numbers of a row.
    """
    if not 0 < weight <= 1 or width < 1 or epochs < 1 or not rate > 0 or not 0 <= dropout < 1:
        raise AllroundError(
            f"learn a space with weight={weight}, width={width}, epochs={epochs}, rate={rate} and dropout={dropout}",
            "weight must be above 0 and up to 1, width and epochs at least 1, rate above 0, dropout from 0 to below 1",
            "give such numbers",
        )
    d = rows.known.shape[1]
    sizes = [d, max(2, 3 * d // 4), max(2, d // 2), width]
    every = torch.cat([rows.known, rows.novel]).float()
    labels = torch.cat([torch.from_numpy(rows.labels), torch.full((len(rows.novel),), -1)])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed % 2**63)
        encoder, decoder = layers(sizes, dropout), layers(sizes[::-1], dropout)
        classes = nn.Linear(width, rows.classes)
        parts = nn.ModuleList([encoder, decoder, classes])
        optimiser = torch.optim.AdamW(parts.parameters(), lr=rate)
        draw = torch.Generator().manual_seed(seed % 2**63)
        for some in batches(len(every), size, epochs, draw):
            made = F.normalize(encoder(every[some]), dim=-1)
            has = labels[some] >= 0
            loss = (1 - weight) * (decoder(made) - every[some]).square().sum(1).mean()
            if bool(has.any()):
                loss = loss + weight * F.cross_entropy(classes(made[has]), labels[some][has])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        encoder.eval()
        with torch.no_grad():
            return F.normalize(encoder(rows.novel.float()), dim=-1)
