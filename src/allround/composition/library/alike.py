"""Modules that are the same as others of their library, or nearly so."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from allround.composition.library.card import Card
from allround.composition.library.likeness import Array, nearest


def same(cards: Mapping[str, Card]) -> list[list[str]]:
    """The groups of modules that are the same, each in the order of the cards."""
    groups: dict[str, list[str]] = {}
    for name, card in cards.items():
        groups.setdefault(card.content, []).append(name)
    return [names for names in groups.values() if len(names) > 1]


def nearly_same(
    near: float, cards: Mapping[str, Card], sketches: Mapping[str, Array], cosine: Callable[[str, str], float]
) -> dict[str, str]:
    """Modules without tasks that differ from another one by at most a share of the larger change: their names -> that
    of the other, which has tasks or comes first.

    cosine: of the changes of two modules, exactly; it is asked for those of which the sketches are alike.
    """
    found: dict[str, str] = {}
    while True:
        left = {name: sketches[name] for name in cards if name not in found}
        # Where changes are this much alike, the distance by sketches is off by far less than itself.
        close = {
            name: one.name for name, one in nearest(left).items() if one is not None and one.difference <= 2 * near
        }
        pairs = dict.fromkeys((min(pair), max(pair)) for pair in close.items())
        gone: dict[str, str] = {}
        for pair in pairs:
            kept, name = sorted(pair, key=lambda name: (not cards[name].tasks, name))
            if not cards[name].tasks and kept not in gone and name not in gone:
                one, two = cards[kept].norm, cards[name].norm
                square = one**2 + two**2 - 2 * one * two * cosine(kept, name)
                if square <= (near * max(one, two)) ** 2:
                    gone[name] = kept
        if not gone:
            return found
        found |= gone
