"""What a build will do: all that was asked for, or, with a budget, what there is time for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import cast

from allround.building.budget import BudgetPlan, Passes, joint_time, learning_time, make_plan, scaled, with_extras
from allround.building.jobs import tune as jobs
from allround.building.joint import Joint
from allround.building.options import Options
from allround.building.search import most_trials
from allround.building.stages.base import Base
from allround.building.stages.data import Data, keep_rows
from allround.building.stages.heads import head_work, of_sort, refit_seconds
from allround.building.workshop import Workshop, folders
from allround.core import registry
from allround.core.jobs import call
from allround.core.pieces import Piece
from allround.core.seeds import seed_of
from allround.merging.learn.learning import preset
from allround.tasks.roles import HELD_OUT
from allround.tasks.task import SPLITS, Task
from allround.training.settings import Settings

#: What a plan and a report call fitting heads anew on merged encoders.
REFITTED = "heads fitted anew"
#: What a plan and a scoreboard call joint models of groups of tasks.
GROUPS = "groups"
#: The most groups that are tried where their number is not given: each number takes about one more joint training.
MOST_GROUPS = 4


@dataclass(frozen=True)
class Scope:
    """What a build will do.

    data, unseen: the tasks that training may see, and the others. settings: of all training, their precision decided.
    trials: most settings tried for each merge method. merges, learned: merge methods, and presets of learned merges.
    joint: whether the plain joint model is trained. joints: further joint models. groups: numbers of groups that joint
    models of groups of tasks are tried for. head: the sort of all heads that are
    fitted. refit: whether heads are fitted anew on the best merges. budget: what a budget allows, in words.
    """

    data: Data
    unseen: Data
    settings: Settings
    trials: int
    merges: tuple[str, ...]
    learned: tuple[str, ...]
    joint: bool
    joints: tuple[Joint, ...]
    groups: tuple[int, ...] = ()
    head: str | None = None
    refit: bool = True
    budget: str | None = None

    @property
    def every(self) -> Data:
        """All tasks: first those that training may see."""
        both = (self.data, self.unseen)
        return Data({n: t for one in both for n, t in one.tasks.items()},
                    {n: f for one in both for n, f in one.folders.items()})  # fmt: skip

    @property
    def judged(self) -> Data:
        """The tasks whose validation rows the choice looks at: all but those that are held out."""
        every = self.every
        return every.part([name for name, one in every.definitions.items() if one.role != HELD_OUT])


def whole_scope(options: Options, data: Data, settings: Settings) -> Scope:
    """All that was asked for. With one task there are no further joint models."""
    return Scope(
        data=data.trained,
        unseen=data.unseen,
        settings=settings,
        trials=options.trials,
        merges=tuple(options.chosen("merge")),
        learned=tuple(options.learned(data.trained.definitions.values())),
        joint=options.joint,
        joints=tuple(options.joints()) if len(data.trained.tasks) > 1 else (),
        groups=group_counts(options.groups, len(data.trained.tasks)),
        head=options.head,
    )


def group_counts(asked: int | str | None, tasks: int) -> tuple[int, ...]:
    """The numbers of groups that are tried: that which was asked for, or with `auto` 2 to `MOST_GROUPS`.

    >>> group_counts("auto", 8), group_counts("auto", 3), group_counts(3, 8), group_counts(2, 2)
    ((2, 3, 4), (2,), (3,), ())
    """
    if asked is None or tasks < 3:
        return ()
    return tuple(range(2, min(MOST_GROUPS, tasks - 1) + 1)) if asked == "auto" else (min(int(asked), tasks),)


def plan_work(shop: Workshop, base: Base, whole: Scope, minutes: float | None) -> Scope:
    """The whole scope, or with a budget of `minutes` as much as there is time for.

    The speed is measured once; the decision is a piece, and is kept in the run folder.
    """
    if minutes is None:
        return whole
    decided = shop.pieces.piece(
        "plan",
        base=base.piece.key,
        tasks=whole.data.content,
        budget=minutes,
        settings=whole.settings.to_json(),
        trials=whole.trials,
        methods={"merge": list(whole.merges), "learn": list(whole.learned)},
        joints=[joint.name for joint in whole.joints],
        **({"groups": whole.groups} if whole.groups else {}),
        **of_sort(whole.head),
    )
    if not shop.have(decided):
        found = _measured_plan(shop, base, whole, minutes)
        with decided.make() as (_, facts):
            facts.update(found.to_json())
    plan = BudgetPlan(**decided.facts)
    shop.say(plan.words)
    data = whole.data
    if plan.share < 1:
        seed = seed_of(shop.seed, "budget")
        cut = {n: t.limit({s: scaled(t, s, plan.share) for s in SPLITS}, seed) for n, t in data.tasks.items()}
        data = keep_rows(shop, cut)
    return replace(
        whole,
        data=data,
        settings=whole.settings.with_(epochs=plan.epochs),
        trials=plan.trials,
        learned=tuple(name for name in whole.learned if name not in plan.left_out),
        joints=tuple(joint for joint in whole.joints if joint.system not in plan.left_out),
        groups=() if GROUPS in plan.left_out else whole.groups,
        refit=REFITTED not in plan.left_out,
        budget=plan.words,
    )


def _measured_plan(shop: Workshop, base: Base, whole: Scope, minutes: float) -> BudgetPlan:
    """Measure the speed and cut the work. Heads are fitted on all rows first: that is done in any case."""
    data, settings = whole.data, whole.settings
    heads, work = head_work(shop, data, base.encoder, base.piece.key, settings.device, sort=whole.head)
    shop.do("heads on the frozen base", work)
    speed = measure_speed(shop, base, data, settings, heads)
    tasks, workers, passes = data.tasks, shop.at_once, base.passes(settings)
    plan = make_plan(
        tasks,
        speed,
        minutes=minutes,
        spent=shop.elapsed,
        trials=whole.trials,
        methods=len(whole.merges),
        passes=passes,
        joint=whole.joint,
        workers=workers,
    )
    costs = extra_costs(tasks, speed, whole, passes=passes, heads=refit_seconds(heads), workers=workers)
    return with_extras(plan, costs, minutes)


def measure_speed(
    shop: Workshop, base: Base, data: Data, settings: Settings, heads: Mapping[str, Piece]
) -> dict[str, dict[str, float]]:
    """Seconds per training example and per predicted row of each task."""
    job = call(jobs.probe, base=base.encoder, heads=folders(heads), tasks=dict(data.folders),
               settings=settings.to_json())  # fmt: skip
    ((_, found),) = shop.runner.run([job])
    return cast("dict[str, dict[str, float]]", found)


def extra_costs(
    tasks: Mapping[str, Task],
    speed: Mapping[str, Mapping[str, float]],
    whole: Scope,
    *,
    passes: Passes,
    heads: float,
    workers: int,
) -> dict[str, float]:
    """Seconds that further joint models, learned merges and heads fitted anew take. heads: what fitting all
    took; 0 where none has weights."""
    more = joint_time(tasks, speed, passes=passes, workers=workers)
    costs = {joint.system: more for joint in whole.joints}
    if whole.groups:
        costs[GROUPS] = more * len(whole.groups)
    for name in whole.learned:
        trials = most_trials(registry.find("learn", name), whole.trials)
        costs[name] = learning_time(tasks, speed, preset(name), trials=trials, workers=workers)
    if heads and (whole.merges or whole.learned):
        costs[REFITTED] = heads / workers * (bool(whole.merges) + bool(whole.learned))
    return costs
