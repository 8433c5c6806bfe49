"""Properties that every balancer has. They run on every balancer found; a new one is checked by being there.

A balancer that cannot have one of them says so in its own file: `@method(..., exempt={"permutation_invariant": "the
order of the tasks is drawn"})`, with the reason. What only some can promise, they promise in their own file:
`@method(..., keeps=("scale", "non_conflicting"))`. The names are those of TorchJD's tests where it has the property.

Longer than 400 lines because it is one list of properties: each is a function of its own, and all watch a balancer in
the same made-up steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from allround.core import checking
from allround.core.checking import Check, not_exempt
from allround.core.entry import Entry
from allround.training.balancing import Balancer, Outline, StepView, rescaled

#: Five tasks that differ in all that a balancer knows of them. No other size in these checks is 5.
OUTLINE = Outline(("a", "b", "c", "d", "e"), (2, 3, 10, 1, 7), (40, 80, 20, 60, 100), steps=24, epoch=3)
COLUMNS = 7
SEED = 3
#: How far a step may go against a task that it must not go against: solvers stop somewhere.
WORST = 3e-3


@dataclass(frozen=True)
class CheckedBalancer:
    """A balancer to check: how one is made, and what its file says of it."""

    name: str
    make: Callable[[Outline], Balancer]
    needs: frozenset[str] = frozenset()
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def combines(self) -> bool:
        """Whether it gives one gradient instead of weights."""
        return type(self.make(OUTLINE)).combine is not Balancer.combine

    @property
    def weighs_early(self) -> bool:
        """Whether the trainer asks it for one weight at a time."""
        return not (self.needs & {"gramian", "gradients", "features"} or self.facts.get("together"))


def subject_of(entry: Entry, **settings: object) -> CheckedBalancer:
    """A balancer of the registry, with its defaults but for the settings given."""
    values = entry.resolve(settings)

    def make(outline: Outline) -> Balancer:
        made: Balancer = entry.load()(outline, **values)
        return made

    return CheckedBalancer(entry.name, make, frozenset(entry.needs), entry.facts)


@dataclass(frozen=True)
class Step:
    """What happens in one step: the tasks that are there, and of all T tasks the losses before and after it (T,), and
    the gradients (T, p), with that of the validation loss (p,)."""

    tasks: tuple[int, ...]
    losses: Tensor
    gradients: Tensor
    held: Tensor
    after: Tensor
    progress: float = 0.0

    def permuted(self, order: Sequence[int]) -> Step:
        """The same step where task `order[i]` has number i."""
        index = torch.tensor(order)
        tasks = tuple(sorted(list(order).index(t) for t in self.tasks))
        return replace(
            self, tasks=tasks, losses=self.losses[index], gradients=self.gradients[index], after=self.after[index]
        )

    def of(self, *tasks: int) -> Step:
        """The same step with these tasks only."""
        return replace(self, tasks=tasks)


def step_of(losses: Sequence[float] | Tensor, gradients: Tensor, progress: float = 0.0) -> Step:
    """A step with all tasks, whose losses fall by a tenth."""
    losses = torch.as_tensor(losses, dtype=torch.float64)
    held = torch.linspace(-1, 1, gradients.shape[1], dtype=gradients.dtype) + gradients.mean(0)
    return Step(tuple(range(len(losses))), losses, gradients, held, 0.9 * losses, progress)


def history(steps: int, seed: int = 0, tasks: int = len(OUTLINE)) -> list[Step]:
    """The beginning of a training, of which every third step has only some of the tasks."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for number in range(steps):
        losses = torch.rand(tasks, generator=generator, dtype=torch.float64) + 0.5
        gradients = torch.randn(tasks, COLUMNS, generator=generator, dtype=torch.float64)
        sizes = torch.linspace(0.5, 2, tasks, dtype=torch.float64)[:, None]
        step = step_of(losses, (gradients * sizes).float(), number / OUTLINE.steps)
        after = losses * (0.8 + 0.3 * torch.rand(tasks, generator=generator, dtype=torch.float64))
        step = replace(step, after=after)
        made.append(step.of(*range(1, tasks, 2)) if number % 3 == 2 and tasks > 2 else step)
    return made


def seen_of(subject: CheckedBalancer, step: Step) -> StepView:
    """What the trainer would show of a step."""
    index = torch.tensor(step.tasks)
    gradients, needs = step.gradients[index], subject.needs
    side_by_side = bool(needs & {"gramian", "gradients", "features"}) or bool(subject.facts.get("together"))
    exact = gradients.double()
    # Some copies, so that no balancer can get at what the step holds.
    return StepView(
        tasks=index,
        losses=step.losses[index].clone(),
        rows=torch.full((len(index),), 8.0, dtype=torch.float64),
        terms=torch.full((len(index),), 8.0, dtype=torch.float64),
        norms=exact.norm(dim=1) if side_by_side or "norms" in needs else None,
        gramian=exact @ exact.T if side_by_side else None,
        gradients=gradients if needs & {"gradients", "features"} else None,
        validation=exact @ step.held.double() if "validation" in needs else None,
        progress=step.progress,
    )


def answer(balancer: Balancer, subject: CheckedBalancer, seen: StepView, seed: int = SEED) -> Tensor:
    """Its weights, or its combined gradient, as the trainer asks for them."""
    torch.manual_seed(seed)
    return balancer.combine(seen) if subject.combines else balancer.weigh(seen)


def run(balancer: Balancer, subject: CheckedBalancer, steps: Sequence[Step], evaluate: bool = True) -> list[Tensor]:
    """Its answers to one step after the other, with all that a trainer tells it in between."""
    answers = []
    for number, step in enumerate(steps):
        seen = seen_of(subject, step)
        answers.append(answer(balancer, subject, seen, SEED + number))
        balancer.learn(seen)
        if "after" in subject.needs:
            balancer.stepped(seen, step.after[torch.tensor(step.tasks)])
        if evaluate and number % OUTLINE.epoch == OUTLINE.epoch - 1:
            balancer.evaluated(step.losses * (1 + 0.01 * number))
    return answers


def grown(subject: CheckedBalancer, steps: int = 4) -> Balancer:
    """A balancer that has seen a few steps."""
    made = subject.make(OUTLINE)
    run(made, subject, history(steps))
    return made


def direction(found: Tensor, subject: CheckedBalancer, gradients: Tensor) -> Tensor:
    """The gradient that an answer stands for."""
    return found.double() if subject.combines else found.double() @ gradients.double()


def _features(rows: Sequence[int], seed: int = 0) -> tuple[list[Tensor], list[Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    made = [torch.randn(n, 6, generator=generator, requires_grad=True) for n in rows]
    return made, [torch.randn(n, 6, generator=generator, requires_grad=True) for n in rows]


def _penalised(subject: CheckedBalancer) -> bool:
    return type(subject.make(OUTLINE)).penalty is not Balancer.penalty


def _feature_cases() -> Iterator[tuple[str, list[Tensor], list[Tensor]]]:
    """Features of tasks on the same rows, on rows of their own, and on one row each."""
    features, slopes = _features((4, 4, 4))
    yield "shared rows", [features[0]] * 3, slopes
    yield "own rows", *_features((4, 3, 8))
    yield "one row", *_features((1, 1, 1))


# -- checks of all ---------------------------------------------------------------------------------------------------


def expected_structure(subject: CheckedBalancer) -> None:
    """One float64 weight for each task present (or one gradient of the same type), and tensors as state."""
    balancer = subject.make(OUTLINE)
    for step in [*history(3), history(1)[0].of(2)]:
        for dtype in (torch.float32, torch.float64):
            seen = seen_of(subject, replace(step, gradients=step.gradients.to(dtype)))
            found = answer(balancer, subject, seen)
            wanted = (COLUMNS,) if subject.combines else (len(seen),)
            assert tuple(found.shape) == wanted, f"{tuple(found.shape)} instead of {wanted}"
            kind = dtype if subject.combines else torch.float64
            assert found.dtype == kind, f"{found.dtype} instead of {kind}"
            assert not found.requires_grad, "the answer has a graph"
    run(balancer, subject, history(3))
    wrong = [name for name, value in balancer.state.items() if not isinstance(value, Tensor)]
    assert not wrong, f"not tensors in the state: {wrong}"
    if _penalised(subject):
        for name, features, slopes in _feature_cases():
            penalty = balancer.penalty(features, slopes)
            assert penalty is None or penalty.shape == (), f"the penalty on {name} is not one number"


def finite(subject: CheckedBalancer) -> None:
    """Weights, and all that is remembered, stay finite for gradients and losses of any size."""
    count = len(OUTLINE)
    usual = history(1)[0]
    gradients, losses = usual.gradients, usual.losses
    one = torch.ones(count, COLUMNS)
    signs = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0])[:, None]
    first_gone = gradients * torch.tensor([0.0, 1.0, 1.0, 1.0, 1.0])[:, None]
    cases = {
        "zero gradients": (losses, 0 * gradients),
        "one zero gradient": (losses, first_gone),
        "equal gradients": (losses, one),
        "opposite gradients": (losses, signs * one),
        "huge gradients": (losses, 1e12 * gradients),
        "tiny gradients": (losses, 1e-12 * gradients),
        "gradients of all sizes": (losses, gradients * torch.logspace(-8, 8, count)[:, None]),
        "dependent gradients": (losses, gradients[:2].repeat(3, 1)[:count] * (1 + signs / 2)),
        "zero losses": (0 * losses, gradients),
        "one zero loss": (losses * (torch.arange(count) > 0), gradients),
        "huge losses": (1e15 * losses, gradients),
        "tiny losses": (1e-15 * losses, gradients),
        "zero losses and gradients": (0 * losses, 0 * gradients),
        "losses of all sizes": (losses * torch.logspace(-8, 8, count, dtype=torch.float64), gradients),
    }
    for name, (all_losses, all_gradients) in cases.items():
        steps = [replace(step_of(all_losses, all_gradients), progress=n / OUTLINE.steps) for n in range(3)]
        # From the first step on; and after a step that everything later may be measured by.
        for prelude in ([], history(1)):
            balancer = subject.make(OUTLINE)
            unknown = {key: value.isnan() for key, value in balancer.state.items()}
            for found in run(balancer, subject, [*prelude, *steps]):
                assert torch.isfinite(found).all(), f"not finite for {name}"
                assert subject.combines or torch.isfinite(rescaled(found)).all(), f"not finite as shares for {name}"
            everyone = balancer.everyone()
            assert everyone is None or torch.isfinite(everyone).all(), f"not finite for all tasks, for {name}"
            # What a balancer knows from the start not to know yet may be NaN.
            lost = [
                key
                for key, value in balancer.state.items()
                if not (torch.isfinite(value) | (value.isnan() & unknown.get(key, torch.tensor(False)))).all()
            ]
            assert not lost, f"not finite in the state, for {name}: {', '.join(lost)}"
    if _penalised(subject):
        for factor in (0.0, 1e-12, 1.0, 1e12):
            for name, features, slopes in _feature_cases():
                penalty = balancer.penalty([factor * f for f in features], [factor * s for s in slopes])
                if penalty is None:
                    continue
                assert torch.isfinite(penalty), f"the penalty on {name} times {factor} is not finite"
                leaves = [*dict.fromkeys(features), *slopes]
                made = torch.autograd.grad(penalty, leaves, allow_unused=True) if penalty.requires_grad else ()
                bad = any(not torch.isfinite(g).all() for g in made if g is not None)
                assert not bad, f"the penalty's gradient on {name} times {factor} is not finite"


def one_alone(subject: CheckedBalancer) -> None:
    """A task that is alone in its step, or in the training, follows its own gradient: its weight is above zero."""
    usual = history(1)[0]
    alone = Outline(("a",), (2,), (40,), steps=24, epoch=3)
    for gone in (1.0, 0.0):
        step = replace(usual, gradients=gone * usual.gradients)
        for balancer in (subject.make(OUTLINE), grown(subject)):
            _goes_its_way(subject, balancer, step.of(2))
        balancer = subject.make(alone)
        for _ in range(3):
            only = replace(step.of(0), losses=step.losses[:1], gradients=step.gradients[:1], after=step.after[:1])
            _goes_its_way(subject, balancer, only)
            run(balancer, subject, [only])
    if _penalised(subject):
        penalty = subject.make(OUTLINE).penalty(*_features((4,)))
        assert penalty is None or torch.isfinite(penalty), "the penalty of one task is not finite"


def _goes_its_way(subject: CheckedBalancer, balancer: Balancer, step: Step) -> None:
    seen = seen_of(subject, step)
    found = answer(balancer, subject, seen)
    assert torch.isfinite(found).all(), "not finite for one task alone"
    if subject.combines:
        assert found @ step.gradients[step.tasks[0]] >= 0, "one task alone goes against itself"
        same = torch.allclose(rescaled(found), rescaled(step.gradients[step.tasks[0]]), atol=1e-6)
        assert same, "one task alone does not follow its own gradient"
    else:
        assert float(found) > 0, f"one task alone weighs {float(found)}"


def inputs_untouched(subject: CheckedBalancer) -> None:
    """The balancer changes nothing that it is shown, neither while it gives weights nor afterwards."""
    balancer = subject.make(OUTLINE)
    for step in history(3):
        seen = seen_of(subject, step)
        before = {name: value.clone() for name, value in vars(seen).items() if isinstance(value, Tensor)}
        after = step.after[torch.tensor(step.tasks)]
        later, evaluated = after.clone(), step.losses.clone()
        answer(balancer, subject, seen)
        balancer.learn(seen)
        if "after" in subject.needs:
            balancer.stepped(seen, after)
        balancer.evaluated(evaluated)
        changed = [name for name, value in before.items() if not torch.equal(value, getattr(seen, name))]
        assert not changed, f"it changed what it was shown: {', '.join(changed)}"
        assert torch.equal(after, later) and torch.equal(evaluated, step.losses), "it changed losses that it was told"
    if _penalised(subject):
        for _, features, slopes in _feature_cases():
            copies = [t.detach().clone() for t in (*features, *slopes)]
            balancer.penalty(features, slopes)
            same = all(torch.equal(c, t.detach()) for c, t in zip(copies, (*features, *slopes), strict=True))
            assert same, "the penalty changed features or their gradients"


def deterministic(subject: CheckedBalancer) -> None:
    """The same steps always give the same bits: all randomness comes from the seeded generator."""
    first = run(subject.make(OUTLINE), subject, history(6))
    torch.rand(3)
    second = run(subject.make(OUTLINE), subject, history(6))
    assert _same(first, second), "two runs with one seed differ"


def _same(first: Sequence[Tensor], second: Sequence[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def _same_but_nan(first: Tensor, second: Tensor) -> bool:
    return first.shape == second.shape and torch.allclose(first, second, rtol=0, atol=0, equal_nan=True)


def permutation_invariant(subject: CheckedBalancer) -> None:
    """Every task has the same weight in another order of the tasks, also after steps that the balancer learned from."""
    steps = history(6)
    expected = run(subject.make(OUTLINE), subject, steps)
    for order in ([4, 3, 2, 1, 0], [2, 4, 1, 0, 3]):
        outline = replace(
            OUTLINE,
            names=tuple(OUTLINE.names[i] for i in order),
            outputs=tuple(OUTLINE.outputs[i] for i in order),
            sizes=tuple(OUTLINE.sizes[i] for i in order),
        )
        moved = [step.permuted(order) for step in steps]
        for number, found in enumerate(run(subject.make(outline), subject, moved)):
            wanted = expected[number]
            if not subject.combines:
                places = [steps[number].tasks.index(order[t]) for t in moved[number].tasks]
                wanted = wanted[places]
            assert torch.allclose(found, wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max())), (
                f"step {number} in another order: {found.tolist()} instead of {wanted.tolist()}"
            )
    if _penalised(subject):
        for name, features, slopes in _feature_cases():
            one = subject.make(OUTLINE).penalty(features, slopes)
            other = subject.make(OUTLINE).penalty(features[::-1], slopes[::-1])
            assert (one is None) == (other is None), f"the penalty on {name} depends on the order"
            if one is not None and other is not None:
                assert torch.allclose(one, other, rtol=1e-4), f"the penalty on {name} depends on the order"


def early_agrees(subject: CheckedBalancer) -> None:
    """The weight of one task at a time is its weight in `weigh`, up to one factor."""
    if not subject.weighs_early or subject.combines:
        return
    balancer = grown(subject)
    for step in history(4, seed=9):
        seen = seen_of(subject, step)
        weights = answer(balancer, subject, seen)
        norms = seen.norms.tolist() if seen.norms is not None else [float("nan")] * len(seen)
        early = []
        for task, loss, norm in zip(step.tasks, seen.losses.tolist(), norms, strict=True):
            torch.manual_seed(SEED)
            try:
                early.append(balancer.early(task, loss, norm))
            except NotImplementedError:
                assert balancer.everyone() is not None, "neither early weights nor weights for all tasks"
                return
        _in_relation(weights, torch.tensor(early, dtype=torch.float64), "early weights")


def everyone_agrees(subject: CheckedBalancer) -> None:
    """Weights that are known without a step are those of `weigh`, up to one factor, whichever tasks are present."""
    balancer = grown(subject)
    torch.manual_seed(SEED)
    everyone = balancer.everyone()
    if everyone is None or subject.combines:
        return
    assert everyone.shape == (len(OUTLINE),) and everyone.dtype == torch.float64, "not one float64 number for each task"
    for step in history(4, seed=9):
        for some in (step, step.of(1, 3)):
            weights = answer(balancer, subject, seen_of(subject, some))
            torch.manual_seed(SEED)
            now = balancer.everyone()
            assert now is not None
            _in_relation(weights, now[torch.tensor(some.tasks)], "weights for everyone")


def _in_relation(weights: Tensor, others: Tensor, what: str) -> None:
    assert torch.allclose(rescaled(weights), rescaled(others), rtol=1e-6, atol=1e-9), (
        f"{what} are {rescaled(others).tolist()}, and in the step {rescaled(weights).tolist()}"
    )


def missing_keeps_state(subject: CheckedBalancer) -> None:
    """A step without a task does not change what the balancer remembers of that task."""
    balancer = grown(subject)
    before = {name: value.clone() for name, value in balancer.state.items()}
    there, missing = (0, 2, 3), torch.tensor([1, 4])
    run(balancer, subject, [step.of(*there) for step in history(2, seed=9)], evaluate=False)
    for name, old in before.items():
        new = balancer.state[name]
        assert new.shape == old.shape, f"the shape of the state '{name}' changed"
        for axis, size in enumerate(old.shape):
            if size == len(OUTLINE):
                kept = _same_but_nan(old.index_select(axis, missing), new.index_select(axis, missing))
                assert kept, f"the state '{name}' of a missing task changed"


def resumes(subject: CheckedBalancer) -> None:
    """A new balancer with the state of another one goes on with the same bits."""
    steps = history(9)
    whole = subject.make(OUTLINE)
    run(whole, subject, steps[:4])
    again = subject.make(OUTLINE)
    again.state = {name: value.clone() for name, value in whole.state.items()}
    first = run(whole, subject, steps[4:])
    assert _same(first, run(again, subject, steps[4:])), "after a restart the weights differ"
    lost = [n for n, v in whole.state.items() if n not in again.state or not _same_but_nan(v, again.state[n])]
    assert not lost, f"after a restart the state differs: {', '.join(lost)}"


def unequal_draws(subject: CheckedBalancer) -> None:
    """Tasks that differ only in how often they are drawn weigh the same in the end, with one task in a step and with
    several."""
    count, steps, often = 5, 220, (1.0, 0.4, 0.2, 0.1, 0.06)
    outline = Outline(tuple("abcde"), (3,) * count, (50,) * count, steps=steps, epoch=20)
    own = torch.eye(count, COLUMNS, dtype=torch.float64)
    for several in (False, True):
        generator = torch.Generator().manual_seed(SEED)
        balancer = subject.make(outline)
        for number in range(steps):
            # All tasks learn alike while the training goes on, and no two steps are quite the same.
            left = 3 * (1 - 0.7 * number / steps)
            losses = left * (0.98 + 0.04 * torch.rand(count, generator=generator, dtype=torch.float64))
            step = replace(
                step_of(losses, (left * (1 + own)).float(), number / steps),
                held=torch.ones(COLUMNS),
                after=0.97 * losses,
            )
            if several:
                there = torch.rand(count, generator=generator) < torch.tensor(often)
                step = step.of(*there.nonzero().flatten().tolist())
            else:
                step = step.of(int(torch.multinomial(torch.tensor(often), 1, generator=generator)))
            seen = seen_of(subject, step)
            answer(balancer, subject, seen, number)
            balancer.learn(seen)
            if not balancer.state:
                break  # what remembers nothing does not know how often a task was there
            if "after" in subject.needs:
                balancer.stepped(seen, step.after[seen.tasks])
            if number % outline.epoch == 0:
                balancer.evaluated(torch.full((count,), left, dtype=torch.float64))
        last = seen_of(subject, step_of([1.0] * count, (1 + own).float(), 1.0))
        found = answer(balancer, subject, last)
        wanted = answer(subject.make(outline), subject, last)
        if not subject.combines:
            found, wanted = rescaled(found), rescaled(wanted)
        assert torch.allclose(found, wanted, atol=0.1), (
            f"{found.tolist()} for tasks that are alike and were drawn {often}, instead of {wanted.tolist()}"
        )


def alone(subject: CheckedBalancer) -> None:
    """Where each step holds one task, weights differ between tasks, or the balancer says that it has no effect there
    (and the trainer refuses it)."""
    count = len(OUTLINE)
    for raw in (False, True):
        if subject.facts.get("raw") and not raw:
            continue
        balancer = subject.make(OUTLINE)
        weights = []
        for number in range(36):
            task, fall = number % count, 0.97**number
            losses = torch.tensor([fall ** (t + 1) for t in range(count)], dtype=torch.float64)
            slopes = torch.linspace(-2, 3, count)[:, None] * torch.ones(count, COLUMNS)
            step = replace(step_of(losses, slopes + torch.eye(count, COLUMNS), number / 36), held=torch.ones(COLUMNS))
            seen = seen_of(subject, step.of(task))
            seen = replace(seen, rows=seen.rows + task, terms=seen.terms + task)
            found = answer(balancer, subject, seen, SEED + number)
            if subject.combines:
                found = (found.norm() / step.gradients[task].norm())[None]
            elif not raw:
                torch.manual_seed(SEED + number)
                found = rescaled(found, balancer.everyone())
            weights.append(found)
            balancer.learn(seen)
            if "after" in subject.needs:
                balancer.stepped(seen, step.after[seen.tasks])
            if number % 12 == 0:
                balancer.evaluated(losses)
        told = torch.cat(weights)
        acts = bool((told - told[0]).abs().max() > 1e-3 * told.abs().max())
        says = balancer.alone(raw)
        assert acts or not says, "it has no effect where each step holds one task, and does not say so"
        assert says or not acts, "it has an effect where each step holds one task, and says that it has none"


def beside_zero(subject: CheckedBalancer) -> None:
    """A task whose gradient is zero does not stop the others: their step is about the same without it."""
    for tiny in (0.0, 1e-9):
        for seed in range(4):
            gradients = _draw(4, 12, seed) * torch.tensor([1.0, tiny, 1.0, 1.0])[:, None]
            others = gradients[[0, 2, 3]]
            found, wanted = (_step(subject, g).double() for g in (gradients, others))
            along = float(found @ wanted / (wanted @ wanted))
            assert along > 0.5, f"beside a gradient of {tiny:g}, {100 * along:.3g}% of the others' step is left"


def _step(subject: CheckedBalancer, gradients: Tensor) -> Tensor:
    """The first step of a training."""
    found = answer(
        subject.make(_outline(len(gradients))), subject, seen_of(subject, step_of([1.0] * len(gradients), gradients))
    )
    if not (subject.combines or subject.facts.get("raw")):
        found = rescaled(found)
    return direction(found, subject, gradients)


def columns_apart(subject: CheckedBalancer) -> None:
    """The columns of a combined gradient do not depend on each other, so it can be computed in parts."""
    if not subject.combines:
        return
    seen = seen_of(subject, history(1)[0])
    assert seen.gradients is not None
    expected = answer(subject.make(OUTLINE), subject, seen)
    other = seen.gradients.clone()
    other[:, 3:] *= -2.0
    found = answer(subject.make(OUTLINE), subject, replace(seen, gradients=other))
    assert torch.equal(found[:3], expected[:3]), "a column depends on others"


CHECKS: dict[str, Callable[[CheckedBalancer], None]] = {
    check.__name__: check
    for check in (
        expected_structure,
        finite,
        one_alone,
        inputs_untouched,
        deterministic,
        permutation_invariant,
        early_agrees,
        everyone_agrees,
        missing_keeps_state,
        resumes,
        unequal_draws,
        alone,
        beside_zero,
        columns_apart,
    )
}


# -- checks of those that promise it -----------------------------------------------------------------------------------


def scale(subject: CheckedBalancer) -> None:
    """The shares of the tasks stay the same when all losses and gradients are multiplied by one number, from the first
    step on."""
    steps = history(5)
    expected = run(subject.make(OUTLINE), subject, steps)
    for factor in (1e-6, 1e-2, 1e4):
        grown_steps = [
            replace(
                s,
                losses=s.losses * factor,
                gradients=s.gradients * factor,
                held=s.held * factor,
                after=s.after * factor,
            )
            for s in steps
        ]
        for found, wanted in zip(run(subject.make(OUTLINE), subject, grown_steps), expected, strict=True):
            same = torch.allclose(rescaled(found), rescaled(wanted), rtol=1e-3, atol=1e-4)
            assert same, f"times {factor}: {rescaled(found).tolist()} instead of {rescaled(wanted).tolist()}"


def _conflicts(subject: CheckedBalancer, gradients: Tensor) -> float:
    """How far the step goes against the task that it serves worst, beside the sizes of weights and gradients."""
    outline = _outline(len(gradients))
    seen = seen_of(subject, step_of([1.0] * len(gradients), gradients))
    found = answer(subject.make(outline), subject, seen)
    step = direction(found if subject.combines else rescaled(found), subject, gradients)
    norms = gradients.double().norm(dim=1)
    return float(-(gradients.double() @ step / (norms * norms.max())).min())


def _outline(tasks: int) -> Outline:
    return Outline(tuple("abcdefgh"[:tasks]), (2,) * tasks, (10,) * tasks)


def _draw(rows: int, columns: int, seed: int) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def non_conflicting_when_independent(subject: CheckedBalancer) -> None:
    """While no gradient is a combination of the others, the step makes no task worse."""
    for rows, columns in ((2, 3), (3, 4), (4, 20)):
        for seed in range(4):
            found = _conflicts(subject, _draw(rows, columns, seed) * torch.linspace(0.3, 3, rows)[:, None])
            assert found < WORST, f"the step goes against a task by {found}"


def non_conflicting(subject: CheckedBalancer) -> None:
    """The step makes no task worse, also where gradients depend on each other or no step makes all tasks better."""
    non_conflicting_when_independent(subject)
    cases = [_draw(4, 2, seed) for seed in range(4)]
    cases += [torch.cat([_draw(2, 6, seed), -_draw(1, 6, seed)]) for seed in range(4)]
    cases += [torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.5, 1.0]]), torch.tensor([[1.0, 2.0], [1.0, 2.0]])]
    for gradients in cases:
        found = _conflicts(subject, gradients)
        assert found < WORST, f"the step goes against a task by {found} for {gradients.tolist()}"


def strongly_stationary(subject: CheckedBalancer) -> None:
    """The step is zero only where no step is left that makes one task better and none worse."""
    for seed in range(4):
        turn = torch.linalg.qr(_draw(3, 3, seed))[0]
        gradients = torch.tensor([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]) @ turn
        seen = seen_of(subject, step_of([1.0] * 3, gradients))
        found = answer(subject.make(_outline(3)), subject, seen)
        step = direction(found, subject, gradients)
        assert step.norm() > 0.1 * found.double().norm(), "it stops though a task can still get better"


def linear_under_scaling(subject: CheckedBalancer) -> None:
    """The step is linear in the sizes of the gradients, before weights become shares."""
    for seed, columns in enumerate((3, 6, 20)):
        gradients = _draw(4, columns, seed)
        generator = torch.Generator().manual_seed(seed)
        one, two = (torch.rand(2, 4, generator=generator) + 0.5).unbind()

        def of(sizes: Tensor, gradients: Tensor = gradients) -> Tensor:
            rows = gradients * sizes[:, None]
            seen = seen_of(subject, step_of([1.0] * 4, rows))
            return direction(answer(subject.make(_outline(4)), subject, seen), subject, rows)

        found, wanted = of(2 * one + 3 * two), 2 * of(one) + 3 * of(two)
        far = float((found - wanted).norm() / wanted.norm())
        assert far < 1e-2, f"not linear in the sizes of the gradients: off by {far:.3g}"


CLAIMS: dict[str, Callable[[CheckedBalancer], None]] = {
    check.__name__: check
    for check in (
        scale,
        non_conflicting,
        non_conflicting_when_independent,
        strongly_stationary,
        linear_under_scaling,
    )
}


# -- what runs ---------------------------------------------------------------------------------------------------------


def documented(entry: Entry) -> None:
    """The docstring gives a formula and an example that runs, and says every parameter; the file gives one line and a
    source."""
    checking.documented(entry, ("Formula:",), parameters=True, names={"torch": torch, "Outline": Outline})


def checks_of(entry: Entry) -> Iterator[Check]:
    """The checks that apply to a balancer of the registry, its documentation among them, by name."""
    keeps, subject = entry.facts["keeps"], subject_of(entry)
    unknown = [name for name in keeps if name not in CLAIMS]
    assert not unknown, f"{entry.name} keeps unknown checks: {', '.join(unknown)}"
    every = {**CHECKS, **{name: CLAIMS[name] for name in keeps}}
    yield from not_exempt(entry, {name: partial(check, subject) for name, check in every.items()})
    yield "documented", partial(documented, entry)


def check_balancer(subject: CheckedBalancer) -> None:
    """Run every check that a balancer is not exempt from, and those of what it keeps; the first that fails raises."""
    names = [n for n in CHECKS if n not in subject.facts.get("exempt", {})]
    for name in [*names, *subject.facts.get("keeps", ())]:
        try:
            {**CHECKS, **CLAIMS}[name](subject)
        except AssertionError as error:
            raise AssertionError(f"{subject.name}: {name}: {error}") from None
