"""A base's names of weights, and a model's: under other prefixes, or tied to another weight."""

from __future__ import annotations

from allround.checkpoints.header import FLOATS
from allround.checkpoints.prefixes import find_prefix
from allround.checkpoints.source import Source
from allround.checkpoints.tied import EMBEDDING, OUTPUT, ties


def is_output(name: str) -> bool:
    return bool(OUTPUT.search(name)) and name.endswith(".weight")


class Names:
    """Where a model holds the base's tensors: under the same names, under a prefix, or tied to another."""

    def __init__(self, base: Source | None, model: Source) -> None:
        self.known = set(model)
        self.prefix = self.stripped = ""
        self.tied = ties(model)
        if base is not None:
            self.prefix, self.stripped = find_prefix([n for n in base if base.dtype(n) in FLOATS], self.known)

    def find(self, name: str) -> str | None:
        if self.prefix and self.prefix + name in self.known:
            return self.prefix + name
        if self.stripped and name.startswith(self.stripped) and name[len(self.stripped) :] in self.known:
            return name[len(self.stripped) :]
        if name in self.known:
            return name
        if self.tied and is_output(name):
            return next((n for n in sorted(self.known) if EMBEDDING.search(n)), None)
        return None

    def plain(self, name: str) -> str:
        """What the base would call a tensor of the model's."""
        return name[len(self.prefix) :] if self.prefix and name.startswith(self.prefix) else self.stripped + name

    def is_tied(self, name: str) -> bool:
        """Whether a tensor only repeats another, so that nothing is lost without it."""
        return self.tied and bool(OUTPUT.search(name))
