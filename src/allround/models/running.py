"""Running a network over prepared rows: rows of like length together, results in the rows' own order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from allround.checkpoints.finite import count_odd, odd_words
from allround.core.errors import AllroundError
from allround.models.batch import Batch, Features
from allround.models.encoder import Encoder
from allround.tasks.definition import Definition


def by_length(sizes: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    """Row numbers of batches of rows of like length, the longest first: padding is little, and memory peaks at once.

    >>> list(by_length([1, 3, 2], 2))
    [[1, 2], [0]]
    """
    order = sorted(range(len(sizes)), key=lambda row: (-sizes[row], row))
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def batches(
    encoder: Encoder, prepared: Sequence[Any], definition: Definition, batch_size: int
) -> Iterator[tuple[list[int], Batch]]:
    """Batches of prepared rows of one task on the encoder's device, and the numbers of their rows."""
    device = next(encoder.parameters(), torch.empty(0)).device
    for rows in by_length([encoder.length(row) for row in prepared], batch_size):
        yield rows, encoder.batch([prepared[row] for row in rows], definition).to(device)


@torch.inference_mode()
def features_of(
    encoder: Encoder,
    prepared: Sequence[Any],
    definition: Definition,
    batch_size: int = 64,
    compute: Callable[[Tensor], Tensor] | None = None,
) -> Features:
    """Features of prepared rows in their order, float32 on the CPU, or what `compute` makes of their vectors.

    Errors: numbers that are not finite.
    """
    encoder.eval()
    found: list[Tensor] = [torch.empty(0)] * len(prepared)
    lengths: tuple[int, ...] = ()
    texts: dict[int, str] = {}
    tokens: dict[int, tuple[int, ...]] = {}
    for rows, batch in batches(encoder, prepared, definition, batch_size):
        features = encoder(batch)
        values = (features.values if compute is None else compute(features.values)).float().cpu()
        lengths = features.lengths
        texts.update(zip(rows, features.texts, strict=False))
        tokens.update(zip(rows, features.tokens, strict=False))
        parts = values.split(list(lengths) if lengths else 1)
        for row, part in zip(rows, parts, strict=True):
            found[row] = part
    whole = torch.cat(found) if found else torch.empty(0)
    if count_odd(whole):
        odd = [row for row, part in enumerate(found) if count_odd(part)]
        raise not_finite(encoder, definition, odd, len(found))
    written = tuple(texts[row] for row in range(len(found))) if texts else ()
    counts = tuple(len(part) for part in found) if lengths else ()
    return Features(whole, counts, written, tokens=tuple(tokens[row] for row in range(len(found))) if tokens else ())


def not_finite(network: nn.Module, definition: Definition, odd: Sequence[int], count: int) -> AllroundError:
    """The error for rows whose answers are not finite. odd: their numbers, ascending, of `count`."""
    tensors = [*network.named_parameters(), *network.named_buffers()]
    why = next((f"; '{name}' of the encoder holds {odd_words(v)}" for name, v in tensors if count_odd(v)), "")
    return AllroundError(
        f"answer task '{definition.name}'",
        f"NaN or infinity came for {len(odd)} of {count} rows, first for row {odd[0]} (counted from 0){why}",
        "check the model, and these rows; where it came in training, lower the learning rate",
    )
