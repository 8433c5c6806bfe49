"""Scaling the work down to a number of minutes, and saying how."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial

from allround.merging.learn.learning import Learning
from allround.models.likelihood import likelihood
from allround.tasks.task import Task

#: Fewest rows that the scaling leaves in each split (or all rows, where there are fewer).
FEWEST = {"train": 64, "validation": 50, "test": 100}
#: Settings tried for each merge method when time is short.
FEWEST_TRIALS = 4
#: The share of the budget that the estimate may fill: merging, reports and start-up need the rest.
FILL = 0.85


@dataclass(frozen=True)
class BudgetPlan:
    """What the budget allows. `share` of the rows of every split is kept; `words` say so in the report.

    left_out: further joint models, learned merges, and fitting heads anew, that there is no time for. cut: whether
    anything else was cut.
    """

    share: float
    trials: int
    epochs: int | None
    estimate: float
    words: str
    left_out: tuple[str, ...] = ()
    cut: bool = False

    def to_json(self) -> dict[str, object]:
        return asdict(self)


def estimate(
    tasks: Mapping[str, Task],
    speed: Mapping[str, Mapping[str, float]],
    *,
    share: float,
    trials: int,
    methods: int,
    epochs: int,
    joint: bool,
    workers: int,
) -> float:
    """Seconds that a build will take, from seconds per example measured beforehand.

    Training: every specialist, and the joint model on the same number of examples. Predicting: base, specialists,
    joint and one merge a method on validation and test; `trials` settings a method on validation.
    """
    seconds = 0.0
    systems = 2 + joint + methods
    for name, task in tasks.items():
        rows = {s: scaled(task, s, share) for s in FEWEST}
        seconds += rows["train"] * epochs * (1 + joint) * speed[name]["train"]
        checks = (epochs + 1) * (1 + joint) * rows["validation"]
        predicted = checks + systems * (rows["validation"] + rows["test"]) + trials * methods * rows["validation"]
        seconds += (predicted + rows["train"]) * speed[name]["predict"]
    return seconds / workers


def learning_time(
    tasks: Mapping[str, Task],
    speed: Mapping[str, Mapping[str, float]],
    learning: Learning,
    *,
    trials: int,
    workers: int,
) -> float:
    """Seconds that a learned merge will take: for each setting, the specialists' answers to its rows, its steps, and
    validation; then test."""
    seconds = 0.0
    for name, task in tasks.items():
        rows = {s: len(task.splits[s]) for s in FEWEST}
        used = min(learning.rows, rows[learning.split])
        seen = learning.all_steps * min(learning.batch, used)
        once = seen * speed[name]["train"] + (used + rows["validation"]) * speed[name]["predict"]
        seconds += trials * once + (rows["validation"] + rows["test"]) * speed[name]["predict"]
    return seconds / workers


def joint_time(
    tasks: Mapping[str, Task], speed: Mapping[str, Mapping[str, float]], *, epochs: int, workers: int
) -> float:
    """Seconds that one more joint model will take: its training, its validation at every epoch, and its test."""
    seconds = 0.0
    for name, task in tasks.items():
        rows = {s: len(task.splits[s]) for s in FEWEST}
        predicted = (epochs + 2) * rows["validation"] + rows["test"]
        seconds += rows["train"] * epochs * speed[name]["train"] + predicted * speed[name]["predict"]
    return seconds / workers


def scaled(task: Task, split: str, share: float) -> int:
    """Rows of a split when `share` of them is kept."""
    rows = len(task.splits[split])
    fewest = FEWEST[split]
    if split == "train":
        fewest = max(fewest, 4 * likelihood(task.definition).outputs(task.definition))
    return min(rows, max(fewest, round(share * rows)))


def make_plan(
    tasks: Mapping[str, Task],
    speed: Mapping[str, Mapping[str, float]],
    *,
    minutes: float,
    spent: float,
    trials: int,
    methods: int,
    epochs: int,
    joint: bool,
    workers: int,
) -> BudgetPlan:
    """The least cut that fits the budget: first fewer trials, then fewer rows everywhere, then one epoch.

    spent: seconds that are already gone.
    """
    left = FILL * 60 * minutes - spent

    def needed(share: float, trials: int, epochs: int) -> float:
        return spent + estimate(
            tasks, speed, share=share, trials=trials, methods=methods, epochs=epochs, joint=joint, workers=workers
        )

    def fits(share: float, trials: int, epochs: int) -> bool:
        return needed(share, trials, epochs) - spent <= left

    whole = needed(1.0, trials, epochs)
    asked = f"Budget {minutes:g} min"
    if fits(1.0, trials, epochs):
        words = f"{asked}: enough for the whole work (estimated {whole / 60:.1f} min); nothing was cut."
        return BudgetPlan(1.0, trials, None, whole, words)
    few = min(trials, FEWEST_TRIALS)
    if fits(1.0, few, epochs):
        found = needed(1.0, few, epochs)
        words = (
            f"{asked}, where the whole work was estimated at {whole / 60:.1f} min: at most {few} settings instead of "
            f"{trials} were tried for each merge method. All rows were used."
        )
        return BudgetPlan(1.0, few, None, found, words, cut=True)
    for count in (epochs, 1):
        share = _largest(partial(fits, trials=few, epochs=count))
        if share > 0:
            break
    found = needed(share, few, count)
    cut = [f"{100 * share:.0f}% of the rows of every split were used (never fewer than {_fewest_words()})"]
    cut += [f"at most {few} settings were tried for each merge method"] if few < trials else []
    cut += [f"training took {count} epoch instead of {epochs}"] if count < epochs else []
    words = f"{asked}, where the whole work was estimated at {whole / 60:.1f} min: {'; '.join(cut)}."
    if not share:
        words += f" That is the least allround does; it was estimated at {found / 60:.1f} min, more than the budget."
    return BudgetPlan(share, few, count if count < epochs else None, found, words, cut=True)


def with_extras(plan: BudgetPlan, costs: Mapping[str, float], minutes: float) -> BudgetPlan:
    """The plan with as much of what costs extra as fits beside all else, what takes least first. Nothing of it where
    anything had to be cut.

    costs: name -> seconds.

    >>> found = with_extras(BudgetPlan(1.0, 12, None, 60.0, "Enough."), {"slow": 500.0, "quick": 30.0}, 2.0)
    >>> found.left_out, found.estimate
    (('slow',), 90.0)
    """
    left = FILL * 60 * minutes - plan.estimate if not plan.cut else 0.0
    taken: list[str] = []
    for name in sorted(costs, key=lambda n: costs[n]):
        if costs[name] > left:
            break
        left -= costs[name]
        taken.append(name)
    out = tuple(name for name in costs if name not in taken)
    spent = sum(costs[name] for name in taken)
    words = plan.words
    if taken:
        words += f" Beside that: {', '.join(taken)} ({spent / 60:.1f} min more)."
    if out:
        words += f" No time for {', '.join(f'{name} (about {costs[name] / 60:.1f} min)' for name in out)}."
    return replace(plan, estimate=plan.estimate + spent, words=words, left_out=out)


def _largest(fits: Callable[[float], bool]) -> float:
    """The largest share between 0 and 1 that fits, to a thousandth; 0 when none does."""
    if not fits(0.0):
        return 0.0
    low, high = 0.0, 1.0
    while high - low > 1e-3:
        middle = (low + high) / 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return max(low, 1e-3)


def _fewest_words() -> str:
    return ", ".join(f"{count} {split}" for split, count in FEWEST.items())
