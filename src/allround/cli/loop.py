"""The command loop: its words into a loop, the rounds as a table, and the scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from allround.cli.help import PLAIN
from allround.cli.options import (
    BaseOption,
    DataOption,
    ForceOption,
    LimitOption,
    OnlyOption,
    OutOption,
    SeedOption,
    SuiteArgument,
    WorkersOption,
    load_suite,
)
from allround.cli.training_options import EncoderSettings, training_options
from allround.cli.words import Value, read_options
from allround.core import registry
from allround.core.errors import AllroundError
from allround.training.settings import Settings

if TYPE_CHECKING:
    from rich.table import Table

    from allround.building.loops import Looped
    from allround.tasks.suite import Suite


app = typer.Typer(**PLAIN)


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    epilog="Example: `allround loop atm text8 --data-dir data --rounds 3 --epochs 3 -o models/atm`",
)
@training_options("epochs", "batch_size", "learning_rate", "precision", "tune", "lora_rank", "heads", "device")
def loop(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="LOOP", help="atm, cold_fusion or fork_merge.")],
    suite: SuiteArgument,
    out: OutOption,
    *,
    method: Annotated[
        str | None, typer.Option("--method", "-m", help="How a round's copies are merged; its parameters are options.")
    ] = None,
    base: BaseOption = None,
    data_dir: DataOption = None,
    only: OnlyOption = None,
    limit: LimitOption = None,
    seed: SeedOption = 0,
    workers: WorkersOption = None,
    settings: Settings,
    encoder: EncoderSettings,
    force: ForceOption = False,
) -> object:
    """Tune and merge in turns: copies of the base are tuned for a while, merged, and tuned again from there.

    The epochs are shared among the rounds. A loop's own parameters are options too: `--rounds 5`, `--target trec`,
    `--unseen sst2,subj`; see `allround methods show atm`. The round that is best on validation is kept, and scored on
    test. Killed and run again, it goes on from what is finished.
    """
    from allround.building.loops import plan_loop, run_loop
    from allround.core.progress import make_console

    parameters, values = options_of(name, context.args, method)
    loaded = load_suite(suite, data_dir, only, limit).to_train
    planned = plan_loop(name, loaded, parameters, values)
    told = {"loop": name, "parameters": registry.find("loop", name).resolve(parameters)}
    made = run_loop(planned, loaded, out=out, base=base, settings=settings, seed=seed, workers=workers,
                    encoder=encoder, facts=told, force=force)  # fmt: skip
    make_console().print(rounds_table(made, loaded))
    typer.echo(f"\nround {made.kept} was kept, the best on validation; its scores on test:\n")
    made.scoreboard.print()
    typer.echo(f"\nmodel   {made.folder}")
    return {"model": made.folder, "kept": made.kept, "rounds": made.rounds, "scoreboard": made.scoreboard.to_json()}


def options_of(name: str, words: Sequence[str], method: str | None) -> tuple[dict[str, Value], dict[str, Value]]:
    """The parameters of a loop, and those of its merge method.

    >>> options_of("atm", ["--rounds", "2", "--scale", "0.5"], "task_arithmetic")
    ({'rounds': 2, 'method': 'task_arithmetic'}, {'scale': 0.5})
    """
    entry = registry.find("loop", name)
    own = {p.name: p.type for p in entry.parameters if p.name != "method"}
    merge = method or str(entry.defaults.get("method", "average"))
    others = {p.name: p.type for p in registry.find("merge", merge).parameters}
    paths, found = read_options(words, {**others, **own}, f"loop '{name}' and merge method '{merge}'")
    if paths:
        raise AllroundError(f"run the loop '{name}'", f"'{paths[0]}' is given beside the suite", "leave it out")
    parameters = {key: value for key, value in found.items() if key in own}
    values = {key: value for key, value in found.items() if key not in own}
    return {**parameters, **({"method": method} if method else {})}, values


def rounds_table(made: Looped, suite: Suite) -> Table:
    """The rounds: validation scores, the mean cosine of the branches' changes, and how they were merged."""
    from rich.table import Table

    from allround.core.words import shown
    from allround.tasks.metric import better

    table = Table(box=None, pad_edge=False, header_style="bold", title="on validation", title_justify="left")
    table.add_column("round")
    for name in suite.tasks:
        table.add_column(name, justify="right")
    table.add_column("examples", justify="right")
    table.add_column("cosine", justify="right")
    table.add_column("merged by")
    for entry in made.rounds:
        scores = [shown(entry["validation"][n], better(task.definition.metric)) for n, task in suite.tasks.items()]
        examples = sum(sum(branch["examples"].values()) for branch in entry["branches"].values())
        cosine = mean_cosine(entry["cosines"])
        kept = " *" if entry["round"] == made.kept else ""
        table.add_row(f"{entry['round']}{kept}", *scores, str(examples), f"{cosine:.3f}" if cosine is not None else "",
                      _merge_words(entry))  # fmt: skip
    return table


def mean_cosine(cosines: Sequence[Sequence[float | None]]) -> float | None:
    """The mean over pairs of branches.

    >>> mean_cosine([[1.0, 0.5], [0.5, 1.0]])
    0.5
    """
    pairs = [c for i, row in enumerate(cosines) for c in row[i + 1 :] if c is not None]
    return sum(pairs) / len(pairs) if pairs else None


def _merge_words(entry: Mapping[str, Any]) -> str:
    if not entry["branches"]:
        return "the base"
    values = dict(entry["values"])
    weights = values.get("weights")
    if isinstance(weights, (list, tuple)):
        values["weights"] = ", ".join(f"{n} {w:.2f}" for n, w in zip(entry["branches"], weights, strict=True))
    return " ".join([entry["method"], *(f"{key}: {value}" for key, value in values.items())])
