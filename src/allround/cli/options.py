"""Arguments and options that several commands take, each typed once, and how a suite is loaded by them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from allround.cli.words import pairs_of, split

if TYPE_CHECKING:
    from allround.core.problems import Problems
    from allround.tasks.suite import Suite

SuiteArgument = Annotated[
    str,
    typer.Argument(metavar="SUITE", help="A suite file (YAML), or a built-in suite: digits, text8, text11, lm4, lm10."),
]
SavedArgument = Annotated[Path, typer.Argument(help="A folder that allround saved.")]
TaskArgument = Annotated[str, typer.Argument(help="The task.")]
OutOption = Annotated[Path, typer.Option("--out", "-o", help="Where the results go.")]
ForceOption = Annotated[
    bool,
    typer.Option(
        "--force",
        help="Replace what is there. A folder that allround did not write, or not as it is now, is moved to NAME.1.",
    ),
]
BaseOption = Annotated[
    str | None,
    typer.Option(
        help="A model folder, a Hub id, all-MiniLM-L6-v2, small_image, small_table or multitab. "
        "Default: what the suite names."
    ),
]
DataOption = Annotated[
    Path | None, typer.Option(help="A folder with local copies of the suite's data, one folder a task.")
]
OnlyOption = Annotated[str | None, typer.Option(help="Only these tasks, separated by commas.")]
LimitOption = Annotated[
    list[str] | None, typer.Option(help="Most rows of a split, such as train=1000; may be repeated.")
]
SplitOption = Annotated[str, typer.Option(help="train, validation or test.")]
MeasureOption = Annotated[
    list[str] | None,
    typer.Option(
        help="Also take a measure of the answers: NAME, or NAME:key=value;key=value, such as "
        "cross_task:tasks=digit+parity (`allround methods list --family measure`); may be repeated."
    ),
]
MitigateOption = Annotated[
    str | None,
    typer.Option(
        help="The folder of an old version that is to be replaced: rows that the model answers wrongly follow it "
        "(MUSCLE), so that fewer may turn from right to wrong; the same as --term muscle:old=FOLDER."
    ),
]
TeacherOption = Annotated[
    str | None,
    typer.Option(
        help="The folder of a model whose answers are learned in place of the labels, such as a cross-encoder of the "
        "same task; the same as --term distillation:teacher=FOLDER, which has further settings."
    ),
]
MineOption = Annotated[
    int | None,
    typer.Option(
        help="With --teacher: for each text of a task of pairs, so many of the most similar texts (and half as many at "
        "random) make further training rows, which the teacher answers."
    ),
]
WidthOption = Annotated[
    str | None,
    typer.Option(
        help="Use so much of the width of a model that was trained with --term slimmable, such as 50%: that share of "
        "the units of each layer."
    ),
]
SeedOption = Annotated[int, typer.Option(help="Seed of everything.")]
DeviceOption = Annotated[str | None, typer.Option(help="auto, cpu or cuda.")]
WorkersOption = Annotated[int | None, typer.Option(help="Processes. Default: one a core.")]
RayOption = Annotated[
    str | None,
    typer.Option(help="Work on a Ray cluster whose machines share the run folder: its address, HOST:PORT or auto."),
]
ThreadsOption = Annotated[int | None, typer.Option("--workers", help="Threads. Default: one a core, at most eight.")]
TrackOption = Annotated[
    str | None,
    typer.Option(help="Write losses and scores to these, with commas between: tensorboard, mlflow, wandb."),
]
ShareOption = Annotated[
    str | None,
    typer.Option(
        help="Further joint models by these ways to share, with commas between, such as mmoe,ple:experts=4 "
        "(`allround methods list --family share`)."
    ),
]
RowsOption = Annotated[int, typer.Option(help="Most training rows of each task.")]
LeaveOption = Annotated[
    list[str] | None, typer.Option(help="Weights whose features stay in place: a pattern; may be repeated.")
]


ClassWeightsOption = Annotated[
    str | None, typer.Option(help="Weigh the labels of all tasks in training: balanced gives rare ones their share.")
]
FocalOption = Annotated[
    float | None,
    typer.Option(help="Train tasks with labels by a focal loss with this exponent, such as 2."),
]
AgreeOption = Annotated[
    str | None,
    typer.Option(
        help="Train tasks of the kind similarity by this loss, such as cosent (`allround methods list --family agree`)."
    ),
]
DemonstrationsOption = Annotated[
    str | None,
    typer.Option(
        help="Let a language model learn behind training rows that are chosen for each row, and save it with them: "
        "NAME, or NAME:key=value;key=value, such as similarity:count=2 "
        "(`allround methods list --family demonstrations`)."
    ),
]

MaxFlipsOption = Annotated[
    str | None, typer.Option(help="The share of a task's rows that may turn from right to wrong, such as 2%.")
]
MaxDropOption = Annotated[
    float | None, typer.Option(help="How far the score of a task may fall, in its own units: 0.01 is one point.")
]
NoWorseOption = Annotated[
    bool, typer.Option("--no-worse-task", help="No task may be worse, at 5% over all tasks together.")
]
CalibrateOption = Annotated[
    str,
    typer.Option(
        help="How scores are corrected on validation: temperature, vector, noise, isotonic, auto (what fits held-out "
        "validation rows best) or none."
    ),
]


def load_suite(
    suite: str,
    data_dir: Path | None,
    only: str | None = None,
    limit: list[str] | None = None,
    problems: Problems | None = None,
) -> Suite:
    """The suite by what SUITE, --data-dir, --only and --limit say. problems: as for `Suite.load`."""
    from allround.core.jobs import quiet_libraries
    from allround.tasks.suite import Suite

    quiet_libraries()
    tasks, rows = split(only, "--only") or None, pairs_of(limit, "--limit", int) or None
    return Suite.load(suite, data_dir=data_dir, only=tasks, limit=rows, problems=problems)
