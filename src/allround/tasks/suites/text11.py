"""Eleven published text tasks of four kinds: `text8`, and relatedness, entailment and names of diseases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from allround.core.registry import method
from allround.tasks.spec import read_suite
from allround.tasks.suite import Suite, load_spec


@method(source="text8; SICK (Marelli et al., 2014); NCBI Disease (Dogan et al., 2014)")
def text11(
    *, data_dir: Path | None = None, only: Sequence[str] | None = None, limit: Mapping[str, int] | None = None
) -> Suite:
    """The suite; data from the Hub, or from the folders of the tasks' names in `data_dir`."""
    path = Path(__file__).with_suffix(".yml")
    return load_spec(read_suite(path), path.parent, data_dir=data_dir, only=only, limit=limit)
