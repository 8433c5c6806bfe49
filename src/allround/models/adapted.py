"""An encoder's folder that holds an adapter, and says where the base lies that it changes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Container, Mapping
from pathlib import Path, PurePosixPath

from allround.checkpoints.adapted import Adapted
from allround.checkpoints.adapter import Adapter
from allround.checkpoints.adapter_config import CONFIG as ADAPTER
from allround.checkpoints.adapter_config import is_adapter
from allround.checkpoints.fingerprint import fingerprint
from allround.checkpoints.source import Source
from allround.checkpoints.weights import Weights
from allround.core.errors import AllroundError
from allround.core.files import is_inside, read_settings, write_json
from allround.models.encoder import CONFIG, Encoder
from allround.models.pretrained import saved_names

#: Elements of a weight that are changed at once.
_STRETCH = 1 << 22


def base_of(folder: Path) -> Path | None:
    """The folder of the encoder that an adapter in a folder changes; None for any other folder, and for an adapter that
    does not say.

    Errors: a base that is not there, or has other weights; a path that leads elsewhere than beside the folder's own
    piece.
    """
    found = _named(folder)
    if found is None:
        return None
    asked = f"open the adapter in {folder}"
    path, content = (found.get("path"), found.get("content")) if isinstance(found, Mapping) else (None, None)
    parts = PurePosixPath(path).parts if isinstance(path, str) else ()
    if parts[:2] != ("..", "..") or not is_inside("/".join(parts[2:])):
        raise AllroundError(
            asked, f"{CONFIG} names no base beside it: {str(path)[:100]!r}", "copy the run folder again, whole"
        )
    base = folder / PurePosixPath(*parts)
    if not base.is_dir():
        raise AllroundError(
            asked,
            f"the base that it changes is not there: {base}",
            "keep the pieces of a run together; to have one model by itself, save it: allround.load(FOLDER).save(OUT)",
        )
    if is_adapter(base):
        raise AllroundError(asked, f"its base, {base}, is an adapter itself", "copy the run folder again, whole")
    if fingerprint(Weights(base)) != content:
        raise AllroundError(
            asked, f"the base in {base} has other weights than the one that was tuned", "build again, or copy it again"
        )
    return base


def content_of_base(folder: Path) -> str | None:
    """The fingerprint of the base that an adapter in an encoder's folder changes, as that says; None where it does not
    say, which is so of all folders that allround did not write."""
    found = _named(folder)
    content = found.get("content") if isinstance(found, Mapping) else None
    return content if isinstance(content, str) else None


def _named(folder: Path) -> object:
    """What the folder of an adapter says of its base."""
    file = folder / CONFIG
    about = read_settings(file) if is_adapter(folder) and file.is_file() else None
    return about.get("base") if isinstance(about, Mapping) else None


def write_adapted(folder: Path, base: Path, place: Path) -> None:
    """Make an encoder's folder of one that holds an adapter.

    folder: what PEFT wrote. base: the folder of the encoder that was tuned. place: where the folder will be.
    """
    config = read_settings(folder / ADAPTER)
    # PEFT writes the base's path down, and a run folder may be moved.
    write_json(folder / ADAPTER, {**config, "base_model_name_or_path": None})
    (folder / "README.md").unlink(missing_ok=True)
    about = read_settings(base / CONFIG)
    path = Path(os.path.relpath(base.absolute(), place.absolute())).as_posix()
    found = {"path": path, "content": fingerprint(Weights(base))}
    write_json(folder / CONFIG, {"encoder": about["encoder"], "settings": about["settings"], "base": found})


def can_be_adapted(base: Path, place: Path) -> bool:
    """Whether an encoder's folder at a place can say that it changes this base."""
    path = Path(os.path.relpath(base.absolute(), place.absolute())).as_posix()
    beside = path.startswith("../../") and is_inside(path.removeprefix("../../"))
    return beside and (base / CONFIG).is_file() and not is_adapter(base)


def open_weights(folder: Path) -> Source:
    """The weights of an encoder's folder, also of one that holds an adapter and says where its base is."""
    base = base_of(folder)
    return Weights(folder) if base is None else Adapted(Weights(base), Adapter(folder))


def copy_adapter(folder: Path, out: Path) -> None:
    """Copy the configuration and the weights of an adapter into a new folder."""
    out.mkdir()
    for path in sorted(folder.glob("adapter_*")):
        shutil.copyfile(path, out / path.name)


def put_on(encoder: Encoder, folder: Path, base: Path) -> None:
    """Add an adapter to the weights of its base, in place."""
    source = Adapted(Weights(base), Adapter(folder))
    put_changed(encoder, source, source.edits)


def put_changed(encoder: Encoder, source: Source, changed: Container[str]) -> None:
    """Give an encoder of the base the weights of a source, in place. changed: the tensors of it that may differ."""
    tensors = {**dict(encoder.backbone.named_parameters()), **dict(encoder.backbone.named_buffers())}
    for name, stored in saved_names(encoder.backbone).items():
        if name in tensors and stored in changed:
            flat = tensors[name].detach().view(-1)
            for start in range(0, len(flat), _STRETCH):
                stop = min(start + _STRETCH, len(flat))
                flat[start:stop] = source.read(stored, start, stop).to(flat.dtype)
