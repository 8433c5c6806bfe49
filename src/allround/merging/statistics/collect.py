"""Statistics of a saved model for the tasks of a suite, as a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from allround.checkpoints.fingerprint import fingerprint
from allround.core.errors import AllroundError, suggestion
from allround.core.outputs import check_out_file, output_file
from allround.core.seeds import seed_of
from allround.core.version import __version__
from allround.merging.statistics.file import write_statistic
from allround.merging.statistics.measure import Examples, Measured, entry_of, measure, needs_head
from allround.models.adapted import open_weights
from allround.models.base import find_folder, load_encoder
from allround.models.device import pick_device
from allround.models.likelihood import LABELS
from allround.models.names import file_names
from allround.models.systems.multi_task_model import MultiTaskModel, open_model
from allround.tasks.definition import Definition
from allround.tasks.kind import kind as kind_of_task
from allround.tasks.task import SPLITS, Task, limit_split


@dataclass(frozen=True)
class Collected:
    """What was written. left_out: weights of the network that are in no file of the model."""

    facts: dict[str, Any]
    tensors: int
    rows: int
    left_out: tuple[str, ...]


def collect(
    folder: Path | str,
    tasks: Sequence[Task],
    kind: str,
    out: Path,
    *,
    rows: int = 256,
    split: str = "train",
    labels: str = "given",
    seed: int = 0,
    device: str = "cpu",
    force: bool = False,
) -> Collected:
    """Compute a statistic of a model for some rows of each task, and write it into the file `out`.

    A file that is there is replaced only where `stats` wrote it and it is unchanged, or with `force`.

    folder: of a model that allround saved, or of an encoder alone, which is enough for statistics without gradients.
    rows: the most of each task, drawn by the seed. labels: `given`, or the model's `own` predictions.
    The tensors are named as those in the encoder's files, which is how merges name weights.
    """
    asked = f"compute {kind} statistics of {folder}"
    check_out_file(out, "stats", force=force)
    entry = entry_of(kind)
    _check(asked, tasks, rows, split, labels)
    place = find_folder(folder, "model")
    definitions: dict[str, Definition] = {}
    if (place.parent / "allround.json").is_file() and place.name == "encoder":
        model = open_model(place.parent, device=str(pick_device(device)))
        definitions = dict(model.definitions)
    else:
        model = MultiTaskModel(load_encoder(place), {})
        model.to(pick_device(device))
    if needs_head(kind):
        lacking = [task.name for task in tasks if task.name not in definitions]
        if lacking:
            raise AllroundError(
                asked,
                f"they are of gradients, and the model has no head for '{lacking[0]}'",
                "use tasks that it was tuned for, a folder with heads, or a statistic of inputs alone: --kind gram",
            )
    weights = open_weights(place)
    names = file_names(model.encoder, weights)
    examples = [_examples(model, definitions.get(t.name, t.definition), t, rows, split, seed) for t in tasks]
    found = measure(
        model.encoder,
        examples,
        kind,
        heads={name: model.head(name) for name in model.definitions},
        labels=labels,
        seed=seed,
    )
    _check_finite(asked, found)
    facts: dict[str, Any] = {
        "statistic": kind,
        "allround": __version__,
        "model": str(folder),
        "fingerprint": fingerprint(weights),
        "tasks": {task.name: task.content for task in tasks},
        "rows": sum(len(one.prepared) for one in examples),
        "split": split,
        "seed": seed,
        **({"labels": labels} if needs_head(kind) else {}),
        **({"transposed": sorted(names[n] for n in found.transposed if n in names)} if found.transposed else {}),
    }
    tensors = {names[name]: value for name, value in found.tensors.items() if name in names}
    with output_file(out, "stats", force=force) as new:
        write_statistic(new, tensors, entry.facts["parts"], facts)
    left_out = tuple(sorted(name for name in found.tensors if name not in names))
    return Collected(facts, len(tensors), facts["rows"], left_out)


def _check(asked: str, tasks: Sequence[Task], rows: int, split: str, labels: str) -> None:
    if not tasks:
        raise AllroundError(asked, "no task is given", "give at least one")
    if rows < 1:
        raise AllroundError(asked, f"{rows} rows are asked for", "give 1 or more")
    for value, known, what in ((split, SPLITS, "split"), (labels, LABELS, "labels")):
        if value not in known:
            raise AllroundError(asked, f"there is no choice '{value}' of {what}", suggestion(value, known))


def _examples(model: MultiTaskModel, definition: Definition, task: Task, rows: int, split: str, seed: int) -> Examples:
    """Rows of a task, with targets as the model's own head has them: its labels in its order, its scale."""
    model.encoder.check(definition)
    if not len(task.splits[split]):
        raise AllroundError(f"compute statistics of task '{task.name}'", f"its split '{split}' has no rows",
                            "choose another --split")  # fmt: skip
    if definition.kind != task.definition.kind:
        raise AllroundError(
            f"compute statistics of task '{task.name}'",
            f"the model knows it as {definition.kind}, and the suite as {task.definition.kind}",
            "use the suite that the model was made with",
        )
    try:
        found = task.as_defined(definition).splits[split]
    except KeyError as error:
        raise AllroundError(
            f"compute statistics of task '{task.name}'",
            f"the model's head does not know the label {error}",
            "use the suite that the model was made with, or map its labels (`labels:` in the suite file)",
        ) from error
    strata = kind_of_task(definition.kind).strata(found.targets)
    drawn = limit_split(found, rows, seed_of(seed, "statistic", task.name, split), strata)
    # Of a search, training reads the queries and some of their passages.
    read = drawn.targets if kind_of_task(definition.kind).ranked else None
    return Examples(definition, model.encoder.prepare(drawn.inputs, definition, read), drawn.targets)


def _check_finite(asked: str, found: Measured) -> None:
    for name, parts in found.tensors.items():
        if not all(bool(part.isfinite().all()) for part in parts):
            raise AllroundError(asked, f"that of '{name}' is not finite", "check the model: `allround evaluate`")
    if not found.tensors:
        raise AllroundError(
            asked, "the network has no layer with a matrix that it calls as a module", "take --kind fisher"
        )
