"""Merged models as folders that load at once: weights, the base's files, heads of allround's own, a model card."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from allround.checkpoints.header import torch_dtype
from allround.checkpoints.source import Source
from allround.core import registry
from allround.core.errors import AllroundError
from allround.core.files import hash_json, read_settings, write_json
from allround.core.growing import remove_work
from allround.core.jobs import Runner
from allround.core.outputs import check_out, output_folder, remove_output, work_folder
from allround.core.plugins import contents
from allround.core.version import __version__
from allround.merging.plan import Plan
from allround.merging.recipe import Model, Recipe
from allround.merging.run import run_plan

if TYPE_CHECKING:
    from torch import Tensor

    from allround.tasks.definition import Definition


def merge_models(
    plan: Plan,
    out: Path,
    *,
    workers: int | None = None,
    device: str = "cpu",
    runner: Runner | None = None,
    recipe_file: Path | None = None,
    force: bool = False,
) -> dict[str, Any]:
    """Carry out a plan into the folder `out`, which appears when it is whole, and return what was done.

    Models that allround saved keep their heads, each with its task. Killed and run again, the merge goes on after the
    last finished file of weights. recipe_file: what the plan was read from; it is kept beside the model.
    Where the outcome of just this plan is there already, nothing is done. Another finished merge is replaced only
    with `force`.
    """
    from allround.models.card import write_card
    from allround.models.head_files import write_heads
    from allround.models.manifest import write_manifest

    read = [path for source in _sources(plan) for path in (source.path, *source.files)]
    check_out(out, "merge", force=force, inputs=read)
    made_from = _made_from(plan)
    definitions, heads = _heads(plan.recipe)
    if not force and finished(plan, out):
        done: dict[str, Any] = read_settings(merge_file(out))
        return done
    check_not_finished(out, force=force)
    with output_folder(out, "merge", force=force, inputs=read, made_from=made_from) as folder:
        target = folder / "encoder" if definitions else folder
        target.mkdir(exist_ok=True)
        made = run_plan(plan, target, workers=workers, device=device, runner=runner)
        made["run"] = hash_json(made_from)
        write_json(target / "merge.json", made)
        if definitions:
            write_heads(folder / "heads.safetensors", heads)
            write_manifest(folder, definitions, {"made_by": made})
        made_of = [str(model) for model in (plan.recipe.base, *plan.recipe.models) if model is not None]
        write_card(folder, out.name, _card_lines(plan), tags=["merge"], made_from=made_of)
        if recipe_file is not None:
            shutil.copyfile(recipe_file, folder / "recipe.yml")
    return made


def check_not_finished(out: Path, *, force: bool) -> None:
    """An error where a folder holds a finished merge, which only `force` replaces."""
    if not force and (merge_file(out).is_file() or (out / "learned.json").is_file()):
        raise AllroundError(
            f"write {out}",
            "another finished merge is there",
            "choose another --out, or replace it: --force (force=True in Python)",
        )


def merge_file(out: Path) -> Path:
    """The file that says how a merge was made: beside the weights, which models with heads have in a folder."""
    inner = out / "encoder" / "merge.json"
    return inner if inner.is_file() else out / "merge.json"


def _sources(plan: Plan) -> list[Source]:
    """All that a merge reads."""
    sources = [plan.source(n) for n in range(-1 if plan.base else 0, len(plan.models))]
    return sources + [source for listed in plan.statistics.values() for source in listed]


def finished(plan: Plan, out: Path) -> bool:
    """Whether a folder holds the whole outcome of just this plan."""
    path = merge_file(out)
    made = read_settings(path) if path.is_file() else None
    return isinstance(made, dict) and made.get("run") == hash_json(_made_from(plan))


@contextmanager
def stage_folders(out: Path | None, names: Sequence[str]) -> Iterator[dict[str, Path]]:
    """Folders for the outputs of earlier stages, beside the final one; finished ones are kept until that is done."""
    if out is None or not names:
        yield {}
        return
    with work_folder(out.parent / f".{out.name}.stages", "merge") as parent:
        folders = {name: parent / name for name in names}
        yield folders
        for folder in folders.values():
            remove_output(folder)
        remove_work(parent)


def _made_from(plan: Plan) -> dict[str, object]:
    """What the output follows from: weights, and all that lies beside them (tokenizers, configurations, heads); files
    by size and times, since reading them all first would double the work."""
    sources = _sources(plan)
    files = {file for source in sources for file in source.files}
    files |= {file for source in sources if source.path.is_dir() for file in source.path.rglob("*") if file.is_file()}
    named = [*([plan.recipe.base] if plan.recipe.base else []), *plan.recipe.models]
    folders = [Path(path) for model in named for path in (model.path, *model.adapters)]
    files |= {file for folder in folders if folder.is_dir() for file in folder.iterdir() if file.is_file()}
    known = [(str(file), file.stat()) for file in sorted(files)]
    times = [[name, about.st_size, about.st_mtime_ns, about.st_ctime_ns] for name, about in known]
    recipe = repr(plan.recipe)
    used = contents(recipe)
    return {"recipe": recipe, "files": times, "allround": __version__, **({"plugins": used} if used else {})}


def _heads(recipe: Recipe) -> tuple[dict[str, Definition], dict[str, dict[str, Tensor]]]:
    """The tasks and heads of models that allround saved; none where the models are others."""
    from allround.models.head_files import read_heads

    definitions = check_heads(recipe)
    heads: dict[str, dict[str, Tensor]] = {}
    for model in recipe.models if definitions else ():
        heads.update(read_heads(Path(model.path) / "heads.safetensors"))
    return definitions, heads


def check_heads(recipe: Recipe) -> dict[str, Definition]:
    """The tasks of models that allround saved, by name; an error where they cannot be merged with their heads."""
    ours = [model for model in recipe.models if _is_ours(model)]
    if not ours:
        return {}
    from allround.models.manifest import read_manifest

    if len(ours) < len(recipe.models):
        other = next(model for model in recipe.models if model not in ours)
        raise AllroundError(
            "merge models with their heads",
            f"{ours[0]} is a model that allround saved, and {other} is not",
            f"give only models of one sort; to merge without heads, the encoder of that one: {ours[0].path}/encoder",
        )
    definitions: dict[str, Definition] = {}
    for model in ours:
        for name, definition in read_manifest(Path(model.path))[1].items():
            if name in definitions:
                raise AllroundError(
                    f"merge {model}",
                    f"its task '{name}' is in another of the models too",
                    "give each task once: a merged model has one head for each",
                )
            definitions[name] = definition
    return definitions


def _is_ours(model: Model) -> bool:
    return (Path(model.path) / "allround.json").is_file()


def check_base(base: str | None) -> None:
    """An error for names of encoders that each build pretrains anew: nothing was tuned from them."""
    if base in [e.name for e in registry.entries("encoder") if e.facts["builtin"]]:
        raise AllroundError(
            f"merge models tuned from '{base}'",
            "that name stands for an encoder that each build pretrains anew",
            "give the folder of the one they were tuned from, such as RUN/pieces/base-.../encoder",
        )


def _card_lines(plan: Plan) -> list[str]:
    """What a reader of the folder should know: from what it was merged, how, and how to do it again."""
    recipe, entry = plan.recipe, plan.entry
    lines = [f"Merged by allround {__version__}: {entry.summary}", ""]
    lines += [f"- base: `{recipe.base}`"] if recipe.base else []
    lines += [f"- model: `{model}`" for model in recipe.models]
    lines += [f"- method: `{recipe.method}` ({entry.source})"]
    lines += [f"- {key}: `{value}`" for key, value in entry.resolve(recipe.values).items()]
    lines += ["", *(f"> {note}" for note in plan.notes)] if plan.notes else []
    plain = not (recipe.rules or recipe.statistics or recipe.tokenizer or recipe.chat_template or recipe.config)
    plain = plain and not (recipe.mixed or recipe.round_to)
    if plain and not plan.own_values and not any(model.adapters for model in recipe.models):
        lines += ["", "Again:", "", "```bash", command_of(recipe), "```"]
    else:
        lines += ["", "It was made from a recipe file; merge.json says what each tensor got."]
    return lines


def command_of(recipe: Recipe) -> str:
    """The command that merges so; rules and values for each model need a recipe file, and stand in merge.json.

    >>> command_of(Recipe("ties", (Model("a"), Model("b")), Model("base"), {"keep": 0.2}))
    'allround merge base a b --method ties --keep 0.2 -o OUT'
    """
    paths = [shlex.quote(str(model)) for model in ([recipe.base] if recipe.base else []) + list(recipe.models)]
    words = ["allround merge", *([] if recipe.base else ["--no-base"]), *paths]
    words += [f"--method {recipe.method}"]
    for key, value in recipe.values.items():
        text = ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value).lower()
        words.append(f"--{key.replace('_', '-')} {text}")
    words += [f"--scope {recipe.scope}"] if recipe.scope else []
    words += [f"--dtype {str(torch_dtype(recipe.dtype)).removeprefix('torch.')}"] if recipe.dtype else []
    words += [f"--on-mismatch {recipe.on_mismatch}"] if recipe.on_mismatch != "error" else []
    words += [f"--extra-from {shlex.quote(recipe.extra_from)}"] if recipe.extra_from else []
    return " ".join([*words, "-o OUT"])
