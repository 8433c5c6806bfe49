"""Learned merges on the command line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from allround.cli.options import load_suite
from allround.cli.words import read_options
from allround.cli.words import split as split_words
from allround.core import registry
from allround.core.errors import AllroundError, suggestion

if TYPE_CHECKING:
    from allround.merging.learn.learning import Learning


def learn_command(
    words: Sequence[str],
    out: Path | None,
    fixed: Sequence[str],
    *,
    suite: str | None,
    data_dir: Path | None,
    only: str | None,
    name: str,
    objective: str | None,
    rows: int | None,
    split: str | None,
    start: str | None,
    device: str,
    dry_run: bool,
    force: bool,
) -> object:
    """Learn a merge as the command line says. fixed: given options of merges that are not learned."""
    from allround.merging.learn.save import learn_models, tasks_of
    from allround.tasks.suite import Suite
    from allround.tasks.task import SPLITS

    if fixed:
        raise AllroundError(
            f"learn a merge with {fixed[0]}",
            "that is an option of fixed merges",
            "leave it out; to begin from a fixed merge: --start METHOD or --start FOLDER",
        )
    if suite is None:
        raise AllroundError(
            f"learn a merge by '{name}'",
            "no data is given to learn on",
            "give the suite of the models' tasks: --suite text8 --data-dir FOLDER",
        )
    loaded = load_suite(suite, data_dir, only)
    # Models without heads take the tasks in the order in which they are named.
    tasks = Suite(loaded.name, [loaded.tasks[one] for one in split_words(only, "--only")] or [*loaded.tasks.values()])
    paths, learning, seed = read_learning(words, name, objective, rows)
    if len(paths) < 3:
        raise AllroundError(
            "learn a merge",
            f"{len(paths)} folder{'s' * (len(paths) != 1)} given",
            "give the base and at least two models: allround merge BASE MODEL MODEL --learn layer --suite SUITE -o OUT",
        )
    split = split or learning.split
    if split not in SPLITS:
        raise AllroundError(f"learn on the split '{split}'", "there is no such split", suggestion(split, SPLITS))
    learning.check_split(split)
    sizes = [len(tasks.tasks[one].splits[split]) for one in tasks_of(paths[0], paths[1:], tasks)]
    learning = learning.with_(batch=learning.batch or rows_in_step(paths[0]))
    for line in describe(learning, sizes, split):
        typer.echo(line, err=not dry_run)
    if dry_run:
        return {"models": paths[1:], "learning": learning, "rows": sizes, "split": split}
    if out is None:
        raise AllroundError("merge models", "no --out is given", "give a folder for the merged model: -o OUT")
    try:
        made = learn_models(paths[0], paths[1:], tasks, out, learning, name=name, split=split, start=start, seed=seed,
                            device=device, force=force)  # fmt: skip
    except KeyboardInterrupt as stop:  # a merge that is learned begins anew
        stop.args = ("nothing was written",)
        raise
    closed = "form" in made["learning"]
    typer.echo(f"{'merged' if closed else 'learned a merge of'} {len(paths) - 1} models by {name}"
               f"{'' if closed else f': {made_of(made)}'}, {made['seconds']:.0f} s, into {out}")  # fmt: skip
    return {"model": out, **made}


def made_of(record: dict[str, Any]) -> str:
    """Steps, and how the loss moved."""
    stages = record.get("stages", [record])
    steps = sum(stage["steps"] for stage in stages)
    losses = stages[-1]["losses"]
    few = max(1, len(losses) // 8)
    moved = f", loss {sum(losses[:few]) / few:.4f} to {sum(losses[-few:]) / few:.4f}" if losses else ""
    return f"{steps} steps{moved}"


def read_learning(
    words: Sequence[str], name: str, objective: str | None, rows: int | None
) -> tuple[list[str], Learning, int]:
    """Paths, the learning that `--learn NAME` and the options after it mean, and the seed."""
    from allround.merging.learn.learning import preset

    family, entry = ("learn", "custom") if name in registry.names("parametrisation") else ("learn", name)
    if entry not in registry.names("learn"):
        preset(name)
    found = registry.find(family, entry)
    types = {p.name: p.type for p in found.parameters}
    types |= {"batch": "int", "steps": "int", "rate": "float", "seed": "int"}
    paths, values = read_options(words, types, f"'{name}'")
    seed = values.pop("seed", 0)
    assert isinstance(seed, int)
    if objective is not None:
        if "objective" not in types:
            raise AllroundError(
                f"learn '{name}' by another objective",
                "that preset has its own",
                f"leave --objective out, or name the parts: --learn layer --objective {objective}",
            )
        values["objective"] = objective
    if rows is not None:
        values["rows"] = rows
    return paths, preset(name, values), seed


def rows_in_step(base: str) -> int:
    """How many rows of each task a step takes where nobody says, for this base."""
    from allround.merging.learn.learning import BATCH
    from allround.models.base import find_folder
    from allround.models.language.loading import is_language_model

    if not is_language_model(find_folder(base)):
        return BATCH
    from allround.models.encoders.language_model import LanguageModel

    return LanguageModel.learn_batch


def describe(learning: Learning, sizes: Sequence[int], split: str) -> list[str]:
    """What will be learned, in a few lines. sizes: rows of each task in the split."""
    facts = learning.to_json()
    if "form" in facts:
        listed = ", ".join(f"{k} {v}" for k, v in facts.items() if k not in ("form", "rows", "batch"))
        used = sum(min(learning.rows, size) for size in sizes)
        return [f"formula   {facts['form']} ({listed})", f"rows      {used} {split} rows of {len(sizes)} tasks"]
    settings = ", ".join(f"{k} {v}" for k, v in facts["settings"].items() if k != "scale")
    used = sum(min(learning.rows, size) for size in sizes)
    needs = {"labels": "with labels", "specialist": "with the specialists' answers"}
    looked = " and ".join(needs[need] for need in learning.needs) or "without labels"
    lines = [
        f"learned   {learning.parametrisation} ({settings}), start scale {learning.scale:g}"
        + {"kept": "", "learned": ", and the heads", "fitted": "; heads fitted anew in the end"}[learning.heads],
        f"by        {learning.objective}, {looked}; {learning.all_steps} steps of {learning.batch} rows of each task",
        f"rows      {used} {split} rows of {len(sizes)} tasks",
    ]
    if split == "test":
        lines.append("note      it adapts to the test inputs: scores on them do not show how good it is on new rows")
    return lines
