"""The few loops that torch is slow at, compiled for the processor; on a GPU the same results through torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

_GOLDEN = 0x9E3779B9
_MASK = 0xFFFFFFFF


def count_bits(rows: Tensor, histogram: Tensor, buckets: Tensor | None) -> None:
    """Count float32 values by the bits of their magnitudes.

    rows (k, n). Without buckets: by the upper 16 bits, into histogram (k, 2^15). With buckets (c, k): those whose
    upper 16 bits are buckets[., k], by the lower 16 bits, into histogram (c, k, 2^16 + 1, 4): the sum over the last
    dimension counts, and the last row is of no meaning.
    """
    if rows.device.type != "cpu":
        bits = rows.view(torch.int32) & 0x7FFFFFFF
        for row in range(len(rows)):
            if buckets is None:
                histogram[row] += torch.bincount(bits[row] >> 16, minlength=histogram.shape[1]).cpu()
            else:
                for number, bucket in enumerate(buckets[:, row].tolist()):
                    chosen = bits[row][bits[row] >> 16 == bucket] & 0xFFFF
                    histogram[number, row, :, 0] += torch.bincount(chosen, minlength=histogram.shape[2]).cpu()
        return
    view = rows.contiguous().view(torch.int32).numpy()
    if buckets is None:
        _compiled()["upper"](view, histogram.numpy())
    else:
        _compiled()["lower"](view, histogram.numpy(), buckets.numpy())


def elected(deltas: Tensor, cut: Tensor, factors: Tensor, *, normalize: bool) -> Tensor:
    """Weighted changes added up, of each entry those that agree in sign with the sum of all; plus where that is zero.

    Shapes: deltas (k, n), float32 on the processor; cut (k,): smaller entries count as zero; factors (k,) -> (n,).
    normalize: divide by the factors of those that agree.
    """
    out = torch.empty(deltas.shape[1], dtype=torch.float32)
    _compiled()["elected"](deltas.contiguous().numpy(), cut.numpy(), factors.numpy(), normalize, out.numpy())
    return out


def competition(changes: Tensor, total: Tensor, high: Tensor, low: Tensor, *, out: Tensor) -> list[float] | None:
    """exp(k (n^2 - 1)) * d * total where that is more than zero, else zero; n = |d| limited to low .. high of its row
    and brought to 0 .. 1 between the two. Returns the largest d * total of each row; None, and nothing done, where
    there is no kernel for such numbers.

    Shapes: changes (k, n), float32 on the processor; total (n,); high, low (k,) -> out (k, n). The exponential is
    Cody and Waite's: a power of two times a polynomial of degree 6, good to 2 units in the last place.
    """
    if changes.dtype != torch.float32 or changes.device.type != "cpu":
        return None
    peaks = torch.empty(len(changes))
    limits = torch.stack([high, low]).numpy()
    _compiled()["competition"](changes.contiguous().numpy(), total.numpy(), limits, out.numpy(), peaks.numpy())
    return peaks.tolist()


def competed(changes: Tensor, scores: Tensor, limits: Tensor) -> Tensor | None:
    """The mean of limited changes, each entry weighted by its score brought to 0 .. 1; None where there is no kernel
    for such numbers.

    Shapes: changes, scores (k, n), float32 on the processor; limits (4, k): the largest and the smallest magnitude that
    a change may have, the score that counts as 1, and the one up to which it is 0 -> (n,)
    """
    if changes.dtype != torch.float32 or changes.device.type != "cpu":
        return None
    out = torch.empty(changes.shape[1])
    _compiled()["competed"](changes.contiguous().numpy(), scores.numpy(), limits.contiguous().numpy(), out.numpy())
    return out


def uniform(like: Tensor, key: int, start: int, seed: int) -> Tensor:
    """Numbers in [0, 1) with 24 random bits from a hash of (seed, key, row, place); like (k, *s), float32.

    The hash is a 32-bit mixer after C. Wellons' "lowbias32", applied twice with two keys.
    """
    rows = like.reshape(len(like), -1)
    keys = [(_mix(seed * 2 + 1 ^ _mix(key)) + row * _GOLDEN) & _MASK for row in range(len(rows))]
    second = [_mix(k ^ _mix(seed + _GOLDEN)) for k in keys]
    if rows.device.type == "cpu":
        out = torch.empty(rows.shape, dtype=torch.float32)
        import numpy as np

        both = np.array([keys, second], dtype=np.uint32)
        _compiled()["uniform"](out.numpy(), both, start)
    else:
        place = torch.arange(start, start + rows.shape[1], device=rows.device, dtype=torch.int64)
        high = place >> 32
        low = place & _MASK
        out = torch.stack(
            [
                (_mixed(_mixed((low + a + high * _GOLDEN) & _MASK) ^ b) >> 8).to(torch.float32) * 2.0**-24
                for a, b in zip(keys, second, strict=True)
            ]
        )
    return out.to(like.dtype).reshape(like.shape)


def keep_by_rank(
    deltas: Tensor, uniform: Tensor, least: Sequence[float], most: Sequence[float], *, inverse: bool
) -> Tensor:
    """Draw which entries stay, the larger ones of each row more often: their factors, 0 for those that go.

    The chance p grows evenly with the rank of a magnitude in its row, from least to most; one in a row by itself has
    the mean of both. The factor of what stays is 1, or 1 / p with `inverse`. Ranks are counted with a histogram over
    the bits of the float32 magnitudes, down to 2^-16 of the row's largest; those in one bucket share their mean rank.

    Shapes: deltas (k, rows, *rest), or (k, n) or (k,) for one row; uniform like deltas, numbers in [0, 1); least, most:
    k each -> like uniform, which is overwritten where it can be.
    """
    rows = 1 if deltas.ndim < 3 else deltas.shape[1]
    shape = len(deltas), rows, deltas[0].numel() // rows
    length = shape[2]
    #: Bits of the mantissa that tell buckets apart: about two buckets for each entry of a row.
    fine = min(10, max(6, length.bit_length() - 4))
    shift, buckets = 23 - fine, 16 << fine
    step = [(b - a) / (length - 1) if length > 1 else 0.0 for a, b in zip(least, most, strict=True)]
    first = [a if length > 1 else (a + b) / 2 for a, b in zip(least, most, strict=True)]
    values = deltas.to(torch.float32).reshape(shape).contiguous()
    draws = uniform.to(torch.float32).reshape(shape).contiguous()
    if deltas.device.type == "cpu":
        import numpy as np

        chances = np.array([first, step], dtype=np.float64)
        _compiled()["by_rank"](values.view(torch.int32).numpy(), draws.numpy(), chances, shift, buckets, inverse)
        return draws.to(uniform.dtype).reshape(uniform.shape)
    bits = values.view(torch.int32) & 0x7FFFFFFF
    low = ((bits.amax(2, keepdim=True) >> shift) - (buckets - 1)).clamp_min_(0)
    bucket = ((bits >> shift) - low).clamp_min_(0).long()
    count = torch.zeros(*shape[:2], buckets, dtype=torch.float64, device=deltas.device)
    count.scatter_add_(2, bucket, torch.ones_like(bucket, dtype=torch.float64))
    rank = count.cumsum(2) - count + (count - 1) / 2
    column = torch.tensor([first, step], dtype=torch.float64, device=deltas.device)[:, :, None, None]
    chance = (column[0] + column[1] * rank).float().gather(2, bucket)
    stays = (draws < chance).float()
    return (stays / chance if inverse else stays).to(uniform.dtype).reshape(uniform.shape)


def _mix(x: int) -> int:
    x &= _MASK
    x ^= x >> 16
    x = x * 0x21F0AAAD & _MASK
    x ^= x >> 15
    x = x * 0xD35A2D97 & _MASK
    return x ^ x >> 15


def _mixed(x: Tensor) -> Tensor:
    x = x ^ (x >> 16)
    x = (x * 0x21F0AAAD) & _MASK
    x = x ^ (x >> 15)
    x = (x * 0xD35A2D97) & _MASK
    return x ^ (x >> 15)


def compiled(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """A function that numba compiles at its first call, without the GIL; `options` go to `numba.njit`.

    The machine code is kept in numba's cache for the next process. Where numba finds no place that it may write to,
    or its cache cannot be read or written (a full disk), every process compiles anew.
    """
    from numba import njit

    plain: Callable[..., Any] = njit(function, nogil=True, boundscheck=False, **options)
    kept = njit(function, nogil=True, boundscheck=False, **options)
    try:
        kept.enable_caching()
    except RuntimeError:  # neither the package's folder nor the user's cache folder can be written
        return plain

    def call(*arguments: Any) -> Any:
        try:
            return kept(*arguments)
        except (OSError, EOFError, UnpicklingError):  # of the cache, before the kernel runs: it opens no file itself
            return plain(*arguments)

    return call


@cache
def _compiled() -> dict[str, Callable[..., Any]]:
    import numpy as np

    # A kernel that calls another would be compiled anew in every process: numba names inner ones at random.
    def upper(bits, histogram):  # type: ignore[no-untyped-def]
        for row in range(bits.shape[0]):
            for column in range(bits.shape[1]):
                histogram[row, (bits[row, column] >> 16) & 0x7FFF] += 1

    def lower(bits, histogram, buckets):  # type: ignore[no-untyped-def]
        # Mostly few entries are in the bucket: 64 are passed over at once where none of them is. Changes of bfloat16
        # weights are coarse, and many are: so no branch depends on one entry, and equal ones that follow each other
        # are counted in four places, each addition not waiting for the one before.
        for row in range(bits.shape[0]):
            for number in range(buckets.shape[0]):
                values, counts = bits[row], histogram[number, row]
                bucket = np.int32(buckets[number, row] << 16)
                runs = values.shape[0] // 64
                for run in range(runs):
                    some = values[run * 64 : run * 64 + 64]
                    hits = np.int32(0)
                    for place in range(64):
                        hits |= np.int32(some[place] & np.int32(0x7FFF0000) == bucket)
                    if hits != 0:
                        for first in range(0, 64, 4):
                            for lane in range(4):
                                value = some[first + lane]
                                inside = value & np.int32(0x7FFF0000) == bucket
                                counts[np.int64(value & 0xFFFF) if inside else np.int64(0x10000), lane] += 1
                for place in range(runs * 64, values.shape[0]):
                    if values[place] & np.int32(0x7FFF0000) == bucket:
                        counts[values[place] & 0xFFFF, 0] += 1

    def elected(rows, cuts, factors, normalize, out):  # type: ignore[no-untyped-def]
        zero, one_ = np.float32(0), np.float32(1)
        total, divisor = np.empty(1024, np.float32), np.empty(1024, np.float32)
        for start in range(0, rows.shape[1], 1024):
            length = min(1024, rows.shape[1] - start)
            merged = out[start : start + length]
            total[:], divisor[:], merged[:] = zero, zero, zero
            for model in range(rows.shape[0]):
                some, cut, factor = rows[model, start : start + length], cuts[model], factors[model]
                for place in range(length):
                    value = some[place]
                    total[place] += (value if abs(value) >= cut else zero) * factor
            for model in range(rows.shape[0]):
                some, cut, factor = rows[model, start : start + length], cuts[model], factors[model]
                for place in range(length):
                    value = some[place]
                    value = (value if abs(value) >= cut else zero) * factor
                    value = value if total[place] >= zero else -value
                    merged[place] += max(value, zero)
                    divisor[place] += factor if value > zero else zero
            for place in range(length):
                value = merged[place] if total[place] >= zero else -merged[place]
                share = divisor[place] if normalize and divisor[place] != zero else one_
                merged[place] = value / share

    def competition(changes, total, limits, out, peaks):  # type: ignore[no-untyped-def]
        one_, zero = np.float32(1), np.float32(0)
        models = np.float32(changes.shape[0])
        for row in range(changes.shape[0]):
            some, made, high, low = changes[row], out[row], limits[0, row], limits[1, row]
            width = high - low if high > low else one_
            peak = np.int32(0)  # the bits of numbers that are not negative are in their order
            for place in range(some.shape[0]):
                value = some[place]
                n = (min(max(abs(value), low), high) - low) / width
                power = max((n * n - one_) * models, np.float32(-87))
                twos = np.floor(power * np.float32(1.44269504) + np.float32(0.5))
                rest = power - twos * np.float32(0.693359375)
                rest = rest + twos * np.float32(2.12194440e-4)
                e = np.float32(1.9875691500e-4)
                e = e * rest + np.float32(1.3981999507e-3)
                e = e * rest + np.float32(8.3334519073e-3)
                e = e * rest + np.float32(4.1665795894e-2)
                e = e * rest + np.float32(1.6666665459e-1)
                e = e * rest + np.float32(5.0000001201e-1)
                e = e * rest * rest + rest + one_
                scaled = np.int32((np.int32(twos) + np.int32(127)) << np.int32(23)).view(np.float32)
                agreement = max(value * total[place], zero)
                peak = max(peak, np.float32(agreement).view(np.int32))
                made[place] = e * scaled * agreement
            peaks[row] = np.int32(peak).view(np.float32)

    def competed(changes, scores, limits, out):  # type: ignore[no-untyped-def]
        one_, zero, least = np.float32(1), np.float32(0), np.float32(1e-12)
        divisor = np.empty(1024, np.float32)
        for start in range(0, changes.shape[1], 1024):
            length = min(1024, changes.shape[1] - start)
            merged = out[start : start + length]
            divisor[:], merged[:] = zero, zero
            for model in range(changes.shape[0]):
                some, score = changes[model, start : start + length], scores[model, start : start + length]
                high, low, most, limit = limits[0, model], limits[1, model], limits[2, model], limits[3, model]
                width = most - limit if most > limit else one_
                full = one_ if most > zero else zero  # of each that counts, where all of them are alike
                for place in range(length):
                    value = some[place]
                    share = max(score[place] - limit, zero) / width
                    share = share if most > limit else (full if score[place] >= limit else zero)
                    size = min(max(abs(value), low), high)
                    merged[place] += np.copysign(size, value) * share
                    divisor[place] += share
            for place in range(length):
                merged[place] /= max(divisor[place], least)

    def uniform(out, keys, start):  # type: ignore[no-untyped-def]
        for row in range(out.shape[0]):
            first, second = keys[0, row], keys[1, row]
            for column in range(out.shape[1]):
                place = np.uint64(start + column)
                x = np.uint32(place) + first + np.uint32(place >> np.uint64(32)) * np.uint32(0x9E3779B9)
                x = np.uint32(x)
                x ^= x >> np.uint32(16)
                x = np.uint32(x * np.uint32(0x21F0AAAD))
                x ^= x >> np.uint32(15)
                x = np.uint32(x * np.uint32(0xD35A2D97))
                x ^= x >> np.uint32(15)
                x ^= second
                x ^= x >> np.uint32(16)
                x = np.uint32(x * np.uint32(0x21F0AAAD))
                x ^= x >> np.uint32(15)
                x = np.uint32(x * np.uint32(0xD35A2D97))
                x ^= x >> np.uint32(15)
                out[row, column] = np.float32(x >> np.uint32(8)) * np.float32(2.0**-24)

    def by_rank(bits, draws, chances, shift, buckets, inverse):  # type: ignore[no-untyped-def]
        # Unsigned and of 32 bits throughout: loops over other numbers are several times slower.
        length = bits.shape[2]
        count = np.empty(buckets, dtype=np.uint32)
        chance = np.empty(buckets, dtype=np.float32)
        found = np.empty(length, dtype=np.uint32)
        right = np.int32(shift)
        for model in range(bits.shape[0]):
            first, step = chances[0, model], chances[1, model]
            for row in range(bits.shape[1]):
                some, drawn = bits[model, row], draws[model, row]
                top = np.int32(0)
                for place in range(length):
                    top = max(top, np.int32(some[place] & np.int32(0x7FFFFFFF)))
                low = max(np.int32(np.int32(top >> right) - np.int32(buckets - 1)), np.int32(0))
                for place in range(length):
                    bucket = np.int32(np.int32(np.int32(some[place] & np.int32(0x7FFFFFFF)) >> right) - low)
                    found[place] = np.uint32(max(bucket, np.int32(0)))
                count[:] = 0
                for place in range(length):
                    count[found[place]] += np.uint32(1)
                before = np.uint32(0)
                for number in range(buckets):  # twice the mean rank, and one more
                    here = count[number]
                    count[number] = np.uint32(2) * before + here
                    before += here
                for number in range(buckets):
                    rank = np.float64(np.int32(count[number]) - np.int32(1)) * 0.5
                    chance[number] = np.float32(first + step * rank)
                for place in range(length):
                    p = chance[found[place]]
                    factor = np.float32(1) / p if inverse else np.float32(1)
                    drawn[place] = factor if drawn[place] < p else np.float32(0)

    kernels = (upper, lower, elected, competition, competed, by_rank, uniform)
    return {kernel.__name__: compiled(kernel) for kernel in kernels}
