"""Properties that every merge method has. They run on every method found; a new method is checked by being there.

A method that cannot have one of them says so in its own file: `@method(..., exempt={"order": "slerp is not
symmetric"})`, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor

from allround.core import checking
from allround.core.checking import Check, not_exempt
from allround.core.entry import Entry
from allround.core.errors import AllroundError
from allround.merging.whole import Blocks, over_blocks

Method = Callable[..., Tensor]
#: A statistic of one weight: a tensor, or the parts of one.
Statistic: TypeAlias = "Tensor | tuple[Tensor, ...]"
#: How many models the checks give to a method that takes any number.
Models = tuple[int, ...]
MODELS: Models = (1, 2, 5)
SHAPES = ((), (1,), (7,), (4, 6), (2, 3, 4, 5))


def _several(models: Models) -> int:
    return min(max(models), 3)


def _inputs(shape: tuple[int, ...], models: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator), 0.1 * torch.randn((models, *shape), generator=generator)


def shape_and_dtype(compute: Method, models: Models = MODELS) -> None:
    """Every shape comes back, in float32 and in float64, for every number of models."""
    for shape in SHAPES:
        for number in models:
            for dtype in (torch.float32, torch.float64):
                base, deltas = (t.to(dtype) for t in _inputs(shape, number))
                merged = compute(base, deltas)
                assert merged.shape == base.shape, f"{tuple(base.shape)} became {tuple(merged.shape)}"
                assert merged.dtype == dtype, f"{dtype} became {merged.dtype}"


def finite(compute: Method, models: Models = MODELS) -> None:
    """Finite weights stay finite, also huge, tiny and sparse ones."""
    for factor in (1e-30, 1.0, 1e15):
        base, deltas = _inputs((4, 6), _several(models))
        deltas[:, 0] = 0
        assert torch.isfinite(compute(base * factor, deltas * factor)).all(), f"not finite at scale {factor}"


def inputs_untouched(compute: Method, models: Models = MODELS) -> None:
    """Neither base nor deltas are changed."""
    base, deltas = _inputs((4, 6), _several(models))
    copies = base.clone(), deltas.clone()
    compute(base, deltas)
    assert torch.equal(base, copies[0]), "the base was changed"
    assert torch.equal(deltas, copies[1]), "the deltas were changed"


def deterministic(compute: Method, models: Models = MODELS) -> None:
    """The same inputs give the same bits, whatever the state of the global generator."""
    base, deltas = _inputs((4, 6), _several(models))
    first = compute(base, deltas)
    torch.rand(3)
    assert torch.equal(first, compute(base, deltas)), "two calls differ"


def order(compute: Method, models: Models = MODELS) -> None:
    """The order of the models does not matter, up to rounding."""
    number = max(models)
    for shape in ((7,), (4, 6)):
        base, deltas = (t.double() for t in _inputs(shape, number))
        expected = compute(base, deltas)
        for permutation in (list(range(number))[::-1], [*range(1, number), 0]):
            got = compute(base, deltas[permutation])
            assert torch.allclose(got, expected, rtol=1e-9, atol=1e-12), "another order gave another result"


def zero_deltas(compute: Method, models: Models = MODELS) -> None:
    """Models equal to the base merge to the base."""
    base, deltas = _inputs((4, 6), _several(models))
    assert torch.equal(compute(base, torch.zeros_like(deltas)), base), "no change gave a change"


CHECKS: dict[str, Callable[[Method, Models], None]] = {
    check.__name__: check for check in (shape_and_dtype, finite, inputs_untouched, deterministic, order, zero_deltas)
}


def in_blocks(
    entry: Entry, base: Tensor, deltas: Tensor, length: int, statistics: Mapping[str, Statistic] | None = None
) -> Tensor:
    """What the engine does: the method sees `length` rows (or elements) at a time, and asks for the rest.

    statistics: by name. One of the shape of `deltas` is cut as they are, any other is given whole.
    """
    compute, by_row = entry.load(), entry.facts["block"] == "row"
    if by_row and base.ndim < 2:
        length = base.numel()  # these stay whole
    rows = base if by_row else base.reshape(-1)

    def cut(value: Statistic, start: int) -> Statistic:
        if not isinstance(value, Tensor) or value.shape != deltas.shape:
            return value
        return (value if by_row else value.reshape(len(value), -1))[:, start : start + length]

    whole = Blocks(base.numel())
    starts = list(range(0, len(rows), length))

    def one(start: int) -> Tensor:
        whole.at(0, start * (rows[0].numel() if by_row else 1))
        extra: dict[str, Statistic | Blocks] = {name: cut(one, start) for name, one in (statistics or {}).items()}
        extra |= {"whole": whole} if entry.facts["whole"] else {}
        merged: Tensor = compute(rows[start : start + length], cut(deltas, start), **extra)
        return merged

    while True:
        found = [merged for _, merged in over_blocks(whole, starts, one)]
        if whole.part is None:
            return torch.cat(found).reshape(base.shape)
        whole.finish()


def blocks(entry: Entry) -> None:
    """A method that says it may be given a weight in blocks merges it so to the same result."""
    if entry.facts["block"] == "tensor":
        return
    for shape in ((23,), (7, 6), (5, 2, 3)):
        base, deltas = (t.double() for t in _inputs(shape, _several(models_of(entry))))
        needed = entry.needed(entry.defaults)
        statistics = {need: _for_each(_statistic(need, base), len(deltas)) for need in needed}
        expected = entry.load()(base, deltas, **statistics)
        for length in (2, 5):
            got = in_blocks(entry, base, deltas, length, statistics)
            assert torch.allclose(got, expected, rtol=1e-6, atol=1e-9), f"{shape} in blocks of {length} differs"


def models_of(entry: Entry) -> Models:
    """The numbers of models to check a method with: what it takes, of one, two and five."""
    least, most = entry.facts["models"]
    return tuple(n for n in sorted({*MODELS, least}) if n >= least and (most is None or n <= most))


def callable_of(entry: Entry) -> Method:
    """A method as (base, deltas) -> merged; one that needs statistics gets the same for every model."""
    compute = entry.load()
    if not entry.needs:
        return compute

    def with_statistics(base: Tensor, deltas: Tensor, **values: object) -> Tensor:
        needed = entry.needed({**entry.defaults, **values})
        given = {need: _for_all(_statistic(need, base), len(deltas)) for need in needed}
        merged: Tensor = compute(base, deltas, **given, **values)
        return merged

    return with_statistics


def _fisher(base: Tensor) -> Tensor:
    return torch.rand(base.shape, generator=torch.Generator().manual_seed(1), dtype=base.dtype)


def _for_all(statistic: Statistic, models: int) -> Statistic:
    if isinstance(statistic, tuple):
        return tuple(part.expand(models, *part.shape) for part in statistic)
    return statistic.expand(models, *statistic.shape)


def _for_each(statistic: Statistic, models: int) -> Statistic:
    """Another one for each model: the same numbers in other places."""
    if isinstance(statistic, tuple):
        return tuple(_rolled(part, models) for part in statistic)
    return _rolled(statistic, models)


def _rolled(statistic: Tensor, models: int) -> Tensor:
    return torch.stack([statistic.flatten().roll(number).view_as(statistic) for number in range(models)])


def _gram(base: Tensor) -> Tensor:
    width = base[0].numel() if base.ndim > 1 else 1
    rows = torch.randn(2 * width, width, generator=torch.Generator().manual_seed(1), dtype=base.dtype)
    return rows.T @ rows


#: A statistic of one weight (*s), by its name, for checks.
STATISTICS: dict[str, Callable[[Tensor], Statistic]] = {
    "fisher": _fisher,
    "gram": _gram,
    "kfac": lambda base: (_gram(base), _gram(base.flatten(1).T) if base.ndim > 1 else _gram(base)),
}


def _statistic(name: str, base: Tensor) -> Statistic:
    if name not in STATISTICS:
        raise AllroundError(
            f"check a merge method that needs the statistic '{name}'",
            "the checks cannot make one",
            f"add what makes it: allround.merging.checks.STATISTICS['{name}'] = ...",
        )
    return STATISTICS[name](base)


def check_method(compute: Method, exempt: frozenset[str] | set[str] = frozenset(), models: Models = MODELS) -> None:
    """Run every check that the method is not exempt from; the first that fails raises AssertionError."""
    for name, check in CHECKS.items():
        if name not in exempt:
            try:
                check(compute, models)
            except AssertionError as error:
                raise AssertionError(f"{getattr(compute, '__name__', compute)}: {name}: {error}") from None


def checks_of(entry: Entry) -> Iterator[Check]:
    """The checks that apply to a method of the registry, its documentation among them, by name."""
    compute, models = callable_of(entry), models_of(entry)
    every = {name: partial(check, compute, models) for name, check in CHECKS.items()}
    yield from not_exempt(entry, {**every, "blocks": partial(blocks, entry)})
    yield "documented", partial(documented, entry)


def documented(entry: Entry) -> None:
    """The docstring gives shapes, a formula and an example that runs; the file gives one line and a source."""
    checking.documented(entry, ("Shapes:", "Formula:"))
