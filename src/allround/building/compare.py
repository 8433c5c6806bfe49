"""Joint trainings compared fairly: with tuned weights and specialists, each at its best learning rate, over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from allround.building.candidates import PerTaskCandidate
from allround.building.comparing.choices import Chosen, try_rates, try_weights
from allround.building.comparing.finished import final_work, train_all
from allround.building.comparing.result import measured
from allround.building.comparing.trainings import Trainings
from allround.building.joint import TUNED, Joint, joint_settings, rate_factors, read_joint, read_share, sweep_weights
from allround.building.options import Options
from allround.building.saving import CONFIG
from allround.building.stages.base import Base, decide_precision, is_module, make_base
from allround.building.stages.baselines import can_have_trees, tree_candidate
from allround.building.stages.data import Data, DataCheck, announce, keep_rows
from allround.building.stages.heads import fit_heads
from allround.building.stages.report import keep_config, provenance
from allround.building.tracking import TRACKED, check_trackers, tracking
from allround.building.workshop import Workshop, run_folder, seconds
from allround.core.errors import AllroundError
from allround.core.jobs import quiet_libraries
from allround.core.outputs import check_texts, write_texts
from allround.core.progress import FINISHED, Progress
from allround.core.seeds import seed_of
from allround.core.words import duration, plural
from allround.evaluation.pages import settings_text
from allround.evaluation.training import EQUAL, FILES, TrainingComparison
from allround.models.base import load_encoder
from allround.models.device import pick_device
from allround.tasks.suite import Suite, as_suite
from allround.training.callback import Callback
from allround.training.preconditions import check_settings
from allround.training.settings import Settings
from allround.training.share_size import added_by, fitted

if TYPE_CHECKING:
    from torch import nn

#: What is compared unless the user says otherwise: fixed weights, then one balancer of each sort.
METHODS = (EQUAL, TUNED, "uw", "famo", "pcgrad", "cagrad")


def compare_training(
    suite: Suite | str | Path,
    *,
    out: Path | str,
    methods: Sequence[str] = METHODS,
    share: Sequence[str] = (),
    added: int | None = None,
    seeds: int = 3,
    trials: int = 3,
    sweep: int = 6,
    seed: int = 0,
    base: str | Path | nn.Module | None = None,
    settings: Settings | None = None,
    encoder: Mapping[str, object] | None = None,
    data_dir: Path | str | None = None,
    only: Sequence[str] | None = None,
    limit: Mapping[str, int] | None = None,
    workers: int | None = None,
    ray: str | None = None,
    resamples: int = 1000,
    progress: Progress | None = None,
    config: str | None = None,
    callbacks: Sequence[Callback] = (),
    track: Sequence[str] = (),
    force: bool = False,
) -> TrainingComparison:
    """Compare ways of training one model on all tasks, with each other and with specialists, and write the result.

    methods: balancers as `NAME` or `NAME:key=value;key=value` (the balancer's parameters, and flat, sample, mix and
    raw_scale of the settings), and `tuned`: the best of `sweep` fixed weights on validation. `equal` is always among
    them. share: ways to share, written alike, each trained with equal weights; where all tasks are on tables, boosted
    trees for each task stand beside them. added: about so many parameters that each of them adds, by the size of its
    modules. seeds: how many, from `seed` on. trials: learning rates tried for every method, and for each specialist.
    settings: what all have in common; left out, every step holds a batch of every task. workers, ray: as in `Options`.
    config: what the command line was asked for, which is kept in `out`. callbacks: are told of the evaluations of every
    training when it is done. track: names of trackers, which write into the folder `track` of `out`.

    Learning rates and weights are chosen on validation with the first seed; test is predicted once for each finished
    model. Everything is kept in `out`: run again with the same arguments after a kill, it takes up what is finished.
    What earlier comparisons wrote there is replaced, and what others put there is not, unless `force` says so.
    """
    quiet_libraries()
    out = Path(out)
    settings = settings or Settings(mix="all")
    for name, value, low in (("seeds", seeds, 1), ("trials", trials, 1), ("sweep", sweep, 0)):
        if value < low:
            raise AllroundError(
                f"compare trainings with {name}={value}", f"{name} must be at least {low}", f"give at least {low}"
            )
    joints = _joints(methods, share, sweep)
    suite = as_suite(suite, data_dir=data_dir, only=only, limit=limit).to_train
    if len(suite.tasks) < 2:
        raise AllroundError(
            f"compare joint trainings on '{suite.name}'",
            f"it has only one task: {', '.join(suite.tasks)}",
            "give two tasks or more (--only names those that are used)",
        )
    base = suite.own_base(f"compare joint trainings on '{suite.name}'") if base is None else base
    for joint in joints:
        check_settings(joint_settings(joint, settings), list(suite.tasks.values()))
    pick_device(settings.device)
    options = Options(settings=settings, seed=seed, workers=workers, resamples=resamples)
    check_trackers(track)
    about = {"suite": suite.name, "base": str(base), "seed": seed, **settings.to_json()}
    with (
        run_folder(out, "compare-training", force=force),
        tracking(track, out / TRACKED, out.name, about) as trackers,
    ):
        check_texts(out, [*FILES, CONFIG], "compare-training", force=force)
        keep_config(out, config, "compare-training", force=force)
        shop = Workshop(
            out,
            progress or Progress(out / "log.txt"),
            seed=seed,
            workers=workers,
            in_process=is_module(base),
            ray=ray,
            gpus=int(pick_device(settings.device).type == "cuda"),
            force=force,
            callbacks=[*trackers, *callbacks],
        )
        every = tuple(range(seed, seed + seeds))
        with shop:
            made = _compare(shop, suite, base, encoder or {}, options, joints, every, trials, sweep, added)
        write_texts(out, made.files(), "compare-training", force=force)
        shop.progress.note(FINISHED)
    return made


def _compare(
    shop: Workshop,
    suite: Suite,
    given: str | Path | nn.Module,
    encoder: Mapping[str, object],
    options: Options,
    joints: Sequence[Joint],
    seeds: tuple[int, ...],
    trials: int,
    sweep: int,
    added: int | None,
) -> TrainingComparison:
    """The stages, from the rows to the result."""
    announce(shop, suite, f"{plural(len(joints), 'method')}, {plural(trials, 'learning rate')}, "
                          f"{plural(len(seeds), 'seed')}")  # fmt: skip
    DataCheck().tasks(shop.progress, suite.tasks)
    data = keep_rows(shop, suite.tasks)
    base = make_base(shop, given, data, encoder, shop.seed)
    settings = decide_precision(shop, options.settings).settings
    start = fit_heads(shop, data, base, settings.device)

    beside = [] if not any("share" in joint.changes for joint in joints) else _beside(shop, data)
    if added is not None:
        joints = [_sized(shop, joint, base, data, added) for joint in joints]
    trainings = Trainings(shop, start, {joint.name: joint for joint in joints}, settings)
    rates = try_rates(trainings, rate_factors(trials), shop.seed)
    # Without tuned weights the other seeds need not wait for the sweep.
    ready = [] if TUNED in trainings.joints else final_work(Chosen(trainings, rates), seeds)
    weights = sweep_weights(trainings.tasks, sweep, seed_of(shop.seed, "sweep"))
    swept = try_weights(trainings, rates, weights, shop.seed, ready)
    chosen = Chosen(trainings, rates, swept.tuned)
    predictions = train_all(chosen, seeds, beside)
    about = provenance(shop, suite, base, data, settings)
    return measured(chosen, swept, predictions, beside, seeds=seeds, resamples=options.resamples, provenance=about)


def _beside(shop: Workshop, data: Data) -> list[PerTaskCandidate]:
    """What ways to share have to be better than, where all tasks are on tables: boosted trees for each task."""
    if not can_have_trees(data):
        return []
    trees, work = tree_candidate(shop, data)
    tally = shop.do("boosted trees", work)
    shop.say(f"boosted trees fitted for {plural(len(data.tasks), 'task')} ({duration(seconds(trees.pieces))})", tally)
    return [trees]


def _sized(shop: Workshop, joint: Joint, base: Base, data: Data, added: int) -> Joint:
    """A joint training that shares with modules of the size that adds so many parameters."""
    if joint.share == Settings.share:
        return joint
    definitions = list(data.definitions.values())
    encoder = load_encoder(base.encoder)
    values = fitted(joint.share, joint.share_settings, encoder, definitions, added)
    found = added_by(joint.share, values, encoder, definitions)
    shop.say(f"{joint.name} adds {found:,} parameters: {settings_text(values)}")
    return replace(joint, changes={**joint.changes, "share_settings": values})


def _joints(methods: Sequence[str], share: Sequence[str], sweep: int) -> list[Joint]:
    """The methods, each once, equal weights first."""
    found = [*map(read_joint, methods), *map(read_share, share)]
    if EQUAL not in [joint.name for joint in found]:
        found.insert(0, Joint(EQUAL, EQUAL))
    names = [joint.name for joint in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise AllroundError("compare joint trainings", f"'{twice[0]}' is named twice", "name each method once")
    if TUNED in names and sweep < 2:
        raise AllroundError(
            f"compare '{TUNED}' weights with a sweep of {sweep}",
            "they are the best of the sweep, which must try at least 2 weights",
            f"give --sweep 2 or more, or leave {TUNED} out of --methods",
        )
    return found
