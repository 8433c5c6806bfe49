"""Every balancer holds the shared properties, and balancers that do not are caught."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from allround.core import plugins, registry
from allround.core.entry import Entry
from allround.core.errors import AllroundError
from allround.core.plugins import use_plugin
from allround.training import balancing_checks as checks
from allround.training.balancing import Balancer, Outline, StepView, make_balancer, per_task
from allround.training.balancing_checks import (
    CHECKS,
    CLAIMS,
    OUTLINE,
    CheckedBalancer,
    check_balancer,
    checks_of,
    subject_of,
)

ALL = [
    pytest.param(check, id=f"{entry.name}-{name}")
    for entry in registry.entries("balance")
    for name, check in checks_of(entry)
]


@pytest.mark.parametrize("check", ALL)
def test_balancer(check: Callable[[], None]) -> None:
    check()


def test_every_balancer_has_every_check() -> None:
    for entry in registry.entries("balance"):
        names = {name for name, _ in checks_of(entry)}
        assert names | set(entry.facts.get("exempt", {})) == {*CHECKS, "documented", *entry.facts.get("keeps", ())}


OTHERS: list[tuple[str, dict[str, Any], tuple[str, ...]]] = [
    ("mgda", {"normalise": "l2"}, ("scale", "non_conflicting")),
    ("mgda", {"normalise": "loss_plus"}, ("scale", "non_conflicting")),
    ("cagrad", {"c": 1.0}, ("scale", "non_conflicting")),
    ("aligned_mtl", {"strength": "median"}, ("scale",)),
    ("aligned_mtl", {"strength": "rmse"}, ("scale",)),
    ("fairgrad", {"fairness": 0.0}, ("scale",)),
    ("fairgrad", {"fairness": 2.0}, ("scale", "non_conflicting_when_independent")),
    ("graddrop", {"leak": 0.3}, ("scale",)),
    ("mt_adamw", {"decay": 0.9}, ("scale",)),
    ("covariance", {"relative": False}, ()),
]


@pytest.mark.parametrize(("name", "settings", "keeps"), OTHERS, ids=[f"{n}-{s}" for n, s, _ in OTHERS])
def test_balancer_with_other_settings(name: str, settings: dict[str, Any], keeps: tuple[str, ...]) -> None:
    subject = subject_of(registry.find("balance", name), **settings)
    for check in ("expected_structure", "finite", "one_alone", *keeps):
        {**CHECKS, **CLAIMS}[check](subject)


# Balancers that are wrong in one way each, and the check that must find it.


class Plain(Balancer):
    """Equal weights, which hold every property."""

    def __init__(self, outline: Outline) -> None:
        super().__init__(outline)
        self.state["seen"] = torch.zeros(len(outline), dtype=torch.float64)

    def weigh(self, seen: StepView) -> Tensor:
        return torch.ones(len(seen), dtype=torch.float64)

    def early(self, task: int, loss: float, norm: float) -> float:
        return 1.0

    def learn(self, seen: StepView) -> None:
        self.state["seen"] = self.state["seen"].index_add(0, seen.tasks, torch.ones(len(seen), dtype=torch.float64))


class WeighsEveryone(Plain):
    def weigh(self, seen: StepView) -> Tensor:
        return torch.ones(len(self.outline), dtype=torch.float64)


class Narrows(Plain):
    def weigh(self, seen: StepView) -> Tensor:
        return super().weigh(seen).float()


class KeepsNumbers(Plain):
    def learn(self, seen: StepView) -> None:
        self.state["seen"] = 1.0  # type: ignore[assignment]


class GivesAVector(Plain):
    def penalty(self, features: Sequence[Tensor], saliencies: Sequence[Tensor]) -> Tensor:
        return features[0].sum(0)


class DividesByLosses(Plain):
    def weigh(self, seen: StepView) -> Tensor:
        return 1 / seen.losses

    def early(self, task: int, loss: float, norm: float) -> float:
        return 1 / loss if loss else float("inf")


class DividesByNorms(Plain):
    def weigh(self, seen: StepView) -> Tensor:
        assert seen.norms is not None
        return 1 / seen.norms


class GrowsWithoutEnd(Plain):
    def learn(self, seen: StepView) -> None:
        self.state["seen"] = (seen.losses * 1e300).sum() * torch.ones_like(self.state["seen"])


class DividesByFeatures(Plain):
    def penalty(self, features: Sequence[Tensor], saliencies: Sequence[Tensor]) -> Tensor:
        return (features[0] / features[0].norm()).sum() + (features[1] / features[1].norm()).sum()


class LeavesOneOut(Plain):
    def weigh(self, seen: StepView) -> Tensor:
        return torch.ones(len(seen), dtype=torch.float64) * (seen.tasks != 2)


class TurnsAround(Plain):
    def combine(self, seen: StepView) -> Tensor:
        assert seen.gradients is not None
        return -seen.gradients.sum(0)


class ChangesLosses(Plain):
    def weigh(self, seen: StepView) -> Tensor:
        seen.losses.add_(1)
        return super().weigh(seen)


class ChangesWhatItIsTold(Plain):
    def evaluated(self, losses: Tensor) -> None:
        losses.zero_()


class ChangesFeatures(Plain):
    def penalty(self, features: Sequence[Tensor], saliencies: Sequence[Tensor]) -> Tensor:
        features[0].data.mul_(2)
        return features[0].sum()


class DrawsItsOwn(Plain):
    draw = random.Random(0)

    def weigh(self, seen: StepView) -> Tensor:
        return torch.tensor([1 + self.draw.random() for _ in range(len(seen))], dtype=torch.float64)


class CountsRows(Plain):
    def weigh(self, seen: StepView) -> Tensor:
        return torch.arange(1, len(seen) + 1, dtype=torch.float64)


class LearnsByRow(Plain):
    def weigh(self, seen: StepView) -> Tensor:
        return 1 + self.state["seen"][seen.tasks]

    def learn(self, seen: StepView) -> None:
        self.state["seen"][0] += seen.losses[0]


class PrefersTheFirst(Plain):
    def penalty(self, features: Sequence[Tensor], saliencies: Sequence[Tensor]) -> Tensor:
        return saliencies[0].square().sum()


class SaysOtherwiseEarly(Plain):
    def early(self, task: int, loss: float, norm: float) -> float:
        return 1.0 + loss


class SaysNothingEarly(Plain):
    def early(self, task: int, loss: float, norm: float) -> float:
        raise NotImplementedError


class SaysOtherwiseOfEveryone(Plain):
    def everyone(self) -> Tensor:
        return torch.arange(1, len(self.outline) + 1, dtype=torch.float64)


class ForgetsTheMissing(Plain):
    def learn(self, seen: StepView) -> None:
        self.state["seen"] = 0.9 * self.state["seen"] + 1


class RemembersElsewhere(Plain):
    def __init__(self, outline: Outline) -> None:
        super().__init__(outline)
        self.mean = torch.ones(len(outline), dtype=torch.float64)

    def weigh(self, seen: StepView) -> Tensor:
        return self.mean[seen.tasks]

    def early(self, task: int, loss: float, norm: float) -> float:
        return float(self.mean[task])

    def learn(self, seen: StepView) -> None:
        self.mean = self.mean.index_add(0, seen.tasks, seen.losses)


class LearnsByDraw(Plain):
    """Right but for tasks that come more often."""

    def weigh(self, seen: StepView) -> Tensor:
        return 1 + 0.01 * self.state["seen"][seen.tasks]

    def early(self, task: int, loss: float, norm: float) -> float:
        return float(1 + 0.01 * self.state["seen"][task])


class DoesNothingAlone(Plain):
    """Knows its weights without a step, which never change."""

    def everyone(self) -> Tensor:
        return torch.ones(len(self.outline), dtype=torch.float64)


class IsRefusedForNothing(Plain):
    def everyone(self) -> Tensor:
        return 1 + torch.arange(len(self.outline), dtype=torch.float64)

    def weigh(self, seen: StepView) -> Tensor:
        return self.everyone()[seen.tasks]

    def alone(self, raw: bool) -> bool:
        return False


class StopsAtZero(Plain):
    def weigh(self, seen: StepView) -> Tensor:
        assert seen.norms is not None
        return torch.ones(len(seen), dtype=torch.float64) * (seen.norms.min() > 0)


class LooksAround(Plain):
    def combine(self, seen: StepView) -> Tensor:
        assert seen.gradients is not None
        return seen.gradients.mean(0) / seen.gradients.norm()


class LikesLargeLosses(Plain):
    def weigh(self, seen: StepView) -> Tensor:
        return (seen.losses.clamp(max=100)).softmax(0)

    def early(self, task: int, loss: float, norm: float) -> float:
        return float(torch.tensor(min(loss, 100.0), dtype=torch.float64).exp())


class TurnsOneAround(Plain):
    def weigh(self, seen: StepView) -> Tensor:
        assert seen.gramian is not None
        return torch.where(seen.gramian.diagonal() == seen.gramian.diagonal().max(), -1.0, 1.0).double()


class PromisesForDependent(Plain):
    """Solves for a step that all tasks gain from, which there need not be."""

    def weigh(self, seen: StepView) -> Tensor:
        assert seen.gramian is not None
        norms = seen.gramian.diagonal().sqrt()
        return torch.linalg.pinv(seen.gramian, rtol=1e-9) @ norms


class StopsEarly(Plain):
    """MGDA for two opposite gradients: it stops there, whatever the third wants."""

    def weigh(self, seen: StepView) -> Tensor:
        assert seen.gramian is not None
        return make_balancer("mgda", {}, self.outline).weigh(seen)


class RootOfSizes(Plain):
    def weigh(self, seen: StepView) -> Tensor:
        assert seen.norms is not None
        return seen.norms.clamp_min(1e-30) ** -0.5


PLANTED: list[tuple[type[Balancer], str, tuple[str, ...]]] = [
    (WeighsEveryone, "expected_structure", ()),
    (Narrows, "expected_structure", ()),
    (KeepsNumbers, "expected_structure", ()),
    (GivesAVector, "expected_structure", ("features",)),
    (DividesByLosses, "finite", ("losses",)),
    (DividesByNorms, "finite", ("gramian",)),
    (GrowsWithoutEnd, "finite", ("losses",)),
    (DividesByFeatures, "finite", ("features",)),
    (LeavesOneOut, "one_alone", ("gramian",)),
    (TurnsAround, "one_alone", ("gradients",)),
    (ChangesLosses, "inputs_untouched", ("losses",)),
    (ChangesWhatItIsTold, "inputs_untouched", ()),
    (ChangesFeatures, "inputs_untouched", ("features",)),
    (DrawsItsOwn, "deterministic", ("gramian",)),
    (CountsRows, "permutation_invariant", ("gramian",)),
    (LearnsByRow, "permutation_invariant", ("gramian",)),
    (PrefersTheFirst, "permutation_invariant", ("features",)),
    (SaysOtherwiseEarly, "early_agrees", ("losses",)),
    (SaysNothingEarly, "early_agrees", ("losses",)),
    (SaysOtherwiseOfEveryone, "everyone_agrees", ()),
    (ForgetsTheMissing, "missing_keeps_state", ()),
    (RemembersElsewhere, "resumes", ("losses",)),
    (LearnsByDraw, "unequal_draws", ()),
    (DoesNothingAlone, "alone", ()),
    (IsRefusedForNothing, "alone", ()),
    (StopsAtZero, "beside_zero", ("gramian",)),
    (LooksAround, "columns_apart", ("gradients",)),
    (LikesLargeLosses, "scale", ("losses",)),
    (TurnsOneAround, "non_conflicting_when_independent", ("gramian",)),
    (Plain, "non_conflicting", ("gramian",)),
    (PromisesForDependent, "non_conflicting", ("gramian",)),
    (StopsEarly, "strongly_stationary", ("gramian",)),
    (RootOfSizes, "linear_under_scaling", ("gramian",)),
]


@pytest.mark.parametrize(("wrong", "check", "needs"), PLANTED, ids=[f"{check}-{w.__name__}" for w, check, _ in PLANTED])
def test_a_planted_wrong_balancer_fails(wrong: type[Balancer], check: str, needs: tuple[str, ...]) -> None:
    subject = CheckedBalancer(wrong.__name__, wrong, frozenset(needs))
    with pytest.raises(AssertionError):
        {**CHECKS, **CLAIMS}[check](subject)


def test_every_check_has_a_planted_wrong_balancer() -> None:
    assert {check for _, check, _ in PLANTED} == {*CHECKS, *CLAIMS}


def test_the_plain_balancer_that_they_are_made_from_passes() -> None:
    for needs in ((), ("losses",), ("norms",), ("gramian",), ("features",), ("validation",)):
        check_balancer(CheckedBalancer("plain", Plain, frozenset(needs), {"keeps": ("scale", "linear_under_scaling")}))


def test_a_failure_names_the_balancer_and_the_check() -> None:
    with pytest.raises(AssertionError, match="counts: permutation_invariant: step 0"):
        check_balancer(CheckedBalancer("counts", CountsRows, frozenset({"gramian"})))
    check_balancer(
        CheckedBalancer("counts", CountsRows, frozenset({"gramian"}), {"exempt": {"permutation_invariant": "as said"}})
    )


FILE = '''"""Made up."""

from allround.core.registry import method
from allround.training.balancing import Balancer


@method(family="balance", source="nobody", by="losses"{facts})
class MadeUp(Balancer):
    """{text}"""

    def __init__(self, outline, *, rate: float = 1.0):
        super().__init__(outline)

    def early(self, task, loss, norm):
        return 1.0
'''
GOOD = "Equal.\n\n    rate: of nothing.\n    Formula: w = 1\n\n    >>> 1 + 1\n    2\n    "


def entry_of(tmp_path: Any, monkeypatch: pytest.MonkeyPatch, text: str = GOOD, facts: str = "") -> Entry:
    """An entry whose file is made up on the spot."""
    path = tmp_path / "made_up.py"
    path.write_text(FILE.format(text=text, facts=facts))
    monkeypatch.setattr(plugins, "_named", {})
    return use_plugin(path)


def test_what_a_file_says_is_checked(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for _, check in checks_of(entry_of(tmp_path, monkeypatch)):
        check()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD.replace("Formula:", ""), "no 'Formula:'"),
        (GOOD.replace(">>>", ""), "no '>>>'"),
        (GOOD.replace("rate", "speed"), "does not say what it is: rate"),
        (GOOD.replace("2\n", "3\n"), "example fails"),
    ],
)
def test_a_docstring_that_lacks_something_is_caught(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, text: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(AssertionError, match=message):
        checks.documented(entry_of(tmp_path, monkeypatch, text))


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        (', exempt={"finte": "typo"}', "unknown checks: finte"),
        (', keeps=("scales",)', "unknown checks: scales"),
    ],
)
def test_exemptions_and_promises_are_checked(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, facts: str, message: str
) -> None:
    with pytest.raises(AssertionError, match=message):
        list(checks_of(entry_of(tmp_path, monkeypatch, facts=facts)))


# What balancers refuse.


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("mgda", {"normalise": "l1"}, "use one of: none, l2, loss, loss_plus"),
        ("mgda_ub", {"iterations": 0}, "out of range"),
        ("aligned_mtl", {"strength": "max"}, "use one of: min, median, rmse"),
        ("cagrad", {"c": -0.1}, "out of range"),
        ("gradvac", {"decay": 1.5}, "out of range"),
        ("fairgrad", {"fairness": -1.0}, "out of range"),
        ("graddrop", {"leak": 2.0}, "out of range"),
        ("nash_mtl", {"every": 0}, "out of range"),
        ("upgrad", {"preference": [1.0]}, "not one number for each task"),
        ("dualproj", {"preference": {"z": 1.0}}, "no such task"),
        ("config", {"preference": [-1.0] * 5}, "not one number for each task"),
        ("mt_adamw", {"shares": [0.0] * 5}, "out of range"),
        ("rep_mtl", {"temperature": 0.0}, "out of range"),
        ("covariance", {"kept": 0.0}, "out of range"),
    ],
)
def test_bad_settings_are_refused(name: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(AllroundError, match=message):
        make_balancer(name, settings, OUTLINE)


@pytest.mark.parametrize(
    ("name", "package"),
    [("upgrad", "quadprog"), ("dualproj", "qpsolvers"), ("cagrad", "cvxpy")],
)
def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, name: str, package: str) -> None:
    import torchjd._mixins as mixins

    real = mixins.find_spec
    monkeypatch.setattr(mixins, "find_spec", lambda n, *rest: None if n == package else real(n, *rest))
    with pytest.raises(AllroundError) as caught:
        make_balancer(name, {}, OUTLINE)
    assert package in caught.value.found and "allround[balance]" in caught.value.do


def test_a_preference_counts_by_name() -> None:
    assert per_task({"b": 2.0}, OUTLINE, "preference") == [1.0, 2.0, 1.0, 1.0, 1.0]
    gramian = torch.eye(2, dtype=torch.float64)
    one = torch.ones(2, dtype=torch.float64)
    seen = StepView(torch.tensor([1, 3]), one, one, one, gramian=gramian)
    for name in ("upgrad", "dualproj", "aligned_mtl", "config"):
        weights = make_balancer(name, {"preference": {"b": 2.0}}, OUTLINE).weigh(seen)
        assert weights[0] / weights[1] == pytest.approx(2.0, rel=1e-4)
