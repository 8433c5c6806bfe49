"""The suite file: which keys it may have, and errors that name the key."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from allround.core import registry
from allround.core.documents import parse_documents
from allround.core.errors import AllroundError, suggestion
from allround.core.files import check_name
from allround.core.problems import Problems
from allround.core.reading import read_text
from allround.tasks.harness.requests import INPUT
from allround.tasks.instructions import as_instruction
from allround.tasks.prompt_words import PromptWords
from allround.tasks.question import check_kind, check_metric
from allround.tasks.roles import HELD_OUT, TRAIN, held_out
from allround.tasks.spec_values import as_delimiter, as_encoding, as_limit, as_settings, as_tuple, listed
from allround.tasks.task import SPLITS

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

#: Suites may list many labels, so there is more room than in other files that people write.
MAX_BYTES = 10 << 20
MAX_VALUES = 200_000


Rows = Annotated[int, Field(ge=1)]
Limit = Annotated[dict[Literal["train", "validation", "test"], Rows], BeforeValidator(as_limit)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class SourceSpec(_Strict):
    """Where rows come from: exactly one of `name`, `path`, `hub`, `sklearn`, `lm_eval`, `mteb`, or files by split.

    lm_eval: a task of the lm-evaluation-harness, by its name, the path of a YAML file, or its configuration. mteb: the
    name of a task of MTEB. A plain string in the suite file is a `name`: a path where there is one, else a Hub id.
    columns: name there -> name here. splits: the same of the splits of a data set on the Hub; others are left out.
    """

    name: str | None = None
    path: str | None = None
    hub: str | None = None
    sklearn: str | None = None
    lm_eval: str | dict[str, object] | None = None
    mteb: str | None = None
    train: str | None = None
    validation: str | None = None
    test: str | None = None
    config: str | None = None
    revision: str | None = None
    columns: dict[str, str] = {}
    splits: dict[str, Literal["train", "validation", "test"]] = {}
    format: Literal["json", "csv", "tsv", "parquet", "images"] | None = None
    delimiter: Annotated[str, BeforeValidator(as_delimiter)] | None = None
    encoding: Annotated[str, BeforeValidator(as_encoding)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_string(cls, value: object) -> object:
        return {"name": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_place(self) -> SourceSpec:
        places = [p for p in ("name", "path", "hub", "sklearn", "lm_eval", "mteb") if getattr(self, p) is not None]
        places += ["files by split"] if self.files else []
        if len(places) != 1:
            found = f"{' and '.join(places)} together" if places else "no place"
            raise ValueError(f"a source with {found}; give one of path, hub, sklearn, or train/validation/test files")
        if (self.delimiter or self.encoding) and (self.hub or self.sklearn):
            raise ValueError("delimiter and encoding belong to files; leave them out here")
        config = self.config if self.mteb is None else None  # which names a subset there
        if (config or self.revision or self.splits) and not (self.hub or self.name):
            raise ValueError("config, revision and splits belong to a Hub id; leave them out here")
        if len(set(self.splits.values())) < len(self.splits):
            raise ValueError("splits gives two splits one name; give each another name, or leave one out")
        return self

    @property
    def files(self) -> dict[str, str]:
        """Split -> file, where the source names files by split."""
        return {split: getattr(self, split) for split in SPLITS if getattr(self, split) is not None}


class SplitSpec(_Strict):
    """How splits are drawn; the words are those of `SplitRule`."""

    by: str | None = None
    time: str | None = None
    stratify: str | None = None
    validation: int | float | None = None
    test: int | float | None = None

    @property
    def given(self) -> dict[str, object]:
        """What the file says."""
        return {name: value for name, value in self if value is not None}


#: What may be said of a task of the lm-evaluation-harness.
HARNESS_KEYS = ("source", "metric", "role", "category", "limit", "shots", "chat", "system")
#: What may be said of a task of MTEB. Its kind, columns and metric are its own.
MTEB_KEYS = ("source", "local", "role", "category", "limit", "instruction", "head", "contrast")


class TaskSpec(_Strict):
    """One task of a suite file; the words are those of `make_task`."""

    source: SourceSpec
    kind: str
    inputs: Annotated[tuple[str, ...], BeforeValidator(as_tuple), Field(min_length=1)]
    target: Annotated[str | tuple[str, ...], BeforeValidator(listed)]
    modality: str | None = None
    metric: str | None = None
    labels: dict[str | int | float | bool, str] | list[str | int | float | bool] | None = None
    instruction: Annotated[str | tuple[str, ...] | None, BeforeValidator(as_instruction)] = None
    limit: Limit = {}
    missing: Literal["error", "drop"] = "error"
    class_weights: Literal["balanced"] | dict[str, float] | None = None
    focal: float | None = None
    agree: str | None = None
    table: str | None = None
    slices: Annotated[tuple[str, ...], BeforeValidator(as_tuple)] = ()
    types: dict[str, str] = {}
    stray: Literal["error", "missing"] = "error"
    split: SplitSpec | None = None
    head: str | None = None
    prompt: str | None = None
    prompts: Annotated[tuple[str, ...], BeforeValidator(as_tuple)] = ()
    choices: dict[str | int | float | bool, str] | str | None = None
    system: str | None = None
    chat: Literal["auto", "yes", "no"] | None = None
    shots: Annotated[int, Field(ge=0)] | None = None
    score: Literal["sum", "mean", "characters"] | None = None
    against: Literal["none", "unconditional", "content_free"] | None = None
    loss: Literal["answer", "choices", "all"] | None = None
    max_new_tokens: Annotated[int, Field(ge=1)] | None = None
    stop: Annotated[tuple[str, ...], BeforeValidator(as_tuple)] | None = None
    extract: str | None = None
    role: Literal["train", "held_out", "guard"] = "train"
    category: str = ""
    passages: str | None = None
    negatives: str = ""
    contrast: str | dict[str, object] | None = None
    local: SourceSpec | None = None

    @model_validator(mode="before")
    @classmethod
    def _of_harness(cls, value: object) -> object:
        """Tasks of MTEB and the lm-evaluation-harness say what their rows are; retrieval has names for its columns."""
        source = value.get("source") if isinstance(value, dict) else None
        if isinstance(value, dict) and isinstance(source, dict) and "mteb" in source:
            if odd := [str(key) for key in value if key not in MTEB_KEYS]:
                raise ValueError(f"`{odd[0]}` with a task of MTEB, which brings its own; "
                                 f"give no more than {', '.join(MTEB_KEYS)}")  # fmt: skip
            return {"kind": "retrieval", "inputs": "query", "target": "relevant", "role": HELD_OUT, **value}
        if isinstance(value, dict) and value.get("kind") == "retrieval":
            return {"inputs": "query", "target": "relevant", **value}
        if not isinstance(value, dict) or not isinstance(source, dict) or "lm_eval" not in source:
            return value
        odd = [str(key) for key in value if key not in HARNESS_KEYS]
        if odd:
            raise ValueError(f"`{odd[0]}` with a task of the lm-evaluation-harness, which brings its own; "
                             f"give no more than {', '.join(HARNESS_KEYS)}")  # fmt: skip
        return {"kind": "lm_eval", "inputs": [INPUT], "target": INPUT, "role": HELD_OUT, **value}

    @model_validator(mode="after")
    def _one_prompt(self) -> TaskSpec:
        if self.prompt is not None and self.prompts:
            raise ValueError("`prompt` and `prompts` together; give one prompt, or several under `prompts`")
        return self

    @property
    def words(self) -> PromptWords:
        """What it says of the prompt."""
        said = {name: getattr(self, name) for name in PromptWords.__annotations__}
        return cast(PromptWords, {**said, "prompt": self.prompts or self.prompt})


class PoolSpec(_Strict):
    """How searches over one collection are told apart; the word is that of `Suite.pooled`."""

    negatives: Annotated[int, Field(ge=0)] = 1


class SuiteSpec(_Strict):
    """A suite file."""

    name: str
    description: str | None = None
    base: str | None = None
    limit: Limit = {}
    hold_out: str | list[str] | float | dict[str, str | list[str] | int | float] | None = None
    pool: Annotated[PoolSpec | None, BeforeValidator(as_settings)] = None
    tasks: Annotated[dict[str, TaskSpec], Field(min_length=1)]

    @property
    def held_out(self) -> tuple[str, ...]:
        """The tasks that `hold_out` names."""
        categories = {name: task.category for name, task in self.tasks.items() if task.role == TRAIN}
        return () if self.hold_out is None else held_out(self.hold_out, categories, self.name)


def read_suite(path: Path | str) -> SuiteSpec:
    """Read and check a suite file; no data are read.

    Raises `AllroundError` that names the key, such as `tasks.trec.metrc`.
    """
    path = Path(path)
    text = read_text(path, what="suite file", max_bytes=MAX_BYTES)
    return parse_suite(text, name=path.stem, asked=f"read the suite file '{path}'")


def parse_suite(text: str, *, name: str, asked: str = "read a suite") -> SuiteSpec:
    """Check the text of a suite file. name: of the suite, where the text gives none.

    >>> spec = parse_suite('''
    ... tasks:
    ...   mood: {source: mood.csv, kind: classification, inputs: text, target: label}
    ... ''', name="moods")
    >>> spec.name, spec.tasks["mood"].inputs
    ('moods', ('text',))
    """
    documents = parse_documents(text, asked=asked, max_values=MAX_VALUES, plain_words=True)
    if len(documents) > 1:
        raise AllroundError(asked, f"it holds {len(documents)} documents", "write one: take out the lines '---'")
    raw = documents[0] if documents else None
    if not isinstance(raw, dict):
        raise AllroundError(asked, f"it holds {reprlib.repr(raw)}", "write a mapping with the key `tasks`")
    if "name" not in raw:
        raw["name"] = _name_of(name, asked)
    try:
        spec = SuiteSpec.model_validate(raw)
    except ValidationError as error:
        raise _explain(error, raw, asked) from None
    check_name(spec.name, "suite")
    problems = Problems()
    for task, about in spec.tasks.items():
        with problems.gathered():
            check_name(task, "task")
        with problems.gathered(), _at(asked, f"tasks.{task}.kind"):
            check_kind(about.kind)
        with problems.gathered(), _at(asked, f"tasks.{task}.metric"):
            if about.metric is not None and about.source.lm_eval is None and about.kind in registry.names("kind"):
                check_metric(about.metric, about.kind)
        with problems.gathered(), _at(asked, f"tasks.{task}.modality"):
            if about.modality is not None:
                registry.find("modality", about.modality)
    problems.check(asked)
    _check_tables(spec, asked)
    with _at(asked, "hold_out"):
        spec.held_out  # noqa: B018 (raises where it makes no sense)
    return spec


def _name_of(name: str, asked: str) -> str:
    """The name of a suite whose file gives none. Errors: a file name that a suite may not have."""
    try:
        return check_name(name, "suite")
    except AllroundError as error:
        better = re.sub(r"[^A-Za-z0-9_-]+", "_", name).strip("_-")[:100] or "suite"
        found = f"it has no `name`, and the name of the file, {name!r}, is not allowed for a suite: {error.found}"
        raise AllroundError(asked, found, f"write `name: {better}` in the file, or rename it") from None


def _check_tables(spec: SuiteSpec, asked: str) -> None:
    """Tasks of one table must read the same rows from it."""
    firsts: dict[str, str] = {}
    for task, about in spec.tasks.items():
        if about.table is None:
            continue
        with _at(asked, f"tasks.{task}.table"):
            check_name(about.table, "table")
        first = firsts.setdefault(about.table, task)
        for key in ("source", "local", "inputs", "modality", "types", "stray", "split"):
            one, other = getattr(spec.tasks[first], key), getattr(about, key)
            if one != other and not (key == "modality" and None in (one, other)):
                raise AllroundError(
                    asked,
                    f"tasks.{task}.{key}: it is not that of '{first}', and both are tasks of the table '{about.table}'",
                    f"give '{first}' and '{task}' the same `{key}`, or name another table in one of them",
                )


class _at:
    """Put the key's path before what was found."""

    def __init__(self, asked: str, key: str) -> None:
        self.asked = asked
        self.key = key

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, AllroundError):
            raise AllroundError(self.asked, f"{self.key}: {error.found} ({error.asked})", error.do) from None


_KNOWN = {
    "suite": list(SuiteSpec.model_fields),
    "task": list(TaskSpec.model_fields),
    "source": [f for f in SourceSpec.model_fields if f != "name"],
    "limit": list(SPLITS),
    "split": list(SplitSpec.model_fields),
    "pool": list(PoolSpec.model_fields),
}


def _explain(error: ValidationError, raw: object, asked: str) -> AllroundError:
    """All that is wrong with the file, as one error."""
    found = error.errors(include_url=False, include_input=False)
    # A mistyped key is one unknown key and one missing; the first says more.
    strange = {e["loc"][:-1] for e in found if e["type"] == "extra_forbidden"}
    found = [e for e in found if e["type"] != "missing" or e["loc"][:-1] not in strange]
    by_key = {str(_key(e["loc"], raw, e["type"])): e for e in reversed(found)}  # the branches of a union have one key
    problems = Problems()
    for one in reversed(by_key.values()):
        with problems.gathered():
            raise _explained(one, raw, asked)
    return problems.joined(asked)


def _explained(error: ErrorDetails, raw: object, asked: str) -> AllroundError:
    key = _key(error["loc"], raw, error["type"])
    value = _value(raw, key)
    last = str(key[-1]) if key else ""
    known = _KNOWN[_level(key)]
    do = f"correct `{'.'.join(map(str, key))}`" if key else "correct the file"
    if error["type"] == "extra_forbidden" or (error["type"] == "literal_error" and _level(key) == "limit"):
        found = "there is no such key"
        do = suggestion(last, known)
    elif error["type"] == "missing":
        found = "it is missing"
        do = f"add `{last}`"
    elif error["type"] == "literal_error":
        found = f"it must be {error['ctx']['expected']}, not {reprlib.repr(value)}"
    elif error["type"] == "value_error":
        found, _, do = str(error["ctx"]["error"]).partition("; ")
    elif error["type"] == "too_short":
        found = "it is empty"
        do = f"put something in `{'.'.join(map(str, key))}`"
    elif error["loc"][-1:] == ("[key]",):
        found = "this key should be text"
        do = "put the key in quotes"
    else:
        words = error["msg"].replace("Input should", "it should").replace("a valid string", "text")
        words = re.sub(r"a valid dictionary( or object to extract fields from)?|an instance of \w+", "a mapping", words)
        found = f"{reprlib.repr(value)}, and {words}"
        if isinstance(value, (int, float, bool)) and "text" in words:
            do = "put the value in quotes"
    return AllroundError(asked, f"{'.'.join(map(str, key)) or 'the file'}: {found}", do)


def _key(loc: tuple[int | str, ...], raw: object, type_: str) -> list[int | str]:
    """The path in the file: pydantic's location without its own marks (union branches, '[key]')."""
    key: list[int | str] = []
    for i, part in enumerate(loc):
        if (isinstance(raw, Mapping) and part in raw) or (isinstance(raw, list) and isinstance(part, int)):
            key.append(part)
            raw = _value(raw, [part])
        elif i == len(loc) - 1 and type_ in ("missing", "extra_forbidden"):
            key.append(part)
    return key


def _value(raw: object, key: list[int | str]) -> object:
    for part in key:
        if isinstance(raw, Mapping):
            raw = raw.get(part)
        elif isinstance(raw, list) and isinstance(part, int):
            raw = raw[part]
    return raw


def _level(key: list[int | str]) -> str:
    """What kind of mapping holds the last part of a key."""
    if len(key) >= 2 and key[-2] == "limit":
        return "limit"
    if len(key) >= 4 and key[2] in ("source", "local"):
        return "source"
    if len(key) >= 4 and key[2] == "split":
        return "split"
    if len(key) == 2 and key[0] == "pool":
        return "pool"
    return "task" if len(key) >= 3 else "suite"
