"""`shrink`: a smaller model from a finished one, and proof of what it keeps of each task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from allround.building.saving import CONFIG
from allround.building.shrinking import BEST, COMMAND, Shrinking, ShrinkOptions
from allround.building.single import check_labels
from allround.building.stages.report import keep_config
from allround.building.workshop import Workshop, run_folder
from allround.core.errors import AllroundError
from allround.core.jobs import quiet_libraries
from allround.core.outputs import check_out, check_texts, write_texts
from allround.core.progress import FINISHED, Progress
from allround.core.words import listed
from allround.evaluation.smaller.report import FILES, files
from allround.evaluation.smaller.result import Shrunk
from allround.models.device import pick_device
from allround.models.systems.multi_task_model import MultiTaskModel, open_model
from allround.tasks.suite import Suite, as_suite
from allround.training.settings import Settings

#: Where nobody says how often, training rows are seen so many times the encoder's own number of epochs.
PASSES = 3


def shrink(
    model: Path | str,
    suite: Suite | str | Path,
    *,
    out: Path | str,
    options: ShrinkOptions | None = None,
    settings: Settings | None = None,
    data_dir: Path | str | None = None,
    only: Sequence[str] | None = None,
    limit: Mapping[str, int] | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
    config: str | None = None,
    force: bool = False,
) -> Shrunk:
    """Make a saved model smaller: remove layers, units or channels, then let it learn from the model that it was.

    For each size all ways of `options` are tried and compared on validation rows; the best of each size is scored on
    test rows, once, beside the original. One model is written into `out`/best: a folder as any other, whose encoder
    loads in sentence-transformers and transformers where the original's did. Run again after a kill with the same
    arguments, it takes up what is finished; with further sizes it makes these alone.

    model: a folder that allround saved. suite: rows of tasks that the model knows. settings: of the training; by
    default heads are trained along, rows are seen three times as often as by `train`, and the last state is kept.
    Errors: a model of another sort than one encoder with heads; an encoder of which no parts can be removed.
    """
    quiet_libraries()
    out, model, options = Path(out), Path(model), options or ShrinkOptions()
    known = open_model(model)
    chosen = training_settings(settings or Settings(), known)
    known.encoder.anatomy(1.0)
    tasks = _known_tasks(known, model, as_suite(suite, data_dir=data_dir, only=only, limit=limit))
    pick_device(chosen.device)
    with run_folder(out, COMMAND, force=force):
        check_texts(out, [*FILES, CONFIG], COMMAND, force=force)
        check_out(out / BEST, COMMAND, force=force, inputs=[model, *options.specialists])
        keep_config(out, config, COMMAND, force=force)
        shop = Workshop(out, progress or Progress(out / "log.txt"), seed=options.seed, workers=workers, force=force)
        with shop:
            found = Shrinking(shop, model, known, tasks, options, chosen).run()
        write_texts(out, files(found), COMMAND, force=force)
        shop.progress.note(FINISHED)
    return found


def training_settings(settings: Settings, model: MultiTaskModel) -> Settings:
    """The settings of a training after parts were removed."""
    if settings.tune != "full":
        raise AllroundError("shrink a model with LoRA", "all weights have to learn what the removed ones did",
                            "leave tune out")  # fmt: skip
    epochs = settings.epochs or PASSES * model.epochs
    return replace(settings, epochs=epochs, heads="tuned", keep="last")


def _known_tasks(known: MultiTaskModel, model: Path, suite: Suite) -> Suite:
    """The tasks of a suite that the model knows, as it defines them."""
    tasks = [task for name, task in suite.tasks.items() if name in known.definitions]
    if not tasks:
        raise AllroundError(f"shrink {model} by the rows of '{suite.name}'",
                            f"the model knows none of its tasks: {listed(list(suite.tasks))}",
                            f"give a suite with tasks that it knows: {listed(list(known.definitions))}")  # fmt: skip
    for task in tasks:
        check_labels(known, task, str(model))
        lacking = [split for split in ("train", "validation", "test") if not len(task.splits[split])]
        if lacking:
            raise AllroundError(f"shrink {model}", f"the task '{task.name}' has no {listed(lacking)} rows",
                                "give it some, or leave it out (--only)")  # fmt: skip
    return Suite(suite.name, [task.as_defined(known.definition(task.name)) for task in tasks])
