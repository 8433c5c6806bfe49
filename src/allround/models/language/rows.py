"""A row for a language model: the tokens of its prompt, and of the answers that may follow it, as a tree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

#: The place of the prompt's last token among the nodes of a tree.
ROOT = -1


@dataclass(frozen=True)
class Tree:
    """The answers that may follow a prompt, with what they have in common stored once.

    parents: for each token, the place of the one before it, or `ROOT`; parents come first. tokens: by place. depths:
    how many tokens of the answer stand before it. paths: the places of each answer's tokens, in order.
    """

    parents: tuple[int, ...]
    tokens: tuple[int, ...]
    depths: tuple[int, ...]
    paths: tuple[tuple[int, ...], ...]

    @property
    def inner(self) -> tuple[int, ...]:
        """The places that other tokens follow: those that the network must read."""
        return tuple(sorted({parent for parent in self.parents if parent != ROOT}))


def make_tree(answers: Sequence[Sequence[int]]) -> Tree:
    """The tree of some answers' tokens.

    >>> tree = make_tree([(5, 6), (5, 7), (8,)])
    >>> tree.parents, tree.tokens, tree.paths, tree.inner
    ((-1, 0, 0, -1), (5, 6, 7, 8), ((0, 1), (0, 2), (3,)), (0,))
    """
    places: dict[tuple[int, ...], int] = {}
    parents: list[int] = []
    tokens: list[int] = []
    depths: list[int] = []
    paths: list[tuple[int, ...]] = []
    for answer in answers:
        path = []
        for length in range(1, len(answer) + 1):
            start = tuple(answer[:length])
            if start not in places:
                places[start] = len(tokens)
                parents.append(places.get(start[:-1], ROOT))
                tokens.append(start[-1])
                depths.append(length - 1)
            path.append(places[start])
        paths.append(tuple(path))
    return Tree(tuple(parents), tuple(tokens), tuple(depths), tuple(paths))


def has_prefix(answers: Sequence[Sequence[int]]) -> bool:
    """Whether one answer is the beginning of another.

    >>> has_prefix([(1, 2), (1, 2, 3)]), has_prefix([(1, 2), (1, 3)])
    (True, False)
    """
    found = sorted(tuple(answer) for answer in answers)
    return any(other[: len(one)] == one for one, other in pairwise(found))


@dataclass(frozen=True)
class TokenRow:
    """The tokens of a prompt, and the answers whose probability is asked for."""

    prompt: tuple[int, ...]
    tree: Tree

    @property
    def length(self) -> int:
        """Tokens that the network reads."""
        return len(self.prompt) + len(self.tree.inner)
