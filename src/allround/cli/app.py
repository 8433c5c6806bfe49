"""The commands. Each imports what it needs when it runs, so that help is instant."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from allround.cli.help import PLAIN, Group
from allround.cli.stopping import Commands
from allround.core.errors import AllroundError
from allround.core.reading import read_text

if TYPE_CHECKING:
    from allround.tasks.suite import Suite
    from allround.training.settings import Settings

app = typer.Typer(
    cls=Commands,
    help="Turn many tasks, or many fine-tuned specialists, into one all-round model, and prove it per task.",
    add_completion=False,
    pretty_exceptions_enable=False,
    epilog="Try it: `allround build digits --out runs/digits` (no network, no data needed).",
    **PLAIN,
)
tasks_app = typer.Typer(help="Look at suites and their tasks.", cls=Group, **PLAIN)
methods_app = typer.Typer(help="Look at the methods there are.", cls=Group, **PLAIN)
app.add_typer(tasks_app, name="tasks")
app.add_typer(methods_app, name="methods")

SuiteArgument = Annotated[
    str, typer.Argument(metavar="SUITE", help="A suite file (YAML), or a built-in suite: digits, text8, text11.")
]
OutOption = Annotated[Path, typer.Option("--out", "-o", help="Where the results go.")]
BaseOption = Annotated[
    str | None,
    typer.Option(
        help="A model folder, a Hub id, all-MiniLM-L6-v2, small_image or small_table. Default: what the suite names."
    ),
]
DataOption = Annotated[
    Path | None, typer.Option(help="A folder with local copies of the suite's data, one folder a task.")
]
OnlyOption = Annotated[str | None, typer.Option(help="Only these tasks, separated by commas.")]
LimitOption = Annotated[
    list[str] | None, typer.Option(help="Most rows of a split, such as train=1000; may be repeated.")
]
SeedOption = Annotated[int, typer.Option(help="Seed of everything.")]
EpochsOption = Annotated[int | None, typer.Option(help="Passes over the training rows. Default: the encoder's.")]
BatchOption = Annotated[int | None, typer.Option(help="Rows in a training step.")]
RateOption = Annotated[float | None, typer.Option(help="Learning rate. Default: the encoder's.")]
PatienceOption = Annotated[
    int | None, typer.Option(help="Evaluations without a better score after which a task is drawn no more.")
]
PrecisionOption = Annotated[str | None, typer.Option(help="auto, fp32 or bf16, in training.")]
TuneOption = Annotated[str | None, typer.Option(help="full: all encoder weights. lora: low-rank changes.")]
RankOption = Annotated[int | None, typer.Option(help="Rank of LoRA.")]
HeadsOption = Annotated[
    str | None, typer.Option(help="frozen: keep heads as fitted on the base. tuned: train them along.")
]
SampleOption = Annotated[
    str | None,
    typer.Option(
        help="How often tasks are drawn, such as temperature:temperature=3 (`allround methods list --family sample`)."
    ),
]
BalanceOption = Annotated[
    str | None,
    typer.Option(
        help="How tasks of a step are weighed, such as cagrad:c=0.4 (`allround methods list --family balance`)."
    ),
]
MixOption = Annotated[
    str | None,
    typer.Option(help="Tasks that a step holds, a batch of each: one, all, kind (those of one kind), or a number."),
]
RawOption = Annotated[
    bool, typer.Option("--raw-scale", help="Weights as the method has them, not rescaled to the number of tasks.")
]
FlatOption = Annotated[float | None, typer.Option(help="Radius of sharpness-aware steps (flat regions), such as 0.05.")]
AccumulateOption = Annotated[
    int | None, typer.Option(help="Compute a batch in so many parts, one after the other, to save memory.")
]
TaskRateOption = Annotated[
    list[str] | None, typer.Option(help="Factor on a task's learning rate: TASK=0.5; may be repeated.")
]
TaskBatchOption = Annotated[
    list[str] | None, typer.Option(help="Rows in a batch of one task or kind: NAME=8; may be repeated.")
]
RestoreOption = Annotated[
    bool,
    typer.Option(
        "--restore-best-per-task", help="A task gets its best head back where that scores better (--heads tuned)."
    ),
]
DeviceOption = Annotated[str | None, typer.Option(help="auto, cpu or cuda.")]
LengthOption = Annotated[int | None, typer.Option(help="Most tokens of a text.")]
PairsOption = Annotated[str | None, typer.Option(help="How pairs of texts are read: separate or joint.")]
ForceOption = Annotated[
    bool, typer.Option("--force", help="Replace what is there, also what allround did not write, or was changed since.")
]
WorkersOption = Annotated[int | None, typer.Option(help="Processes. Default: one a core.")]


@app.callback(invoke_without_command=True)
def _start(version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False) -> None:
    if version:
        import allround

        typer.echo(f"allround {allround.__version__}")
        raise typer.Exit


@app.command(epilog="Example: `allround build suite.yml --base all-MiniLM-L6-v2 --out runs/support --worst 0.95`")
def build(
    suite: SuiteArgument,
    out: OutOption,
    base: BaseOption = None,
    data_dir: DataOption = None,
    only: OnlyOption = None,
    limit: LimitOption = None,
    seed: SeedOption = 0,
    budget: Annotated[
        float | None, typer.Option(help="Minutes; the work is scaled down to fit, and the report says how.")
    ] = None,
    workers: WorkersOption = None,
    methods: Annotated[
        str | None,
        typer.Option(
            help="Merge methods and presets of learned merges with commas between, or none. Default: those "
            "that are worth trying."
        ),
    ] = None,
    trials: Annotated[int, typer.Option(help="Most settings tried on validation for each merge method.")] = 12,
    joint: Annotated[bool, typer.Option(help="Also train one model on all tasks.")] = True,
    balance: Annotated[
        str | None,
        typer.Option(
            help="Further joint models by these balancers, with commas between, or none. Default: those that "
            "are worth trying."
        ),
    ] = None,
    specialist: Annotated[
        list[str] | None, typer.Option(help="A model that is already tuned: TASK=FOLDER; may be repeated.")
    ] = None,
    worst: Annotated[float | None, typer.Option(help="Every task must retain at least this, such as 0.95.")] = None,
    keep: Annotated[
        list[str] | None, typer.Option(help="One task must retain at least this: TASK=0.98; may be repeated.")
    ] = None,
    max_parameters: Annotated[int | None, typer.Option(help="Most parameters that the model may store.")] = None,
    epochs: EpochsOption = None,
    batch_size: BatchOption = None,
    learning_rate: RateOption = None,
    patience: PatienceOption = None,
    precision: PrecisionOption = None,
    tune: TuneOption = None,
    lora_rank: RankOption = None,
    heads: HeadsOption = None,
    sample: SampleOption = None,
    device: DeviceOption = None,
    max_length: LengthOption = None,
    pairs: PairsOption = None,
    force: ForceOption = False,
) -> None:
    """Build the best single model for a suite, and a report that proves it.

    Tunes a specialist per task (or takes given ones), trains one joint model, merges the specialists by every
    method with settings chosen on validation, scores all of them and the floors on test, and saves the best single
    model. Killed and run again, it goes on from what is finished.
    """
    from allround.building import Constraints, Options
    from allround.building import build as run
    from allround.cli.compare import methods_of

    options = Options(
        settings=_settings(
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            patience=patience,
            precision=precision,
            tune=tune,
            lora_rank=lora_rank,
            heads=heads,
            sample=sample,
            device=device,
        ),
        seed=seed,
        methods=_methods(methods),
        trials=trials,
        joint=joint,
        balance=None if balance is None else () if balance == "none" else tuple(methods_of(balance, "--balance")),
        specialists=_pairs(specialist, "--specialist", str),
        budget=budget,
        workers=workers,
        constraints=Constraints(worst, _pairs(keep, "--keep", float), max_parameters),
    )
    made = run(
        suite,
        out=out,
        base=base,
        options=options,
        data_dir=data_dir,
        only=_split(only, "--only") or None,
        limit=_pairs(limit, "--limit", int) or None,
        encoder=_encoder(max_length, pairs),
        force=force,
    )
    made.scoreboard.print()
    typer.echo(f"\n{made.scoreboard.notes['choice']}")
    typer.echo(f"\nbest model   {made.best}\nreport       {made.report}\nscoreboard   {made.folder}/scoreboard.json")


@app.command(epilog="Example: `allround train text8 --data-dir data --out runs/joint --mix all --balance uw`")
def train(
    suite: SuiteArgument,
    out: OutOption,
    base: BaseOption = None,
    data_dir: DataOption = None,
    only: OnlyOption = None,
    limit: LimitOption = None,
    seed: SeedOption = 0,
    epochs: EpochsOption = None,
    batch_size: BatchOption = None,
    learning_rate: RateOption = None,
    patience: PatienceOption = None,
    precision: PrecisionOption = None,
    tune: TuneOption = None,
    lora_rank: RankOption = None,
    heads: HeadsOption = None,
    sample: SampleOption = None,
    mix: MixOption = None,
    balance: BalanceOption = None,
    raw_scale: RawOption = False,
    flat: FlatOption = None,
    accumulate: AccumulateOption = None,
    task_rate: TaskRateOption = None,
    task_batch: TaskBatchOption = None,
    restore_best_per_task: RestoreOption = False,
    device: DeviceOption = None,
    max_length: LengthOption = None,
    pairs: PairsOption = None,
    force: ForceOption = False,
) -> None:
    """Train one joint model on all tasks of a suite, and score it.

    Started by `torchrun` or `accelerate launch` in several processes, each computes its share of every batch.
    """
    from allround.building.single import train as run
    from allround.training.processes import leave_group

    loaded = _suite(suite, data_dir, only, limit)
    settings = _settings(
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        patience=patience,
        precision=precision,
        tune=tune,
        lora_rank=lora_rank,
        heads=heads,
        sample=sample,
        mix=mix,
        balance=balance,
        raw_scale=raw_scale or None,
        flat=flat,
        accumulate=accumulate,
        task_rates=_pairs(task_rate, "--task-rate", float) or None,
        batch_sizes=_pairs(task_batch, "--task-batch", int) or None,
        restore_heads=restore_best_per_task or None,
        device=device,
    )
    board = run(loaded, out=out, base=base, settings=settings, seed=seed, encoder=_encoder(max_length, pairs),
                force=force)  # fmt: skip
    if leave_group():
        board.print()
        typer.echo(f"\nmodel   {out}")


@app.command(
    name="compare-training",
    epilog="Example: `allround compare-training text8 --data-dir data --methods uw,cagrad:c=0.2 -o runs/cmp`",
)
def compare_training(
    suite: SuiteArgument,
    out: OutOption,
    methods: Annotated[
        str | None,
        typer.Option(
            help="Balancers with commas between, with settings such as cagrad:c=0.2;flat=0.05, and tuned: the "
            "best fixed weights of the sweep. equal is always among them. Default: one of each sort."
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(help="How many seeds everything is trained with.")] = 3,
    trials: Annotated[
        int, typer.Option(help="Learning rates tried on validation, for each method and each specialist.")
    ] = 3,
    sweep: Annotated[int, typer.Option(help="Fixed weights tried on validation; 0: no sweep.")] = 6,
    base: BaseOption = None,
    data_dir: DataOption = None,
    only: OnlyOption = None,
    limit: LimitOption = None,
    seed: SeedOption = 0,
    workers: WorkersOption = None,
    epochs: EpochsOption = None,
    batch_size: BatchOption = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Learning rate that the others are tried around. Default: the encoder's.")
    ] = None,
    precision: PrecisionOption = None,
    tune: TuneOption = None,
    lora_rank: RankOption = None,
    heads: HeadsOption = None,
    sample: SampleOption = None,
    mix: MixOption = "all",
    raw_scale: RawOption = False,
    device: DeviceOption = None,
    max_length: LengthOption = None,
    pairs: PairsOption = None,
    force: ForceOption = False,
) -> None:
    """Compare ways of joint training with each other and with specialists, fairly, over several seeds.

    Every method gets the same examples and as many learning rates to choose from on validation; fixed weights get a
    sweep. Test is scored once for each finished model; differences come with intervals over seeds and rows, and a
    verdict in words. Killed and run again, it goes on from what is finished.
    """
    from allround.cli.compare import compare_command

    settings = _settings(
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        precision=precision,
        tune=tune,
        lora_rank=lora_rank,
        heads=heads,
        sample=sample,
        mix=mix,
        raw_scale=raw_scale or None,
        device=device,
    )
    compare_command(_suite(suite, data_dir, only, limit), methods, out, seeds=seeds, trials=trials, sweep=sweep,
                    seed=seed, base=base, settings=settings, encoder=_encoder(max_length, pairs),
                    workers=workers, force=force)  # fmt: skip


@app.command(name="tune", epilog="Example: `allround tune text8 trec --data-dir data --out models/trec --tune lora`")
def tune_command(
    suite: SuiteArgument,
    task: Annotated[str, typer.Argument(help="The task of the suite.")],
    out: OutOption,
    base: BaseOption = None,
    data_dir: DataOption = None,
    limit: LimitOption = None,
    seed: SeedOption = 0,
    epochs: EpochsOption = None,
    batch_size: BatchOption = None,
    learning_rate: RateOption = None,
    patience: PatienceOption = None,
    precision: PrecisionOption = None,
    tune: TuneOption = None,
    lora_rank: RankOption = None,
    heads: HeadsOption = None,
    device: DeviceOption = None,
    max_length: LengthOption = None,
    pairs: PairsOption = None,
    force: ForceOption = False,
) -> None:
    """Tune one specialist: fit the head on the frozen base, then tune the encoder."""
    from allround.building.single import tune as run

    loaded = _suite(suite, data_dir, task, limit)
    settings = _settings(
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        patience=patience,
        precision=precision,
        tune=tune,
        lora_rank=lora_rank,
        heads=heads,
        device=device,
    )
    board = run(loaded, out=out, base=base, settings=settings, seed=seed, encoder=_encoder(max_length, pairs),
                force=force)  # fmt: skip
    board.print()
    typer.echo(f"\nmodel   {out}")


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    epilog="Example: `allround merge models/base models/trec models/sst2 --method ties --keep 0.2 -o models/both`",
)
def merge(
    context: typer.Context,
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="BASE MODEL... | RECIPE.yml",
            help="What the models were tuned from, and the models: folders, files, Hub ids or LoRA adapters. Or one "
            "recipe file, allround's or mergekit's.",
        ),
    ],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The folder of the merged model.")] = None,
    method: Annotated[
        str | None, typer.Option("--method", "-m", help="See: allround methods list --family merge. Default: ties.")
    ] = None,
    no_base: Annotated[bool, typer.Option("--no-base", help="All are models: average the weights themselves.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done and what it takes, and stop.")
    ] = False,
    on_mismatch: Annotated[
        str | None,
        typer.Option(
            help="Where models do not fit: error, keep-base (its tensor is taken) or skip (the model is left "
            "out there)."
        ),
    ] = None,
    scope: Annotated[
        str | None, typer.Option(help="Over what thresholds and norms are taken: tensor or model.")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="Of the output: float32, bfloat16 or float16. Default: the base's.")
    ] = None,
    statistics: Annotated[
        list[str] | None, typer.Option(help="What a method needs of each model: KIND=FILE,FILE,...; may be repeated.")
    ] = None,
    compat: Annotated[
        str | None,
        typer.Option(
            help="Of a recipe file of mergekit's: mergekit (the default) rounds as it does; none: more exact."
        ),
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Threads. Default: one a core, at most eight.")] = None,
    device: DeviceOption = None,
    ray: Annotated[
        str | None, typer.Option(help="Share out the files of a large model on a Ray cluster: its address, or auto.")
    ] = None,
    learn: Annotated[
        str | None,
        typer.Option(
            help="Learn the merge on rows of --suite: a preset such as adamerging, divmerge or tint, or what is to be "
            "learned: task, layer, block, singular or mask. See: allround methods list --family learn."
        ),
    ] = None,
    objective: Annotated[
        str | None, typer.Option(help="What it is learned by: label, entropy, pseudo, divergence, features, ...")
    ] = None,
    suite: Annotated[str | None, typer.Option(help="The suite of the models' tasks: a file or a built-in one.")] = None,
    data_dir: DataOption = None,
    only: OnlyOption = None,
    rows: Annotated[int | None, typer.Option(help="Rows of each task to learn on. Default: 256.")] = None,
    on: Annotated[
        str | None,
        typer.Option(
            "--on",
            help="The split to learn on: train, validation, or test, which is test-time adaptation. Default: train "
            "for objectives with labels, validation for others.",
        ),
    ] = None,
    start: Annotated[
        str | None, typer.Option(help="Where learning begins: a model folder, or a merge method with its defaults.")
    ] = None,
    force: ForceOption = False,
) -> None:
    """Merge tuned models into one, from their files. The method's own parameters are options: `--scale 0.5`.

    Models that allround saved keep their heads, each with its task. Other folders (of transformers or
    sentence-transformers, say) give a folder of the same sort, which loads there at once. Killed and run again, the
    merge goes on where it was.

    With --learn, coefficients or masks are learned on rows of the models' tasks instead; a preset's own parameters are
    options too: `--learn adamerging --level task --steps 100`.
    """
    if learn is not None:
        fixed = {"--method": method, "--no-base": no_base, "--scope": scope, "--dtype": dtype, "--compat": compat,
                 "--statistics": statistics, "--on-mismatch": on_mismatch, "--ray": ray}  # fmt: skip
        _learn([*inputs, *context.args], out, [option for option, value in fixed.items() if value],
               name=learn, objective=objective, rows=rows, split=on, start=start, dry_run=dry_run,
               device=device or "auto", suite=suite, data_dir=data_dir, only=only, force=force)  # fmt: skip
        return
    learned = {"--objective": objective, "--rows": rows, "--on": on, "--start": start}
    for option, value in learned.items():
        if value is not None:
            raise AllroundError(f"merge with {option} {value}", "nothing is learned", "say what: --learn layer")
    from allround.cli.merge import merge_command

    merge_command(
        [*inputs, *context.args],
        out,
        method=method,
        no_base=no_base,
        dry_run=dry_run,
        on_mismatch=on_mismatch,
        scope=scope,
        dtype=dtype,
        statistics=_pairs(statistics, "--statistics", str),
        compat=compat,
        workers=workers,
        device=device or "cpu",
        ray=ray,
        force=force,
    )


@app.command(
    epilog="Example: `allround stats models/trec text8 --data-dir data --kind gram -o models/trec.gram.safetensors`"
)
def stats(
    model: Annotated[str, typer.Argument(help="A folder that allround saved, or an encoder alone.")],
    suite: SuiteArgument,
    kind: Annotated[
        str, typer.Option(help="gram, fisher, kfac or activations; see: allround methods list --family statistic.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The file (.safetensors).")],
    data_dir: DataOption = None,
    only: Annotated[
        str | None, typer.Option(help="Only these tasks, separated by commas. Default: those the model has heads for.")
    ] = None,
    limit: LimitOption = None,
    rows: Annotated[int, typer.Option(help="Most rows of each task, drawn by the seed.")] = 256,
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "train",
    labels: Annotated[
        str, typer.Option(help="Whose labels gradients are taken for: given, or the model's own predictions.")
    ] = "given",
    seed: SeedOption = 0,
    device: DeviceOption = "cpu",
    force: ForceOption = False,
) -> None:
    """Compute a statistic of a model's data for merges that need one, such as regmean, fisher and mats.

    It is computed once, on a few rows, and stored; a merge takes it by `--statistics KIND=FILE,FILE,...`.
    """
    from allround.cli.stats import stats_command

    stats_command(
        model,
        suite,
        kind,
        out,
        data_dir=data_dir,
        only=_split(only, "--only") or None,
        limit=_pairs(limit, "--limit", int) or None,
        rows=rows,
        split=split,
        labels=labels,
        seed=seed,
        device=device or "cpu",
        force=force,
    )


def _learn(
    words: list[str],
    out: Path | None,
    fixed: list[str],
    *,
    suite: str | None,
    data_dir: Path | None,
    only: str | None,
    **options: Any,
) -> None:
    from allround.cli.learn import learn_command
    from allround.tasks.suite import Suite

    if fixed:
        raise AllroundError(
            f"learn a merge with {fixed[0]}",
            "that is an option of fixed merges",
            "leave it out; to begin from a fixed merge: --start METHOD or --start FOLDER",
        )
    if suite is None:
        raise AllroundError(
            f"learn a merge by '{options['name']}'",
            "no data is given to learn on",
            "give the suite of the models' tasks: --suite text8 --data-dir FOLDER",
        )
    loaded = _suite(suite, data_dir, only, None)
    # Models without heads take the tasks in the order in which they are named.
    named = [loaded.tasks[name] for name in _split(only, "--only")] or list(loaded.tasks.values())
    learn_command(words, out, Suite(loaded.name, named), **options)


@app.command(epilog="Example: `allround align models/a models/b --suite suite.yml -o models/b-like-a`")
def align(
    first: Annotated[Path, typer.Argument(metavar="A", help="A model that allround saved.")],
    other: Annotated[Path, typer.Argument(metavar="B", help="Another one, of the same architecture.")],
    out: OutOption,
    suite: Annotated[str | None, typer.Option(help="The suite whose rows the models are compared on.")] = None,
    by: Annotated[str, typer.Option(help="activations, on rows of the suite; or weights, without data.")] = (
        "activations"
    ),
    rows: Annotated[int, typer.Option(help="Most training rows of each task.")] = 256,
    leave: Annotated[
        list[str] | None, typer.Option(help="Weights whose features stay in place: a pattern; may be repeated.")
    ] = None,
    data_dir: DataOption = None,
    force: ForceOption = False,
) -> None:
    """Write B with its features in the order of A's, so that models from different starts can be averaged.

    The aligned model answers as B does. Then merge the two: `allround merge --no-base A OUT -o MERGED`.
    """
    from allround.cli.align import align_command

    loaded = _suite(suite, data_dir, None, None) if suite is not None else None
    align_command(first, other, out, suite=loaded, by=by, rows=rows, leave=leave or (), force=force)


@app.command(name="zip", epilog="Example: `allround zip models/a models/b --suite suite.yml --depth 0.5 -o models/ab`")
def zip_(
    models: Annotated[list[Path], typer.Argument(metavar="A B...", help="Models that allround saved.")],
    out: OutOption,
    suite: Annotated[str, typer.Option(help="The suite whose rows the models are compared on.")],
    depth: Annotated[
        str, typer.Option(help="What share of the layers becomes one (1: all), or the last layer that does.")
    ] = "1",
    rows: Annotated[int, typer.Option(help="Most training rows of each task.")] = 256,
    alpha: Annotated[float, typer.Option(help="Below 1, features that were merged are merged again less readily.")] = (
        0.3
    ),
    beta: Annotated[float, typer.Option(help="Share of merges within one model; 0: none.")] = 0.125,
    by: Annotated[str, typer.Option(help="zip, permute or average.")] = "zip",
    leave: Annotated[
        list[str] | None, typer.Option(help="Weights whose features stay in place: a pattern; may be repeated.")
    ] = None,
    data_dir: DataOption = None,
    force: ForceOption = False,
) -> None:
    """Zip models of different tasks and different starts into one, without training: wholly, or up to a depth.

    Features that are most alike are merged, across the models and within each. Zipped wholly it is a model like each
    of them; up to a depth it has one trunk and a tail for each.
    """
    from allround.cli.align import zip_command

    loaded = _suite(suite, data_dir, None, None)
    zip_command(models, out, suite=loaded, depth=depth, rows=rows, alpha=alpha, beta=beta, by=by, leave=leave or (),
                force=force)  # fmt: skip


@app.command(epilog="Example: `allround diff models/base models/trec models/sst2 --out runs/diff`")
def diff(
    base: Annotated[str, typer.Argument(help="What the models were tuned from: a folder, a file or a Hub id.")],
    models: Annotated[list[str], typer.Argument(metavar="MODEL...", help="The models, or LoRA adapters.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Also write a page with pictures here.")] = None,
    spectrum: Annotated[bool, typer.Option(help="Also compute the ranks of the changes, which takes longer.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
    workers: Annotated[int | None, typer.Option(help="Threads. Default: one a core, at most eight.")] = None,
    force: ForceOption = False,
) -> None:
    """Show how checkpoints differ from their base and from each other: what to look at before merging.

    Norms, cosines and sign conflicts of the changes, by layer; ranks; and what differs besides weights.
    """
    from allround.cli.merge import diff_command

    diff_command(base, models, out, spectrum=spectrum, as_json=as_json, workers=workers, force=force)


@app.command(name="extract-lora", epilog="Example: `allround extract-lora models/trec models/base --rank 16 -o lora`")
def extract_lora(
    tuned: Annotated[str, typer.Argument(help="A tuned model: a folder, a file or a Hub id.")],
    base: Annotated[str, typer.Argument(help="What it was tuned from.")],
    out: OutOption,
    rank: Annotated[int, typer.Option(help="Most singular directions kept of each weight's change.")] = 16,
    energy: Annotated[
        float | None, typer.Option(help="Keep only as many as hold this share of the squared change, such as 0.95.")
    ] = None,
    embeddings: Annotated[bool, typer.Option(help="Also of the embeddings.")] = False,
    device: DeviceOption = "cpu",
    force: ForceOption = False,
) -> None:
    """Make a LoRA adapter from a full checkpoint, and say how much of its change the adapter holds."""
    from allround.cli.merge import extract_command

    extract_command(tuned, base, out, rank=rank, energy=energy, embeddings=embeddings, device=device or "cpu",
                    force=force)  # fmt: skip


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    epilog="Example: `allround loop atm text8 --data-dir data --rounds 3 --epochs 3 -o models/atm`",
)
def loop(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="LOOP", help="atm, cold_fusion or fork_merge.")],
    suite: SuiteArgument,
    out: OutOption,
    method: Annotated[
        str | None, typer.Option("--method", "-m", help="How a round's copies are merged; its parameters are options.")
    ] = None,
    base: BaseOption = None,
    data_dir: DataOption = None,
    only: OnlyOption = None,
    limit: LimitOption = None,
    seed: SeedOption = 0,
    workers: WorkersOption = None,
    epochs: EpochsOption = None,
    batch_size: BatchOption = None,
    learning_rate: RateOption = None,
    precision: PrecisionOption = None,
    tune: TuneOption = None,
    lora_rank: RankOption = None,
    heads: HeadsOption = None,
    device: DeviceOption = None,
    max_length: LengthOption = None,
    pairs: PairsOption = None,
    force: ForceOption = False,
) -> None:
    """Tune and merge in turns: copies of the base are tuned for a while, merged, and tuned again from there.

    The epochs are shared among the rounds. A loop's own parameters are options too: `--rounds 5`, `--target trec`,
    `--unseen sst2,subj`; see `allround methods show atm`. The round that is best on validation is kept, and scored on
    test. Killed and run again, it goes on from what is finished.
    """
    from allround.cli.loop import loop_command

    settings = _settings(
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        precision=precision,
        tune=tune,
        lora_rank=lora_rank,
        heads=heads,
        device=device,
    )
    loop_command(name, _suite(suite, data_dir, only, limit), context.args, out, method=method, base=base,
                 settings=settings, seed=seed, workers=workers, encoder=_encoder(max_length, pairs),
                 force=force)  # fmt: skip


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    epilog="Example: `allround compress models/base models/trec models/sst2 --codec low_rank --rank 16 -o store`",
)
def compress(
    context: typer.Context,
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="BASE MODEL...", help="What the models were tuned from, and the models: folders or Hub ids."
        ),
    ],
    codec: Annotated[str, typer.Option("--codec", "-c", help="See: allround methods list --family codec.")],
    out: OutOption,
    method: Annotated[
        str | None,
        typer.Option(
            "--method",
            "-m",
            help="How the models are merged into the one that is stored once; its parameters are --merge-NAME. none: "
            "the base is stored. Default: average; for masks the sum, task_arithmetic with --merge-scale 1.",
        ),
    ] = None,
    shared: Annotated[str | None, typer.Option(help="A merged model to store once, instead of merging.")] = None,
    dtype: Annotated[
        str | None,
        typer.Option(help="Store the model as float16 or bfloat16, to save space; it is rounded. Default: as it is."),
    ] = None,
    suite: Annotated[
        str | None, typer.Option(help="Choose each task's threshold (codec mask) on the validation rows of this suite.")
    ] = None,
    data_dir: DataOption = None,
    device: DeviceOption = "cpu",
    force: ForceOption = False,
) -> None:
    """Store many specialists as one model and a small residual of each.

    The codec's own parameters are options: `--rank 16`. `allround predict` and `allround evaluate` take the store as
    they take a model: each task is answered with its own weights.
    """
    from allround.cli.residuals import compress_command

    compress_command(
        [*inputs, *context.args],
        out,
        codec=codec,
        method=method,
        shared=shared,
        dtype=dtype,
        suite=_suite(suite, data_dir, None, None) if suite is not None else None,
        device=device or "cpu",
        force=force,
    )


@app.command(epilog="Example: `allround materialise store trec -o models/trec`")
def materialise(
    store: Annotated[Path, typer.Argument(help="A folder that `allround compress` wrote.")],
    task: Annotated[str, typer.Argument(help="The task.")],
    out: OutOption,
    force: ForceOption = False,
) -> None:
    """Write one task's model out of a store, as a folder of its own."""
    from allround.cli.residuals import materialise_command

    materialise_command(store, task, out, force=force)


@app.command(epilog="Example: `allround evaluate runs/support/best suite.yml`")
def evaluate(
    model: Annotated[Path, typer.Argument(help="A folder that allround saved.")],
    suite: SuiteArgument,
    data_dir: DataOption = None,
    only: OnlyOption = None,
    limit: LimitOption = None,
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "test",
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Also write scoreboard and predictions here.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the scoreboard as JSON.")] = False,
    force: ForceOption = False,
) -> None:
    """Score a saved model on the tasks of a suite, with intervals, beside the floor."""
    from allround.building.single import evaluate as run

    board = run(model, _suite(suite, data_dir, only, limit), split=split, out=out, force=force)
    if as_json:
        typer.echo(json.dumps(board.to_json(), indent=2))
    else:
        board.print()


@app.command(epilog='Example: `allround predict runs/support/best --task trec "Who wrote Faust ?"`')
def predict(
    model: Annotated[Path, typer.Argument(help="A folder that allround saved.")],
    inputs: Annotated[
        list[str] | None, typer.Argument(help="Inputs: texts (two for a pair), image files, or a row's columns.")
    ] = None,
    task: Annotated[str | None, typer.Option(help="The task. May be left out when the model has only one.")] = None,
    input_file: Annotated[
        Path | None, typer.Option("--input", help="A JSONL, CSV, TSV or Parquet file with the task's input columns.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Write answers here as JSONL instead of on the screen.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print each answer as a JSON object.")] = False,
    force: ForceOption = False,
) -> None:
    """Answer a task for inputs given here or in a file."""
    from allround.cli.predict import answers
    from allround.core.outputs import check_out_file, output_file

    if output is not None:
        check_out_file(output, "predict", force=force, inputs=[input_file])
    found = answers(model, task, inputs or [], input_file)
    if output is not None:
        with output_file(output, "predict", force=force) as new:
            new.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found), "utf-8")
        typer.echo(f"{len(found)} answers written to {output}")
        return
    for row in found:
        if as_json or input_file is not None:
            typer.echo(json.dumps(row, ensure_ascii=False))
        else:
            sure = f"  ({100 * row['confidence']:.1f}%)" if row.get("confidence") is not None else ""
            answer = row["prediction"]
            answer = f"{answer:.4g}" if isinstance(answer, float) else answer
            answer = " ".join(answer) if isinstance(answer, list) else answer
            typer.echo(f"{answer}{sure}")


@app.command(epilog="Example: `allround doctor`")
def doctor() -> None:
    """Say what this machine and this installation can do."""
    from allround.cli.doctor import examine

    sys.exit(examine())


@tasks_app.command("list", epilog="Example: `allround tasks list digits`")
def tasks_list(
    suite: Annotated[str | None, typer.Argument(help="A suite; left out: the built-in suites.")] = None,
    data_dir: DataOption = None,
) -> None:
    """List the built-in suites, or the tasks of one suite."""
    from allround.core import registry

    if suite is None:
        for entry in registry.entries("suite"):
            typer.echo(f"{entry.name:<10} {entry.summary}")
        return
    for name, task in _suite(suite, data_dir, None, None).tasks.items():
        d = task.definition
        typer.echo(f"{name:<20} {d.kind}, {d.metric}; {d.modality}: {', '.join(d.inputs)}")


@tasks_app.command("show", epilog="Example: `allround tasks show digits ink`")
def tasks_show(
    suite: SuiteArgument,
    task: Annotated[str, typer.Argument(help="The task.")],
    data_dir: DataOption = None,
    rows: Annotated[int, typer.Option(help="How many training rows to show.")] = 3,
) -> None:
    """Show one task: what it asks, its rows, its warnings."""
    from allround.tasks.kind import kind
    from allround.tasks.suite import Suite

    found = Suite.load(suite, data_dir=data_dir, only=[task]).tasks[task]
    d = found.definition
    for label, value in {
        "task": d.name,
        "kind": d.kind,
        "inputs": f"{', '.join(d.inputs)} ({d.modality})",
        "metric": d.metric,
        "labels": ", ".join(d.labels) or "none",
        "instruction": d.instruction or "none",
        "rows": ", ".join(f"{s} {len(split)}" for s, split in found.splits.items()),
    }.items():
        typer.echo(f"{label:<12} {value}")
    for note in found.notes:
        typer.echo(f"{'warning':<12} {note}")
    train_rows = found.splits["train"]
    shown = train_rows.take(range(min(rows, len(train_rows))))
    for row, target in zip(shown.inputs, kind(d.kind).decode(shown.targets, d), strict=True):
        typer.echo(f"\n{' | '.join(str(v) for v in row)}\n  -> {target}")


@tasks_app.command("check", epilog="Example: `allround tasks check suite.yml`")
def tasks_check(suite: SuiteArgument, data_dir: DataOption = None, only: OnlyOption = None) -> None:
    """Load all data of a suite and say what is wrong or worth knowing."""
    loaded = _suite(suite, data_dir, only, None)
    for name, task in loaded.tasks.items():
        sizes = ", ".join(f"{split} {len(rows)}" for split, rows in task.splits.items())
        typer.echo(f"{name:<20} {task.definition.kind}, {task.definition.metric}; {sizes}")
        for note in task.notes:
            typer.echo(f"{'':<20} warning: {note}")
    typer.echo(f"{len(loaded.tasks)} tasks can be used")


@methods_app.command("list", epilog="Example: `allround methods list --family merge --json`")
def methods_list(
    family: Annotated[str | None, typer.Option(help="One family, such as merge, codec, metric or encoder.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """List every method: name, room, family, what it needs, and the paper it comes from."""
    from allround.core import registry

    found = [registry.find(one, name) for one, names in registry.methods(family).items() for name in names]
    if as_json:
        typer.echo(json.dumps([_about(e) for e in found], indent=2))
        return
    last = None
    for entry in found:
        if entry.family != last:
            typer.echo(f"{'' if last is None else chr(10)}{entry.family} (room: {entry.room})")
            last = entry.family
        typer.echo(f"  {entry.name:<22} {entry.summary}")


@methods_app.command("show", epilog="Example: `allround methods show ties`")
def methods_show(
    name: Annotated[str, typer.Argument(help="The method.")],
    family: Annotated[str | None, typer.Option(help="Its family, where two have a method of that name.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Show one method: source, parameters, formula and example."""
    import ast

    from allround.core import registry
    from allround.core.errors import suggestion

    found = [e for e in registry.entries(family) if e.name == name]
    if not found:
        known = {e.name for e in registry.entries(family)}
        close = [n for n in known if suggestion(name, [n]).startswith("did")]
        do = suggestion(name, close) if close else "see: allround methods list"
        raise AllroundError(f"show the method '{name}'", "there is none of that name", do)
    for entry in found:
        if as_json:
            typer.echo(json.dumps(_about(entry), indent=2))
            continue
        typer.echo(f"{entry.name}: {entry.summary}\n")
        typer.echo(f"family  {entry.family} (room: {entry.room})\nsource  {entry.source}")
        if entry.paper:
            typer.echo(f"paper   {entry.paper}")
        for p in entry.parameters:
            values = f"; searched: {', '.join(str(v) for v in p.search)}" if p.search else ""
            type_ = "float, or one for each model" if p.type == "Each" else p.type
            typer.echo(f"--{p.name.replace('_', '-')} {type_} (default {p.default}{values})")
        path = registry.PACKAGE / registry.FAMILIES[entry.family] / f"{entry.name}.py"
        for node in ast.parse(read_text(path, what="method file")).body:
            if getattr(node, "name", None) == entry.attribute:
                typer.echo(f"\n{ast.get_docstring(node)}")  # type: ignore[arg-type]


def _about(entry: Any) -> dict[str, Any]:
    parameters = [
        {"name": p.name, "type": p.type, "default": p.default, "search": list(p.search)} for p in entry.parameters
    ]
    return {
        "name": entry.name,
        "room": entry.room,
        "family": entry.family,
        "summary": entry.summary,
        "source": entry.source,
        "paper": entry.paper,
        "needs": list(entry.needs),
        "parameters": parameters,
    }


def _suite(suite: str, data_dir: Path | None, only: str | None, limit: list[str] | None) -> Suite:
    from allround.core.jobs import quiet_libraries
    from allround.tasks.suite import Suite

    quiet_libraries()
    return Suite.load(
        suite, data_dir=data_dir, only=_split(only, "--only") or None, limit=_pairs(limit, "--limit", int) or None
    )


def _settings(**given: Any) -> Settings:
    from allround.core.registry import spelled
    from allround.training.settings import Settings

    for family in ("sample", "balance"):
        if given.get(family) is not None:
            given[family], given[f"{family}_settings"] = spelled(family, given[family])
    return Settings().with_(**given)


def _encoder(max_length: int | None, pairs: str | None) -> dict[str, Any]:
    return {k: v for k, v in {"max_length": max_length, "pairs": pairs}.items() if v is not None}


def _methods(text: str | None) -> tuple[str, ...] | None:
    if text is None or text.strip() == "none":
        return None if text is None else ()
    return tuple(_split(text, "--methods"))


def _split(text: str | None, option: str) -> list[str]:
    """Names separated by commas; an option that is given must name something."""
    found = [part.strip() for part in (text or "").split(",") if part.strip()]
    if text is not None and not found:
        raise AllroundError(f"read {option} {text!r}", "it names nothing", f"give names, or leave {option} out")
    return found


def _pairs(given: Sequence[str] | None, option: str, type_: type) -> dict[str, Any]:
    """`NAME=VALUE` options as a dictionary.

    >>> _pairs(["train=100"], "--limit", int)
    {'train': 100}
    """
    found: dict[str, Any] = {}
    for text in given or ():
        name, equals, value = text.partition("=")
        try:
            if not equals:
                raise ValueError
            found[name.strip()] = type_(value.strip())
        except ValueError:
            words = {int: "a whole number", float: "a number"}.get(type_, "a value")
            raise AllroundError(
                f"read {option} {text!r}", "it is not of the form NAME=VALUE", f"give a name, '=' and {words}"
            ) from None
    return found
