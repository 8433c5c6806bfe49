"""The configuration of a task of the harness, by its name, from a YAML file or as a dictionary; and the task itself."""

from __future__ import annotations

import copy
import inspect
import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

from allround.core.errors import AllroundError
from allround.core.files import hash_json
from allround.core.reading import read_text
from allround.tasks.harness.finding import file_of
from allround.tasks.harness.library import harness

#: What a task is given as: a name of the harness, the path of a YAML file, or a dictionary.
Source: TypeAlias = "str | Path | Mapping[str, Any]"

#: Keys of a file that are not part of a task's configuration.
_STRUCTURE = ("tag", "group", "task_list")
#: Formats of local files, whose paths begin where the suite file lies.
_LOCAL = ("json", "csv", "parquet", "text", "arrow")
_MOST_BYTES = 1 << 20


def is_file(source: Source) -> bool:
    """Whether a source is the path of a YAML file.

    >>> is_file("gsm8k"), is_file("tasks/mine.yaml")
    (False, True)
    """
    return isinstance(source, Path) or (isinstance(source, str) and source.endswith((".yaml", ".yml")))


def plain_source(source: Source, base_dir: Path) -> str | dict[str, Any]:
    """A source as plain data that means the same everywhere: a name, an absolute path, or a dictionary.

    base_dir: where relative paths begin, those of a dictionary's data files too.
    Errors: a dictionary that holds more than plain data, or no task.
    """
    if isinstance(source, Mapping):
        try:
            found: dict[str, Any] = json.loads(json.dumps(dict(source)))
        except (TypeError, ValueError) as error:
            raise AllroundError(
                "use a task of the lm-evaluation-harness that is given as a dictionary",
                f"it holds more than texts, numbers, lists and dictionaries: {error}",
                "say in Jinja templates what functions do",
            ) from None
        if found.get("dataset_path") in _LOCAL and isinstance(options := found.get("dataset_kwargs"), dict):
            options["data_files"] = _absolute(options.get("data_files"), base_dir)
        return found
    if is_file(source):
        return str((base_dir / Path(source).expanduser()).resolve())
    return str(source)


def _absolute(files: Any, base_dir: Path) -> Any:
    if isinstance(files, dict):
        return {split: _absolute(one, base_dir) for split, one in files.items()}
    if isinstance(files, list):
        return [_absolute(one, base_dir) for one in files]
    return str(base_dir / files) if isinstance(files, str) and "://" not in files else files


def configuration(source: str | Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a task, as the harness takes it. source: plain, see `plain_source`."""
    return copy.deepcopy(_read(json.dumps(source, sort_keys=True)))


def fingerprint(source: str | Mapping[str, Any]) -> str:
    """A hash of the configuration, the text of its functions included: what scores depend on beside the answers."""
    return hash_json(json.loads(json.dumps(_read(json.dumps(source, sort_keys=True)), default=_said, sort_keys=True)))


def _said(value: Any) -> str:
    try:
        return inspect.getsource(value)
    except (TypeError, OSError):
        return repr(type(value))


@lru_cache(maxsize=256)
def _read(text: str) -> dict[str, Any]:
    source = json.loads(text)
    asked = f"use the task {_short(source)} of the lm-evaluation-harness"
    if isinstance(source, dict):
        found = source
    else:
        named = not is_file(source)
        path = file_of(source) if named else Path(source)
        with harness(asked):
            from lm_eval.tasks._yaml_loader import load_yaml

            if not named:
                _check_plain(path, asked)
            try:
                found = load_yaml(path, resolve_func=named)
            except Exception as error:  # of YAML, of the disk, or of the functions of a task
                raise AllroundError(asked, f"{path} cannot be read: {error}", "correct the file") from error
    if "group" in found and not isinstance(found.get("task"), str):
        raise AllroundError(asked, "it is a group of tasks", "name one task, or the tasks one by one")
    made = {key: value for key, value in found.items() if key not in _STRUCTURE}
    made.setdefault("task", "task")
    metadata = made.get("metadata") or {}
    made["metadata"] = metadata if isinstance(metadata, dict) else {"_metadata": metadata}
    return made


def _check_plain(path: Path, asked: str) -> None:
    """An error for a file of the user's that runs code, itself or by a file that it includes."""
    from yaml import SafeLoader, load

    class Loader(SafeLoader):
        """Marks functions."""

    def function(loader: Any, node: Any) -> Any:
        raise AllroundError(
            asked,
            f"{path} runs code of its own: !function {node.value}",
            "say it in Jinja templates; functions are taken from the installed lm-eval alone",
        )

    Loader.add_constructor("!function", function)
    text = read_text(path, what="task file", max_bytes=_MOST_BYTES)
    try:
        found = load(text, Loader)
    except AllroundError:
        raise
    except Exception as error:
        raise AllroundError(asked, f"{path} cannot be read: {error}", "correct the file") from error
    if not isinstance(found, dict):
        raise AllroundError(asked, f"{path} holds no task", "write a mapping, as the harness documents it")
    included: Any = found.get("include", [])
    for one in included if isinstance(included, list) else [included]:
        _check_plain(path.parent / str(one), asked)


def _short(source: Any) -> str:
    return f"'{source}'" if isinstance(source, str) else f"'{source.get('task', 'given as a dictionary')}'"


def build(source: str | Mapping[str, Any], more: Mapping[str, Any] | None = None) -> Any:
    """The task of the harness, with its data. more: changes of its configuration.

    Errors: data that cannot be had, and all that the harness says of the configuration.
    """
    asked = f"use the task {_short(source)} of the lm-evaluation-harness"
    config = {**configuration(source), **(more or {})}
    with harness(asked) as package:
        try:
            if "class" in config:
                kind = config["class"]
                made = kind(config=config) if "config" in inspect.signature(kind.__init__).parameters else kind()
            else:
                made = package.api.task.ConfigurableTask(config=config)
        except Exception as error:  # whatever the data or the configuration of a task raise
            raise AllroundError(asked, f"{type(error).__name__}: {str(error)[:300]}", _advice(error)) from error
        for flag, words in (("UNSAFE_CODE", "runs code that the model writes"), ("MULTIMODAL", "shows images")):
            if getattr(made, flag, False):
                raise AllroundError(asked, f"it {words}, which is not done here", "use the harness itself for it")
        if made.config.num_fewshot is None:
            made.set_config(key="num_fewshot", value=0)
        made.set_fewshot_seed(seed=FEWSHOT_SEED)
    return made


#: The seed by which the harness draws worked examples where nobody names one.
FEWSHOT_SEED = 1234


def _advice(error: Exception) -> str:
    if type(error).__name__ in ("ConnectionError", "OfflineModeIsEnabled", "LocalEntryNotFoundError"):
        return "its data are on the Hub, which cannot be reached: download them first, or give local files"
    return "correct the task, or look at what the harness documents of it"


@lru_cache(maxsize=256)
def scorer(source: str, first: str) -> Any:
    """A task of the harness that scores documents, without its data. source, first: a plain source and the first
    document of the task, as JSON."""
    import datasets

    one = datasets.Dataset.from_list([json.loads(first)])
    plain = json.loads(source)
    if "class" in configuration(plain):
        return build(plain)
    none: Sequence[str] = ("dataset_kwargs", "training_split", "validation_split", "fewshot_split", "process_docs",
                           "fewshot_config")  # fmt: skip
    return build(plain, {**dict.fromkeys(none), "custom_dataset": lambda **_: {"test": one}, "test_split": "test",
                         "num_fewshot": 0})  # fmt: skip
