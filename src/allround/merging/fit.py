"""Whether models fit together: each model's tensor for each tensor of the output, and what is done where it lacks."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from typing import Any

from allround.checkpoints.header import FLOATS
from allround.checkpoints.quantised import UNPACK
from allround.checkpoints.source import Source
from allround.checkpoints.tied import EMBEDDING, OUTPUT
from allround.checkpoints.tokens import moved_tokens
from allround.core import registry
from allround.core.errors import AllroundError
from allround.core.words import plural
from allround.merging.named_base import named_base
from allround.merging.names import Names
from allround.merging.plan import Item, Output
from allround.merging.recipe import Recipe


class Fits:
    """Finds each model's tensor for each output, and collects what does not fit."""

    def __init__(self, recipe: Recipe, base: Source | None, models: list[Source], notes: list[str]) -> None:
        self.recipe, self.base, self.models, self.notes = recipe, base, models, notes
        self.entry = registry.find("merge", recipe.method)
        self.each = {p.name for p in self.entry.parameters if "Each" in p.type}
        self.names = [Names(base, model) for model in models]
        self.missing: dict[int, list[str]] = {}
        self.differ: dict[int, list[str]] = {}
        self.extra: dict[int, list[str]] = {}
        self.strange: dict[int, list[str]] = {}
        #: Floating point in one and not in the other: the model's dtype and the base's.
        self.kinds: dict[int, dict[str, tuple[str, str]]] = {}
        first = base or models[0]
        aligned = recipe.tokenizer is not None
        self.moved = [0 if aligned or model is first else self._moved(first, model) for model in models]
        self.used: set[tuple[int, str]] = set()

    def _moved(self, first: Source, model: Source) -> int:
        found = moved_tokens(first.path, model.path)
        if found is None:
            self.notes.append(f"{model.path}: whether its tokens have the same numbers as in {first.path} is not "
                              "known, as their tokenizers differ and one is of a kind that is not read")  # fmt: skip
        return found or 0

    def item(self, output: Output) -> Item | None:
        first = -1 if output.base is not None else next(n for n, name in enumerate(output.models) if name is not None)
        reference = self.base if first < 0 else self.models[first]
        assert reference is not None
        known = output.base if first < 0 else self.names[first].find(str(output.models[first]))
        if known is None or known not in reference:
            self.missing.setdefault(max(first, 0), []).append(output.name)
            return None
        dtype, shape = reference.dtype(known), reference.shape(known)
        floating = dtype in FLOATS
        out = (output.dtype or self.recipe.dtype or dtype) if floating else dtype
        found: list[tuple[int, str]] = []
        for number, wanted in enumerate(output.models):
            if wanted is None:
                continue
            name = self.names[number].find(wanted)
            if name is None:
                if floating:
                    self.missing.setdefault(number, []).append(wanted)
                continue
            self.used.add((number, name))
            there = self.models[number].dtype(name)
            if (there in FLOATS) != floating:
                self.kinds.setdefault(number, {})[name] = there, dtype
                continue
            if self.moved[number] and (EMBEDDING.search(name) or OUTPUT.search(name)):
                self.strange.setdefault(number, []).append(name)
                continue
            if self.models[number].shape(name) != shape:
                if floating:
                    self.differ.setdefault(number, []).append(name)
                continue
            found.append((number, name))
        whole = len(found) == sum(wanted is not None for wanted in output.models)
        keep = self.recipe.on_mismatch == "keep-base" and not whole
        if not floating or keep or not found or 0 in shape:
            models = ((first, known),) if first >= 0 else ()
            return Item(output.key, out, shape, output.base, models, copied=first)
        values = self._values(output, [number for number, _ in found])
        return Item(output.key, out, shape, output.base, tuple(found), values)

    def _values(self, output: Output, present: list[int]) -> dict[str, Any]:
        values = dict(self.recipe.values if output.values is None else output.values)
        for rule in self.recipe.rules:
            if fnmatch.fnmatchcase(output.name, rule.match):
                values.update(rule.values)
        values = self.entry.resolve(values)
        for name in self.each:
            each = values[name]
            if isinstance(each, (list, tuple)):
                values[name] = [each[number] for number in present]
        return values

    def check_rules(self, outputs: Sequence[Output]) -> None:
        for rule in self.recipe.rules:
            if not any(fnmatch.fnmatchcase(output.name, rule.match) for output in outputs):
                raise AllroundError(
                    f"give other values to the tensors '{rule.match}'",
                    "no tensor has such a name",
                    "correct the rule; `--dry-run` without it lists the names",
                )

    def check_extra(self, outputs: Sequence[Output]) -> None:
        if self.base is None or self.recipe.mixed:
            return
        left_out = {output.base for output in outputs if None in output.models}
        for number, model in enumerate(self.models):
            self.extra[number] = [
                name for name in model
                if (number, name) not in self.used and name not in left_out and model.dtype(name) in FLOATS
                and not self.names[number].is_tied(name)
            ]  # fmt: skip

    def take_extra(self) -> list[Item]:
        """What the base lacks of the model that the recipe takes it from, as it is; the same of others is left out."""
        if self.recipe.extra_from is None:
            return []
        number = [model.path for model in self.recipe.models].index(self.recipe.extra_from)
        source, names = self.models[number], self.extra[number]
        if not names:
            raise AllroundError(
                f"take what the base lacks from {source.path}",
                "the base has every tensor of it",
                "leave it out, or name the model that has more",
            )
        self.notes.append(f"{', '.join(names[:3])}{', ...' if len(names) > 3 else ''}: taken from {source.path}")
        self.extra = {n: [] if n == number else [one for one in extra if one not in names]
                      for n, extra in self.extra.items()}  # fmt: skip
        return [
            Item(name, self.recipe.dtype or source.dtype(name), source.shape(name), None, ((number, name),),
                 copied=number)
            for name in names
        ]  # fmt: skip

    def raise_problems(self) -> None:
        whose = "the base" if self.base else "the first model"
        for number, model in enumerate(self.models):
            missing, differ = self.missing.get(number, []), self.differ.get(number, [])
            extra = self.extra.get(number, [])
            parts = []
            if missing:
                parts.append(missing_words(missing, whose))
            if extra:
                are = "is" if len(extra) == 1 else "are"
                parts.append(f"{plural(len(extra), 'tensor')} {are} not in the base ({', '.join(extra[:3])})")
            if differ:
                parts.append(self._differing(model, differ))
            if number in self.kinds:
                name, (there, here) = next(iter(self.kinds[number].items()))
                more = plural(len(self.kinds[number]) - 1, "more tensor")
                parts.append(f"'{name}' is stored as {there}, in {whose} as {here}, and one cannot be merged with the "
                             f"other ({more} like that)")  # fmt: skip
            if number in self.strange:
                differ = [*differ, *self.strange[number]]
                moved = self.moved[number]
                parts.append(f"{plural(moved, 'token')} {'has another number' if moved == 1 else 'have other numbers'} "
                             f"in its tokenizer, so the rows of {self.strange[number][0]} mean other words (the "
                             "vocabularies differ)")  # fmt: skip
            if not parts:
                continue
            found = "; ".join(parts)
            if self.recipe.on_mismatch == "error":
                into = self.base.path if self.base else self.models[0].path
                raise AllroundError(
                    f"merge {model.path} into {into}",
                    found,
                    self._forgotten() + self._way_out(number, differ, bool(missing or differ)),
                )
            done = f"{whose}'s are kept there" if self.recipe.on_mismatch == "keep-base" else "it is left out there"
            lacks = missing or differ or number in self.kinds
            left = "what the base lacks is not in the merged model"
            self.notes.append("; ".join([f"{model.path}: {found}", *([done] if lacks else []),
                                         *([left] if extra else [])]))  # fmt: skip

    def _differing(self, model: Source, differ: list[str]) -> str:
        name = differ[0]
        shape = model.shape(name)
        reference = self.base or self.models[0]
        other = reference.shape(name) if name in reference else None
        whose = "the base" if self.base else "the first model"
        words = differing_words(differ, f"{shape}, in {whose} {other}")
        if EMBEDDING.search(name) or OUTPUT.search(name):
            words += " (the vocabularies differ)"
        return words

    def _forgotten(self) -> str:
        """What the base's own files say, where they name a base: then the first of the models was given as the base."""
        named = named_base(self.base.path) if self.base else None
        if self.base is None or named is None:
            return ""
        return f"{self.base.path} is taken as the base, and was itself tuned from {named}: give that first; or "

    def _way_out(self, number: int, differ: Sequence[str], lacks: bool) -> str:
        if number in self.kinds:
            return f"{UNPACK}; or take the base's tensors there: --on-mismatch keep-base"
        if not lacks:
            return (
                "merge only checkpoints that were tuned from this base; to go on without these tensors (such as heads "
                "that were put on the base): --on-mismatch keep-base; to take those of one model: --extra-from MODEL"
            )
        if any(EMBEDDING.search(n) or OUTPUT.search(n) for n in differ):
            return (
                "align the vocabularies (`tokenizer: union` in a recipe), or keep the base's rows: "
                "--on-mismatch keep-base"
            )
        return (
            "merge only checkpoints that were tuned from this base; to go on: --on-mismatch keep-base takes the "
            "base's tensors there, --on-mismatch skip leaves that model out there"
        )


def missing_words(names: Sequence[str], whose: str) -> str:
    """
    >>> missing_words(["w"], "the base")
    '1 tensor of the base is missing (w)'
    """
    are = "is" if len(names) == 1 else "are"
    return f"{plural(len(names), 'tensor')} of {whose} {are} missing ({', '.join(names[:3])})"


def differing_words(names: Sequence[str], shapes: str) -> str:
    """shapes: of the first, in words.

    >>> differing_words(["w", "v"], "(2, 3), in the base (2, 2)")
    '2 tensors differ in shape, such as w: (2, 3), in the base (2, 2)'
    """
    differ = "differs in shape," if len(names) == 1 else "differ in shape, such as"
    return f"{plural(len(names), 'tensor')} {differ} {names[0]}: {shapes}"
