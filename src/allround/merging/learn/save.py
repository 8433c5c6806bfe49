"""Learned merges from and into folders."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from allround.checkpoints.adapter_config import is_adapter
from allround.checkpoints.weights import LEARNED
from allround.core import registry
from allround.core.errors import AllroundError
from allround.core.files import write_json
from allround.core.outputs import output_folder
from allround.core.progress import Progress
from allround.core.version import __version__
from allround.merging.layout import check_alike, make_plan
from allround.merging.learn.learning import Learning
from allround.merging.learn.material import Specialist
from allround.merging.learn.run import LearnedMerge, learn
from allround.merging.recipe import Model, Recipe
from allround.merging.run import run_plan
from allround.merging.save import check_base, check_heads, check_not_finished
from allround.merging.sources import open_model
from allround.models.base import find_folder
from allround.models.card import write_card
from allround.models.head_files import HEADS, read_heads
from allround.models.manifest import read_manifest
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.definition import Definition
from allround.tasks.suite import Suite

#: What a learned merge leaves beside the model: the learned numbers, and how they came about.
NUMBERS, RECORD = LEARNED, "learned.json"


def learn_models(
    base: str,
    models: Sequence[str],
    suite: Suite,
    out: Path | str,
    learning: Learning,
    *,
    name: str = "custom",
    split: str | None = None,
    start: str | None = None,
    seed: int = 0,
    device: str = "auto",
    precision: str = "auto",
    progress: Progress | None = None,
    force: bool = False,
) -> dict[str, Any]:
    """Merge models by numbers learned on the tasks of a suite, into a folder that appears when it is whole.

    models: folders that allround saved, each with its tasks and heads; or plain encoders and adapters, which take the
    suite's tasks in order, one each. start: a folder, or a fixed merge method by name with its default settings.
    name: of the preset, for the record. Returns what was done. A finished merge is replaced only with `force`.
    """
    check_not_finished(Path(out), force=force)
    read = [base, *models, start]
    check_base(base)
    folder = find_folder(base)
    with ExitStack() as stack:
        new = stack.enter_context(output_folder(out, "merge", force=force, inputs=read))
        specialists, definitions = _specialists(base, models, suite, stack)
        begun = stack.enter_context(_started(start, folder, [s.encoder for s in specialists]))
        check_alike(
            open_model(Model(str(folder)), None), [open_model(Model(str(s.encoder)), None) for s in specialists]
        )
        tasks = {n: task.as_defined(definitions.get(n, task.definition)) for n, task in suite.tasks.items()}
        made = learn(
            folder,
            specialists,
            tasks,
            learning,
            split=split,
            start=begun,
            seed=seed,
            device=device,
            precision=precision,
            progress=progress,
        )
        record = {"preset": name, "base": base, "models": list(models), "start": start, **made.record}
        write(new, made, {name: task.definition for name, task in tasks.items()}, record)
        write_card(new, new.name, _card_lines(record), tags=["merge"], made_from=[base, *models])
    return record


def tasks_of(base: str, models: Sequence[str], suite: Suite) -> list[str]:
    """The tasks on which models would be merged. Errors: as `learn_models`, from what can be seen without weights."""
    check_base(base)
    find_folder(base)
    with ExitStack() as stack:
        specialists, _ = _specialists(base, models, suite, stack)
    return [task for one in specialists for task in one.tasks]


def write(folder: Path, made: LearnedMerge, definitions: Mapping[str, Definition], record: Mapping[str, Any]) -> None:
    """Write a learned merge into an existing folder: with its heads, or a plain encoder where there are none."""
    from safetensors.torch import save_file

    target = folder / "encoder" if made.heads else folder
    target.mkdir(exist_ok=True)
    made.encoder.save(target)
    if made.heads:
        model = MultiTaskModel(made.encoder, {})
        model.add_heads({task: definitions[task] for task in made.heads}, made.heads)
        model.facts = {"made_by": summary(record)}
        model.write_parts(folder)
    save_file({n: t.contiguous() for n, t in made.found.items()}, target / NUMBERS)
    write_json(target / RECORD, dict(record))


def summary(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record without what is long: losses of every step, and every coefficient."""
    return {k: v for k, v in record.items() if k not in ("losses", "coefficients", "ranks", "masked", "stages")}


def _specialists(
    base: str, models: Sequence[str], suite: Suite, stack: ExitStack
) -> tuple[list[Specialist], dict[str, Definition]]:
    given = [Model(path) for path in models]
    definitions = check_heads(Recipe("average", tuple(given), Model(base)))
    if definitions:
        lacking = [name for name in definitions if name not in suite.tasks]
        if lacking:
            raise AllroundError(
                f"learn a merge on '{suite.name}'",
                f"the models have a head for '{lacking[0]}', and the suite has no such task",
                "give a suite with the tasks that the models were tuned on",
            )
        for name, definition in definitions.items():
            theirs = suite.tasks[name].definition
            if definition.kind != theirs.kind:
                raise AllroundError(
                    f"learn a merge on task '{name}'",
                    f"the model's task is {definition.kind}, and the suite's {theirs.kind}",
                    "use the suite that the models were tuned on",
                )
            odd = sorted(set(definition.labels) ^ set(theirs.labels))
            if odd:
                raise AllroundError(
                    f"learn a merge on task '{name}'",
                    f"the model's labels are not those of the suite: {', '.join(odd[:5])} differ",
                    "use the suite that the models were tuned on",
                )
        found = []
        for path in models:
            heads = read_heads(Path(path) / HEADS)
            found.append(Specialist(find_folder(path), tuple(read_manifest(Path(path))[1]), heads))
        return found, definitions
    if len(models) != len(suite.tasks):
        raise AllroundError(
            f"learn a merge of {len(models)} models without heads",
            f"the suite has {len(suite.tasks)} tasks, and each model needs the one that it was tuned on",
            f"name them in the order of the models: --only {','.join(list(suite.tasks)[: len(models)])}",
        )
    folders = [stack.enter_context(_plain(base, path)) for path in models]
    return [Specialist(f, (task,)) for f, task in zip(folders, suite.tasks, strict=True)], {}


@contextmanager
def _plain(base: str, path: str) -> Iterator[Path]:
    """The folder of an encoder; an adapter is put into its base first."""
    if not is_adapter(Path(path)):
        yield find_folder(path, "model")
        return
    with tempfile.TemporaryDirectory(prefix="allround-") as folder:
        run_plan(make_plan(Recipe("passthrough", (Model(path),), Model(base))), Path(folder))
        yield Path(folder)


@contextmanager
def _started(start: str | None, base: Path, encoders: Sequence[Path]) -> Iterator[Path | None]:
    """The folder of a start that is given as one, or as the name of a fixed merge."""
    if start is None:
        yield None
    elif start in registry.names("merge") and not Path(start).exists():
        recipe = Recipe(start, tuple(Model(str(e)) for e in encoders), Model(str(base)))
        with tempfile.TemporaryDirectory(prefix="allround-") as folder:
            run_plan(make_plan(recipe), Path(folder))
            yield Path(folder)
    else:
        yield find_folder(start, "start")


def _card_lines(record: Mapping[str, Any]) -> list[str]:
    learning = record["learning"]
    rows = ", ".join(f"{task} {count}" for task, count in record["rows"].items())
    test = (
        " The model was adapted to the test inputs: scores on them do not show how good it is on new rows."
        if record["split"] == "test"
        else ""
    )
    lines = [f"A learned merge by allround {__version__} ({record['preset']}).{test}", ""]
    lines += [f"- base: `{record['base']}`", *(f"- model: `{model}`" for model in record["models"])]
    lines += [f"- start: `{record['start']}`"] if record["start"] else []
    if "form" in learning:
        lines += [f"- closed form: `{learning['form']}`"]
    else:
        lines += [f"- learned: `{learning['parametrisation']}` by `{learning['objective']}`"]
    lines += [f"- rows ({record['split']}): {rows}", f"- seconds: {record['seconds']} on {record['device']}", ""]
    lines += [f"`{RECORD}` says how, with every step's loss; `{NUMBERS}` has the learned numbers."]
    return lines
