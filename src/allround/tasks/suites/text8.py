"""Eight published tasks of text classification, one of them on pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from allround.core.registry import method
from allround.tasks.spec import read_suite
from allround.tasks.suite import Suite, load_spec

TASKS = ("trec", "sst2", "subj", "emotion", "irony", "banking77", "scicite", "mrpc")


@method(
    source="TREC (Li and Roth, 2002); SST-2 (Socher et al., 2013); Subj (Pang and Lee, 2004); TweetEval emotion and "
    "irony (Barbieri et al., 2020); Banking77 (Casanueva et al., 2020); SciCite (Cohan et al., 2019); "
    "MRPC (Dolan and Brockett, 2005)"
)
def text8(
    *, data_dir: Path | None = None, only: Sequence[str] | None = None, limit: Mapping[str, int] | None = None
) -> Suite:
    """The suite; data from the Hub, or from the folders of the tasks' names in `data_dir`."""
    path = Path(__file__).with_name("text11.yml")
    spec = read_suite(path)
    spec = spec.model_copy(
        update={
            "name": "text8",
            "description": "Eight sets of sentences to classify.",
            "tasks": {name: spec.tasks[name] for name in TASKS},
        }
    )
    return load_spec(spec, path.parent, data_dir=data_dir, only=only, limit=limit)
