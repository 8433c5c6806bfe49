"""Properties that every sampling policy has. They run on every policy found; a new one is checked by being there.

A policy that cannot have one of them says so in its own file: `@method(..., exempt={"rows": "the order decides"})`,
with the reason.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from allround.core import checking
from allround.core.checking import Check, not_exempt
from allround.core.entry import Entry
from allround.training.sampling import Mixture, Policy, make_policy

#: Training rows of the feeds of each mixture that the checks sample from.
SIZES = ((7,), (30, 10), (5, 5, 5), (400, 40, 4, 9), tuple(range(3, 36, 3)))
KINDS = ("classification", "regression", "multilabel")
EVALUATIONS = 7


@dataclass(frozen=True)
class CheckedPolicy:
    """A policy to check: how it is made for a mixture, and what it says of itself."""

    make: Callable[[Mixture], Policy]
    feedback: bool = False
    features: bool = False
    restarts: bool = False


def mixture_of(sizes: Sequence[int]) -> Mixture:
    """Feeds with these sizes, and names whose order is not theirs."""
    names = tuple(f"task{(5 * f + 2) % 13}" for f in range(len(sizes)))
    return Mixture(names, tuple(sizes), tuple(KINDS[f % 3] for f in range(len(sizes))))


def _moved(mixture: Mixture, order: Sequence[int]) -> Mixture:
    names, sizes, kinds = mixture.names, mixture.sizes, mixture.kinds
    return Mixture(tuple(names[f] for f in order), tuple(sizes[f] for f in order), tuple(kinds[f] for f in order))


def _scores(mixture: Mixture, evaluation: int) -> list[float]:
    """Scores that rise, rest and fall, by the feed's name."""
    phases = [int(name.removeprefix("task")) for name in mixture.names]
    return [1 + 0.1 * math.sin(0.9 * phase + 0.7 * evaluation * (phase % 3)) for phase in phases]


def _features(mixture: Mixture) -> list[Tensor]:
    seeds = [int(name.removeprefix("task")) for name in mixture.names]
    made = [torch.Generator().manual_seed(seed) for seed in seeds]
    return [
        torch.rand(n, 6, generator=g) + torch.rand(6, generator=g) for n, g in zip(mixture.sizes, made, strict=True)
    ]


def _begin(checked: CheckedPolicy, mixture: Mixture) -> tuple[Policy, list[list[int]] | None]:
    policy = checked.make(mixture)
    return policy, policy.select(_features(mixture)) if checked.features else None


def _starts(policy: Policy) -> list[float]:
    """Where stretches begin: at the start, at each change and at each evaluation."""
    return sorted({0.0, *policy.changes, *(step / EVALUATIONS for step in range(EVALUATIONS))})


def _course(checked: CheckedPolicy, mixture: Mixture) -> list[list[float]]:
    """The shares of a whole training with feedback, from stretch to stretch."""
    policy, _ = _begin(checked, mixture)
    found = []
    for evaluation, progress in enumerate(_starts(policy)):
        policy.evaluated(_scores(mixture, evaluation), progress)
        found.append(policy.shares(progress))
    return found


def _close(one: Sequence[Sequence[float]], other: Sequence[Sequence[float]]) -> bool:
    return len(one) == len(other) and all(
        len(a) == len(b) and all(math.isclose(x, y, rel_tol=1e-6, abs_tol=1e-9) for x, y in zip(a, b, strict=True))
        for a, b in zip(one, other, strict=True)
    )


def shares(checked: CheckedPolicy) -> None:
    """Shares are numbers of 0 or more that sum to 1, one for each feed, for one feed and for many."""
    for sizes in SIZES:
        for found in _course(checked, mixture_of(sizes)):
            assert len(found) == len(sizes), f"{len(found)} shares for {len(sizes)} feeds"
            assert all(isinstance(share, float) and share >= 0 for share in found), f"{found} are not shares"
            assert math.isclose(sum(found), 1, abs_tol=1e-9), f"shares sum to {sum(found)}"


def order(checked: CheckedPolicy) -> None:
    """The order of the feeds does not matter: shares and chosen rows move along with the names."""
    for sizes in SIZES:
        mixture = mixture_of(sizes)
        count = len(mixture)
        expected, (_, rows) = _course(checked, mixture), _begin(checked, mixture)
        for permutation in (list(range(count))[::-1], [*range(1, count), 0]):
            moved = _moved(mixture, permutation)
            found = _course(checked, moved)
            assert _close(found, [[row[f] for f in permutation] for row in expected]), "another order, other shares"
            if rows is not None:
                assert _begin(checked, moved)[1] == [rows[f] for f in permutation], "another order, other rows"


def ratios(checked: CheckedPolicy) -> None:
    """Ten times as many rows of everything give the same shares (before rows are chosen)."""
    without = CheckedPolicy(checked.make, checked.feedback)
    for sizes in SIZES:
        one, ten = (_course(without, mixture_of([factor * 10**4 * n for n in sizes])) for factor in (1, 10))
        assert _close(one, ten), "not only the ratios of sizes matter"


def rows(checked: CheckedPolicy) -> None:
    """A feed with more rows is never drawn less over a whole training with constant scores (before rows are chosen)."""
    for sizes in SIZES:
        policy = checked.make(mixture_of(sizes))
        totals = [0.0] * len(sizes)
        for start, end in pairwise([0.0, *policy.changes, 1.0]):
            totals = [t + (end - start) * share for t, share in zip(totals, policy.shares(start), strict=True)]
        for n, total in zip(sizes, totals, strict=True):
            less = [m for m, other in zip(sizes, totals, strict=True) if m < n and other > total + 1e-9]
            assert not less, f"{n} rows are drawn less than {less}"


def drawn(checked: CheckedPolicy) -> None:
    """Every feed is drawn at some time, except one whose rows are all left out."""
    for sizes in SIZES:
        mixture = mixture_of(sizes)
        for name, column in zip(mixture.names, zip(*_course(checked, mixture), strict=True), strict=True):
            assert max(column) > 0, f"{name} is never drawn"


def deterministic(checked: CheckedPolicy) -> None:
    """The same training gives the same shares and rows, whatever the state of the global generator."""
    for sizes in SIZES:
        mixture = mixture_of(sizes)
        first, (_, chosen) = _course(checked, mixture), _begin(checked, mixture)
        torch.rand(3)
        assert _course(checked, mixture) == first, "two trainings differ"
        assert _begin(checked, mixture)[1] == chosen, "two choices of rows differ"


def untouched(checked: CheckedPolicy) -> None:
    """The policy changes neither scores nor features, and asking for shares changes nothing."""
    mixture = mixture_of(SIZES[3])
    features, scores = _features(mixture), _scores(mixture, 1)
    policy = checked.make(mixture)
    if checked.features:
        policy.select(features)
    policy.evaluated(scores, 0.5)
    assert all(torch.equal(a, b) for a, b in zip(features, _features(mixture), strict=True)), "features were changed"
    assert scores == _scores(mixture, 1), "scores were changed"
    first = list(policy.shares(0.5))
    policy.shares(0.0).reverse()
    policy.shares(0.5).clear()
    assert policy.shares(0.5) == first, "asking for shares changed them"


def resumes(checked: CheckedPolicy) -> None:
    """A new policy with the saved `state` goes on with the same shares, from any evaluation."""
    for sizes in SIZES:
        mixture = mixture_of(sizes)
        expected = _course(checked, mixture)
        for cut in range(len(expected)):
            policy, _ = _begin(checked, mixture)
            found = []
            for evaluation, progress in enumerate(_starts(policy)):
                if evaluation == cut:
                    assert all(isinstance(value, Tensor) for value in policy.state.values()), "a state is not a tensor"
                    saved = {name: value.clone() for name, value in policy.state.items()}
                    policy = checked.make(mixture)
                    policy.state = saved
                policy.evaluated(_scores(mixture, evaluation), progress)
                found.append(policy.shares(progress))
            assert found == expected, "a resumed training went on with other shares"


def changes(checked: CheckedPolicy) -> None:
    """Changes are ascending and inside the training; shares change at each of them, and not between."""
    for sizes in SIZES:
        policy = checked.make(mixture_of(sizes))
        assert all(0 < change < 1 for change in policy.changes), f"{policy.changes} are not inside the training"
        assert list(policy.changes) == sorted({*policy.changes}), f"{policy.changes} are not ascending"
        edges = [0.0, *policy.changes, 1.0]
        before: list[float] | None = None
        for start, end in pairwise(edges):
            now = policy.shares(start)
            assert before is None or not _close([before], [now]), f"shares do not change at {start}"
            for part in (0.01, 0.5, 0.99):
                assert _close([policy.shares(start + part * (end - start))], [now]), f"shares change after {start}"
            before = now


def rates(checked: CheckedPolicy) -> None:
    """No feed is drawn only where the learning rate is almost zero: its batches have at least half of the mean rate.
    The rate falls evenly, over the whole training or, with restarts, over each stage."""
    for sizes in SIZES:
        policy = checked.make(mixture_of(sizes))
        drawn, weighed = [0.0] * len(sizes), [0.0] * len(sizes)
        for start, end in pairwise([0.0, *policy.changes, 1.0]):
            rate = 1.0 if checked.restarts else 2 - start - end
            for f, share in enumerate(policy.shares(start)):
                drawn[f] += (end - start) * share
                weighed[f] += (end - start) * share * rate
        for n, all_of_it, at_rate in zip(sizes, drawn, weighed, strict=True):
            assert at_rate >= 0.5 * all_of_it, f"a feed of {n} rows gets {at_rate / all_of_it:.3g} of the mean rate"


def feedback(checked: CheckedPolicy) -> None:
    """Where the policy follows validation, a feed that gets better is drawn more than feeds that do not; elsewhere
    scores change nothing."""
    for sizes in ((60, 60), (60, 60, 60, 60), (90, 30, 60)):
        for better in range(len(sizes)):
            policy = checked.make(mixture_of(sizes))
            first = policy.shares(0.0)
            for step in range(EVALUATIONS):
                scores = [1 + 0.1 * step if f == better else 1.0 for f in range(len(sizes))]
                policy.evaluated(scores, step / EVALUATIONS)
            last = policy.shares(0.0)
            if not checked.feedback:
                assert last == first, "scores changed the shares, and the policy does not say feedback=True"
                continue
            assert last[better] > first[better] + 0.01, "a feed that gets better is not drawn more"
            for f in range(len(sizes)):
                assert f == better or 0 < last[f] < first[f], "a feed that does not get better is not drawn less"


def selected(checked: CheckedPolicy) -> None:
    """Chosen rows exist, are ascending, and belong to feeds that are drawn; a policy without features chooses none."""
    for sizes in SIZES:
        mixture = mixture_of(sizes)
        policy, found = _begin(checked, mixture)
        if not checked.features:
            assert policy.select(_features(mixture)) is None, "rows are chosen, and the policy does not need features"
            continue
        assert found is not None and len(found) == len(sizes), "not every feed has its rows"
        for n, chosen, share in zip(sizes, found, policy.shares(0.0), strict=True):
            assert chosen == sorted({*chosen}) and {*chosen} <= {*range(n)}, f"{chosen} are not rows of {n}"
            assert (share > 0) == bool(chosen), f"a feed with {len(chosen)} rows has the share {share}"


CHECKS: dict[str, Callable[[CheckedPolicy], None]] = {
    check.__name__: check
    for check in (
        shares,
        order,
        ratios,
        rows,
        drawn,
        deterministic,
        untouched,
        resumes,
        changes,
        rates,
        feedback,
        selected,
    )
}


def check_policy(checked: CheckedPolicy, exempt: frozenset[str] | set[str] = frozenset()) -> None:
    """Run every check that the policy is not exempt from; the first that fails raises AssertionError."""
    for name, check in CHECKS.items():
        if name not in exempt:
            try:
                check(checked)
            except AssertionError as error:
                raise AssertionError(f"{name}: {error}") from None


def checked_of(entry: Entry, settings: Mapping[str, object] | None = None) -> CheckedPolicy:
    """A policy of the registry, with these parameters."""
    return CheckedPolicy(
        lambda mixture: make_policy(entry.name, settings or {}, mixture),
        feedback=entry.facts["feedback"],
        features="features" in entry.needs,
        restarts=entry.facts["restarts"],
    )


def checks_of(entry: Entry) -> Iterator[Check]:
    """The checks that apply to a policy of the registry, its documentation among them, by name."""
    checked = checked_of(entry)
    yield from not_exempt(entry, {name: partial(check, checked) for name, check in CHECKS.items()})
    yield "documented", partial(documented, entry)


def documented(entry: Entry) -> None:
    """The docstring gives a formula and an example that runs; the file gives one line and a source."""
    checking.documented(entry, ("Formula:",), names={"torch": torch})
