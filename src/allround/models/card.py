"""The card of a saved model, README.md: front matter that the Hub reads, and text for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from allround.core.files import is_hub_id
from allround.models.base import INSTALLED, builtin_encoders

CARD = "README.md"


def write_card(
    folder: Path, title: str, lines: Sequence[str], *, tags: Sequence[str] = (), made_from: Iterable[str] = ()
) -> None:
    """Write the card of a model into its folder.

    lines: of its text, in Markdown. tags: beside `allround`. made_from: the models that it was made from, of which the
    front matter names those that are on the Hub. No license is named, since that is for the model's maker to choose.
    """
    from huggingface_hub import ModelCard, ModelCardData

    bases = [found for name in dict.fromkeys(made_from) if (found := hub_id(name)) is not None]
    data = ModelCardData(library_name="allround", tags=[*tags, "allround"], base_model=bases or None)
    ModelCard("\n".join(["---", data.to_yaml(), "---", "", f"# {title}", "", *lines, ""])).save(folder / CARD)


def hub_id(name: str) -> str | None:
    """The id on the Hub of the model that a name means; None: it is a folder or file, or pretrained on the spot.

    >>> hub_id("org/model"), hub_id("all-MiniLM-L6-v2")
    ('org/model', 'sentence-transformers/all-MiniLM-L6-v2')
    >>> hub_id("small_image"), hub_id("/models/base"), hub_id(".")
    (None, None, None)
    """
    if name in INSTALLED:
        return f"sentence-transformers/{name}"
    return name if is_hub_id(name) and name not in builtin_encoders() and not Path(name).exists() else None
