"""The base with a module in it, as a model folder of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from allround.checkpoints.adapted import Adapted
from allround.composition.library.known import ModuleTasks
from allround.composition.modules.changes import Changes
from allround.core.files import write_json
from allround.merging.layout import make_plan, same_output
from allround.merging.recipe import Model, Recipe
from allround.merging.run import run_plan
from allround.models.encoder import CONFIG as ENCODER
from allround.models.head_files import HEADS, write_heads
from allround.models.manifest import write_manifest


def write_model(folder: Path, changes: Changes, known: ModuleTasks, heads: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Write a module's model into an existing folder: its weights in the dtypes of the base (those of a tuned model as
    they were), the base's other files, and the tasks with their heads, where there are some."""
    target = folder / "encoder" if known.definitions else folder
    target.mkdir(exist_ok=True)
    source = changes.tuned
    plain = isinstance(source, Adapted)
    outputs = [
        replace(same_output(source, name, False, 1), dtype=changes.base.dtype(name) if plain else None)
        for name in changes.base
    ]
    # The mean of one model is that model: the merge engine knows how a folder is laid out.
    plan = make_plan(
        Recipe("average", (Model(str(changes.folder)),)), outputs=outputs, opener=lambda model, base: source
    )
    run_plan(plan, target)
    (target / "merge.json").unlink()
    if known.reading is not None:
        write_json(target / ENCODER, dict(known.reading))
    if known.definitions:
        write_heads(folder / HEADS, {name: heads.get(name, {}) for name in known.definitions})
        write_manifest(folder, known.definitions, known.facts)
