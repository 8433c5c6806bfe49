"""A saved model on the Hub: its card with what the Hub reads, and its files without the pieces of the run."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from allround.building.licences import licence_of
from allround.building.saving import CONFIG
from allround.building.stages.report import BEST
from allround.core.errors import AllroundError
from allround.core.files import MANIFEST, is_hub_id
from allround.core.locks import LOCK
from allround.core.outputs import output_folder, scratch_folder
from allround.models.card import CARD, hub_card, hub_id
from allround.models.manifest import MANIFEST as MODEL
from allround.models.manifest import read_manifest

#: What is never uploaded, by the name of a file or a folder.
_LEFT_OUT = {MANIFEST, LOCK, CARD, CONFIG, "pieces", "log.txt", "track"}


class Hub(Protocol):
    """The part of `huggingface_hub.HfApi` that a push needs."""

    def create_repo(self, repo_id: str, *, private: bool | None = None, exist_ok: bool = False) -> object: ...

    def upload_folder(self, *, repo_id: str, folder_path: str, commit_message: str) -> object: ...


@dataclass(frozen=True)
class Pushed:
    """What was uploaded, or would be.

    card: its text. files: with their bytes. where: the page on the Hub, or the folder that a dry run wrote.
    """

    repository: str
    card: str
    files: dict[str, int]
    where: str


def push(
    run: Path | str,
    repository: str,
    *,
    licence: str | None = None,
    datasets: Sequence[str] = (),
    private: bool = False,
    dry_run: bool = False,
    out: Path | str | None = None,
    force: bool = False,
    hub: Hub | None = None,
) -> Pushed:
    """Upload the best model of a run, or a saved model, to the Hub, with a card.

    repository: OWNER/NAME on the Hub; it is made where there is none. licence: of the model; left out, that of the
    base, where its card names one. datasets: ids on the Hub of what it was trained on, for the card. private: make the
    repository private. dry_run: upload nothing, and write what would be uploaded into the folder `out`, by default
    `RUN.push`. hub: what uploads; left out, `huggingface_hub.HfApi()`, with its token.
    Errors: no model there; no licence known; no token, or one that may not write.
    """
    run = Path(run)
    asked = f"push {run} to {repository}"
    if not is_hub_id(repository):
        raise AllroundError(asked, "the name is not of the form OWNER/NAME", "give a name such as mine/support-model")
    model = run / BEST if (run / BEST / MODEL).is_file() else run
    sort, definitions, facts = read_manifest(model)
    base = _base_of(run, facts)
    card = hub_card(
        repository,
        sort,
        definitions,
        facts,
        base=hub_id(base) if base else None,
        licence=licence or licence_of(base, asked),
        datasets=datasets,
    )
    if dry_run:
        place = Path(out) if out is not None else run.parent / f"{run.name}.push"
        with output_folder(place, "push", force=force, inputs=[run]) as folder:
            files = _fill(folder, model, card, link=False)
        return Pushed(repository, card, files, str(place))
    with scratch_folder(run.parent / f"{run.name}.push") as folder:
        files = _fill(folder, model, card, link=True)
        return Pushed(repository, card, files, _upload(asked, hub, folder, repository, private))


def _base_of(run: Path, facts: Mapping[str, object]) -> str | None:
    """The base by the name that was given: in the file of options, or in what the model says of itself."""
    from allround.core.documents import read_documents

    for folder in (run, run.parent):
        if (folder / CONFIG).is_file():
            found = read_documents(folder / CONFIG)
            if found and isinstance(found[0], Mapping) and found[0].get("base"):
                return str(found[0]["base"])
    for part in ("made_by", "provenance"):
        value = facts.get(part)
        if isinstance(value, Mapping) and isinstance(value.get("base"), str):
            return str(value["base"])
    return None


def _fill(folder: Path, model: Path, card: str, *, link: bool) -> dict[str, int]:
    """Put what is uploaded into a folder; the files with their bytes. link: to the files, instead of copies."""
    files: dict[str, int] = {}
    for path in sorted(model.rglob("*")):
        name = path.relative_to(model)
        if path.is_dir() or _LEFT_OUT & set(name.parts) or any(part.startswith(".") for part in name.parts):
            continue
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if link:
            (folder / name).symlink_to(path.resolve())
        else:
            shutil.copyfile(path, folder / name)
        files[name.as_posix()] = path.stat().st_size
    (folder / CARD).write_text(card, encoding="utf-8")
    return {CARD: len(card.encode()), **files}


def _upload(asked: str, hub: Hub | None, folder: Path, repository: str, private: bool) -> str:
    from huggingface_hub import HfApi, errors

    token = "log in by `hf auth login`, or set HF_TOKEN to a token that may write"
    api: Hub = HfApi() if hub is None else hub
    try:
        made = api.create_repo(repository, private=private or None, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=str(folder), commit_message="Upload by allround")
    except errors.LocalTokenNotFoundError as error:
        raise AllroundError(asked, "there is no token for the Hub on this machine", token) from error
    except (OSError, errors.HTTPError) as error:  # type: ignore[attr-defined]
        status = getattr(getattr(error, "response", None), "status_code", None)
        words = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        if status == 401:
            raise AllroundError(asked, f"the Hub knows no valid token ({words})", token) from error
        if status == 403:
            raise AllroundError(
                asked, f"the token may not write there ({words})", f"use a name of your own, or {token}"
            ) from error
        raise AllroundError(asked, f"the Hub cannot be reached or refused: {words}", "try again later") from error
    return str(made)
