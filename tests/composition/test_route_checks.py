"""Every router and every combination holds the shared properties, and parts that do not are caught."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from tests.composition.library import FAST, Library, make_library, write_adapter
from torch import Tensor

from allround.composition.combining import Combine, make_combine
from allround.composition.modules.bank import ModuleBank
from allround.composition.router import Router, RouteRows, Seen, make_router
from allround.composition.systems.routed import Member, Routed
from allround.core import registry
from allround.models.batch import Answers
from allround.models.system import load
from allround.tasks.suite import Suite

ROUTERS = [*registry.names("route"), "learned_gate per layer", "embedding_retrieval with votes"]
COMBINES = registry.names("combine")
#: Settings under which a router decides in another way.
FORMS: dict[str, dict[str, object]] = {
    "learned_gate per layer": {"per": "layer"},
    "embedding_retrieval with votes": {"rows": 4, "votes": 4},
}
#: What the checks ask: labels of rows, of words and of pairs, the last without a module.
TASKS = ("mood", "names", "alike")
#: Routers of each level that are tried with all combinations.
WITH_ALL = ("classifier", "arrow")
#: Makes a router that is wrong in one way.
Wrap = Callable[[Router], Router]
#: A check says what is wrong with a router, by an AssertionError.
Check = Callable[["Subject"], None]


class Subject:
    """A router before tiny modules."""

    def __init__(self, library: Library, form: str, wrap: Wrap = lambda router: router) -> None:
        self.library, self.form, self.wrap = library, form, wrap
        self.router = form.partition(" ")[0]
        self.settings = {**FAST.get(self.router, {}), **FORMS.get(form, {})}
        self.system = self.made()
        level = self.system.router.level
        #: Combinations that it is tried with: some routers with all.
        self.combines = [
            name
            for name in (COMBINES if form in WITH_ALL else ["outputs"])
            if level in registry.load("combine", name).levels
        ]

    def made(self, members: list[Member] | None = None) -> Routed:
        return self.library.routed(self.router, members=members, wrap=self.wrap, **self.settings)

    def combined(self, name: str) -> Routed:
        """The same router with a combination."""
        combine, system = make_combine(name), self.system
        combine.fit(system.bank, _rows(system, self.library), 0)
        return Routed(system.model, system.members, system.router, combine, system.bank)

    def rows(self, task: str) -> list[Any]:
        return list(self.library.tasks[task].splits["train"].inputs[:3])


def _rows(system: Routed, library: Library) -> dict[str, RouteRows]:
    return {
        name: RouteRows(system.model, name, system.module_of.get(name), split.inputs, split.targets)
        for name, split in ((name, task.splits["train"]) for name, task in library.tasks.items())
    }


def answers(system: Routed, task: str, rows: list[Any], batch_size: int = 64) -> np.ndarray:
    """The answers to rows as numbers: probabilities of the labels, or what is predicted."""
    (found,) = list(system.answer(task, rows, batch_size=batch_size, scores=True))
    return numbers(found)


def numbers(found: Answers) -> np.ndarray:
    if found.scores is None:
        return np.asarray(found.predictions, dtype=np.float64)[:, None]
    if isinstance(found.scores, list):
        return np.concatenate([part.reshape(-1) for part in found.scores])
    return np.asarray(found.scores)


def weights(system: Routed, task: str, rows: list[Any]) -> Tensor:
    """The weights of the modules for rows; the mean over places and layers, where the router decides there."""
    return system.module_weights(task, rows)


# -- the checks ----------------------------------------------------------------------------------------------------


def order_does_not_matter(subject: Subject) -> None:
    """Modules in another order get the same weights, and give the same answers."""
    order = [2, 0, 1]
    other = subject.made([subject.library.members[number] for number in order])
    for task in TASKS:
        rows = subject.rows(task)
        apart = float((weights(other, task, rows) - weights(subject.system, task, rows)[:, order]).abs().max())
        assert apart < 1e-3, f"{task}: weights are {apart:.1e} apart"
        gap = float(np.abs(answers(other, task, rows) - answers(subject.system, task, rows)).max())
        assert gap < 1e-3, f"{task}: answers are {gap:.1e} apart"


def a_twin_is_treated_alike(subject: Subject) -> None:
    """A module that is there twice has the same weight twice, or one of the two has none."""
    first = subject.library.members[0]
    twin = subject.made([*subject.library.members, Member("twin", first.folder, ())])
    for task in TASKS:
        found = weights(twin, task, subject.rows(task))
        one, two = found[:, 0], found[:, -1]
        assert bool((((one - two).abs() < 1e-4) | (one == 0) | (two == 0)).all()), f"{task}: {one} and {two}"


def one_module_alone(subject: Subject) -> None:
    """Of one module, the pick of it answers as the module."""
    system = subject.made(subject.library.members[:1])
    system = Routed(system.model, system.members, system.router, make_combine("pick"), system.bank)
    (task,) = subject.library.members[0].tasks
    rows = subject.rows(task)
    model = system.model
    with torch.inference_mode(), system.bank.using(torch.ones(1, 1)):
        batch = model.collate(model.prepare(task, rows), {task: range(len(rows))})
        alone = model.answered(task, model.features(batch), scores=True)
    assert np.abs(answers(system, task, rows) - numbers(alone)).max() < 1e-5


def modules_without_changes_are_the_base(subject: Subject) -> None:
    """Where modules change nothing, the base answers."""
    made = subject.made(still(subject.library))
    for name in subject.combines:
        combine = make_combine(name, {"share": 0.0} if name == "knn" else {})
        system = Routed(made.model, made.members, made.router, combine, made.bank)
        for task in TASKS:
            rows = subject.rows(task)
            wanted = numbers(made.model.answer_prepared(task, made.model.prepare(task, rows), scores=True))
            assert np.abs(answers(system, task, rows) - wanted).max() < 1e-5, f"{task} by {name}"


def rows_stand_alone(subject: Subject) -> None:
    """What a row gives, and where it is sent, does not depend on its batch."""
    for name in subject.combines:
        system = subject.combined(name)
        for task in TASKS:
            rows = subject.rows(task)
            together = answers(system, task, rows)
            alone = np.concatenate([answers(system, task, [row]) for row in rows])
            assert np.abs(together - alone).max() < 1e-4, f"{task} by {name}: alone"
    if not subject.system.router.told:
        rows = subject.rows("mood")
        for row, found in zip(rows, subject.system.find_tasks(rows), strict=True):
            (alone_,) = subject.system.find_tasks([row])
            assert alone_.shares == pytest.approx(dict(found.shares), abs=1e-4), "the route of a row"


def a_state_is_the_whole(subject: Subject) -> None:
    """A router that takes up what another stored gives the same answers to the byte."""
    system = subject.system
    state = safetensors.torch.load(safetensors.torch.save(system.router.state()))
    router = make_router(subject.router, subject.settings)
    router.restore(system.bank, state)
    back = Routed(system.model, system.members, router, system.combine, system.bank)
    for task in TASKS:
        rows = subject.rows(task)
        assert np.array_equal(answers(system, task, rows), answers(back, task, rows)), task
    assert safetensors.torch.save(router.state()) == safetensors.torch.save(system.router.state())
    if state:
        with pytest.raises(ValueError):
            router.restore(system.bank, {**state, "odd": torch.zeros(1)})


def fitting_leaves_the_base(subject: Subject) -> None:
    """After fitting, the encoder is what it was to the bit, and can be trained as before."""
    before, after = subject.library.encoder, subject.system.model.encoder
    found = {name.replace(".base.", "."): tensor for name, tensor in after.state_dict().items()}
    wanted = before.state_dict()
    assert found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert all(parameter.requires_grad for parameter in after.parameters()), "left frozen"
    assert all(parameter.grad is None for parameter in after.parameters()), "left gradients"


def weights_are_finite(subject: Subject) -> None:
    """There is one finite weight for each row and module."""
    for task in TASKS:
        rows = subject.rows(task)
        found = weights(subject.system, task, rows)
        assert found.shape == (len(rows), len(subject.library.members)), task
        assert bool(found.isfinite().all()), task


CHECKS: dict[str, Check] = {
    "order": order_does_not_matter,
    "twin": a_twin_is_treated_alike,
    "one": one_module_alone,
    "still": modules_without_changes_are_the_base,
    "alone": rows_stand_alone,
    "state": a_state_is_the_whole,
    "base": fitting_leaves_the_base,
    "finite": weights_are_finite,
}


def still(library: Library) -> list[Member]:
    """Modules that change nothing."""
    place = library.members[0].folder.parent / "still"
    found = [replace(member, folder=place / member.name) for member in library.members]
    for number, member in enumerate(found):
        if not member.folder.exists():
            write_adapter(library.encoder.backbone, member.folder, rank=2, seed=number, scale=0.0)
    return found


@pytest.fixture(scope="module")
def library(bert_folder: Path, text_suite: Suite, tmp_path_factory: pytest.TempPathFactory) -> Library:
    tasks = [text_suite.tasks[name].limit({"train": 8}) for name in ("mood", "warmth", "names", "alike")]
    return make_library(bert_folder, tmp_path_factory.mktemp("library"), tasks)


@pytest.fixture(scope="module")
def subject_of(library: Library) -> Callable[[str], Subject]:
    return cache(lambda form: Subject(library, form))


def checks_of(form: str) -> list[str]:
    exempt = registry.find("route", form.partition(" ")[0]).facts["exempt"]
    assert isinstance(exempt, dict)
    return [name for name in CHECKS if name not in exempt]


@pytest.mark.parametrize(("form", "check"), [(f, c) for f in ROUTERS for c in checks_of(f)])
def test_router(form: str, check: str, subject_of: Callable[[str], Subject]) -> None:
    CHECKS[check](subject_of(form))


def test_exemptions_are_of_checks() -> None:
    for name in registry.names("route"):
        assert set(registry.find("route", name).facts["exempt"]) <= set(CHECKS), name  # type: ignore[call-overload]


@pytest.mark.parametrize(("form", "combine"), [("arrow", "pick"), ("classifier", "knn")])
def test_a_saved_system_is_the_same(
    form: str, combine: str, subject_of: Callable[[str], Subject], tmp_path: Path
) -> None:
    subject = subject_of(form)
    system = subject.combined(combine)
    system.settings["router_settings"] = dict(subject.settings)
    system.save(tmp_path / "one")
    back = load(tmp_path / "one")
    assert isinstance(back, Routed)
    for task in TASKS:
        rows = subject.rows(task)
        assert np.array_equal(answers(system, task, rows), answers(back, task, rows)), task
    back.save(tmp_path / "two")
    one, two = (
        {file.relative_to(folder): file.read_bytes() for file in sorted(folder.rglob("*.safetensors"))}
        for folder in (tmp_path / "one", tmp_path / "two")
    )
    assert one == two and len(one) == (7 if combine == "knn" else 6)


def test_a_router_and_a_combination_that_do_not_fit_are_refused(library: Library) -> None:
    from allround.core.errors import AllroundError

    with pytest.raises(AllroundError, match="decides at each layer"):
        library.routed("arrow", "logits")


# -- parts that are wrong in one way each, and the check that must find it ------------------------------------------


class Wrong(Router):
    """A router that holds another."""

    def __init__(self, router: Router) -> None:
        super().__init__()
        self.router, self.count, self.level, self.name = router, router.count, router.level, router.name  # type: ignore[misc]
        self.told, self.asks = router.told, router.asks

    def state(self) -> dict[str, Tensor]:
        return self.router.state()

    def restore(self, bank: ModuleBank, state: Mapping[str, Tensor]) -> None:
        self.router.restore(bank, state)

    def weights(self, seen: Seen) -> Tensor:
        return self.router.weights(seen)

    def gate(self, layer: str, values: Tensor) -> Tensor:
        return self.router.gate(layer, values)


class OfTheBatch(Wrong):
    def weights(self, seen: Seen) -> Tensor:
        return self.router.weights(Seen(seen.features - seen.features.mean(0)))

    def gate(self, layer: str, values: Tensor) -> Tensor:
        return self.router.gate(layer, values - values.float().mean(0, keepdim=True))


class CountsPadding(Wrong):
    def gate(self, layer: str, values: Tensor) -> Tensor:
        read = values.mean(1, keepdim=True).expand_as(values) if values.dim() == 3 else values
        return self.router.gate(layer, read)


class LikesTheFirst(Wrong):
    def weights(self, seen: Seen) -> Tensor:
        found = torch.zeros_like(self.router.weights(seen))
        found[:, 0] = 1
        return found


class Forgetful(Wrong):
    def state(self) -> dict[str, Tensor]:
        return {name: torch.ones_like(tensor) for name, tensor in self.router.state().items()}


class OddNumbers(Wrong):
    def weights(self, seen: Seen) -> Tensor:
        return self.router.weights(seen).log() * 0


class CountsOn(Wrong):
    def weights(self, seen: Seen) -> Tensor:
        return torch.stack([row.roll(place) for place, row in enumerate(self.router.weights(seen))])


class NoTwins(Wrong):
    def weights(self, seen: Seen) -> Tensor:
        found = self.router.weights(seen).clone()
        found[:, -1] = 0.1 + found[:, -1]
        return found


FAULTS: list[tuple[str, str, type[Wrong]]] = [
    ("classifier", "alone", OfTheBatch),
    ("arrow", "alone", OfTheBatch),
    ("arrow", "alone", CountsPadding),
    ("classifier", "order", LikesTheFirst),
    ("uniform", "twin", NoTwins),
    ("classifier", "state", Forgetful),
    ("phatgoose", "state", Forgetful),
    ("embedding_retrieval", "finite", OddNumbers),
    ("scorer", "order", LikesTheFirst),
    ("scorer", "alone", CountsOn),
]


@pytest.mark.parametrize(("form", "check", "fault"), FAULTS, ids=[f"{f}-{w.__name__}" for f, _, w in FAULTS])
def test_a_faulty_router_is_found(form: str, check: str, fault: type[Wrong], library: Library) -> None:
    with pytest.raises(AssertionError):
        CHECKS[check](Subject(library, form, fault))


def test_a_router_that_trains_the_base_is_found(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    uniform = registry.load("route", "uniform")

    def fit(self: Router, bank: ModuleBank, tasks: object, seed: int) -> None:
        self.count = len(bank)
        with torch.no_grad():
            next(bank.encoder.parameters()).add_(1e-3)

    monkeypatch.setattr(uniform, "fit", fit)
    with pytest.raises(AssertionError):
        fitting_leaves_the_base(Subject(library, "uniform"))


def test_a_combination_that_looks_at_its_batch_is_found(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs: type[Combine] = registry.load("combine", "outputs")
    monkeypatch.setattr(outputs, "weighed", lambda self, given: given.mean(0, keepdim=True).expand_as(given))
    with pytest.raises(AssertionError, match="by outputs"):
        rows_stand_alone(Subject(library, "classifier"))
