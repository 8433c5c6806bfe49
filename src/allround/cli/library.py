"""The commands library create, add, list, show, choose, mix, drop, rename, dedupe, materialise and export."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from allround.cli.help import GROUP, Group
from allround.cli.options import DataOption, ForceOption, OutOption, SuiteArgument, load_suite

if TYPE_CHECKING:
    from collections.abc import Mapping

    from allround.composition.library.card import Card, TunedTask
    from allround.composition.library.likeness import Nearest

app = typer.Typer(help="Keep adapters and tuned models of one base in a library.", cls=Group, **GROUP)

LibraryArgument = Annotated[Path, typer.Argument(metavar="LIBRARY", help="The folder of the library.")]
NameArgument = Annotated[str, typer.Argument(metavar="MODULE", help="The module's name in the library.")]
WhereOption = Annotated[
    str | None, typer.Option("--base", help="Where the library's base lies now, when that is not where it was.")
]


@app.command("create", epilog="Example: `allround library create lib --base all-MiniLM-L6-v2`")
def library_create(
    library: LibraryArgument,
    base: Annotated[str, typer.Option(help="What the modules were tuned from: a model folder, an installed model or "
                                           "a Hub id.")],
) -> object:  # fmt: skip
    """Make a library without modules, for one base."""
    from allround.composition.library.library import Library

    made = Library.create(library, base)
    typer.echo(f"library   {library}, of modules of {base}")
    return {"library": library, "base": made.base, "fingerprint": made.about.fingerprint}


@app.command("add", epilog="Example: `allround library add lib adapters/* --rank 16`")
def library_add(
    library: LibraryArgument,
    modules: Annotated[
        list[str],
        typer.Argument(metavar="MODULE...", help="Adapters of PEFT, tuned models, or models that allround saved: "
                                                 "folders or Hub ids."),
    ],
    *,
    name: Annotated[str | None, typer.Option(help="The module's name. Default: that of its folder.")] = None,
    rank: Annotated[
        int | None,
        typer.Option(help="Make an adapter of this rank of each full model. Default: store the tensors that differ "
                          "from the base's. Adapters stay as they are."),
    ] = None,
    task: Annotated[
        list[str] | None, typer.Option(help="A task that the modules were tuned on; may be repeated.")
    ] = None,
    license: Annotated[str | None, typer.Option(help="Of modules whose own card names none.")] = None,
    base: WhereOption = None,
) -> object:  # fmt: skip
    """Add modules to a library. One that does not fit is named with the reason, and the others are added."""
    from allround.cli.screen import give
    from allround.composition.library.library import Library, module_name
    from allround.core.errors import AllroundError
    from allround.core.jobs import quiet_libraries
    from allround.core.problems import Problems
    from allround.core.words import count, percent

    quiet_libraries()
    opened = Library.open(library, base)
    if name is not None and len(modules) > 1:
        raise AllroundError(
            f"add {len(modules)} modules as '{name}'", "a name is of one module", "leave --name out, or add one by one"
        )
    _ = opened.base_folder  # without it no module can be added
    problems = Problems()
    added: dict[str, Card] = {}
    for source in modules:
        with problems.gathered():
            called = name or module_name(source)
            added[called] = card = opened.add(source, called, rank=rank, tasks=task or (), licence=license)
            held = f", which holds {percent(card.held)}% of its squared change" if card.held is not None else ""
            typer.echo(f"added     {called}: {_form(card)}{held}, {count(card.numbers)} numbers")
            for aside in card.aside[:1]:
                more = f" and {len(card.aside) - 1} more" if len(card.aside) > 1 else ""
                typer.echo(f"          {aside}{more} kept, not used: the base has no such tensor")
    if problems.errors:
        typer.echo(f"{len(added)} of {len(modules)} modules were added")
    result = {"added": added, "refused": {error.asked: error.found for error in problems.errors}}
    if problems.errors:
        give(result)
    problems.check(f"add {len(modules)} modules to {library}")
    return result


@app.command("list", epilog="Example: `allround library list lib`")
def library_list(library: LibraryArgument) -> object:
    """List the modules of a library: size, what they were tuned on, the most similar other one, and duplicates."""
    from allround.cli.screen import give
    from allround.composition.library.alike import same
    from allround.composition.library.library import Library
    from allround.core.problems import Problems
    from allround.core.words import count, plural

    opened, problems = Library.open(library), Problems()
    cards = opened.cards(problems)
    near = opened.nearest(list(cards), problems)
    typer.echo(f"{plural(len(cards), 'module')} of {opened.base}, {sum(card.bytes for card in cards.values()):,} bytes")
    rows = [("module", "form", "rank", "numbers", "bytes", "tuned on", "most like")] if cards else []
    for name, card in cards.items():
        rows.append((name, card.form, card.rank_words, count(card.numbers), f"{card.bytes:,}", _tasks_text(card.tasks),
                     _near_text(card, near.get(name))))  # fmt: skip
    widths = [max(len(row[column]) for row in rows) for column in range(7)] if rows else []
    for row in rows:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    groups = same(cards)
    for group in groups:
        typer.echo(f"the same  {', '.join(group)}")
    if groups:
        typer.echo(f"keep one of each: allround library dedupe {library}")
    result = {
        "library": library,
        "base": opened.base,
        "modules": {name: {"card": card, "nearest": near.get(name)} for name, card in cards.items()},
        "same": groups,
    }
    if problems.errors:
        give(result)
    problems.check(f"read all modules of {library}")
    return result


@app.command("show", epilog="Example: `allround library show lib topic`")
def library_show(library: LibraryArgument, module: NameArgument) -> object:
    """Show one module: all that its card says, and the most similar other one."""
    from allround.composition.library.library import Library
    from allround.core.problems import Problems
    from allround.core.words import percent, printable

    opened = Library.open(library)
    card = opened.card(module)
    near = opened.nearest(problems=Problems()).get(module)
    facts = {
        "module": module,
        "form": _form(card),
        "from": printable(card.origin),
        "base": opened.base,
        "named base": printable(card.named_base or ""),
        "size": f"{card.numbers:,} numbers in {card.tensors} tensors, {card.bytes:,} bytes",
        "norm": f"{card.norm:.4g}",
        "holds": f"{percent(card.held)}% of the squared change of the model" if card.held is not None else "",
        "not used": ", ".join(map(printable, card.aside[:5])),
        "licence": printable(card.licence or ""),
        "most like": _near_text(card, near),
    }
    for label, value in facts.items():
        if value:
            typer.echo(f"{label:<12} {value}")
    for name, task in card.tasks.items():
        rows = f", {task.rows:,} training rows" if task.rows is not None else ""
        typer.echo(f"{'task':<12} {_task_text(name, task)}{rows}")
    return {"name": module, "card": card, "nearest": near}


@app.command("choose", epilog="Example: `allround library choose lib digits --task digit --count 2`")
def library_choose(
    library: LibraryArgument,
    suite: SuiteArgument,
    task: Annotated[str, typer.Option(help="The new task, one of the suite's.")],
    *,
    count: Annotated[int, typer.Option(help="How many modules to choose.")] = 1,
    rows: Annotated[int, typer.Option(help="Training rows of the task to choose by, and to learn from.")] = 32,
    reasons: Annotated[
        str,
        typer.Option(help="Of language models: the column (of the task's `slices`) with worked answers to the rows."),
    ] = "",
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Train a router between the chosen modules, and save the system here."),
    ] = None,
    router: Annotated[
        str, typer.Option(help="What weighs them (`allround methods list --family route`).")
    ] = "learned_gate:per=layer;top=2",
    open_rows: Annotated[
        int,
        typer.Option("--open", help="Also learn from so many rows of the suite's other tasks, the nearest ones."),
    ] = 0,
    data_dir: DataOption = None,
    seed: Annotated[int, typer.Option(help="Draws the rows.")] = 0,
    base: WhereOption = None,
    force: ForceOption = False,
) -> object:
    """Choose modules for a new task, by a few labelled rows of it and by how unlike the modules are; with --out also
    train what weighs them."""
    from allround.composition.choosing.few_rows import choose_modules, gate_modules
    from allround.composition.library.library import Library
    from allround.core.jobs import quiet_libraries
    from allround.core.outputs import check_out

    quiet_libraries()
    if out is not None:
        out = check_out(out, "Routed.save", force=force)
    opened = Library.open(library, base)
    loaded = load_suite(suite, data_dir, None if open_rows else task)
    found = choose_modules(opened, loaded[task], count, rows=rows, reasons=reasons, seed=seed)
    typer.echo(f"chosen    {', '.join(found.chosen)}, by {rows} rows of {task}")
    for name in sorted(found.losses, key=found.losses.__getitem__):
        score = f", score {found.scores[name]:.3f}" if name in found.scores else ""
        typer.echo(f"loss      {found.losses[name]:.3f}  {name}{score}")
    typer.echo(f"loss      {found.base:.3f}  the base alone")
    if out is not None:
        others = [one for one in loaded if one.name != task]
        if open_rows:
            read = sum(len(one.splits["train"]) for one in others)
            typer.echo(f"open      reading {read:,} training rows of other tasks, for the {open_rows} nearest")
        typer.echo(f"training  {router} between the chosen modules")
        made = gate_modules(opened, loaded[task], found.chosen, router=router, rows=rows, others=others,
                            open_rows=open_rows, seed=seed)  # fmt: skip
        made.save(out, force=force)
        typer.echo(f"model     {out}")
    return {"library": library, "task": task, "chosen": found.chosen, "losses": found.losses, "base": found.base,
            "scores": found.scores, "model": out}  # fmt: skip


@app.command("mix", epilog="Example: `allround library mix lib digits --task digit --out adapters/digit`")
def library_mix(
    library: LibraryArgument,
    suite: SuiteArgument,
    task: Annotated[str, typer.Option(help="The new task, one of the suite's.")],
    *,
    rows: Annotated[int, typer.Option(help="Training rows of the task to weigh by.")] = 32,
    steps: Annotated[int, typer.Option(help="How many mixes to try.")] = 40,
    rank: Annotated[int | None, typer.Option(help="Cut the mix to this rank. Default: the sum of the ranks.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write the mix as one adapter into this new folder.")
    ] = None,
    data_dir: DataOption = None,
    seed: Annotated[int, typer.Option(help="Draws the rows.")] = 0,
    base: WhereOption = None,
) -> object:
    """Weigh all modules for a new task, by a few labelled rows of it and without gradients."""
    from allround.composition.choosing.mixing import mix_modules
    from allround.composition.library.library import Library
    from allround.core.errors import AllroundError
    from allround.core.jobs import quiet_libraries

    quiet_libraries()
    if out is not None and out.exists():
        raise AllroundError(f"write a mix into {out}", "the folder is there already", "give a new one")
    opened = Library.open(library, base)
    found = mix_modules(opened, load_suite(suite, data_dir, task)[task], rows=rows, steps=steps, seed=seed)
    for name in sorted(found.weights, key=lambda name: -abs(found.weights[name])):
        typer.echo(f"weight    {found.weights[name]:6.3f}  {name}")
    typer.echo(f"loss      {found.loss:.3f}  the mix, on {rows} rows of {task}; {found.tried} mixes were tried")
    typer.echo(f"loss      {found.base:.3f}  the base alone")
    if out is not None:
        found.write(opened, out, rank=rank)
        typer.echo(f"adapter   {out}")
    return {"library": library, "task": task, "weights": found.weights, "loss": found.loss, "base": found.base,
            "tried": found.tried, "adapter": out}  # fmt: skip


@app.command("drop", epilog="Example: `allround library drop lib topic`")
def library_drop(
    library: LibraryArgument,
    modules: Annotated[list[str], typer.Argument(metavar="MODULE...", help="Names of modules.")],
) -> object:
    """Remove modules from a library."""
    from allround.composition.library.library import Library

    opened = Library.open(library)
    for name in modules:
        opened.place(name)  # none is removed where one of the names is wrong
    for name in dict.fromkeys(modules):
        opened.drop(name)
        typer.echo(f"dropped   {name}")
    return {"dropped": list(dict.fromkeys(modules))}


@app.command("rename", epilog="Example: `allround library rename lib topic news-topic`")
def library_rename(
    library: LibraryArgument,
    module: NameArgument,
    new: Annotated[str, typer.Argument(metavar="NEW", help="Its new name.")],
) -> object:
    """Give a module another name."""
    from allround.composition.library.library import Library

    Library.open(library).rename(module, new)
    typer.echo(f"renamed   {module} to {new}")
    return {"module": new, "before": module}


@app.command("dedupe", epilog="Example: `allround library dedupe lib --near 0.01`")
def library_dedupe(
    library: LibraryArgument,
    near: Annotated[
        float | None,
        typer.Option(help="Also modules without tasks that differ from another one by at most this share "
                          "of their change, such as 0.01."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be dropped.")] = False,
    base: WhereOption = None,
) -> object:  # fmt: skip
    """Drop modules that are the same as another one of the library."""
    from allround.composition.library.library import Library
    from allround.core.words import plural

    found = Library.open(library, base).dedupe(near=near, dry_run=dry_run)
    for name, kept in found.items():
        typer.echo(f"{'would drop' if dry_run else 'dropped'} {name}: it is {kept}")
    if not found:
        typer.echo("no module is the same as another one")
    elif not dry_run:
        typer.echo(f"{plural(len(found), 'module')} dropped")
    return {"dropped": {} if dry_run else found, "would_drop": found if dry_run else {}}


@app.command("materialise", epilog="Example: `allround library materialise lib topic -o models/topic`")
def library_materialise(
    library: LibraryArgument, module: NameArgument, out: OutOption, force: ForceOption = False, base: WhereOption = None
) -> object:
    """Write the base with a module in it, as a model folder of its own."""
    from allround.composition.library.library import Library
    from allround.core.jobs import quiet_libraries

    quiet_libraries()
    Library.open(library, base).materialise(module, out, force=force)
    typer.echo(f"model     {out}")
    return {"model": out, "module": module}


@app.command("export", epilog="Example: `allround library export lib topic -o adapters/topic`")
def library_export(
    library: LibraryArgument, module: NameArgument, out: OutOption, force: ForceOption = False
) -> object:
    """Write the adapter of a module as it came, for PEFT."""
    from allround.composition.library.library import Library

    Library.open(library).export(module, out, force=force)
    typer.echo(f"adapter   {out}")
    return {"adapter": out, "module": module}


def _form(card: Card) -> str:
    """What a module is, in words."""
    from allround.composition.library.card import ADAPTER

    if card.form == ADAPTER:
        return f"adapter of rank {card.rank_words}" if card.ranks else "adapter"
    return f"{card.tensors} whole tensors"


def _near_text(card: Card, near: Nearest | None) -> str:
    if near is None:
        return "" if card.norm else "it changes nothing"
    return f"{near.name} ({near.cosine:.2f}{', nearly the same' if near.near else ''})"


def _tasks_text(tasks: Mapping[str, TunedTask]) -> str:
    return ", ".join(_task_text(name, task) for name, task in tasks.items())


def _task_text(name: str, task: TunedTask) -> str:
    from allround.core.words import shown

    if task.score is None:
        return name
    return f"{name} ({shown(task.score, _better(task.metric))})"


@cache
def _better(metric: str | None) -> str:
    """Which scores of a metric are better; higher ones, of one that is not known here."""
    from allround.core import registry
    from allround.tasks.metric import better

    return better(metric) if metric is not None and metric.partition(":")[0] in registry.names("metric") else "higher"
