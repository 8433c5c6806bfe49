"""Four tasks for language models: three answered by choices, one by writing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from allround.core.registry import method
from allround.tasks.spec import read_suite
from allround.tasks.suite import Suite, load_spec

TASKS = ("trec", "sst2", "emotion", "num_to_verbal")


@method(
    source="TREC (Li and Roth, 2002); SST-2 (Socher et al., 2013); TweetEval emotion (Barbieri et al., 2020); "
    "instruction induction (Honovich et al., ACL 2023)"
)
def lm4(
    *, data_dir: Path | None = None, only: Sequence[str] | None = None, limit: Mapping[str, int] | None = None
) -> Suite:
    """The suite; data from the Hub, or from the folders of the tasks' names in `data_dir`, where that of num_to_verbal
    must be."""
    path = Path(__file__).with_name("lm10.yml")
    spec = read_suite(path)
    spec = spec.model_copy(
        update={
            "name": "lm4",
            "description": "Three tasks that a language model answers with choices, and one by writing.",
            "tasks": {name: spec.tasks[name] for name in TASKS},
        }
    )
    return load_spec(spec, path.parent, data_dir=data_dir, only=only, limit=limit)
