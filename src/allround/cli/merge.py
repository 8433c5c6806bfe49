"""The merge command: its words into a recipe, what it says before, and the merge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from allround.core import registry
from allround.core.errors import AllroundError, suggestion

if TYPE_CHECKING:
    from allround.merging.recipe import Recipe
    from allround.merging.stage import Stage


def merge_command(
    words: Sequence[str],
    out: Path | None,
    *,
    method: str | None,
    no_base: bool,
    dry_run: bool,
    on_mismatch: str | None,
    scope: str | None,
    dtype: str | None,
    statistics: Mapping[str, str],
    compat: str | None,
    workers: int | None,
    device: str,
    ray: str | None,
    force: bool,
) -> None:
    """Merge as the command line says."""
    from allround.core.jobs import Ray, available_cores, quiet_libraries
    from allround.core.outputs import check_out
    from allround.merging.call import check_workers, checked_device
    from allround.merging.preflight import check_space, compare_files, describe
    from allround.merging.save import check_heads, finished, merge_models, stage_folders

    quiet_libraries()
    if out is None and not dry_run:
        raise AllroundError("merge models", "no --out is given", "give a folder for the merged model: -o OUT")
    check_workers(workers)
    target = check_out(out, "merge", force=force) if out is not None else None
    if is_recipe(words):
        given = {"--method": method, "--no-base": no_base, "--scope": scope, "--dtype": dtype,
                 "--statistics": statistics, "--on-mismatch": on_mismatch}  # fmt: skip
        stages = _read(words, {option: value for option, value in given.items() if value}, compat)
    else:
        if compat is not None:
            raise AllroundError(
                f"merge as {compat} does", "the models are given one by one", "give a recipe file of mergekit's"
            )
        stages = [
            _stage(
                _recipe(
                    words, method or ("average" if no_base else "ties"), no_base, on_mismatch, scope, dtype, statistics
                )
            )
        ]
    device = checked_device(device)
    threads = workers or min(available_cores(), 8)
    folders: dict[str, Path] = {}
    with stage_folders(target, [stage.name for stage in stages[:-1]] if not dry_run else []) as places:
        for number, stage in enumerate(stages, 1):
            head = f"stage {number} of {len(stages)}: {stage.name}"
            if dry_run and stage.earlier:
                typer.echo(f"\n{head}\n\n{later(stage)}")
                continue
            plan = stage.plan(folders)
            check_heads(plan.recipe)
            if dry_run:
                typer.echo("\n".join([*(["", head, ""] if len(stages) > 1 else []), *describe(plan, out, threads)]))
                continue
            assert target is not None
            last = number == len(stages)
            place = target if last else places[stage.name]
            check_space(plan, place)
            for note in [*plan.notes, *compare_files(plan)]:
                typer.echo(f"note: {note}", err=True)
            folders[stage.name] = place
            kept = not last and finished(plan, place)
            if len(stages) > 1:
                typer.echo(f"{head}{' (done before)' if kept else ''}", err=True)
            if kept:
                continue
            written = Path(words[0]) if last and is_recipe(words) else None
            cluster = Ray(ray) if ray else None
            made = merge_models(plan, place, workers=workers, device=device, runner=cluster, recipe_file=written,
                                force=force)  # fmt: skip
            if last:
                listed = ", ".join(f"{key}={value}" for key, value in made["parameters"].items())
                listed += "; others for some tensors, see merge.json" if "tensors" in made else ""
                count = len(plan.recipe.models)
                typer.echo(f"merged {count} model{'s' * (count != 1)} by {plan.recipe.method}"
                           f"{f' ({listed})' if listed else ''} into {out}")  # fmt: skip
                for note in made.get("notes", [])[len(plan.notes) :]:
                    typer.echo(f"note: {note}", err=True)


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


def _read(words: Sequence[str], given: Mapping[str, Any], compat: str | None) -> list[Stage]:
    from allround.merging.recipe_file import read_recipe

    asked = f"merge by the recipe '{words[0]}'"
    if len(words) > 1:
        raise AllroundError(asked, f"'{words[1]}' is given too", "write everything into the recipe file")
    if given:
        raise AllroundError(asked, f"{next(iter(given))} is given too", "write it into the recipe file")
    return read_recipe(words[0], compat)


def _stage(recipe: Recipe) -> Stage:
    from allround.merging.stage import Stage

    return Stage("merged", recipe)


def _recipe(
    words: Sequence[str],
    method: str,
    no_base: bool,
    on_mismatch: str | None,
    scope: str | None,
    dtype: str | None,
    statistics: Mapping[str, str],
) -> Recipe:
    from allround.checkpoints.header import asked_dtype
    from allround.merging.recipe import Model, Recipe
    from allround.merging.save import check_base

    paths, values = extras(words, method)
    if len(paths) < (1 if no_base else 2):
        raise AllroundError(
            "merge models", f"{len(paths)} given", "give the base and at least one model: allround merge BASE MODEL..."
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
        statistics={kind: tuple(files.split(",")) for kind, files in statistics.items()},
    )


def extras(words: Sequence[str], method: str) -> tuple[list[str], dict[str, Any]]:
    """Split words into paths and the merge method's own options."""
    types = {p.name: p.type for p in registry.find("merge", method).parameters}
    return read_options(words, types, f"merge method '{method}'")


def read_options(words: Sequence[str], types: Mapping[str, str], owner: str) -> tuple[list[str], dict[str, Any]]:
    """Split words into paths and options by their types (`--keep 0.2`, `--keep=0.2`, `--weights 0.3,0.7`).

    owner: whose options they are, in messages.
    """
    paths: list[str] = []
    values: dict[str, Any] = {}
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            paths.append(word)
            continue
        option, equals, text = word.removeprefix("--").partition("=")
        name = option.replace("-", "_")
        if name not in types:
            raise AllroundError(
                f"set '{name}' of {owner}",
                f"it has no parameter '{name}'",
                suggestion(name, types) if types else "leave it out: there are none",
            )
        if not equals:
            if not rest:
                raise AllroundError(f"read the option --{option}", "no value follows it", f"give --{option} VALUE")
            text = rest.pop(0)
        values[name] = _value(text, types[name], option)
    return paths, values


def _value(text: str, type_: str, option: str) -> Any:
    try:
        if type_ == "bool":
            return {"true": True, "false": False}[text.lower()]
        if type_ == "Each":
            numbers = [float(part) for part in text.split(",")]
            return numbers if len(numbers) > 1 else numbers[0]
        return {"float": float, "int": int}.get(type_, str)(text)
    except (ValueError, KeyError):
        words = {"Each": "a float, or one for each model with commas between", "int": "a whole number",
                 "bool": "true or false"}.get(type_, f"a {type_}")  # fmt: skip
        one = " (it is the same for all models)" if "," in text and type_ != "Each" else ""
        raise AllroundError(f"read --{option} {text}", f"it is not {words}{one}", f"give {words}") from None


def diff_command(
    base: str,
    models: Sequence[str],
    out: Path | None,
    *,
    spectrum: bool,
    as_json: bool,
    workers: int | None,
    force: bool,
) -> None:
    """Print how models differ, and write the page."""
    import json

    from allround.core.jobs import quiet_libraries
    from allround.core.outputs import check_texts, write_texts
    from allround.merging.diff import FILES, diff

    quiet_libraries()
    if out is not None:
        check_texts(out, FILES, "diff", force=force)
    found = diff(base, models, workers=workers, spectrum=spectrum)
    if as_json:
        typer.echo(json.dumps(found.to_json(), indent=2))
    else:
        found.print()
    if out is not None:
        write_texts(out, found.files(), "diff", force=force)
        typer.echo(f"\npage      {out / 'diff.html'}\npicture   {out / 'diff.svg'}", err=as_json)


def extract_command(
    tuned: str, base: str, out: Path, *, rank: int, energy: float | None, embeddings: bool, device: str, force: bool
) -> None:
    """Write the adapter and say what it holds."""
    from allround.core.jobs import quiet_libraries
    from allround.merging.extract import extract_lora

    quiet_libraries()
    made = extract_lora(tuned, base, out, rank, energy=energy, embeddings=embeddings, device=device, force=force)
    ranks = sorted(made.ranks.values())
    span = f"rank {ranks[0]}" if ranks[0] == ranks[-1] else f"ranks {ranks[0]} to {ranks[-1]}"
    typer.echo(f"adapter of {len(ranks)} weights, {span}: it holds {100 * made.share:.1f}% of the squared change")
    worst = sorted(made.kept.items(), key=lambda pair: pair[1])[:3]
    typer.echo("least of   " + ", ".join(f"{name} ({100 * kept:.1f}%)" for name, kept in worst))
    if made.whole:
        typer.echo(f"whole      {len(made.whole)} weights that LoRA cannot hold are stored as they are")
    if made.left_out:
        listed = ", ".join(f"{name} ({100 * share:.1f}%)" for name, share in list(made.left_out.items())[:3])
        typer.echo(f"left out   {len(made.left_out)} weights, with their share of the squared change: {listed}")
    typer.echo(f"\nadapter    {out}")
