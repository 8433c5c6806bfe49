"""The command build."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from allround.cli.config import asked_for
from allround.cli.help import PLAIN
from allround.cli.options import (
    AgreeOption,
    BaseOption,
    CalibrateOption,
    ClassWeightsOption,
    DataOption,
    FocalOption,
    ForceOption,
    LimitOption,
    OnlyOption,
    OutOption,
    RayOption,
    SeedOption,
    ShareOption,
    SuiteArgument,
    TrackOption,
    WorkersOption,
    load_suite,
)
from allround.cli.training_options import EncoderSettings, training_options
from allround.cli.words import methods_of, pairs_of, share_of, split
from allround.training.settings import Settings

if TYPE_CHECKING:
    from allround.building.forecast import Forecast
    from allround.tasks.suite import Suite

app = typer.Typer(**PLAIN)


@app.command(epilog="Example: `allround build suite.yml --base all-MiniLM-L6-v2 --out runs/support --worst 0.95`")
@training_options(
    "epochs",
    "batch_size",
    "learning_rate",
    "patience",
    "precision",
    "tune",
    "lora_rank",
    "heads",
    "sample",
    "device",
)
def build(
    suite: SuiteArgument,
    out: OutOption,
    *,
    base: BaseOption = None,
    data_dir: DataOption = None,
    only: OnlyOption = None,
    limit: LimitOption = None,
    seed: SeedOption = 0,
    seeds: Annotated[
        int, typer.Option(help="Build with so many seeds, and show means with intervals over seeds and rows.")
    ] = 1,
    folds: Annotated[
        int,
        typer.Option(
            help="For small sets: deal all rows out into so many folds, and test each by models that did not see it. "
            "One more build makes the model."
        ),
    ] = 0,
    budget: Annotated[
        float | None, typer.Option(help="Minutes; the work is scaled down to fit, and the report says how.")
    ] = None,
    workers: WorkersOption = None,
    ray: RayOption = None,
    methods: Annotated[
        str | None,
        typer.Option(
            help="Merge methods and presets of learned merges with commas between, or none. Default: those "
            "that are worth trying."
        ),
    ] = None,
    trials: Annotated[int, typer.Option(help="Most settings tried on validation for each merge method.")] = 12,
    joint: Annotated[bool, typer.Option(help="Also train one model on all tasks.")] = True,
    baselines: Annotated[
        bool,
        typer.Option(help="Also score plain baselines: linear models, and boosted trees on tables."),
    ] = True,
    trees: Annotated[
        bool, typer.Option(help="Let boosted trees be one of the baselines, where all tasks are on tables.")
    ] = True,
    rmtgb: Annotated[
        bool,
        typer.Option("--rmtgb", help="Also score robust boosted trees that all tasks share, and name outlier tasks."),
    ] = False,
    reference: Annotated[
        str,
        typer.Option(
            help="What retention is measured against: specialists, or best, which on each task is the better of "
            "specialist and base on validation."
        ),
    ] = "best",
    groups: Annotated[
        str | None,
        typer.Option(
            help="Also train a joint model for each of so many groups of tasks, put together by estimates of transfer; "
            "auto: the number is chosen on validation. Default: none."
        ),
    ] = None,
    ensemble: Annotated[
        bool, typer.Option("--ensemble", help="Also score the mean of what specialists, joint model and trees answer.")
    ] = False,
    sizes: Annotated[
        bool, typer.Option("--sizes", help="Make small_table in a few sizes, and take the best on validation.")
    ] = False,
    balance: Annotated[
        str | None,
        typer.Option(
            help="Further joint models by these balancers, with commas between, or none. Default: those that "
            "are worth trying."
        ),
    ] = None,
    share: ShareOption = None,
    routers: Annotated[
        str | None,
        typer.Option(
            help="Systems of the base with a module of each specialist and a router that picks for each row, with "
            "commas between, such as classifier,arrow:top=2+pick: a router, and how the modules are combined "
            "(`allround methods list --family route`, `--family combine`), or none. Default: classifier and arrow "
            "with --library, none without."
        ),
    ] = None,
    demonstrations: Annotated[
        str | None,
        typer.Option(
            help="The base, a language model, shown training rows that these ways choose for each question, with "
            "commas between, such as random,coverage:count=4 (`allround methods list --family demonstrations`)."
        ),
    ] = None,
    library: Annotated[
        Path | None,
        typer.Option(
            help="A library of modules (`allround library create`). A module that was tuned on a task of the suite is "
            "its specialist; routed systems use the others too. Its base is the build's."
        ),
    ] = None,
    head: Annotated[
        str | None,
        typer.Option(help="The sort of the heads, such as linear or mlp. Default: as the base has them."),
    ] = None,
    specialist: Annotated[
        list[str] | None,
        typer.Option(
            help="A model that is already tuned: TASK=FOLDER or TASK=HUB_ID, of allround, transformers, "
            "sentence-transformers, SetFit or PEFT; may be repeated."
        ),
    ] = None,
    worst: Annotated[float | None, typer.Option(help="Every task must retain at least this, such as 0.95.")] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(
            help="One task must retain at least this: TASK=0.98. Without a task: every guard must keep at least this "
            "share of the base's score. May be repeated."
        ),
    ] = None,
    hold_out: Annotated[
        str | None,
        typer.Option(
            help="Tasks to score every system on and to train nothing on: names with commas between, a share such as "
            "0.3, or category=NAME."
        ),
    ] = None,
    adapt: Annotated[
        int | None,
        typer.Option(
            metavar="ROWS",
            help="Also adapt base, joint model and the best single model to each held-out task on so many of its "
            "training rows, and score them again.",
        ),
    ] = None,
    max_parameters: Annotated[int | None, typer.Option(help="Most parameters that the model may store.")] = None,
    any_system: Annotated[
        bool,
        typer.Option("--any-system", help="Let specialists, baselines and ensembles win too, not only single models."),
    ] = False,
    one_set: Annotated[
        bool,
        typer.Option("--one-set-of-weights", help="Let no routed system win, which gives each row weights of its own."),
    ] = False,
    calibrate: CalibrateOption = "temperature",
    coverage: Annotated[
        float | None, typer.Option(help="Also make sets of answers that hold the right one this often, such as 0.9.")
    ] = None,
    energy: Annotated[
        str | None,
        typer.Option(
            metavar="COUNTRY",
            help="Also measure, by the meters of this machine, the energy that each system takes to answer, and its "
            "carbon with the power of a country such as DEU (pip install 'allround[energy]').",
        ),
    ] = None,
    track: TrackOption = None,
    class_weights: ClassWeightsOption = None,
    focal_gamma: FocalOption = None,
    agree: AgreeOption = None,
    settings: Settings,
    encoder: EncoderSettings,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Say what would be made, how long it takes and how much disk; write nothing."),
    ] = False,
    force: ForceOption = False,
) -> object:
    """Build the best single model for a suite, and a report that proves it.

    Tunes a specialist per task (or takes given ones), trains one joint model, merges the specialists by every
    method with settings chosen on validation, scores all of them and the floors on test, and saves the best single
    model. Killed and run again, it goes on from what is finished.
    """
    from allround.building import Constraints, Options
    from allround.building import build as run
    from allround.building.run import forecast_build

    options = Options(
        settings=settings,
        seed=seed,
        seeds=seeds,
        folds=folds,
        methods=None if methods is None else () if methods.strip() == "none" else tuple(split(methods, "--methods")),
        trials=trials,
        joint=joint,
        baselines=baselines,
        trees=trees,
        rmtgb=rmtgb,
        reference=reference,
        groups=int(groups) if groups is not None and groups.isdecimal() else groups,
        ensemble=ensemble,
        sizes=sizes,
        head=head,
        balance=None if balance is None else () if balance == "none" else tuple(methods_of(balance, "--balance")),
        share=tuple(methods_of(share, "--share")) if share is not None else (),
        routers=None if routers is None else () if routers == "none" else tuple(methods_of(routers, "--routers")),
        library=None if library is None else str(library),
        demonstrations=() if demonstrations is None else tuple(methods_of(demonstrations, "--demonstrations")),
        specialists=pairs_of(specialist, "--specialist", str),
        adapt=adapt,
        budget=budget,
        workers=workers,
        ray=ray,
        calibrate=calibrate,
        coverage=coverage,
        energy=energy,
        track=tuple(split(track, "--track")),
        constraints=Constraints(
            worst,
            pairs_of([one for one in keep or () if "=" in one], "--keep", float),
            max_parameters,
            single=not any_system,
            one_set=one_set,
            guards=share_of([one for one in keep or () if "=" not in one], "--keep"),
        ),
    )
    chosen: Suite | str = suite
    if any(given is not None for given in (class_weights, focal_gamma, agree, hold_out)):
        chosen = load_suite(suite, data_dir, only, limit).weighed(class_weights, focal_gamma, agree)
        chosen = chosen.holding_out(hold_out) if hold_out is not None else chosen
        data_dir, only, limit = None, None, None
    if dry_run:
        planned = forecast_build(
            chosen,
            base=base,
            options=options,
            data_dir=data_dir,
            only=split(only, "--only") or None,
            limit=pairs_of(limit, "--limit", int) or None,
            encoder=encoder,
        )
        for line in forecast_lines(planned, out):
            typer.echo(line)
        return planned
    made = run(
        chosen,
        out=out,
        base=base,
        options=options,
        data_dir=data_dir,
        only=split(only, "--only") or None,
        limit=pairs_of(limit, "--limit", int) or None,
        encoder=encoder,
        config=asked_for(),
        force=force,
    )
    made.scoreboard.print()
    typer.echo(f"\n{made.scoreboard.notes['choice']}")
    typer.echo(f"\nbest model   {made.best}\nreport       {made.report}\nscoreboard   {made.folder}/scoreboard.json")
    folders = {"folder": made.folder, "best": made.best, "report": made.report}
    return {**folders, "scoreboard": made.scoreboard.to_json()}


def forecast_lines(found: Forecast, out: Path) -> list[str]:
    """What a build would make, in lines."""
    from allround.core.words import duration, plural, size_text

    rows = ", ".join(f"{split} {count:,}" for split, count in found.rows.items())
    merges = ", ".join(f"{name} ({plural(trials, 'setting')} at most)" for name, trials in found.merges.items())
    seeds = f", each with {found.seeds} seeds" if found.seeds > 1 else ""
    seeds = f", each for {found.folds} folds and once more" if found.folds else seeds
    budget = f"; the budget of {found.budget:g} min cuts what does not fit" if found.budget else ""
    lines = [
        f"dry run of {found.suite} on {found.base}: nothing is written to {out}",
        f"rows        {rows}",
        f"trainings   {len(found.trainings)}{seeds}: {', '.join(found.trainings)}",
        f"merges      {merges or 'none'}",
        f"time        about {duration(found.seconds)} with {plural(found.workers, 'worker')}{budget}",
        f"disk        about {size_text(found.disk)}, {size_text(found.pieces)} of it pieces (allround runs clean)",
        f"The time follows from training and predicting {found.measured} rows of each task here, a moment ago.",
        "Other work on the machine, and tasks that stop early, change it: expect it within a factor of two.",
    ]
    return lines
