"""Tasks of MTEB as tasks of a suite."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from allround.core.errors import AllroundError
from allround.core.files import check_name
from allround.core.seeds import seed_of
from allround.tasks.kinds.retrieval import MOST
from allround.tasks.make import make_task
from allround.tasks.mteb.finding import NAMES, find_task, load_splits, metric_of
from allround.tasks.passages import Passages
from allround.tasks.roles import HELD_OUT
from allround.tasks.task import SPLITS, Task, check_limit

#: How a task of MTEB is named on the command line.
PREFIX = "mteb:"
#: Made-up rows that stand in for those of training, where a task has none.
_MADE = 20

#: Split -> the columns of its rows.
Rows = dict[str, dict[str, list[Any]]]


def mteb_tasks(names: str, **options: Any) -> list[Task]:
    """The tasks of MTEB that are named, with commas between. options: as for `mteb_task`."""
    return [mteb_task(None, one.strip(), **options) for one in names.removeprefix(PREFIX).split(",")]


def mteb_task(
    name: str | None,
    source: str,
    *,
    config: str | None = None,
    folder: Path | None = None,
    role: str = HELD_OUT,
    limit: Mapping[str, int] | None = None,
    **more: Any,
) -> Task:
    """A task of MTEB, by its name in the package mteb, with its data and its main metric.

    Retrieval and reranking are of the kind retrieval (of the latter each row has its own candidates), STS is of the
    kind similarity, classification and pairs with labels of the kind classification. name: what it is called here.
    config: the subset, such as a language. folder: holds a copy of its repository on the Hub. role: by default
    held_out; with `train`, its own training rows are used. limit: split -> the most rows. more: `category`,
    `instruction`, `head`, `contrast` of `make_task`.

    A held-out search or STS task that has test rows alone gets made-up ones in place of training and validation rows: a
    passage that is asked for by its own text, and texts paired with themselves and with others. Nothing of the test's
    answers is in them.
    Errors: mteb is not installed, there is no such task, it has no kind here, or its data cannot be loaded.
    """
    name = check_name(name or re.sub(r"[^A-Za-z0-9_-]+", "_", source).strip("_-"), "task")
    asked = f"make the task '{name}' of MTEB's {source}"
    found = find_task(source, asked)
    about = found.metadata
    metric = metric_of(about.type, about.main_score, asked)
    tested = "test" if "test" in found.eval_splits else str(found.eval_splits[-1])
    search = about.type in ("Retrieval", "Reranking")
    wanted = [split for split in NAMES if split != tested] if role != HELD_OUT and search else []
    data = load_splits(found, config, folder, wanted, asked)
    if tested not in data:
        raise AllroundError(asked, f"its data have no split '{tested}'; they have: {', '.join(data)}",
                            "check the copy of its data")  # fmt: skip
    parts = {"test": data[tested]}
    parts.update((NAMES[split], part) for split, part in data.items() if split in NAMES and split != tested)
    notes: list[str] = []
    words: dict[str, Any]
    if search:
        rows, words = _search(found, parts, about.type == "Reranking", notes, asked)
    elif about.type == "STS":
        rows, words = _similarity(found, parts, asked)
    else:
        rows, words = _labelled(found, parts, about.type == "PairClassification", asked)
    if "train" not in rows:
        rows = _with_made(found, rows, words, role, notes, asked)
    task = make_task(name, metric=metric, data={s: rows[s] for s in SPLITS if s in rows}, role=role,
                     limit=check_limit(limit), **{**words, **more})  # fmt: skip
    return replace(task, notes=(*notes, *task.notes))


def _search(
    found: Any, parts: Mapping[str, Any], own: bool, notes: list[str], asked: str
) -> tuple[Rows, dict[str, Any]]:
    """Queries with the grades of passages. own: each query has candidates of its own."""
    rows: Rows = {}
    corpus: Passages | None = None
    for split, part in parts.items():
        passages, queries = _passages(part["corpus"]), part["queries"]
        if corpus is not None and passages != corpus and not own:
            raise AllroundError(asked, f"{split} has another corpus than test", "leave `role` out: it is then held out")
        corpus = corpus or passages
        if "instruction" in queries.column_names:
            raise AllroundError(asked, "each of its queries has an instruction of its own",
                                "score the model with mteb itself")  # fmt: skip
        ids, texts = [str(one) for one in queries["id"]], list(queries["text"])
        if getattr(found, "ignore_identical_ids", False) and any(one in passages for one in ids):
            raise AllroundError(asked, "mteb leaves the passage out that has the id of the query, which no metric here "
                                "does", "score the model with mteb itself")  # fmt: skip
        made: dict[str, list[Any]] = {"query": [], "relevant": [], "candidates": []}
        for one, text in zip(ids, texts, strict=True):
            grades = {str(p): g for p, g in part["relevant_docs"].get(one, {}).items()}
            if not any(grade > 0 for grade in grades.values()):
                continue
            made["query"].append(text)
            if own and part["top_ranked"] is not None:
                ranked = [str(p) for p in part["top_ranked"][one]]
                made["candidates"].append(Passages.of({p: passages[p] for p in ranked}))
            made["relevant"].append(grades)
        if gone := len(ids) - len(made["query"]):
            notes.append(f"{gone} of {len(ids)} {split} queries have no relevant passage and are left out; mteb counts "
                         "0 for each that has grades")  # fmt: skip
        if own and any(len(one) > MOST for one in made["candidates"]):
            raise AllroundError(asked, f"a query has more than {MOST} candidates, and an answer ranks at most {MOST}",
                                "score the model with mteb itself")  # fmt: skip
        rows[split] = {key: values for key, values in made.items() if values}
    own = "candidates" in rows["test"]
    inputs = ["query", "candidates"] if own else ["query"]
    shared: dict[str, Any] = {} if own else {"passages": corpus}
    return rows, {"kind": "retrieval", "inputs": inputs, "target": "relevant", **shared}


def _passages(corpus: Any) -> Passages:
    """The passages of a corpus of mteb: a title goes before the text."""
    texts = list(corpus["text"])
    if "title" in corpus.column_names:
        texts = [f"{title or ''} {text}".strip() for title, text in zip(corpus["title"], texts, strict=True)]
    return Passages.of(dict(zip(map(str, corpus["id"]), texts, strict=True)))


def _similarity(found: Any, parts: Mapping[str, Any], asked: str) -> tuple[Rows, dict[str, Any]]:
    columns = [*found.column_names, "score"]
    return _columns(parts, columns, asked), {
        "kind": "similarity", "inputs": list(found.column_names), "target": "score"
    }  # fmt: skip


def _labelled(found: Any, parts: Mapping[str, Any], pairs: bool, asked: str) -> tuple[Rows, dict[str, Any]]:
    """Texts, or pairs of texts, with labels. A split of pairs may be one row of lists, as mteb had them at first."""
    inputs = [found.input1_column_name, found.input2_column_name] if pairs else [found.input_column_name]
    rows = _columns(parts, [*inputs, found.label_column_name], asked)
    if pairs:
        rows = {
            split: {key: list(values[0]) for key, values in part.items()}
            if len(part[inputs[0]]) == 1 and isinstance(part[inputs[0]][0], Sequence)
            and not isinstance(part[inputs[0]][0], str) else part
            for split, part in rows.items()
        }  # fmt: skip
    for part in rows.values():
        part[found.label_column_name] = [str(one) for one in part[found.label_column_name]]
    return rows, {"kind": "classification", "inputs": inputs, "target": found.label_column_name}


def _columns(parts: Mapping[str, Any], columns: Sequence[object], asked: str) -> Rows:
    if odd := [one for one in columns if not isinstance(one, str)]:
        raise AllroundError(asked, f"its inputs are {odd[0]}, and not a column of texts", "name another task")
    rows: Rows = {}
    for split, part in parts.items():
        if lost := [one for one in columns if one not in part.column_names]:
            raise AllroundError(asked, f"{split} has no column '{lost[0]}'; it has: {', '.join(part.column_names)}",
                                "check the copy of its data")  # fmt: skip
        rows[split] = {str(one): list(part[one]) for one in columns}
    return rows


def _with_made(found: Any, rows: Rows, words: Mapping[str, Any], role: str, notes: list[str], asked: str) -> Rows:
    """Rows with made-up ones for training and validation, which say nothing of the answers to the test."""
    if role != HELD_OUT:
        raise AllroundError(asked, f"its role is {role}, and it has no training rows", "leave `role` out")
    test, target = rows["test"], words["target"]
    draw = np.random.default_rng(seed_of(0, "mteb", asked))
    if words["kind"] == "classification":
        raise AllroundError(asked, "it has no training rows, and a head that tells its labels apart needs some",
                            "score the model with mteb itself, which compares cosines")  # fmt: skip
    made: dict[str, list[Any]]
    if words["kind"] == "similarity":
        one, other = words["inputs"]
        texts = list(dict.fromkeys(test[one]))[: 2 * _MADE]
        low, high = float(found.min_score), float(found.max_score)
        again = [texts[(i + 1) % len(texts)] for i in range(len(texts))]
        made = {one: [*texts, *texts], other: [*texts, *again], target: [high] * len(texts) + [low] * len(texts)}
    else:
        corpora = [words["passages"]] if "passages" in words else test["candidates"]
        chosen = [corpora[place] for place in draw.integers(len(corpora), size=2 * _MADE)]
        places = [int(draw.integers(len(corpus))) for corpus in chosen]
        texts = [corpus.texts(place, place + 1)[0] for corpus, place in zip(chosen, places, strict=True)]
        made = {"query": texts, target: [{c.ids[p]: 1} for c, p in zip(chosen, places, strict=True)]}
        if "passages" not in words:
            made["candidates"] = chosen
    notes.append("it has no training rows: made-up ones stand in for train and validation, and their scores say little")
    halves = {"train": slice(0, None, 2), "validation": slice(1, None, 2)}
    return {**{split: {key: values[part] for key, values in made.items()} for split, part in halves.items()}, **rows}
