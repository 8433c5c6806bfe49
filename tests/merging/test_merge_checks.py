"""Every merge method holds the shared properties, and methods that do not are caught."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from allround.core import registry
from allround.core.entry import Entry
from allround.merging import checks
from allround.merging.checks import CHECKS, MODELS, callable_of, check_method, checks_of, models_of

ALL = [
    pytest.param(check, id=f"{entry.name}-{name}")
    for entry in registry.entries("merge")
    for name, check in checks_of(entry)
]


@pytest.mark.parametrize("check", ALL)
def test_method(check: Callable[[], None]) -> None:
    check()


@pytest.mark.parametrize("entry", registry.entries("merge"), ids=lambda e: e.name)
def test_method_with_every_value_that_a_search_tries(entry: Entry) -> None:
    compute = callable_of(entry)
    for parameter in entry.parameters:
        for value in parameter.search:
            check_method(
                lambda base, deltas, n=parameter.name, v=value: compute(base, deltas, **{n: v}),  # type: ignore[misc]
                exempt=frozenset(entry.facts.get("exempt", {})),
                models=models_of(entry),
            )


def test_every_method_has_every_check() -> None:
    for entry in registry.entries("merge"):
        names = [name for name, _ in checks_of(entry)]
        assert set(names) | set(entry.facts.get("exempt", {})) == {*CHECKS, "blocks", "documented"}


# Methods that are wrong in one way each, and the check that must find it.


def changes_the_base(base: Tensor, deltas: Tensor) -> Tensor:
    base += deltas.mean(0)
    return base.clone()


def changes_the_deltas(base: Tensor, deltas: Tensor) -> Tensor:
    return base + deltas.mul_(0.5).sum(0)


def takes_the_first(base: Tensor, deltas: Tensor) -> Tensor:
    return base + deltas[0]


def weighs_by_position(base: Tensor, deltas: Tensor) -> Tensor:
    weights = torch.arange(1, len(deltas) + 1, dtype=deltas.dtype)
    return base + torch.tensordot(weights / weights.sum(), deltas, 1)


def widens(base: Tensor, deltas: Tensor) -> Tensor:
    return base.double() + deltas.mean(0)


def narrows(base: Tensor, deltas: Tensor) -> Tensor:
    return (base + deltas.mean(0)).float()


def flattens(base: Tensor, deltas: Tensor) -> Tensor:
    return (base + deltas.mean(0)).flatten()


def keeps_the_models(base: Tensor, deltas: Tensor) -> Tensor:
    return base + deltas.mean(0, keepdim=True)


def nan_on_zeros(base: Tensor, deltas: Tensor) -> Tensor:
    return base + deltas.sum(0) * (deltas.sum(0) / deltas.sum(0))


def squares(base: Tensor, deltas: Tensor) -> Tensor:
    return base + deltas.square().square().sum(0) / deltas.abs().pow(3).sum(0).clamp_min(1e-12)


def draws(base: Tensor, deltas: Tensor) -> Tensor:
    return base + (deltas * (torch.rand(deltas.shape, dtype=deltas.dtype) < 0.5)).mean(0)


def shrinks_the_base(base: Tensor, deltas: Tensor) -> Tensor:
    return base * 0.9999 + deltas.mean(0)


def adds_a_little(base: Tensor, deltas: Tensor) -> Tensor:
    return base + deltas.mean(0) + 1e-6


def norm_of_the_block(base: Tensor, deltas: Tensor) -> Tensor:
    return base + deltas.mean(0) / (1 + deltas.norm())


WRONG = {
    changes_the_base: "inputs_untouched",
    changes_the_deltas: "inputs_untouched",
    takes_the_first: "order",
    weighs_by_position: "order",
    widens: "shape_and_dtype",
    narrows: "shape_and_dtype",
    flattens: "shape_and_dtype",
    keeps_the_models: "shape_and_dtype",
    nan_on_zeros: "finite",
    squares: "finite",
    draws: "deterministic",
    shrinks_the_base: "zero_deltas",
    adds_a_little: "zero_deltas",
}


@pytest.mark.parametrize(("method", "check"), WRONG.items(), ids=lambda v: getattr(v, "__name__", v))
def test_a_wrong_method_is_caught_by_name(method: Callable[[Tensor, Tensor], Tensor], check: str) -> None:
    torch.manual_seed(0)
    with pytest.raises(AssertionError) as caught:
        CHECKS[check](method, MODELS)
    assert str(caught.value)
    with pytest.raises(AssertionError) as caught:
        check_method(method)
    assert str(caught.value).startswith(f"{method.__name__}: {check}: ")


def test_a_method_that_takes_a_block_for_the_whole_is_caught() -> None:
    entry = registry.find("merge", "average")

    class Wrong:
        def __getattr__(self, name: str) -> object:
            return getattr(entry, name)

        def load(self) -> object:
            return norm_of_the_block

    with pytest.raises(AssertionError, match="in blocks of 2 differs"):
        checks.blocks(Wrong())  # type: ignore[arg-type]


def test_blocks_of_a_method_with_statistics_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = registry.find("merge", "fisher")
    compute = entry.load()
    checks.blocks(entry)

    def by_the_block(base: Tensor, deltas: Tensor, *, fisher: Tensor, **given: object) -> Tensor:
        merged: Tensor = compute(
            base, deltas, fisher=fisher / fisher.flatten(1).sum(1).view(-1, *[1] * base.ndim), **given
        )
        return merged

    monkeypatch.setattr(Entry, "load", lambda _: by_the_block)
    with pytest.raises(AssertionError, match="in blocks of 2 differs"):
        checks.blocks(entry)


def test_an_exemption_frees_from_one_check_alone() -> None:
    check_method(takes_the_first, exempt={"order"})
    with pytest.raises(AssertionError, match="order"):
        check_method(takes_the_first, exempt={"zero_deltas"})


def test_an_exemption_needs_a_check_that_exists() -> None:
    entry = registry.find("merge", "average")
    free = replace(entry, facts={**entry.facts, "exempt": {"order": "the first model counts twice"}})
    assert "order" not in dict(checks_of(free)) and len(dict(checks_of(free))) == len(CHECKS) + 1
    with pytest.raises(AssertionError, match="unknown checks"):
        list(checks_of(replace(entry, facts={**entry.facts, "exempt": {"ordre": "x"}})))


def test_a_method_without_words_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = registry.find("merge", "average")
    checks.documented(entry)
    monkeypatch.setattr(entry.load(), "__doc__", "Shapes: x. No more.")
    with pytest.raises(AssertionError, match="Formula"):
        checks.documented(entry)
    monkeypatch.setattr(entry.load(), "__doc__", "Shapes: Formula:\n\n>>> 1 + 1\n3\n")
    with pytest.raises(AssertionError, match="its example fails"):
        checks.documented(entry)
    monkeypatch.undo()
    with pytest.raises(AssertionError, match="no first line"):
        checks.documented(replace(entry, summary=""))
