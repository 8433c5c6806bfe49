"""What is put into the folder of a module: an adapter as it came, or what a tuned model changes, with its heads."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from allround.checkpoints.adapted import Adapted
from allround.checkpoints.adapter import Adapter
from allround.checkpoints.adapter_config import CONFIG, is_adapter
from allround.checkpoints.finite import count_odd, odd_words
from allround.checkpoints.header import FLOATS
from allround.checkpoints.quantised import check_not_quantised
from allround.checkpoints.replaced import REPLACED, differing, write_tensors
from allround.checkpoints.tokens import moved_tokens
from allround.checkpoints.weights import Weights
from allround.composition.library.card import (
    ADAPTER,
    CARD,
    TASKS,
    TENSORS,
    WEIGHTS,
    Card,
    TunedTask,
    read_card,
    tuned_tasks,
)
from allround.composition.library.known import ModuleTasks, tasks_in
from allround.composition.library.likeness import write_sketch
from allround.composition.library.sketching import content_of, measure
from allround.composition.modules.changes import Changes
from allround.core.errors import AllroundError
from allround.core.files import MANIFEST, hash_file, hash_json, read_settings, write_json
from allround.core.reading import check_file, read_text
from allround.core.words import plural
from allround.merging.extract import extract_lora
from allround.merging.names import Names
from allround.merging.sources import untie
from allround.models.adapted import content_of_base
from allround.models.base import find_folder
from allround.models.card import CARD as MODEL_CARD
from allround.models.card import named_licence
from allround.models.encoder import CONFIG as ENCODER
from allround.models.head_files import HEADS, read_heads
from allround.models.manifest import MANIFEST as MODEL
from allround.models.manifest import PLAIN, read_manifest

#: In a module's folder: tensors of a full model that the base lacks.
ASIDE = "aside.safetensors"
_DO = "add it to a library of the base that it was tuned from"
#: Files of an adapter's folder that are kept beside its configuration and weights.
_WORDS = (MODEL_CARD, "LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE")
#: What may be lost where the encoder beside an adapter was rounded: a share of a tensor's norm.
_ROUNDED = 0.01


@dataclass(frozen=True)
class Given:
    """A module as a user gives it. place: the folder of its weights. known: of the model that allround saved. heads:
    its file of heads. encoder: of such a model, where `place` is the adapter that made it. card: of a module that comes
    from another library."""

    asked: str
    origin: str
    place: Path
    known: ModuleTasks = field(default_factory=ModuleTasks)
    heads: Path | None = None
    encoder: Path | None = None
    card: Card | None = None


def open_given(source: str | Path, asked: str) -> Given:
    """Find the parts of a module: an adapter of PEFT, a model, a model that allround saved, or a library's module.

    Errors: what is none of these; systems of several models.
    """
    folder = Path(source).expanduser()
    file = folder / HEADS
    heads = file if file.is_file() else None
    if (folder / CARD).is_file() and (folder / WEIGHTS).is_dir():
        return Given(asked, str(source), folder / WEIGHTS, tasks_in(folder), heads, card=read_card(folder))
    place = find_folder(source, "module")
    if not (folder / MODEL).is_file():
        return Given(asked, str(source), place)
    sort, definitions, facts = read_manifest(folder)
    if sort != PLAIN:
        raise AllroundError(
            asked, f"it is a system of the sort '{sort}'", "give a model with one encoder, or an adapter of PEFT"
        )
    said = read_settings(place / ENCODER) if (place / ENCODER).is_file() else None
    reading = {name: said.get(name) for name in ("encoder", "settings")} if isinstance(said, Mapping) else None
    known = ModuleTasks(definitions, facts, reading)
    own = folder / "adapter"  # what training changed, beside the whole encoder
    if is_adapter(own) and not is_adapter(place):
        return Given(asked, str(source), own, known, heads, encoder=place)
    return Given(asked, str(source), place, known, heads)


def put_into(folder: Path, given: Given, base: Weights, fingerprint: str, rank: int | None) -> Card:
    """Write all parts of a module but its card into a new folder, and give the card.

    rank: of the adapter that is made of a full model; None: its tensors are kept. Errors: a module of another base.
    """
    weights = folder / WEIGHTS
    weights.mkdir()
    card, known = given.card, given.known
    if card is not None and card.base != fingerprint:
        raise AllroundError(given.asked, "it is a module of another base", _DO)
    aside = () if card is None else card.aside
    held = None if card is None else card.held
    if is_adapter(given.place):
        _copy_adapter(given, weights, fingerprint)
    elif card is not None:
        _copy(given, given.place / REPLACED, weights)
    else:
        aside, held = _take_model(given, folder, base, rank)
    if card is not None and (given.place.parent / ASIDE).is_file():
        _copy(given, given.place.parent / ASIDE, folder)
    changes = Changes(base, weights)
    aside = (*aside, *(name for name in changes.extra if name not in aside))
    adapter = changes.tuned.adapters[0] if isinstance(changes.tuned, Adapted) else None
    if adapter is not None:
        _check_finite(given.asked, adapter.weights)
    if given.encoder is not None:
        _check_makes(given.asked, changes, Weights(given.encoder))
    content = content_of(changes)
    if known.definitions:
        about = [definition.to_json() for definition in known.definitions.values()]
        heads = None
        if given.heads is not None:
            _copy(given, given.heads, folder)
            read_heads(folder / HEADS)
            heads = hash_file(folder / HEADS)
        write_json(folder / TASKS, {"tasks": about, "facts": dict(known.facts), "reading": known.reading})
        content = hash_json([content, about, heads])
    found = measure(changes)
    write_sketch(folder, found.sketch)
    return Card(
        base=fingerprint,
        origin=given.origin,
        form=TENSORS if adapter is None else ADAPTER,
        ranks=found.ranks,
        tensors=found.tensors,
        numbers=found.numbers,
        bytes=sum(file.stat().st_size for file in _weights_in(folder)),
        norm=found.norm,
        content=content,
        tasks=tuned_tasks(known.facts, tuple(known.definitions)),
        licence=_licence(given.place),
        aside=aside,
        held=held,
        named_base=adapter.base_name if adapter is not None else None,
    )


def with_told(card: Card, given: Card | None, tasks: Mapping[str, TunedTask], licence: str | None) -> Card:
    """A card with what the user says of the module. given: the card that it had in another library."""
    told = {**(given.tasks if given is not None else {}), **tasks}
    new = sorted(set(told) - set(card.tasks))
    return replace(
        card,
        tasks={**card.tasks, **told},
        licence=card.licence or licence or (given.licence if given is not None else None),
        content=hash_json([card.content, new]) if new else card.content,
    )


def _copy(given: Given, file: Path, folder: Path) -> None:
    check_file(file, asked=given.asked)
    shutil.copyfile(file, folder / file.name)


def _weights_in(folder: Path) -> list[Path]:
    found = [folder / HEADS, folder / ASIDE, *(folder / WEIGHTS).iterdir()]
    return [file for file in found if file.is_file() and file.suffix in (".safetensors", ".bin")]


# -- adapters ----------------------------------------------------------------------------------------------------------


def _copy_adapter(given: Given, folder: Path, fingerprint: str) -> None:
    """Copy the files of an adapter as they are. Errors: it was made by allround from another base."""
    content = content_of_base(given.place)
    if content is not None and content != fingerprint:
        raise AllroundError(
            given.asked,
            "it says that it changes another base: the weights of that are not those of the library's base",
            _DO,
        )
    adapter = Adapter(given.place)
    words = [given.place / name for name in _WORDS if (given.place / name).is_file()]
    for file in (*adapter.files, *words):
        _copy(given, file, folder)


def _check_finite(asked: str, weights: Weights) -> None:
    for name in weights:
        values = weights.get(name)
        if count_odd(values):
            raise AllroundError(asked, f"'{name}' in it holds {odd_words(values)}", "save it again, or leave it out")


def _check_makes(asked: str, changes: Changes, encoder: Weights) -> None:
    """An error where an adapter on the library's base is not the encoder that it lies beside: then that was tuned from
    another base."""
    for name in encoder:
        if encoder.dtype(name) not in FLOATS:
            continue
        known = name in changes.tuned and changes.tuned.shape(name) == encoder.shape(name)
        there = encoder.get(name).float()
        if not known or (changes.tuned.get(name).float() - there).norm() > _ROUNDED * there.norm() + 1e-6:
            raise AllroundError(
                asked,
                f"its adapter on the library's base does not make its encoder: '{name}' differs",
                _DO,
            )


def _licence(place: Path) -> str | None:
    """The licence that a module's own model card names."""
    card = place / MODEL_CARD
    try:
        return named_licence(read_text(card, what="model card")) if card.is_file() else None
    except AllroundError:  # a module can be used without its card
        return None


# -- full models -------------------------------------------------------------------------------------------------------


def _take_model(given: Given, folder: Path, base: Weights, rank: int | None) -> tuple[tuple[str, ...], float | None]:
    """Write what a full model changes of the base: the tensors that differ, or an adapter of a rank.

    Returns the tensors that it has and the base lacks, and the share of the squared change that the adapter holds.
    """
    asked, tuned = given.asked, Weights(given.place, pickles=True)
    check_not_quantised(tuned, asked)
    pairs, extra = _paired(asked, base, tuned)
    if given.known.definitions and extra:
        raise AllroundError(
            asked,
            f"its encoder has {plural(len(extra), 'tensor')} that the base lacks ({', '.join(extra[:3])})",
            "give a model whose encoder is the base's, without modules of its own",
        )
    own, other = base.path, given.place
    moved = moved_tokens(own, other) if own.is_dir() and other.is_dir() else 0
    if moved:
        has = "has another number" if moved == 1 else "have other numbers"
        raise AllroundError(
            asked,
            f"in its vocabulary, {plural(moved, 'token')} of the base's {has}",
            _DO,
        )
    changed = differing(untie([base, tuned])[0], tuned, list(pairs.items()))
    if not changed and not given.known.definitions:
        raise AllroundError(asked, "it has the same weights as the base", "give a model that was tuned from the base")
    if rank is not None and changed:
        made = extract_lora(tuned, base, folder / WEIGHTS, rank)
        (folder / WEIGHTS / MANIFEST).unlink()
        # The path of the base on this machine says nothing elsewhere.
        config = read_settings(folder / WEIGHTS / CONFIG)
        write_json(folder / WEIGHTS / CONFIG, {**config, "base_model_name_or_path": None})
        held = made.share
    else:
        held = None
        write_tensors(folder / WEIGHTS / REPLACED, tuned, {name: pairs[name] for name in changed}, asked)
    if extra:
        write_tensors(folder / ASIDE, tuned, {name: name for name in extra}, asked)
    return extra, held


def _paired(asked: str, base: Weights, tuned: Weights) -> tuple[dict[str, str], tuple[str, ...]]:
    """Every tensor of the base with its name in a tuned model, and what the model has beside. Errors: see `Library`."""
    first = untie([base, tuned])[0]
    names = Names(first, tuned)
    floats = [name for name in first if first.dtype(name) in FLOATS]
    found = {name: names.find(name) for name in floats}
    missing = [name for name, there in found.items() if there is None and "pooler" not in name.split(".")]
    pairs = {name: there for name, there in found.items() if there is not None}
    differ = [
        n for n, there in pairs.items() if tuned.shape(there) != first.shape(n) or tuned.dtype(there) not in FLOATS
    ]
    if missing or differ:
        name = (missing or differ)[0]
        if missing:
            words = f"it lacks {plural(len(missing), 'tensor')} of the base, such as '{name}'"
        else:
            there = pairs[name]
            shapes = f"{tuned.dtype(there)} of the shape {tuned.shape(there)}, in the base {first.shape(name)}"
            words = f"{plural(len(differ), 'tensor')} of it are others than in the base, such as '{there}': {shapes}"
        raise AllroundError(asked, words, _DO)
    used = set(pairs.values())
    extra = (n for n in tuned if n not in used and tuned.dtype(n) in FLOATS and not names.is_tied(n))
    return pairs, tuple(extra)
