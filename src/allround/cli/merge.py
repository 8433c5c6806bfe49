"""The command merge: its words into a recipe, what it says before, and the merge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from allround.cli.help import PLAIN
from allround.cli.options import DataOption, DeviceOption, ForceOption, OnlyOption, ThreadsOption
from allround.cli.words import extras, pairs_of
from allround.core.errors import AllroundError

if TYPE_CHECKING:
    from allround.merging.plan import Plan
    from allround.merging.recipe import Recipe
    from allround.merging.stage import Stage

app = typer.Typer(**PLAIN)


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
    extra_from: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Take the tensors that the base lacks, such as a classifier, from this model.",
        ),
    ] = None,
    scope: Annotated[
        str | None, typer.Option(help="What thresholds and norms are computed over: tensor or model.")
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
            help="For mergekit recipe files: mergekit (the default) rounds as mergekit does; none is more exact."
        ),
    ] = None,
    workers: ThreadsOption = None,
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
    as_lora: Annotated[
        int | None,
        typer.Option(
            metavar="RANK", help="Write one LoRA adapter of the base, of at most this rank, in place of a whole model."
        ),
    ] = None,
    start: Annotated[
        str | None, typer.Option(help="Where learning begins: a model folder, or a merge method with its defaults.")
    ] = None,
    force: ForceOption = False,
) -> object:
    """Merge tuned models into one, from their files. The method's own parameters are options: `--scale 0.5`.

    Models that allround saved keep their heads, each with its task. Other folders (of transformers or
    sentence-transformers, say) give a folder of the same sort, which loads there at once. Killed and run again, the
    merge goes on where it was.

    With --learn, coefficients or masks are learned on rows of the models' tasks instead; a preset's own parameters are
    options too: `--learn adamerging --level task --steps 100`.
    """
    words = [*inputs, *context.args]
    if learn is not None:
        from allround.cli.learn import learn_command

        fixed = {"--method": method, "--no-base": no_base, "--scope": scope, "--dtype": dtype, "--compat": compat,
                 "--statistics": statistics, "--on-mismatch": on_mismatch, "--extra-from": extra_from,
                 "--ray": ray, "--as-lora": as_lora}  # fmt: skip
        return learn_command(words, out, [option for option, value in fixed.items() if value], name=learn,
                      objective=objective, rows=rows, split=on, start=start, dry_run=dry_run,
                      device=device or "auto", suite=suite, data_dir=data_dir, only=only, force=force)  # fmt: skip
    learned = {"--objective": objective, "--rows": rows, "--on": on, "--start": start}
    for option, value in learned.items():
        if value is not None:
            raise AllroundError(f"merge with {option} {value}", "nothing is learned", "say what: --learn layer")
    from allround.core.jobs import Ray, available_cores, quiet_libraries
    from allround.core.outputs import check_out
    from allround.merging.call import check_workers, checked_device
    from allround.merging.preflight import check_space, compare_files, describe
    from allround.merging.save import check_heads, finished, merge_models, stage_folders

    quiet_libraries()
    files = pairs_of(statistics, "--statistics", str)
    if out is None and not dry_run:
        raise AllroundError("merge models", "no --out is given", "give a folder for the merged model: -o OUT")
    check_workers(workers)
    target = check_out(out, "merge", force=force) if out is not None else None
    if is_recipe(words):
        given = {"--method": method, "--no-base": no_base, "--scope": scope, "--dtype": dtype,
                 "--statistics": files, "--on-mismatch": on_mismatch, "--extra-from": extra_from}  # fmt: skip
        stages = _read(words, [option for option, value in given.items() if value], compat)
    elif compat is not None:
        raise AllroundError(
            f"merge as {compat} does", "the models are given one by one", "give a recipe file of mergekit's"
        )
    else:
        name = method or ("average" if no_base else "ties")
        stages = [_stage(_recipe(words, name, no_base, on_mismatch, extra_from, scope, dtype, files))]
    processor = checked_device(device or "cpu")
    threads = workers or min(available_cores(), 8)
    folders: dict[str, Path] = {}
    result: dict[str, object] = {}
    with stage_folders(target, [stage.name for stage in stages[:-1]] if not dry_run else []) as places:
        for number, stage in enumerate(stages, 1):
            head = f"stage {number} of {len(stages)}: {stage.name}"
            if dry_run and stage.earlier:
                typer.echo(f"\n{head}\n\n{later(stage)}")
                continue
            plan = stage.plan(folders)
            check_heads(plan.recipe)
            if dry_run:
                planned = describe(plan, out, threads)
                result[stage.name] = planned
                typer.echo("\n".join([*(["", head, ""] if len(stages) > 1 else []), *planned]))
                continue
            assert target is not None
            last = number == len(stages)
            place = target if last else places[stage.name]
            check_space(plan, place)
            for note in [*plan.notes, *compare_files(plan)]:
                typer.echo(f"note: {note}", err=True)
            folders[stage.name] = place
            if last and as_lora is not None:
                result = _adapter(plan, target, as_lora, processor, force)
                continue
            kept = not last and finished(plan, place)
            there = last and not force and finished(plan, place)
            if len(stages) > 1:
                typer.echo(f"{head}{' (done before)' if kept else ''}", err=True)
            if kept:
                continue
            written = Path(words[0]) if last and is_recipe(words) else None
            cluster = Ray(ray) if ray else None
            made = merge_models(plan, place, workers=workers, device=processor, runner=cluster, recipe_file=written,
                                force=force or not last)  # fmt: skip
            if last:
                result = {"model": out, **made}
                listed = ", ".join(f"{key}={value}" for key, value in made["parameters"].items())
                listed += "; others for some tensors, see merge.json" if "tensors" in made else ""
                count = len(plan.recipe.models)
                typer.echo(
                    f"merged {count} model{'s' * (count != 1)} by {plan.recipe.method}"
                    f"{f' ({listed})' if listed else ''} into {out}{' (was there already)' if there else ''}"
                )
                for note in made.get("notes", [])[len(plan.notes) :]:
                    typer.echo(f"note: {note}", err=True)
    return result


def _adapter(plan: Plan, out: Path, rank: int, device: str, force: bool) -> dict[str, object]:
    """Write a merge as one adapter, and say what it holds."""
    from allround.cli.extract_lora import tell
    from allround.merging.as_lora import merge_as_lora
    from allround.merging.save import check_heads

    made = merge_as_lora(plan, out, rank, device=device, force=force)
    tell(made)
    if check_heads(plan.recipe):
        typer.echo("note: an adapter holds no heads; those of the models are not in it", err=True)
    typer.echo(f"\nmerged {len(plan.recipe.models)} models by {plan.recipe.method} into the adapter {out}")
    return {"adapter": out, "share": made.share, "ranks": made.ranks, "kept": made.kept, "left_out": made.left_out}


def later(stage: Stage) -> str:
    """What can be said of a stage before the stages that it takes models from were run."""
    recipe = stage.recipe
    lines = [f"method    {recipe.method}", f"base      {recipe.base or 'none'}"]
    lines += [f"model     {model}" for model in recipe.models]
    return "\n".join([*lines, "(the rest is known when the stages before it are done)"])


def is_recipe(words: Sequence[str]) -> bool:
    """Whether the first word is a recipe file."""
    path = Path(words[0]) if words else Path()
    kind = path.suffix.lower() in (".yml", ".yaml", ".json") and not path.name.endswith(".index.json")
    return kind and not path.is_dir()


def _read(words: Sequence[str], given: Sequence[str], compat: str | None) -> list[Stage]:
    from allround.merging.recipe_file import read_recipe

    asked = f"merge by the recipe '{words[0]}'"
    if len(words) > 1:
        raise AllroundError(asked, f"'{words[1]}' is given too", "write everything into the recipe file")
    if given:
        raise AllroundError(asked, f"{given[0]} is given too", "write it into the recipe file")
    return read_recipe(words[0], compat)


def _stage(recipe: Recipe) -> Stage:
    from allround.merging.stage import Stage

    return Stage("merged", recipe)


def _recipe(
    words: Sequence[str],
    method: str,
    no_base: bool,
    on_mismatch: str | None,
    extra_from: str | None,
    scope: str | None,
    dtype: str | None,
    statistics: Mapping[str, str],
) -> Recipe:
    from allround.checkpoints.header import asked_dtype
    from allround.merging.named_base import base_hint
    from allround.merging.recipe import Model, Recipe
    from allround.merging.save import check_base

    paths, values = extras(words, method)
    if len(paths) < (1 if no_base else 2):
        raise AllroundError(
            "merge models",
            f"{len(paths)} given{base_hint(paths)}",
            "give the base and at least one model: allround merge BASE MODEL...",
        )
    base = None if no_base else paths[0]
    check_base(base)
    return Recipe(
        method,
        tuple(Model(path) for path in (paths if no_base else paths[1:])),
        Model(base) if base else None,
        values,
        scope=scope,
        dtype=asked_dtype(dtype) if dtype else None,
        on_mismatch=on_mismatch or "error",
        extra_from=extra_from,
        statistics={kind: tuple(files.split(",")) for kind, files in statistics.items()},
    )
