"""Data sets on the Hub."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from allround.core.errors import AllroundError, suggestion
from allround.core.files import is_hub_id
from allround.tasks.sources.names import SPLIT_NAMES
from allround.tasks.sources.quiet import quiet
from allround.tasks.spec import SourceSpec

if TYPE_CHECKING:
    from datasets import Dataset


def read_hub(spec: SourceSpec) -> dict[str, Dataset]:
    import datasets
    from datasets.packaged_modules import _PACKAGED_DATASETS_MODULES

    name = spec.hub or spec.name or ""
    asked = f"read '{name}' from the Hub"
    if not is_hub_id(name) or name in _PACKAGED_DATASETS_MODULES:
        raise AllroundError(
            asked, "it is not the id of a data set on the Hub", "write it as owner/name; or a path as `path`"
        )
    if os.path.lexists(name):  # datasets would read it
        raise AllroundError(
            asked,
            f"the current folder has a file or folder of that name: {Path(name).absolute()}",
            f"to read that, write its path as `path: ...`; to read the Hub's '{name}', run it from another folder",
        )
    try:
        with quiet():
            read = datasets.load_dataset(name, spec.config, revision=spec.revision)
    except Exception as error:
        raise AllroundError(
            asked,
            f"reading failed: {str(error).strip() or type(error).__name__}",
            "check the id, `config`, `revision` and the network (a path: check that it is there); "
            "or keep the data in a folder, set `local`, and give it with --data-dir",
        ) from error
    found: dict[str, Dataset] = {}
    odd = [split for split in spec.splits if split not in read]
    if odd:
        raise AllroundError(asked, f"it has no split '{odd[0]}'", suggestion(odd[0], list(map(str, read))))
    for split, rows in read.items():
        known = spec.splits.get(split) if spec.splits else SPLIT_NAMES.get(str(split).lower())
        if known and known not in found:
            found[known] = rows
    if "train" not in found:
        raise AllroundError(
            asked,
            f"it has no train split, only {', '.join(map(str, read))}",
            "choose another `config`, or say under `splits` which one serves for training (validation: train)",
        )
    return found
