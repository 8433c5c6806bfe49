"""The size of a base that is pretrained on the spot: a few are tried, and validation rows decide."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from allround.building.judge import Judge
from allround.building.stages.base import Base, base_work, say_base
from allround.building.stages.data import Data
from allround.building.stages.heads import head_work
from allround.building.words import plain_name
from allround.building.workshop import Work, Workshop
from allround.core.errors import AllroundError
from allround.core.pieces import Piece
from allround.models.base import builtin_encoders, sizes_of


def check_sizes(given: object, encoder: Mapping[str, object]) -> None:
    """An error where there are no sizes of a base to try. encoder: settings that are asked for."""
    name = plain_name(given)
    have = [one for one in builtin_encoders() if sizes_of(one)]
    if name not in have:
        raise AllroundError(f"try sizes of the base '{name}'", "it has one size only",
                            f"leave `sizes` out, or take {' or '.join(have)} as the base")  # fmt: skip
    if encoder:
        raise AllroundError(
            f"try sizes of the base '{name}'",
            f"its size is given already: {', '.join(f'{key}={value}' for key, value in encoder.items())}",
            "leave one of them out",
        )


def choose_size(shop: Workshop, name: str, data: Data, seed: int, *, device: str, head: str | None) -> Base:
    """Make the base in each of its sizes, and take the one whose fitted heads do best on validation.

    That is the one with the highest mean over tasks of the score relative to that of the first size; of equals the
    first. Nothing is tuned for it; the heads of the size that is taken are those that the build goes on with.
    """
    sizes = sizes_of(name)
    made = {size: base_work(shop, name, data, settings, seed) for size, settings in sizes.items()}
    tally = shop.do(f"base in {len(sizes)} sizes", list(made.values()))
    heads: dict[str, Mapping[str, Piece]] = {}
    work: list[Work] = []
    for size, (piece, _) in made.items():
        heads[size], more = head_work(shop, data, str(piece.folder / "encoder"), piece.key, device, sort=head)
        work += more
    shop.do(f"heads of {len(sizes)} sizes", work)
    scores = {size: {task: float(p.facts["validation"]) for task, p in of.items()} for size, of in heads.items()}
    judge = Judge(data.metrics, scores[next(iter(sizes))])
    best = max(sizes, key=lambda size: judge.mean(scores[size]))
    words = f"{best} of {len(sizes)} tried, by validation"
    base = replace(Base(plain_name(name), made[best][0]), chosen=words)
    say_base(shop, base, tally)
    shares = ", ".join(f"{size}: {100 * judge.mean(scores[size]):.1f}%" for size in sizes)
    shop.say(f"size: {words} (mean of scores relative to the first: {shares})")
    return base
