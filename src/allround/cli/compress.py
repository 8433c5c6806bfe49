"""The command compress: specialists into a store of residuals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from allround.cli.help import PLAIN
from allround.cli.options import DataOption, DeviceOption, ForceOption, OutOption, load_suite
from allround.cli.words import Value, extras, read_options
from allround.core import registry
from allround.core.errors import AllroundError

if TYPE_CHECKING:
    from allround.composition.residuals.store import Store


app = typer.Typer(**PLAIN)

#: What is stored once where --method does not say: for a codec with a multi-task vector, and for others.
_SUM, _MEAN = ("task_arithmetic", {"scale": 1.0}), ("average", dict[str, Value]())
_PREFIX = "--merge-"


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
) -> object:
    """Store many specialists as one model and a small residual of each.

    The codec's own parameters are options: `--rank 16`. `allround predict` and `allround evaluate` take the store as
    they take a model: each task is answered with its own weights.
    """
    from allround.building.single import judge_of
    from allround.checkpoints.header import asked_dtype
    from allround.composition.residuals.write import open_specialist, write_store
    from allround.core.jobs import quiet_libraries
    from allround.core.outputs import check_out, scratch_folder
    from allround.merging.call import checked_device
    from allround.merging.recipe import Model
    from allround.merging.save import check_base
    from allround.merging.sources import open_model
    from allround.models.base import find_folder

    quiet_libraries()
    entry = registry.find("codec", codec)
    own, others = split_options([*inputs, *context.args])
    paths, values = read_options(own, {p.name: p.type for p in entry.parameters}, f"codec '{codec}'")
    if len(paths) < 2:
        raise AllroundError(
            "compress specialists",
            f"{len(paths)} given",
            "give the base and the models: allround compress BASE MODEL...",
        )
    stored_as = None if dtype is None else asked_dtype(dtype, "store weights")
    base, *models = paths
    check_base(base)
    target = check_out(out, "compress", force=force, inputs=[*paths, shared])
    processor = checked_device(device or "cpu")
    judge = judge_of(load_suite(suite, data_dir)) if suite is not None else None
    folder = find_folder(base)
    start = open_model(Model(base), None)
    specialists = [open_specialist(path, open_model(Model(path), start)) for path in models]
    with_vector = entry.facts["vector"]
    default, preset = _SUM if with_vector else _MEAN
    name = method or default
    if (shared is not None and (method or others)) or (name == "none" and others):
        raise AllroundError(
            f"compress against {shared or 'the base'}",
            f"{'a merge method' if method and shared else 'what a merge method takes'} is given too",
            "leave --shared out, or --method and its parameters",
        )
    if name == "none" and with_vector:
        raise AllroundError(
            f"compress by '{codec}' without a merged model", "the codec masks one", "leave --method none out"
        )
    with scratch_folder(target) as place:
        if shared is not None:
            stored, what = find_folder(shared, "model"), shared
        elif name == "none":
            stored, what = folder, "the base"
        else:
            parameters = {**(preset if method is None else {}), **extras(others, name)[1]}
            stored, what = place, _merge(base, models, name, parameters, place, processor)
        store = write_store(
            target,
            folder if with_vector else stored,
            specialists,
            codec=codec,
            values=values,
            merged=open_model(Model(str(stored)), None) if with_vector else None,
            dtype=stored_as,
            device=processor,
            judge=judge,
            facts={"made_by": {"base": base, "models": models, "merged": what}},
            force=force,
        )
    print_sizes(store, what)
    typer.echo(f"\nstore     {out}")
    return {"store": out, "sizes": store.sizes, "made": store.made}


def split_options(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words without options of the merge method (`--merge-scale 0.3`), and those options as its own.

    >>> split_options(["base", "--merge-scale", "0.3", "trec", "--rank=8"])
    (['base', 'trec', '--rank=8'], ['--scale', '0.3'])
    """
    own: list[str] = []
    others: list[str] = []
    rest = iter(words)
    for word in rest:
        if not word.startswith(_PREFIX):
            own.append(word)
            continue
        others.append("--" + word.removeprefix(_PREFIX))
        if "=" not in word:
            others += [value for value in [next(rest, None)] if value is not None]
    return own, others


def _merge(
    base: str, models: Sequence[str], method: str, values: Mapping[str, Value], folder: Path, device: str
) -> str:
    """Merge into a folder that is there; what was done, in words."""
    from allround.merging.layout import make_plan
    from allround.merging.recipe import Model, Recipe
    from allround.merging.run import run_plan

    recipe = Recipe(method, tuple(Model(path) for path in models), Model(base), values)
    made = run_plan(make_plan(recipe), folder, device=device)
    listed = ", ".join(f"{key}={value}" for key, value in made["parameters"].items())
    return f"{method} ({listed})" if listed else method


def print_sizes(store: Store, what: str) -> None:
    """The bytes of every part, and their share of the bytes of all specialists."""
    sizes = store.sizes
    values = ", ".join(f"{k}={v}" for k, v in store.made["parameters"].items())
    rows = [("base" if sizes.vector else "stored once", sizes.model)]
    rows += [("multi-task vector", sizes.vector)] if sizes.vector else []
    for name, size in sizes.residuals.items():
        chosen = store.made["chosen"].get(name, {})
        rows.append((" ".join([f"residual {name}", *(f"{k}={v}" for k, v in chosen.items())]), size))
    rows += [("heads", sizes.heads)] if sizes.heads else []
    width = max(len(label) for label, _ in rows) + 2
    typer.echo(f"{store.made['codec']} ({values}), against {what}\n")
    for label, size in [*rows, ("the store", sizes.total), ("all specialists", sizes.specialists)]:
        typer.echo(f"{label:<{width}}{size:>15,} bytes {100 * size / sizes.specialists:>6.1f}%")
