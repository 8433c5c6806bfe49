"""Tasksource: annotations that name the columns of data sets: sentences, choices or words, and labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from allround.core.documents import read_documents
from allround.core.errors import AllroundError, suggestion
from allround.core.registry import method
from allround.tasks.collection import ImportedRow, ImportedTask, task_name
from allround.tasks.collections._rows import rows_of
from allround.tasks.sources.names import SPLIT_NAMES
from allround.tasks.spec import SourceSpec
from allround.tasks.task import SPLITS

#: What an annotation says, by key.
Annotation: TypeAlias = Mapping[str, object]

_SHARED = ("type", "dataset_name", "config_name", "splits", "labels", "label_values", "question", "ordinal", "task_id")
#: The keys of each type of annotation, beside those that all have.
TYPES = {
    "Classification": ("sentence1", "sentence2"),
    "MultipleChoice": ("inputs", "choices", "choices_list"),
    "TokenClassification": ("tokens",),
}
#: What a field is where an annotation does not name it.
DEFAULTS = {"sentence1": "sentence1", "labels": "labels", "inputs": "input", "tokens": "tokens"}


@method(
    source="tasksource (Sileo, LREC-COLING 2024, arXiv:2301.05948): its annotations, as data and not as code",
    paper="tasksource: Structured Dataset Preprocessing Annotations for Frictionless Extreme Multi-Task Learning and "
    "Evaluation",
)
def tasksource(paths: Sequence[Path]) -> list[ImportedTask]:
    """A task for each annotation of files of YAML or JSON: name -> type, data set and columns.

    paths: of the files; paths of data sets begin where the file lies. A field is a column, a path into one
    (`choices.text`), several columns to be joined by spaces ([context, question]) or a constant ({constant: 0}).
    Differs: annotations are data, so that none holds a function; a choice keeps its place, and none is left out.
    """
    return [_task(path, str(name), said) for path in paths for name, said in _read(path).items()]


def _read(path: Path) -> Mapping[object, object]:
    documents = read_documents(path, what="annotations")
    if len(documents) != 1 or not isinstance(documents[0], dict) or not documents[0]:
        raise AllroundError(f"read the annotations '{path}'", "they are not a mapping of names to annotations",
                            "write `NAME: {type: Classification, dataset_name: ..., labels: ...}`")  # fmt: skip
    return documents[0]


def _task(path: Path, name: str, said: object) -> ImportedTask:
    asked = f"read the annotation '{name}' in '{path}'"
    if not isinstance(said, dict):
        raise AllroundError(asked, "it is not a mapping", "give type, dataset_name and the columns")
    sort = said.get("type", "Classification")
    if not isinstance(sort, str) or sort not in TYPES:
        raise AllroundError(asked, f"its type is {str(sort)[:60]!r}", suggestion(str(sort)[:60], TYPES))
    known = (*_SHARED, *TYPES[sort])
    for key in said:
        if key not in known:
            raise AllroundError(asked, f"there is no key {key!r}", suggestion(str(key), known))
    if not isinstance(said.get("dataset_name"), str):
        raise AllroundError(asked, "it names no data set", "give a path or a Hub id as `dataset_name`")
    rows = _splits(said, path.parent, asked)
    about: dict[str, object] = {}
    if sort == "TokenClassification":
        about |= {"kind": "token_classification", "inputs": "tokens", "target": "labels"}
        fields = {"tokens": _field(said, "tokens", asked), "labels": _field(said, "labels", asked)}
    elif sort == "MultipleChoice":
        about |= {"kind": "multiple_choice", "inputs": ["inputs", "options"], "target": "labels", "choices": "options"}
        fields = {"inputs": _field(said, "inputs", asked), "options": _options(said, asked),
                  "labels": _field(said, "labels", asked)}  # fmt: skip
    else:
        sentences = [key for key in ("sentence1", "sentence2") if key == "sentence1" or key in said]
        numbers = any(isinstance(row, float) for row in _values(rows, said, asked)) and not said.get("label_values")
        kind = "regression" if numbers else "ordinal" if said.get("ordinal") else "classification"
        about |= {"kind": kind, "inputs": sentences, "target": "labels"}
        fields = {key: _field(said, key, asked) for key in (*sentences, "labels")}
    if values := said.get("label_values"):
        if not isinstance(values, dict):
            raise AllroundError(asked, "label_values is not a mapping", "write value: name")
        about["labels"] = {str(value): str(label) for value, label in values.items()}
    if question := said.get("question"):
        about["instruction"] = str(question)
    made = {split: [{key: read(row) for key, read in fields.items()} for row in part] for split, part in rows.items()}
    if "labels" in about:
        made = {split: [{**row, "labels": str(row["labels"])} for row in part] for split, part in made.items()}
    return ImportedTask(task_name(name), about, made)


def _values(rows: Mapping[str, list[ImportedRow]], said: Annotation, asked: str) -> list[object]:
    read = _field(said, "labels", asked)
    return [read(row) for part in rows.values() for row in part]


def _splits(said: Annotation, base: Path, asked: str) -> dict[str, list[ImportedRow]]:
    """The rows by split, as `splits` names them: the names of those for train, validation and test, or null."""
    name, config, given = str(said["dataset_name"]), said.get("config_name"), said.get("splits")
    if config is not None and not isinstance(config, str):
        raise AllroundError(asked, f"config_name is {config!r}", "give one name; write an annotation for each config")
    if given is None:
        return rows_of(SourceSpec(name=name, config=config), base)
    if not isinstance(given, list) or len(given) != len(SPLITS) or not any(given):
        raise AllroundError(asked, f"splits is {given!r}", "list those of train, validation and test; null for none")
    files = {split: f"{name}/{one}" for split, one in zip(SPLITS, given, strict=True) if one}
    if all((base / file).is_file() for file in files.values()):
        return rows_of(SourceSpec(train=files.get("train"), validation=files.get("validation"),
                                  test=files.get("test")), base)  # fmt: skip
    read = rows_of(SourceSpec(name=name, config=config), base)
    found = {}
    for split, one in zip(SPLITS, given, strict=True):
        if one is None:
            continue
        known = SPLIT_NAMES.get(str(one).lower(), str(one))
        if known not in read:
            raise AllroundError(asked, f"the data set has no split {one!r}", suggestion(str(one), read))
        found[split] = read[known]
    return found


def _field(said: Annotation, key: str, asked: str) -> Callable[[ImportedRow], object]:
    """How a field is read of a row."""
    return _reader(said.get(key, DEFAULTS.get(key)), key, asked)


def _reader(value: object, key: str, asked: str) -> Callable[[ImportedRow], object]:
    if isinstance(value, str):
        return lambda row: _value(row, value, key, asked)
    if isinstance(value, dict) and set(value) == {"constant"}:
        return lambda row: value["constant"]
    if isinstance(value, list) and value and all(isinstance(one, str) for one in value):
        return lambda row: " ".join(str(part) for one in value if (part := _value(row, one, key, asked)) is not None)
    raise AllroundError(asked, f"{key} is {value!r}", "give a column, a list of columns, or {constant: VALUE}")


def _value(row: ImportedRow, place: str, key: str, asked: str) -> object:
    """What lies in a row under a column, or under a path such as `choices.text`."""
    found: object = row
    if place in row:
        return row[place]
    for part in place.split("."):
        if not isinstance(found, Mapping) or part not in found:
            raise AllroundError(
                asked,
                f"{key}: there is no column {place!r}",
                f"{suggestion(place, row)}; annotations name columns, and no code is run",
            )
        found = found[part]
    return found


def _options(said: Annotation, asked: str) -> Callable[[ImportedRow], object]:
    """How the choices of a row are read: from a column of lists, or from several columns."""
    several, listed = said.get("choices"), said.get("choices_list")
    if (several is None) == (listed is None):
        raise AllroundError(asked, "it needs `choices` or `choices_list`, and not both",
                            "name the columns of the choices, or the column that holds a list of them")  # fmt: skip
    if listed is not None:
        read = _reader(listed, "choices_list", asked)

        def from_list(row: ImportedRow) -> object:
            found = read(row)
            if not isinstance(found, list):
                raise AllroundError(asked, f"choices_list: {listed!r} holds {found!r}, which is no list",
                                    "name a column of lists, or the columns under `choices`")  # fmt: skip
            return [str(one) for one in found]

        return from_list
    if not isinstance(several, list):
        raise AllroundError(asked, f"choices is {several!r}", "give a list of columns")
    readers = [_reader(one, "choices", asked) for one in several]
    return lambda row: [str(read(row)) for read in readers]
