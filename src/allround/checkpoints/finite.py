"""Numbers that are not finite: found while weights are read, and said with their file, tensor and count."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from allround.core.errors import AllroundError

if TYPE_CHECKING:
    from torch import Tensor


def count_odd(values: Tensor) -> int:
    """How many entries are NaN or infinite. As fast as a sum where none is.

    >>> import torch
    >>> count_odd(torch.tensor([1.0, math.nan, -math.inf])), count_odd(torch.full((9,), 60000.0, dtype=torch.float16))
    (2, 0)
    """
    import torch

    if not values.is_floating_point() or not values.numel():
        return 0
    values = values.detach()
    if values.itemsize == 2:  # an exponent of ones, among the bits without the sign: faster than a sum
        endless = torch.tensor(math.inf, dtype=values.dtype).view(torch.int16).item()
        finite = int((values.contiguous().view(torch.int16) & 0x7FFF).max()) < endless
    else:
        values = values.float() if values.itemsize < 2 else values
        finite = math.isfinite(float(values.sum()))
    return 0 if finite else int((~torch.isfinite(values)).sum())


def odd_words(values: Tensor) -> str:
    """What is to be said of them.

    >>> import torch
    >>> odd_words(torch.tensor([1.0, math.nan, -math.inf]))
    'NaN or infinity in 2 of 3 places'
    """
    return f"NaN or infinity in {count_odd(values):,} of {values.numel():,} places"


def check_finite(tensors: Iterable[tuple[str, Tensor]], asked: str, where: object, do: str) -> None:
    """An error for the first of the named tensors that holds a number that is not finite. where: its file or folder."""
    for name, values in tensors:
        if count_odd(values):
            raise AllroundError(asked, f"'{name}' in {where} holds {odd_words(values)}", do)


def check_cast(values: Tensor, found: Tensor, asked: str, name: str) -> None:
    """An error where finite numbers overflowed in the dtype that they were cast to."""
    import torch

    if count_odd(found) > count_odd(values):
        largest = float(values[torch.isfinite(values)].abs().max())
        kind = str(found.dtype).removeprefix("torch.")
        raise AllroundError(
            asked,
            f"'{name}' reaches {largest:.3g}, and {kind} ends at {torch.finfo(found.dtype).max:.3g}",
            "take bfloat16 or float32",
        )
