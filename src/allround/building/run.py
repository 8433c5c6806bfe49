"""`build`: specialists, joint model, merges; one scoreboard; the best single model; a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from allround.building.candidates import Candidate, EnsembleCandidate
from allround.building.forecast import Forecast, forecast
from allround.building.given import GivenSpecialists, read_given
from allround.building.library import base_of_library, with_library
from allround.building.options import Options
from allround.building.repeats import Repeat, build_repeats, fold_repeats, seed_repeats
from allround.building.result import Build
from allround.building.search import Trial
from allround.building.stages.adapt import adapt, put_off, systems_to_adapt
from allround.building.stages.base import decide_precision, is_module, make_base
from allround.building.stages.baselines import TREES, baseline_candidates, check_robust, robust_candidate
from allround.building.stages.choice import choose, make_judge
from allround.building.stages.data import DataCheck, announce, keep_rows
from allround.building.stages.demonstrated import demonstrated_candidates
from allround.building.stages.energy import measure_energy
from allround.building.stages.groups import grouped_candidates
from allround.building.stages.heads import base_candidate, fit_heads, fit_probes, probe_candidate
from allround.building.stages.learned import merge_learned
from allround.building.stages.merges import MergeInputs, merge_candidates, merge_fixed
from allround.building.stages.plan import plan_work, whole_scope
from allround.building.stages.predicting import validation_scores
from allround.building.stages.prompts import score_prompts
from allround.building.stages.reading import prompt_facts, read_prompts
from allround.building.stages.reference import make_reference
from allround.building.stages.refit import refit_heads
from allround.building.stages.report import (
    BEST,
    REPORT,
    check_outputs,
    keep_config,
    provenance,
    write_predictions,
    write_report,
)
from allround.building.stages.routed import check_routers, routed_candidates, routing_facts
from allround.building.stages.scoring import score
from allround.building.stages.sizes import check_sizes, choose_size
from allround.building.stages.tuning import joint_candidates, sharing_of, specialists_candidate, tune
from allround.building.stages.unseen import answer_unseen
from allround.building.tracking import TRACKED, check_trackers, tracking
from allround.building.workshop import Workshop, run_folder
from allround.composition.library.library import Library
from allround.core.errors import AllroundError
from allround.core.jobs import quiet_libraries
from allround.core.progress import Progress
from allround.core.words import listed
from allround.evaluation.power import has_meter
from allround.evaluation.prompt_scores import PromptScores
from allround.merging.learn.learning import preset
from allround.models.device import pick_device
from allround.tasks.kind import kind
from allround.tasks.roles import HELD_OUT
from allround.tasks.suite import Suite, as_suite
from allround.training.callback import Callback

if TYPE_CHECKING:
    from torch import nn


def build(
    suite: Suite | str | Path,
    *,
    out: Path | str,
    base: str | Path | nn.Module | None = None,
    options: Options | None = None,
    data_dir: Path | str | None = None,
    only: Sequence[str] | None = None,
    limit: Mapping[str, int] | None = None,
    encoder: Mapping[str, object] | None = None,
    progress: Progress | None = None,
    config: str | None = None,
    callbacks: Sequence[Callback] = (),
    force: bool = False,
) -> Build:
    """Build the best single model for a suite, and prove per task how good it is.

    suite: a `Suite`, the path of a suite file, or the name of a built-in suite. base: a folder, an installed or Hub
    name, a built-in encoder, or an `allround.models.encoders.module.Module`; left out, the library's, or the suite's
    own. encoder:
    settings of the encoder, such as `{"max_length": 64}`. out: the run folder; run again with the same arguments
    after a kill, it takes up what is finished. What earlier builds wrote there is replaced, and what others put there
    is not, unless `force` says so.

    Hyperparameters, checkpoints, coefficients and the winner are chosen on validation; test is scored once for each
    finished system. Same inputs, seed and machine give the same scoreboard, timings apart; with a budget, the cut
    follows from measured speed and is kept in the run folder. With several seeds everything is built with each, in
    `out`/seeds, and the scoreboard shows means with intervals over seeds and rows; so with folds, in `out`/folds, where
    each row is tested once, and one more build on the suite's own splits gives the model. config: what the command line
    was asked for, which is kept in the run folder. callbacks: are told of the evaluations of every training when it is
    done, and of the test scores in the end.
    """
    out = Path(out)
    options = options or Options()
    suite = as_suite(suite, data_dir=data_dir, only=only, limit=limit)
    start, specialists = _checked(suite, base, options, encoder or {})
    settings = {**(encoder or {}), **specialists.encoder}
    progress = progress or Progress(out / "log.txt")
    check = DataCheck()

    def build_one(repeat: Repeat, place: Path, progress: Progress) -> Build:
        nonlocal check
        budget = options.budget and options.budget / options.times
        once = replace(options, seed=repeat.seed, seeds=1, folds=0, budget=budget)
        check = check.again()
        return _build_one(repeat.suite, place, start, once, specialists, settings, progress, None, callbacks, force,
                          check)  # fmt: skip

    if options.folds:
        repeats = fold_repeats(suite, options.folds, options.seed)
        final = Repeat("all rows", "folds/final", suite, options.seed)
        whole = partial(check.tasks, progress, suite.tasks, folds=True)
        return build_repeats(repeats, "fold", build_one, out=out, inputs=[start], progress=progress, final=final,
                             check=whole, config=config, force=force)  # fmt: skip
    if options.seeds > 1:
        repeats = seed_repeats(suite, options.seed, options.seeds)
        inputs = [start, *specialists.folders]
        return build_repeats(repeats, "seed", build_one, out=out, inputs=inputs, progress=progress, config=config,
                             force=force)  # fmt: skip
    return _build_one(suite, out, start, options, specialists, settings, progress, config, callbacks, force, check)


def forecast_build(
    suite: Suite | str | Path,
    *,
    base: str | Path | nn.Module | None = None,
    options: Options | None = None,
    data_dir: Path | str | None = None,
    only: Sequence[str] | None = None,
    limit: Mapping[str, int] | None = None,
    encoder: Mapping[str, object] | None = None,
) -> Forecast:
    """Say what `build` would make with these arguments, how long it would take and how much disk it would fill."""
    options = options or Options()
    suite = as_suite(suite, data_dir=data_dir, only=only, limit=limit)
    start, specialists = _checked(suite, base, options, encoder or {})
    return forecast(suite, start, options, {**(encoder or {}), **specialists.encoder}, specialists)


def _build_one(
    suite: Suite,
    out: Path,
    base: str | Path | nn.Module,
    options: Options,
    specialists: GivenSpecialists,
    encoder: Mapping[str, object],
    progress: Progress,
    config: str | None,
    callbacks: Sequence[Callback],
    force: bool,
    check: DataCheck,
) -> Build:
    """One build, with one seed."""
    about = {"suite": suite.name, "base": str(base), "seed": options.seed, **options.settings.to_json()}
    with (
        run_folder(out, "build", force=force),
        tracking(options.track, out / TRACKED, out.name, about) as trackers,
    ):
        check_outputs(out, suite, [base, *specialists.folders], force=force)
        keep_config(out, config, "build", force=force)
        shop = Workshop(
            out,
            progress,
            seed=options.seed,
            workers=options.workers,
            in_process=is_module(base),
            ray=options.ray,
            gpus=int(pick_device(options.settings.device).type == "cuda"),
            force=force,
            callbacks=[*trackers, *callbacks],
        )
        return _build(shop, suite, base, options, specialists, encoder, check)


def _checked(
    suite: Suite, base: str | Path | nn.Module | None, options: Options, encoder: Mapping[str, object]
) -> tuple[str | Path | nn.Module, GivenSpecialists]:
    """The base, given or the suite's own, and the specialists that are given. An error for what cannot be built, before
    any work."""
    quiet_libraries()
    library = None if options.library is None else Library.open(options.library)
    if base is None:
        base = suite.own_base(f"build the suite '{suite.name}'") if library is None else base_of_library(library)
    trained = suite.to_train
    options.constraints.check({task.name: task.definition.role for task in suite})
    kinds = {task.name: kind(task.definition.kind) for task in trained if options.ensemble}
    texts = [name for name, rules in kinds.items() if rules.written or rules.ranked]
    if texts:
        raise AllroundError(
            f"build an ensemble for '{suite.name}'",
            f"the answers of {listed(texts)} are texts or rankings, which cannot be averaged",
            "leave --ensemble out, or leave these tasks out",
        )
    if options.rmtgb:
        check_robust(suite)
    if options.energy is not None:  # an error before the work, where CodeCarbon or the country is not there
        has_meter(options.energy, f"measure the energy of answering, with the power of {options.energy}")
    if options.adapt is not None and not any(task.definition.role == HELD_OUT for task in suite):
        raise AllroundError(
            f"adapt to held-out tasks on {options.adapt} rows",
            f"no task of '{suite.name}' is held out",
            "name some: --hold-out TASK, or `hold_out` in the suite file; or leave --adapt out",
        )
    check_trackers(options.track)
    if options.sizes:
        check_sizes(base, encoder)
    for name in options.learned(task.definition for task in trained):
        preset(name).check(task.definition for task in trained)
    pick_device(options.settings.device)
    if options.folds and (options.specialists or library is not None):
        raise AllroundError(
            f"build in {options.folds} folds with {'given specialists' if library is None else 'a library'}",
            "these models may have seen the rows that they would be tested on",
            "leave `folds` out, or train all specialists in the build",
        )
    definitions = {task.name: task.definition for task in trained}
    given = read_given(options.specialists, definitions, base, encoder)
    return base, given if library is None else with_library(given, library, definitions, base, encoder)


def _build(
    shop: Workshop,
    suite: Suite,
    base_name: str | Path | nn.Module,
    options: Options,
    given: GivenSpecialists,
    encoder: Mapping[str, object],
    check: DataCheck,
) -> Build:
    """The stages, from the rows to the report."""
    candidates: list[Candidate]
    trials: list[Trial] = []
    left_out: list[str] = []
    with shop:
        announce(shop, suite, f"seed {shop.seed}")
        check.tasks(shop.progress, suite.tasks)
        for task, words in given.notes.items():
            shop.say(f"{task}: {words}", style=None if given.tasks[task].order is not None else "yellow")
        rows = keep_rows(shop, suite.tasks)
        if options.sizes:
            device, head = options.settings.device, options.head
            base = choose_size(shop, str(base_name), rows.trained, shop.seed, device=device, head=head)
        else:
            base = make_base(shop, base_name, rows.trained, encoder, shop.seed)
        if options.routers is not None:  # one that is tried by default is left out instead
            check_routers(base, options.router_choices(), list(suite.tasks.values()))
        check.lengths(shop.progress, base.piece, rows.tasks)
        precision = decide_precision(shop, options.settings)
        scope = plan_work(shop, base, whole_scope(options, rows, precision.settings), options.budget)
        data, judged, device = scope.data, scope.judged, scope.settings.device
        later = scope.unseen.part([])
        if options.adapt is not None:
            answered, later = put_off(scope.unseen, base, scope.head)
            scope = replace(scope, unseen=answered)
        prompts = read_prompts(shop, scope, base)
        check.answers(shop.progress, prompts, scope.every.tasks)
        unseen = answer_unseen(shop, scope.unseen, base, scope.head)

        start = fit_heads(shop, data, base, device, scope.head)
        tuned = tune(shop, start, scope, given.tasks)
        probes = fit_probes(shop, start, device)
        probed = [] if probes is None else [probe_candidate(probes)]
        untuned, *probed, specialists = unseen.answered(
            [base_candidate(start), *probed, specialists_candidate(start, tuned)]
        )
        joints = unseen.answered(joint_candidates(start, tuned))
        shown = demonstrated_candidates(shop, start, untuned, options.demonstrations, scope.every.folders, device)
        baselines = baseline_candidates(shop, scope.every, trees=options.trees) if options.baselines else []
        robust = [robust_candidate(shop, data)] if options.rmtgb else []
        candidates = [untuned, *shown, *probed, specialists, *joints, *baselines, *robust]
        if options.ensemble:
            trees = [one for one in baselines if one.name == TREES]
            candidates.append(EnsembleCandidate([specialists, *joints, *trees]))
        validation = validation_scores(shop, candidates, judged, device)
        reference = make_reference(shop, options.reference, untuned, specialists, data, validation, scope.unseen.tasks)
        validation |= reference.scores(validation)
        judge = make_judge(shop, judged, reference.name, validation)

        grouped = unseen.answered(grouped_candidates(shop, start, tuned, scope.settings, judge, scope.groups))
        validation |= validation_scores(shop, grouped, judged, device)
        candidates += grouped

        if len(data.tasks) > 1:
            inputs = MergeInputs(start, tuned.specialists)
            fixed, learned = merge_fixed(shop, inputs, scope, judge), merge_learned(shop, inputs, scope, judge)
            groups = [merge_candidates(start, specialists, merges) for merges in (fixed, learned)]
            merged = unseen.answered([candidate for group in groups for candidate in group])
            validation |= validation_scores(shop, merged, judged, device)
            refitted = unseen.answered(refit_heads(shop, scope, groups, start, validation, judge))
            validation |= validation_scores(shop, refitted, judged, device)
            candidates += [*merged, *refitted]
            trials = [trial for merge in (*fixed, *learned) for trial in merge.trials]
            routed, left_out = routed_candidates(shop, start, specialists, [*fixed, *learned], options.router_choices(),
                                                 scope.every.folders, device, given)  # fmt: skip
            validation |= validation_scores(shop, routed, judged, device)
            candidates += routed

        every = [*candidates, *reference.candidates]
        choice = choose(shop, every, validation, judge, options.constraints, len(trials))
        about = provenance(shop, suite, base, scope.every, scope.settings)
        scored = score(
            shop, candidates, scope, validation, choice, reference, options, provenance=about, notes=given.notes,
            rising=tuned.rising, routing=left_out,
        )  # fmt: skip
        put: list[PromptScores] = []
        if base.speaks:
            compared = [one for one in every if one.name in (untuned.name, reference.name, choice.best.name)]
            put = score_prompts(shop, compared, scope.every, device, resamples=options.resamples)
            scored = scored.with_prompts(put)
        if options.energy is not None:
            scored = measure_energy(shop, scored, candidates, scope.every, options.energy, device)
        if options.adapt is not None:
            systems = systems_to_adapt(candidates, untuned, choice.best, validation, judge)
            few = adapt(shop, scope, systems, unseen, later, options.adapt, scored.predictions,
                        resamples=options.resamples)  # fmt: skip
            scored = scored.with_adapted(few.scores, few.left_out)
        write_predictions(shop.out, scored.predictions, force=shop.force)
    for callback in shop.callbacks:
        callback.scored(scored.board.scores())
    write_report(
        shop, f"{suite.name} on {base.name}", scope, precision, trials, choice, scored, check, size=base.chosen,
        prompts=[] if prompts is None else prompt_facts(prompts, tuned), prompt_scores=put,
        sharing=sharing_of(tuned), routing=routing_facts(shop, scope.every, candidates),
    )  # fmt: skip
    return Build(shop.out, shop.out / BEST, shop.out / REPORT, scored.board)
