"""The licence of a base: what its model card names."""

from __future__ import annotations

import contextlib
from pathlib import Path

from allround.core.errors import AllroundError
from allround.core.reading import read_text
from allround.models.base import builtin_encoders, find_folder
from allround.models.card import CARD, hub_id, named_licence

_DO = "name the licence of your model, such as --license apache-2.0"


def licence_of(base: str | None, asked: str) -> str:
    """The licence that the card of a base names: in its folder, or on the Hub.

    Errors: the base is not known, or has no card, or the card names no licence.
    """
    if base is None or base in builtin_encoders():
        raise AllroundError(asked, "the model has no base with a licence to take over", _DO)
    found = _in_folder(base) or _on_hub(base)
    if found is None:
        raise AllroundError(asked, f"no licence of the base {base} was found: no model card names one", _DO)
    return found


def _in_folder(base: str) -> str | None:
    folder: Path | None = None
    with contextlib.suppress(AllroundError, OSError):
        folder = find_folder(base)
    for place in (folder, folder.parent) if folder is not None else ():
        if (place / CARD).is_file():
            return named_licence(read_text(place / CARD, what="model card"))
    return None


def _on_hub(base: str) -> str | None:
    """What the Hub says; None where it cannot be asked."""
    from huggingface_hub import HfApi, errors

    name = hub_id(base)
    if name is None:
        return None
    try:
        data = HfApi().model_info(name).card_data
    except (OSError, errors.HTTPError):  # type: ignore[attr-defined]
        return None
    value = data.get("license") if data is not None else None
    return str(value) if value else None
