"""Properties that every merge method has. They run on every method found; a new method is checked by being there.

A method that cannot have one of them says so in its own file: `@method(..., exempt={"order": "slerp is not
symmetric"})`, with the reason.
"""

from __future__ import annotations

import doctest
import importlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from allround.core.registry import Entry

Method = Callable[..., Tensor]
SHAPES = ((), (1,), (7,), (4, 6), (2, 3, 4, 5))


def _inputs(shape: tuple[int, ...], models: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator), 0.1 * torch.randn((models, *shape), generator=generator)


def shape_and_dtype(compute: Method) -> None:
    """Every shape comes back, in float32 and in float64, for one model and for several."""
    for shape in SHAPES:
        for models in (1, 2, 5):
            for dtype in (torch.float32, torch.float64):
                base, deltas = (t.to(dtype) for t in _inputs(shape, models))
                merged = compute(base, deltas)
                assert merged.shape == base.shape, f"{tuple(base.shape)} became {tuple(merged.shape)}"
                assert merged.dtype == dtype, f"{dtype} became {merged.dtype}"


def finite(compute: Method) -> None:
    """Finite weights stay finite, also huge, tiny and sparse ones."""
    for factor in (1e-30, 1.0, 1e15):
        base, deltas = _inputs((4, 6))
        deltas[:, 0] = 0
        assert torch.isfinite(compute(base * factor, deltas * factor)).all(), f"not finite at scale {factor}"


def inputs_untouched(compute: Method) -> None:
    """Neither base nor deltas are changed."""
    base, deltas = _inputs((4, 6))
    copies = base.clone(), deltas.clone()
    compute(base, deltas)
    assert torch.equal(base, copies[0]), "the base was changed"
    assert torch.equal(deltas, copies[1]), "the deltas were changed"


def deterministic(compute: Method) -> None:
    """The same inputs give the same bits, whatever the state of the global generator."""
    base, deltas = _inputs((4, 6))
    first = compute(base, deltas)
    torch.rand(3)
    assert torch.equal(first, compute(base, deltas)), "two calls differ"


def order(compute: Method) -> None:
    """The order of the models does not matter, up to rounding."""
    for shape in ((7,), (4, 6)):
        base, deltas = _inputs(shape, models=4)
        base, deltas = base.double(), deltas.double()
        expected = compute(base, deltas)
        for permutation in ([3, 1, 0, 2], [1, 0, 3, 2]):
            got = compute(base, deltas[permutation])
            assert torch.allclose(got, expected, rtol=1e-9, atol=1e-12), "another order gave another result"


def zero_deltas(compute: Method) -> None:
    """Models equal to the base merge to the base."""
    base, deltas = _inputs((4, 6))
    assert torch.equal(compute(base, torch.zeros_like(deltas)), base), "no change gave a change"


CHECKS: dict[str, Callable[[Method], None]] = {
    check.__name__: check for check in (shape_and_dtype, finite, inputs_untouched, deterministic, order, zero_deltas)
}


def check_method(compute: Method, exempt: frozenset[str] | set[str] = frozenset()) -> None:
    """Run every check that the method is not exempt from; the first that fails raises AssertionError."""
    for name, check in CHECKS.items():
        if name not in exempt:
            try:
                check(compute)
            except AssertionError as error:
                raise AssertionError(f"{getattr(compute, '__name__', compute)}: {name}: {error}") from None


def checks_of(entry: Entry) -> Iterator[tuple[str, Callable[[], None]]]:
    """The checks that apply to a method of the registry, its documentation among them, by name."""
    exempt = entry.facts.get("exempt", {})
    unknown = set(exempt) - set(CHECKS)
    assert not unknown, f"{entry.name} is exempt from unknown checks: {unknown}"
    assert all(exempt.values()), f"{entry.name} gives no reason for an exemption"
    compute = entry.load()
    for name, check in CHECKS.items():
        if name not in exempt:
            yield name, lambda check=check: check(compute)  # type: ignore[misc]
    yield "documented", lambda: documented(entry)


def documented(entry: Entry) -> None:
    """The docstring gives shapes, a formula and an example that runs; the file gives one line and a source."""
    text = entry.load().__doc__ or ""
    for part in ("Shapes:", "Formula:", ">>>"):
        assert part in text, f"{entry.name}: the docstring has no '{part}'"
    assert entry.summary and entry.source, f"{entry.name}: no first line, or no source"
    module = importlib.import_module(entry.module)
    results = doctest.testmod(module)
    assert results.attempted > 0 and results.failed == 0, f"{entry.name}: its example fails"
