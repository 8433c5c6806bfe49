"""Scaling the work down to a number of minutes, and saying how."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial

from allround.merging.learn.learning import Learning
from allround.tasks.task import Task
from allround.training.feeds import epochs_for
from allround.training.settings import Settings

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


@dataclass(frozen=True)
class Passes:
    """How often a training sees its rows.

    epochs: at least so many. least_steps: that a training has; few rows are seen more often. settings: give the rows of
    a batch.
    """

    epochs: int
    least_steps: int = 0
    settings: Settings = field(default_factory=Settings)

    @classmethod
    def of(cls, settings: Settings, epochs: int, least_steps: int) -> Passes:
        """Those of a training with these settings, whose base has epochs and least steps of its own."""
        return cls(epochs, least_steps, settings) if settings.epochs is None else cls(settings.epochs)

    @property
    def words(self) -> str:
        """Epochs and steps, in words."""
        return f"{self.epochs}, and {self.least_steps} steps at least" if self.least_steps else str(self.epochs)

    def over(self, rows: Mapping[str, int], tasks: Mapping[str, Task]) -> int:
        """The epochs of a training on so many rows of each of these tasks."""
        batches = 0
        for name, count in rows.items():
            sizes = self.settings.batch_sizes
            size = sizes.get(name, sizes.get(tasks[name].definition.kind, self.settings.batch_size))
            batches += -(-count // size)
        return epochs_for(self.epochs, self.least_steps, batches)


def estimate(
    tasks: Mapping[str, Task],
    speed: Mapping[str, Mapping[str, float]],
    *,
    share: float,
    trials: int,
    methods: int,
    passes: Passes,
    joint: bool,
    workers: int,
) -> float:
    """Seconds that a build will take, from seconds per example measured beforehand.

    Training: every specialist, and the joint model on the same number of examples. Predicting: base, specialists,
    joint and one merge a method on validation and test; `trials` settings a method on validation.
    """
    seconds = 0.0
    systems = 2 + joint + methods
    together = passes.over({name: scaled(task, "train", share) for name, task in tasks.items()}, tasks)
    for name, task in tasks.items():
        rows = {s: scaled(task, s, share) for s in FEWEST}
        epochs = passes.over({name: rows["train"]}, tasks) + joint * together
        seconds += rows["train"] * epochs * speed[name]["train"]
        checks = (epochs + 1 + joint) * rows["validation"]
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
        seen = learning.all_steps * min(learning.step_rows, used)
        once = seen * speed[name]["train"] + (used + rows["validation"]) * speed[name]["predict"]
        seconds += trials * once + (rows["validation"] + rows["test"]) * speed[name]["predict"]
    return seconds / workers


def joint_time(
    tasks: Mapping[str, Task], speed: Mapping[str, Mapping[str, float]], *, passes: Passes, workers: int
) -> float:
    """Seconds that one more joint model will take: its training, its validation at every epoch, and its test."""
    seconds = 0.0
    epochs = passes.over({name: len(task.splits["train"]) for name, task in tasks.items()}, tasks)
    for name, task in tasks.items():
        rows = {s: len(task.splits[s]) for s in FEWEST}
        predicted = (epochs + 2) * rows["validation"] + rows["test"]
        seconds += rows["train"] * epochs * speed[name]["train"] + predicted * speed[name]["predict"]
    return seconds / workers


def adapting_time(
    tasks: Mapping[str, Task], speed: Mapping[str, Mapping[str, float]], *, rows: int, passes: Passes, workers: int
) -> float:
    """Seconds that adapting three systems to held-out tasks will take, each on so many rows.

    speed: of the tasks that were trained on, whose mean is taken.
    """
    train, predict = (sum(one[what] for one in speed.values()) / len(speed) for what in ("train", "predict"))
    seconds = 0.0
    for name, task in tasks.items():
        few, held = (min(rows, len(task.splits[split])) for split in ("train", "validation"))
        epochs = passes.over({name: few}, tasks)
        seconds += few * epochs * train + ((epochs + 1) * held + len(task.splits["test"])) * predict
    return 3 * seconds / workers


def scaled(task: Task, split: str, share: float) -> int:
    """Rows of a split when `share` of them is kept."""
    rows = len(task.splits[split])
    fewest = FEWEST[split]
    if split == "train":
        fewest = max(fewest, 4 * len(task.definition.labels))
    return min(rows, max(fewest, round(share * rows)))


def make_plan(
    tasks: Mapping[str, Task],
    speed: Mapping[str, Mapping[str, float]],
    *,
    minutes: float,
    spent: float,
    trials: int,
    methods: int,
    passes: Passes,
    joint: bool,
    workers: int,
) -> BudgetPlan:
    """The least cut that fits the budget: first fewer trials, then fewer rows everywhere, then one epoch.

    spent: seconds that are already gone.
    """
    left = FILL * 60 * minutes - spent
    epochs = passes.epochs

    def needed(share: float, trials: int, passes: Passes) -> float:
        return spent + estimate(
            tasks, speed, share=share, trials=trials, methods=methods, passes=passes, joint=joint, workers=workers
        )

    def fits(share: float, trials: int, passes: Passes) -> bool:
        return needed(share, trials, passes) - spent <= left

    whole = needed(1.0, trials, passes)
    asked = f"Budget {minutes:g} min"
    if fits(1.0, trials, passes):
        words = f"{asked}: enough for the whole work (estimated {whole / 60:.1f} min); nothing was cut."
        return BudgetPlan(1.0, trials, None, whole, words)
    few = min(trials, FEWEST_TRIALS)
    if fits(1.0, few, passes):
        found = needed(1.0, few, passes)
        words = (
            f"{asked}, where the whole work was estimated at {whole / 60:.1f} min: at most {few} settings instead of "
            f"{trials} were tried for each merge method. All rows were used."
        )
        return BudgetPlan(1.0, few, None, found, words, cut=True)
    for kept in (passes, Passes(1)):
        share = _largest(partial(fits, trials=few, passes=kept))
        if share > 0:
            break
    found = needed(share, few, kept)
    count = kept.epochs
    shorter = kept is not passes and (count < epochs or passes.least_steps > 0)
    cut = [f"{100 * share:.0f}% of the rows of every split were used (never fewer than {_fewest_words()})"]
    cut += [f"at most {few} settings were tried for each merge method"] if few < trials else []
    cut += [f"training took {count} epoch instead of {passes.words}"] if shorter else []
    words = f"{asked}, where the whole work was estimated at {whole / 60:.1f} min: {'; '.join(cut)}."
    if not share:
        words += f" That is the least allround does; it was estimated at {found / 60:.1f} min, more than the budget."
    return BudgetPlan(share, few, count if shorter else None, found, words, cut=True)


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
