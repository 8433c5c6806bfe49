"""The merge command: its words into a recipe, what it says before, and the merge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from allround.core import registry
from allround.core.errors import AllroundError, suggestion

if TYPE_CHECKING:
    from allround.merge.recipe import Recipe

#: How an output's dtype may be written, and what a file calls it.
DTYPES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16", "float64": "F64"}


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
) -> None:
    """Merge as the command line says."""
    from allround.core.files import check_out
    from allround.core.jobs import available_cores, quiet_libraries
    from allround.merge.plan import make_plan
    from allround.merge.preflight import check_space, compare_files, describe
    from allround.merge.save import merge_models

    quiet_libraries()
    if out is None and not dry_run:
        raise AllroundError("merge models", "no --out is given", "give a folder for the merged model: -o OUT")
    if workers is not None and workers < 1:
        raise AllroundError(f"merge with {workers} workers", "that is nobody", "give at least 1")
    recipe = _recipe(words, method or "ties", no_base, on_mismatch, scope, dtype, statistics)
    plan = make_plan(recipe)
    threads = workers or min(available_cores(), 8)
    if dry_run:
        for line in describe(plan, out, threads):
            typer.echo(line)
        return
    assert out is not None
    target = check_out(out)
    check_space(plan, target)
    for note in [*plan.notes, *compare_files(plan)]:
        typer.echo(f"note: {note}", err=True)
    made = merge_models(plan, target, workers=workers, device=device)
    listed = ", ".join(f"{key}={value}" for key, value in made["parameters"].items())
    typer.echo(f"merged {len(recipe.models)} models by {recipe.method}{f' ({listed})' if listed else ''} into {out}")


def _recipe(
    words: Sequence[str],
    method: str,
    no_base: bool,
    on_mismatch: str | None,
    scope: str | None,
    dtype: str | None,
    statistics: Mapping[str, str],
) -> Recipe:
    from allround.merge.recipe import Model, Recipe
    from allround.merge.save import check_base

    paths, values = extras(words, method)
    if len(paths) < (1 if no_base else 2):
        raise AllroundError(
            "merge models", f"{len(paths)} given", "give the base and at least one model: allround merge BASE MODEL..."
        )
    if dtype is not None and dtype not in DTYPES:
        raise AllroundError(f"write weights as '{dtype}'", "there is no such dtype", suggestion(dtype, DTYPES))
    base = None if no_base else paths[0]
    check_base(base)
    return Recipe(
        method,
        tuple(Model(path) for path in (paths if no_base else paths[1:])),
        Model(base) if base else None,
        values,
        scope=scope,
        dtype=DTYPES[dtype] if dtype else None,
        on_mismatch=on_mismatch or "error",
        statistics={kind: tuple(files.split(",")) for kind, files in statistics.items()},
    )


def extras(words: Sequence[str], method: str) -> tuple[list[str], dict[str, Any]]:
    """Split words into paths and the method's own options (`--keep 0.2`, `--keep=0.2`, `--weights 0.3,0.7`)."""
    entry = registry.find("merge", method)
    types = {p.name: p.type for p in entry.parameters}
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
            entry.resolve({name: None})
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
        wanted = "float, or one for each model with commas between" if type_ == "Each" else type_
        raise AllroundError(f"read --{option} {text}", f"it is not a {wanted}", f"give a {wanted}") from None
