"""The card of a module: what it is, where it came from, and what it was tuned on. Read without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from allround.core.errors import AllroundError
from allround.core.files import check_name, write_json
from allround.core.reading import MAX_WRITTEN, parse_json, read_text
from allround.core.schema import STRICT, fitted

#: In a module's folder: its card, its weights, and its tasks with what is known of them.
CARD, WEIGHTS, TASKS = "card.json", "module", "tasks.json"
#: The forms of a module: an adapter of PEFT as it came, or the tensors in which a tuned model differs from the base.
ADAPTER, TENSORS = "adapter", "tensors"
#: The format of the file that this version writes.
_FORMAT = 1


@dataclass(frozen=True)
class TunedTask:
    """A task that a module was tuned on, as far as it is known. rows: training rows. score: of the test rows, or of
    others where the metric says so."""

    __pydantic_config__ = STRICT

    metric: str | None = None
    score: float | None = None
    rows: int | None = None


@dataclass(frozen=True)
class Card:
    """What a library knows of a module.

    base: the fingerprint of the base that it changes. origin: where it was added from. form: `adapter` or `tensors`.
    ranks: of its low-rank changes, each once. tensors: how many of the base's it changes. numbers: that it stores.
    bytes: of its weights and heads. norm: of its whole change (Frobenius). content: a hash of the change, of the heads
    that come with it and of the names of its tasks; modules with the same are the same. tasks: that it was tuned on.
    licence: that its own card names. aside: tensors that it brings and the base lacks, such as a classifier; they are
    kept, and not used. held: of an adapter that was cut from a full model, the share of the squared change that it
    holds. named_base: what the module's own files call its base.
    """

    __pydantic_config__ = STRICT

    base: str
    origin: str
    form: str
    ranks: tuple[int, ...]
    tensors: int
    numbers: int
    bytes: int
    norm: float
    content: str
    tasks: dict[str, TunedTask] = field(default_factory=dict)
    licence: str | None = None
    aside: tuple[str, ...] = ()
    held: float | None = None
    named_base: str | None = None

    @property
    def rank_words(self) -> str:
        """Its ranks in a word; a dash where nothing of it is of a low rank.

        >>> Card("", "", "adapter", (4, 8), 2, 1, 1, 1.0, "").rank_words
        '4-8'
        """
        return "-".join(str(rank) for rank in dict.fromkeys((self.ranks[0], self.ranks[-1]))) if self.ranks else "-"

    def to_json(self) -> dict[str, object]:
        return asdict(self)


def write_card(folder: Path, card: Card) -> None:
    """Write the card of a module into its folder."""
    write_json(folder / CARD, {"format": _FORMAT, **card.to_json()})


def read_card(folder: Path) -> Card:
    """The card of a module. folder: the module's. Errors: no card, or one that is damaged or of another version."""
    asked = f"read the module {folder}"
    do = "drop the module and add it again, or copy the library again, whole"
    if folder.is_symlink():
        raise AllroundError(asked, "it is a link to another folder", "copy the module's folder to its place")
    if not (folder / CARD).is_file():
        raise AllroundError(asked, f"the folder holds no {CARD}", "move it out of the library, or add it to it")
    text = read_text(folder / CARD, what="card", asked=asked, max_bytes=MAX_WRITTEN)
    try:
        value = parse_json(text)
        if not isinstance(value, dict):
            raise ValueError("it holds no settings")
        version = value.pop("format", None)
        if type(version) is int and version > _FORMAT:
            found = f"its card was written in format {version}, and this version reads {_FORMAT}"
            raise AllroundError(asked, found, "upgrade: pip install -U allround")
        if type(version) is not int or version < 1:
            raise ValueError("it does not say its format")
        card: Card = fitted(Card, value)
        _check(card)
    except ValueError as error:
        raise AllroundError(asked, f"its {CARD} is damaged: {error}", do) from None
    return card


def _check(card: Card) -> None:
    """A ValueError for a card that no library wrote."""
    if card.form not in (ADAPTER, TENSORS):
        raise ValueError(f"form: {card.form[:40]!r} is neither {ADAPTER} nor {TENSORS}")
    if min(card.tensors, card.numbers, card.bytes, card.norm) < 0 or any(rank < 1 for rank in card.ranks):
        raise ValueError("a size in it is below 0")
    if tuple(sorted(set(card.ranks))) != card.ranks:
        raise ValueError("ranks: they must ascend, each once")
    for name in card.tasks:
        try:
            check_name(name, "task")
        except AllroundError as error:
            raise ValueError(f"tasks: {error.found}") from error


def tuned_tasks(facts: Mapping[str, object], names: tuple[str, ...]) -> dict[str, TunedTask]:
    """What the manifest of a model that allround saved says of its tasks, as cards have it."""
    made_by, scores = facts.get("made_by"), facts.get("scores")
    rows = made_by.get("rows") if isinstance(made_by, Mapping) else None
    found = {}
    for name in names:
        about = scores.get(name) if isinstance(scores, Mapping) else None
        about = about if isinstance(about, Mapping) else {}
        metric, score = about.get("metric"), about.get("test", about.get("validation"))
        count = rows.get(name) if isinstance(rows, Mapping) else None
        found[name] = TunedTask(
            metric if isinstance(metric, str) else None,
            float(score) if isinstance(score, (int, float)) and not isinstance(score, bool) else None,
            count if type(count) is int else None,
        )
    return found
