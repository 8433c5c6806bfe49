"""Properties that every codec has. They run on every codec found; a new one is checked by being there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from allround.composition.residuals.codec import VALUES, Codec, DamagedResidual, Parts
from allround.core import checking
from allround.core.checking import Check, not_exempt
from allround.core.entry import Entry

#: Makes the codec with numbers stored as one of `VALUES`.
Make = Callable[[str], Codec]

SHAPE = (60, 80)
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def _drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _cases(make: Make) -> Iterator[tuple[str, Codec, Tensor, Tensor]]:
    """Residuals whose numbers come from weights of each dtype, with a multi-task vector that is alike."""
    for values in VALUES:
        for dtype in DTYPES:
            residual = _drawn(*SHAPE).to(dtype).float()
            yield f"{values} of {dtype}", make(values), residual, residual * 1.1


def improves(make: Make) -> None:
    """What comes back has the residual's shape, is finite, and is nearer to the residual than nothing is."""
    for case, codec, residual, vector in _cases(make):
        found = codec.decode(codec.encode(residual, vector), SHAPE, vector)
        assert found.shape == residual.shape, f"{case}: {tuple(residual.shape)} became {tuple(found.shape)}"
        assert torch.isfinite(found).all(), f"{case}: not finite"
        far = float((found.float() - residual).norm() / residual.norm())
        assert far < 0.95, f"{case}: off by {far:.2f} of the residual's norm"


def smaller(make: Make) -> None:
    """The parts take less room than the weight."""
    for case, codec, residual, vector in _cases(make):
        share = sum(p.numel() * p.itemsize for p in codec.encode(residual, vector).values()) / (residual.numel() * 4)
        assert share < 0.9, f"{case}: {share:.2f} of the weight's bytes"


def inputs_untouched(make: Make) -> None:
    """Neither the residual nor the multi-task vector is changed."""
    for case, codec, residual, vector in _cases(make):
        copies = residual.clone(), vector.clone()
        codec.decode(codec.encode(residual, vector), SHAPE, vector)
        assert residual.equal(copies[0]), f"{case}: the residual was changed"
        assert vector.equal(copies[1]), f"{case}: the vector was changed"


def deterministic(make: Make) -> None:
    """The same residual gives the same bits, whatever the state of the global generator."""
    for case, codec, residual, vector in _cases(make):
        first = codec.encode(residual, vector)
        torch.rand(3)
        second = codec.encode(residual, vector)
        same = first.keys() == second.keys() and all(first[part].equal(second[part]) for part in first)
        assert same, f"{case}: two calls differ"


def refuses_damage(make: Make) -> None:
    """Parts that no encoder wrote raise DamagedResidual: missing, cut, doubled, of another dtype or shape."""
    codec, vector = make("own"), _drawn(12, 10, seed=1)
    good = codec.encode(_drawn(12, 10), vector)
    for part, values in good.items():
        wrong: dict[str, Parts] = {
            f"without '{part}'": {n: p for n, p in good.items() if n != part},
            f"'{part}' cut": {**good, part: values.flatten()[:-1]},
            f"'{part}' doubled": {**good, part: torch.cat([values, values])},
            f"'{part}' as int64": {**good, part: values.to(torch.int64)},
            f"'{part}' of another shape": {**good, part: values.reshape(1, 1, -1)},
            "nothing": {},
        }
        for case, parts in wrong.items():
            assert _refused(codec, parts, (12, 10), vector), f"{case} was not refused"
    assert _refused(codec, good, (2, 3), _drawn(2, 3)), "parts of another weight were not refused"


def _refused(codec: Codec, parts: Parts, shape: tuple[int, ...], vector: Tensor) -> bool:
    try:
        codec.decode(parts, shape, vector)
    except DamagedResidual:
        return True
    return False


CHECKS: dict[str, Callable[[Make], None]] = {
    check.__name__: check for check in (improves, smaller, inputs_untouched, deterministic, refuses_damage)
}


def checks_of(entry: Entry) -> Iterator[Check]:
    """The checks that apply to a codec of the registry, its documentation among them, by name."""

    def make(values: str) -> Codec:
        made: Codec = entry.load()(**entry.resolve({"values": values}))
        return made

    yield from not_exempt(entry, {name: partial(check, make) for name, check in CHECKS.items()})
    yield "documented", partial(documented, entry)


def documented(entry: Entry) -> None:
    """The docstring's examples run; the file gives one line and a source."""
    checking.documented(entry, example=False, names={"torch": torch})
