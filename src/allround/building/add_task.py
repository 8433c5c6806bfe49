"""`add_task`: a finished model learns one more task, and what it knew is proved to be kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from allround.building.adding import COMMAND, MEMORY, MODEL, Adding, AddOptions, OldTasks
from allround.building.saving import CONFIG
from allround.building.single import check_labels
from allround.building.stages.report import keep_config
from allround.building.workshop import Workshop, run_folder
from allround.continual.addition import Addition
from allround.continual.addition_report import FILES, files
from allround.continual.kept_rows import ABOUT, KeptRows, test_marks
from allround.continual.strategy import Strategy, strategy_of
from allround.core.errors import AllroundError
from allround.core.jobs import quiet_libraries
from allround.core.outputs import check_out, check_texts, write_texts
from allround.core.progress import FINISHED, Progress
from allround.core.registry import spelled
from allround.core.words import listed, plural
from allround.evaluation.errors import text_of
from allround.models.device import pick_device
from allround.models.systems.multi_task_model import MultiTaskModel, open_model
from allround.tasks.suite import Suite, as_suite
from allround.tasks.task import Task
from allround.training.settings import Settings


def add_task(
    model: Path | str,
    new: Suite | str | Path,
    *,
    out: Path | str,
    old: Suite | str | Path | None = None,
    options: AddOptions | None = None,
    memory: Path | str | None = None,
    base: str | Path | None = None,
    settings: Settings | None = None,
    encoder: Mapping[str, object] | None = None,
    data_dir: Path | str | None = None,
    only: Sequence[str] | None = None,
    limit: Mapping[str, int] | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
    config: str | None = None,
    force: bool = False,
) -> Addition:
    """Add a task to a saved model: try ways to do so, the cheapest first, until one is good enough.

    A way is good enough if each old task passes the gate (`allround.evaluation.gate`), and the new one reaches a share
    of the score of a specialist, which is tuned on it alone. Ways are compared on validation rows; the one that is
    chosen is scored on test rows, once. The model is written into `out`/best, and some rows of all tasks into
    `out`/memory for the next time; where no way passes, nothing is written.

    model: a folder that allround saved. new: a suite with the new task; `only` names it where there are several. old:
    a suite with the tasks that the model knows. Without it, rows that an earlier call remembered are used: `memory`,
    or the folder of that name beside the model; without any, only ways that cannot change old answers are tried. base:
    what the specialist, and ways that start anew, begin from; by default the model's own encoder. Run again after a
    kill with the same arguments, it takes up what is finished.

    Errors: a task whose name the model knows; rows of it that are test rows of an old task; a model of another sort
    than one encoder with heads.
    """
    quiet_libraries()
    out, model, options, settings = Path(out), Path(model), options or AddOptions(), settings or Settings()
    plans = _plans(options.ways)
    known = open_model(model)
    task = _new_task(as_suite(new, data_dir=data_dir, only=only, limit=limit), known, model)
    kept = _kept(model, memory, old)
    before = _old_tasks(known, model, kept, None if old is None else as_suite(old, data_dir=data_dir, limit=limit))
    _check_apart(task, before)
    pick_device(settings.device)
    with run_folder(out, COMMAND, force=force):
        check_texts(out, [*FILES, CONFIG], COMMAND, force=force)
        for name in (MODEL, MEMORY):
            check_out(out / name, COMMAND, force=force, inputs=[model, *([memory] if memory else [])])
        keep_config(out, config, COMMAND, force=force)
        shop = Workshop(out, progress or Progress(out / "log.txt"), seed=options.seed, workers=workers, force=force)
        with shop:
            found = Adding(shop, model, known, task, before, plans, options, settings, base, encoder or {}).run()
        write_texts(out, files(found), COMMAND, force=force)
        shop.progress.note(FINISHED)
    return found


def _plans(ways: Sequence[str]) -> dict[str, tuple[str, Mapping[str, object], Strategy]]:
    """The strategy of each way, by the way's own words."""
    found: dict[str, tuple[str, Mapping[str, object], Strategy]] = {}
    for text in dict.fromkeys(ways):
        name, values = spelled("strategy", text)
        found[text] = name, values, strategy_of(name, values)
    return found


def _new_task(suite: Suite, known: MultiTaskModel, model: Path) -> Task:
    """The task that is added. Errors: several; one that the model knows by its name."""
    asked = f"add a task of '{suite.name}' to {model}"
    if len(suite.tasks) != 1:
        raise AllroundError(asked, f"the suite has {plural(len(suite.tasks), 'task')}: {listed(list(suite.tasks))}",
                            "add one after another: name one with --only")  # fmt: skip
    (task,) = suite.tasks.values()
    if task.name in known.definitions:
        labels = known.definitions[task.name].labels
        other = sorted(set(labels) ^ set(task.definition.labels))
        more = f", with other labels ({', '.join(other[:5])})" if other else ""
        raise AllroundError(asked, f"the model has a task '{task.name}' already{more}",
                            "give the new task another name")  # fmt: skip
    known.encoder.check(task.definition)
    return task


def _kept(model: Path, memory: Path | str | None, old: object) -> KeptRows:
    """Rows that an earlier call remembered: those that are named, or those beside the model."""
    place = Path(memory) if memory is not None else model.resolve().parent / MEMORY
    if memory is None and not (place / ABOUT).is_file():
        return KeptRows()
    return KeptRows.load(place)


def _old_tasks(known: MultiTaskModel, model: Path, kept: KeptRows, suite: Suite | None) -> OldTasks:
    """The tasks that the model knows, as far as their rows are at hand."""
    if suite is None:
        tasks = {n: t.as_defined(known.definition(n)) for n, t in kept.tasks.items() if n in known.definitions}
        words = "no rows of them are at hand, so only ways are tried that cannot change what they answer"
        if tasks:
            words = f"{plural(kept.rows, 'row')} of {listed(list(tasks))}, remembered from earlier"
        return OldTasks(tasks, kept, False, words)
    given = [task for name, task in suite.tasks.items() if name in known.definitions]
    if not given:
        raise AllroundError(
            f"judge the old tasks of {model} by '{suite.name}'",
            f"the model knows none of its tasks: {listed(list(suite.tasks))}",
            f"give a suite with the tasks that it knows: {listed(list(known.definitions))}",
        )
    for task in given:
        check_labels(known, task, str(model))
    remembered = {n: t.as_defined(known.definition(n)) for n, t in kept.tasks.items() if n not in suite.tasks}
    tasks = {task.name: task.as_defined(known.definition(task.name)) for task in given}
    words = f"rows of {listed(list(tasks))}, from '{suite.name}'"
    if remembered:
        words += f", and remembered rows of {listed(list(remembered))}"
    marks = KeptRows({}, {**kept.tested, **test_marks(tasks.values())})
    return OldTasks({**remembered, **tasks}, marks, set(tasks) == set(known.definitions), words)


def _check_apart(task: Task, old: OldTasks) -> None:
    """An error where the new task would be trained on test rows of an old one."""
    rows = [row for split in ("train", "validation") for row in task.splits[split].inputs]
    found = old.kept.tested_by(rows)
    if found:
        name, numbers = next(iter(found.items()))
        are = "is a test row" if len(numbers) == 1 else "are test rows"
        raise AllroundError(
            f"add the task '{task.name}'",
            f"{plural(len(numbers), 'row')} that it would learn from {are} of the old task '{name}', the first one: "
            f"{text_of(rows[numbers[0]], task.definition.inputs, task.definition.modality)}",
            "take these rows out of its training and validation rows, or test scores would not be honest",
        )
