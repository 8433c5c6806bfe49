"""Ten tasks for language models: five answered by choices, five by writing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from allround.core.registry import method
from allround.tasks.spec import read_suite
from allround.tasks.suite import Suite, load_spec


@method(
    source="TREC (Li and Roth, 2002); SST-2 (Socher et al., 2013); TweetEval emotion (Barbieri et al., 2020); SciCite "
    "(Cohan et al., 2019); MRPC (Dolan and Brockett, 2005); instruction induction (Honovich et al., ACL 2023)"
)
def lm10(
    *, data_dir: Path | None = None, only: Sequence[str] | None = None, limit: Mapping[str, int] | None = None
) -> Suite:
    """The suite; data from the Hub, or from the folders of the tasks' names in `data_dir`, where those that are
    answered by writing must be."""
    path = Path(__file__).with_name("lm10.yml")
    return load_spec(read_suite(path), path.parent, data_dir=data_dir, only=only, limit=limit)
