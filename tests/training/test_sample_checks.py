"""Every sampling policy holds the shared properties, and policies that do not are caught."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from allround.core import registry
from allround.core.entry import Entry
from allround.training.sampling import Mixture, Policy, by_size
from allround.training.sampling_checks import CHECKS, CheckedPolicy, check_policy, checked_of, checks_of, documented

ENTRIES = registry.entries("sample")
ALL = [pytest.param(check, id=f"{entry.name}-{name}") for entry in ENTRIES for name, check in checks_of(entry)]

#: Parameters other than the defaults, with which the same has to hold.
OTHERS = [
    ("temperature", {"temperature": 5.0}),
    ("capped", {"limit": 20}),
    ("two_stage", {"first": 0.2, "power": 0.5}),
    ("stop_and_go", {"gap": 3, "power": 1.0}),
    ("curriculum", {"mode": "sequential", "power": 1.0}),
    ("bandit", {"rate": 2.0, "explore": 0.05, "forget": 0.0, "power": 1.0}),
    ("smart", {"budget": 1.0}),
]


@pytest.mark.parametrize("check", ALL)
def test_policy(check: Callable[[], None]) -> None:
    check()


@pytest.mark.parametrize(("name", "settings"), OTHERS, ids=[name for name, _ in OTHERS])
def test_policy_with_other_parameters(name: str, settings: dict[str, object]) -> None:
    entry = registry.find("sample", name)
    check_policy(checked_of(entry, settings), exempt={*entry.facts.get("exempt", {})})


def test_every_policy_has_every_check() -> None:
    for entry in ENTRIES:
        names = [name for name, _ in checks_of(entry)]
        assert {*names} | {*entry.facts.get("exempt", {})} == {*CHECKS, "documented"}


@pytest.mark.parametrize("entry", [e for e in ENTRIES if e.facts.get("exempt")], ids=lambda e: e.name)
def test_no_exemption_is_idle(entry: Entry) -> None:
    for name in entry.facts["exempt"]:
        with pytest.raises(AssertionError):
            CHECKS[name](checked_of(entry))


# Policies that are wrong in one way each, and the check that must find it.


class Equal(Policy):
    """Right in every way: what the wrong ones are made from."""

    def shares(self, progress: float) -> list[float]:
        return by_size(self.mixture.sizes, 0.0)


class TooMuch(Equal):
    def shares(self, progress: float) -> list[float]:
        return [1.0] * len(self.mixture)


class Negative(Equal):
    def shares(self, progress: float) -> list[float]:
        rest = len(self.mixture) - 1
        return [-0.5] * rest + [1 + 0.5 * rest]


class OneShort(Equal):
    def shares(self, progress: float) -> list[float]:
        return super().shares(progress)[1:] or [1.0]


class TheFirstMore(Equal):
    def shares(self, progress: float) -> list[float]:
        parts = [2.0] + [1.0] * (len(self.mixture) - 1)
        return [part / sum(parts) for part in parts]


class ByTheName(Equal):
    """Holds for every order, but not for every number of rows."""

    def shares(self, progress: float) -> list[float]:
        parts = [float(name.removeprefix("task")) + 1 for name in self.mixture.names]
        return [part / sum(parts) for part in parts]


class ByLargeNumbers(Equal):
    def shares(self, progress: float) -> list[float]:
        parts = [n + 1e5 for n in self.mixture.sizes]
        return [part / sum(parts) for part in parts]


class TheSmallestNever(Equal):
    def shares(self, progress: float) -> list[float]:
        sizes = self.mixture.sizes
        parts = [float(n > min(sizes) or n == max(sizes)) for n in sizes]
        return [part / sum(parts) for part in parts]


class AtRandom(Equal):
    def __init__(self, mixture: Mixture) -> None:
        super().__init__(mixture)
        self.power = 1e-3 * float(torch.rand(()))

    def shares(self, progress: float) -> list[float]:
        return by_size(self.mixture.sizes, self.power)


class ChangesItsAnswer(Equal):
    def __init__(self, mixture: Mixture) -> None:
        super().__init__(mixture)
        self.found = by_size(mixture.sizes, 1.0)

    def shares(self, progress: float) -> list[float]:
        return self.found


class ChangesTheScores(Equal):
    def evaluated(self, scores: Sequence[float], progress: float) -> None:
        assert isinstance(scores, list)
        scores.clear()


class Follows(Equal):
    """Right, with feedback: draws what is above its first score."""

    sign = 1.0

    def evaluated(self, scores: Sequence[float], progress: float) -> None:
        self.state = {"scores": torch.tensor(scores, dtype=torch.float64)}

    def shares(self, progress: float) -> list[float]:
        scores = self.state.get("scores", torch.ones(len(self.mixture), dtype=torch.float64))
        found: list[float] = torch.softmax(self.sign * scores, dim=0).tolist()
        return found


class FollowsTheOtherWay(Follows):
    sign = -1.0


class RemembersOutsideItsState(Follows):
    def __init__(self, mixture: Mixture) -> None:
        super().__init__(mixture)
        self.sums = torch.zeros(len(mixture), dtype=torch.float64)

    def evaluated(self, scores: Sequence[float], progress: float) -> None:
        self.sums = self.sums + torch.tensor(scores, dtype=torch.float64)
        self.state = {"scores": self.sums}


class ChangesOutside(Equal):
    changes = (1.0,)


class ChangesNothing(Equal):
    changes = (0.5,)


class ChangesUnsaid(Equal):
    def shares(self, progress: float) -> list[float]:
        return by_size(self.mixture.sizes, 1.0 + (progress > 0.3))


class ComesLate(Equal):
    """The first feed is only there at the end, where the rate is next to nothing."""

    changes = (0.9,)

    def shares(self, progress: float) -> list[float]:
        parts = [float(f > 0 or progress >= 0.9 or len(self.mixture) == 1) for f in range(len(self.mixture))]
        return [part / sum(parts) for part in parts]


class ChoosesUnasked(Equal):
    def select(self, features: Sequence[Tensor]) -> list[list[int]]:
        return [[0] for _ in features]


class ChoosesWhatIsNotThere(Equal):
    def select(self, features: Sequence[Tensor]) -> list[list[int]]:
        return [[len(rows)] for rows in features]


class DrawsWithoutRows(Equal):
    def select(self, features: Sequence[Tensor]) -> list[list[int]]:
        return [[] for _ in features]


class ChoosesByPlace(Equal):
    def select(self, features: Sequence[Tensor]) -> list[list[int]]:
        return [list(range(min(f + 1, len(rows)))) for f, rows in enumerate(features)]


class ChangesTheFeatures(Equal):
    def select(self, features: Sequence[Tensor]) -> list[list[int]]:
        for rows in features:
            rows.mul_(2)
        return [[0] for _ in features]


WRONG: list[tuple[type[Policy], str, bool, bool]] = [
    (TooMuch, "shares", False, False),
    (Negative, "shares", False, False),
    (OneShort, "shares", False, False),
    (TheFirstMore, "order", False, False),
    (ByTheName, "rows", False, False),
    (ByLargeNumbers, "ratios", False, False),
    (TheSmallestNever, "drawn", False, False),
    (AtRandom, "deterministic", False, False),
    (ChangesItsAnswer, "untouched", False, False),
    (ChangesTheScores, "untouched", False, False),
    (RemembersOutsideItsState, "resumes", True, False),
    (ChangesOutside, "changes", False, False),
    (ChangesNothing, "changes", False, False),
    (ChangesUnsaid, "changes", False, False),
    (ComesLate, "rates", False, False),
    (FollowsTheOtherWay, "feedback", True, False),
    (Follows, "feedback", False, False),
    (Equal, "feedback", True, False),
    (ChoosesUnasked, "selected", False, False),
    (ChoosesWhatIsNotThere, "selected", False, True),
    (DrawsWithoutRows, "selected", False, True),
    (ChoosesByPlace, "order", False, True),
    (ChangesTheFeatures, "untouched", False, True),
]


@pytest.mark.parametrize(
    ("wrong", "name", "feedback", "features"), WRONG, ids=[f"{w[0].__name__}-{w[1]}" for w in WRONG]
)
def test_a_wrong_policy_is_caught(wrong: type[Policy], name: str, feedback: bool, features: bool) -> None:
    with pytest.raises(AssertionError):
        CHECKS[name](CheckedPolicy(wrong, feedback=feedback, features=features))


def test_each_check_catches_something() -> None:
    assert {name for _, name, _, _ in WRONG} == {*CHECKS}


def test_right_policies_pass() -> None:
    check_policy(CheckedPolicy(Equal))
    check_policy(CheckedPolicy(Follows, feedback=True))
    CHECKS["rates"](CheckedPolicy(ComesLate, restarts=True))
    with pytest.raises(AssertionError, match="shares: shares sum to"):
        check_policy(CheckedPolicy(TooMuch))


def test_exemptions_must_be_known() -> None:
    entry = registry.find("sample", "uniform")
    with pytest.raises(AssertionError, match="exempt"):
        next(iter(checks_of(replace(entry, facts={**entry.facts, "exempt": {"beauty": "it has none"}}))))
    with pytest.raises(AssertionError, match="no first line"):
        documented(replace(entry, summary=""))
