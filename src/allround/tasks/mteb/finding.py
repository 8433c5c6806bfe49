"""Tasks of the package mteb: one by its name, what it is scored by, and its data."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from allround.core.errors import AllroundError
from allround.core.reading import check_folder
from allround.tasks.kinds.retrieval import MOST
from allround.tasks.sources.quiet import quiet

#: The sorts of tasks that have a kind here, and the main scores of mteb -> metrics. Those at k follow a pattern.
METRICS: dict[str, dict[str, str]] = {
    "Retrieval": {},
    "Reranking": {"map_at_1000": "map"},
    "STS": {"cosine_spearman": "spearman", "cosine_pearson": "pearson"},
    "Classification": {"accuracy": "accuracy", "f1": "macro_f1", "f1_weighted": "weighted_f1",
                       "ap": "average_precision"},
    "PairClassification": dict.fromkeys(("max_ap", "cosine_ap", "similarity_ap"), "average_precision"),
}  # fmt: skip
_AT = re.compile(r"(ndcg|mrr|map|recall)_at_(\d+)")
#: How splits are called there -> here.
NAMES = {"train": "train", "validation": "validation", "dev": "validation", "valid": "validation"}


def library(asked: str) -> Any:
    """The package. Errors: it is not installed."""
    try:
        with quiet():
            import mteb
    except ImportError as error:
        raise AllroundError(asked, "the package mteb is not installed", "pip install 'allround[mteb]'") from error
    return mteb


def find_task(name: str, asked: str) -> Any:
    """A task of mteb, without its data. Errors: there is none of the name, or none that has a kind here."""
    try:
        found = library(asked).get_task(name)
    except KeyError as error:
        words = str(error.args[0]) if error.args else str(error)
        raise AllroundError(asked, words.splitlines()[0][:300], "mteb.get_tasks() of the package lists the names"
                            ) from error  # fmt: skip
    about = found.metadata
    if list(about.modalities) != ["text"]:
        raise AllroundError(asked, f"it is about {', '.join(about.modalities)}", "name a task about text alone")
    if about.type not in METRICS:
        raise AllroundError(asked, f"it is of the sort {about.type}, which has no kind here",
                            f"name one of the sorts {', '.join(METRICS)}, or score the model with mteb itself: the "
                            "folder of its encoder loads in sentence-transformers")  # fmt: skip
    return found


def metric_of(sort: str, score: str, asked: str) -> str:
    """The metric that computes a main score of mteb.

    >>> metric_of("Retrieval", "ndcg_at_10", "..."), metric_of("Reranking", "map_at_1000", "...")
    ('ndcg:k=10', 'map')
    """
    if score in METRICS[sort]:
        return METRICS[sort][score]
    at = _AT.fullmatch(score) if sort in ("Retrieval", "Reranking") else None
    if at is None or int(at[2]) > MOST:
        raise AllroundError(asked, f"it is scored by {score}, which has no metric here",
                            "score the model with mteb itself, or give the data as a source of their own")  # fmt: skip
    return f"{at[1]}:k={at[2]}"


def load_splits(found: Any, config: str | None, folder: Path | None, wanted: Sequence[str], asked: str
                ) -> Mapping[str, Any]:  # fmt: skip
    """The data of a task by its own names of splits. config: the subset of a task that has several. folder: where the
    data are, laid out as the repository on the Hub is. wanted: further splits, which are loaded where they are there;
    of a search there are none but those that mteb scores.

    Errors: no subset or another one is named, and what cannot be loaded.
    """
    about = found.metadata
    subsets = [str(one) for one in found.hf_subsets]
    if config is None and len(subsets) > 1:
        raise AllroundError(asked, f"it has {len(subsets)} subsets", f"name one as `config`: {', '.join(subsets)}")
    if config is not None and config not in subsets:
        raise AllroundError(asked, f"it has no subset '{config}'", f"name one of: {', '.join(subsets)}")
    subset = config or subsets[0]
    place = {key: value for key, value in about.dataset.items() if key != "trust_remote_code"}
    if folder is not None:
        if not folder.is_dir():
            raise AllroundError(asked, f"there is no folder {folder}", "give the folder with the task's repository")
        check_folder(folder)
        place = {**place, "path": str(folder), "revision": None}
    found.metadata = about.model_copy(update={"dataset": place})
    found.hf_subsets = [subset]
    loaded = _loaded(found, list(found.eval_splits), asked)
    data = dict(loaded.get(subset, loaded))
    for split in wanted:
        if split not in data:
            found.data_loaded = False
            try:
                more = _loaded(found, [split], asked)
            except AllroundError:
                continue
            data[split] = more.get(subset, more)[split]
    return data


def _loaded(found: Any, splits: Sequence[str], asked: str) -> Any:
    found.filter_eval_splits(splits)
    try:
        with quiet():
            found.load_data()
            if hasattr(found, "convert_v1_dataset_format_to_v2"):
                found.convert_v1_dataset_format_to_v2(num_proc=None)
    except Exception as error:  # whatever the libraries below it raise
        words = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise AllroundError(
            asked, f"its data, {found.metadata.dataset['path']}, cannot be loaded: {words[:300]}",
            "let the machine reach the Hub, or give --data-dir and `local`: the folder of a copy of that repository",
        ) from error  # fmt: skip
    return found.dataset
