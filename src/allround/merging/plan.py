"""A merge as it will be done, from headers and configurations alone: what comes from where, and what differs."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from allround.checkpoints.adapter import Adapted, Adapter, is_adapter
from allround.checkpoints.header import FLOATS, SIZES
from allround.checkpoints.prefixes import find_prefix
from allround.checkpoints.quantised import UNPACK, check_not_quantised
from allround.checkpoints.source import Source
from allround.checkpoints.tied import EMBEDDING, OUTPUT, TIE, Untied, is_untied, ties, twins_in
from allround.checkpoints.tokens import moved_tokens
from allround.checkpoints.weights import Weights
from allround.core import registry
from allround.core.errors import AllroundError
from allround.evaluation.scoreboard import plural
from allround.merging.recipe import Model, Recipe

#: Bytes of a shard where the base's own files cannot be kept.
SHARD = 5_000_000_000


@dataclass(frozen=True)
class Item:
    """One tensor of the output.

    name: in its file. base: its name in the base; None where there is none, which counts as zeros. models: which
    model, and its name there. values: the method's parameters. copied: taken over from the base (-1) or a model.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    base: str | None
    models: tuple[tuple[int, str], ...]
    values: Mapping[str, Any] = field(default_factory=dict)
    copied: int | None = None


@dataclass(frozen=True)
class Shard:
    """One file of the output, by its path in the folder."""

    file: str
    items: tuple[Item, ...]
    metadata: Mapping[str, str]

    @property
    def bytes(self) -> int:
        return sum(_bytes(item) for item in self.items)


@dataclass
class Plan:
    """Everything that a merge needs; it can be sent to another machine that sees the same files."""

    recipe: Recipe
    base: Source | None
    models: list[Source]
    shards: list[Shard]
    scope: str
    statistics: dict[str, list[Weights]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    #: What is called with the output folder, in order, when the weights and the base's other files lie in it.
    finish: list[Callable[[Path], None]] = field(default_factory=list)

    @property
    def entry(self) -> registry.Entry:
        return registry.find("merge", self.recipe.method)

    @property
    def items(self) -> Iterable[Item]:
        return (item for shard in self.shards for item in shard.items)

    @property
    def bytes(self) -> int:
        """Of the output's weights."""
        return sum(shard.bytes for shard in self.shards)

    @property
    def own_values(self) -> dict[str, dict[str, Any]]:
        """The parameters of tensors that do not have those of the recipe."""
        entry = self.entry
        common = entry.resolve(self.recipe.values)
        merged = [item for item in self.items if item.copied is None]
        return {i.name: dict(i.values) for i in merged if entry.resolve(i.values) != common}

    def source(self, number: int) -> Source:
        """A model by its number, or the base by -1."""
        if number >= 0:
            return self.models[number]
        assert self.base is not None
        return self.base


@dataclass(frozen=True)
class Output:
    """A tensor that the merged model shall have, before it is known what the models hold.

    models: each model's name for it; None where a model has no part in it. dtype: None: the recipe's, else as its
    first input.
    """

    name: str
    file: str
    key: str
    base: str | None
    models: tuple[str | None, ...]
    values: Mapping[str, Any] | None = None
    dtype: str | None = None


def make_plan(recipe: Recipe, *, outputs: Sequence[Output] | None = None, opener: Any = None) -> Plan:
    """Open everything, compare, and lay out the output. Reads headers and configurations only.

    outputs: the tensors of the merged model where they are not simply those of the base (of the first model, without
    a base). opener: how a recipe's model becomes a source; by default `open_model`.
    Errors: models that do not fit together, unless `recipe.on_mismatch` says what to do then.
    """
    opener = opener or open_model
    base = opener(recipe.base, None) if recipe.base else None
    models = [opener(model, base) for model in recipe.models]
    entry = registry.find("merge", recipe.method)
    statistics = _statistics(recipe, entry, models)
    notes: list[str] = []
    finish: list[Callable[[Path], None]] = []
    for source in [base, *models] if base is not None else models:
        check_not_quantised(source, f"merge by '{recipe.method}'")
    everyone = untie([base, *models] if base is not None else models)
    base, models = (everyone[0], everyone[1:]) if base is not None else (None, everyone)
    if is_untied(everyone[0]):
        from allround.merging.vocabulary import Configure

        finish.append(Configure({TIE: False}))
        notes.append(f"the output layer of {everyone[0].path} is its embedding, and that of a model is not: the merged "
                     f"model stores both ({TIE}: false)")  # fmt: skip
    if recipe.tokenizer or recipe.chat_template or recipe.config or recipe.dtype:
        from allround.merging.vocabulary import prepare

        base, models = prepare(recipe, base, models, finish, notes)
    first = base or models[0]
    if outputs is None:
        outputs = [_same_output(first, name, base is not None, len(models)) for name in first]
    fits = _Fits(recipe, base, models, notes)
    items: dict[str, list[Item]] = {}
    for output in outputs:
        item = fits.item(output)
        if item is not None:
            items.setdefault(output.file, []).append(item)
    fits.check_extra(outputs)
    fits.raise_problems()
    fits.check_rules(outputs)
    return Plan(
        recipe,
        base,
        models,
        _shards(first, items),
        recipe.scope or entry.facts["scope"],
        statistics,
        notes,
        finish,
    )


def _statistics(recipe: Recipe, entry: registry.Entry, models: Sequence[Source]) -> dict[str, list[Weights]]:
    """The files of statistics by kind, one for each model; opened, and checked to be of the kind and of the model."""
    from allround.merging.statistics.file import check_made_for, command

    asked = f"merge {len(recipe.models)} models by '{recipe.method}'"
    values = [recipe.values, *({**recipe.values, **rule.values} for rule in recipe.rules)]
    needed = dict.fromkeys(need for given in values for need in entry.needed(entry.resolve(given)))
    for need in needed:
        given = recipe.statistics.get(need, ())
        if len(given) != len(recipe.models):
            raise AllroundError(
                asked,
                f"the method needs statistics of the kind '{need}' for each model, and {len(given) or 'none'} "
                f"{'are' if len(given) != 1 else 'is'} given",
                f"compute them, such as: {command(need, models[0].path)}; and give one file for each, in the order of "
                f"the models: --statistics {need}=FILE,FILE,...",
            )
    idle = [kind for kind in recipe.statistics if kind not in needed]
    if idle:
        raise AllroundError(
            asked, f"statistics of the kind '{idle[0]}' are given, and the method takes none of it", "leave them out"
        )
    opened = {name: [Weights(file) for file in files] for name, files in recipe.statistics.items()}
    for kind, files in opened.items():
        check_made_for(kind, files, models, asked)
    return opened


def open_model(model: Model, base: Source | None) -> Source:
    """A recipe's model as a source of weights; an adapter alone is one of `base` with it."""
    from allround.models.base import find_folder

    path = Path(model.path)
    path = path if path.is_file() else find_folder(model.path, "model")
    adapters = [Adapter(find_folder(adapter, "adapter")) for adapter in model.adapters]
    if not is_adapter(path):
        source = Weights(path, pickles=True)
        return Adapted(source, adapters) if adapters else source
    first = Adapter(path)
    if base is None:
        raise AllroundError(
            f"open the model {model.path}",
            "it is an adapter, which holds changes of a base and no model",
            "give the base it was tuned from" + (f", '{first.base_name}'" if first.base_name else "") + ", as the base",
        )
    return Adapted(base, [first, *adapters], same_base=True)


def untie(sources: Sequence[Source]) -> list[Source]:
    """The models; the first (the base) with its output layer by itself, where that of another is not the embedding."""
    first, *others = sources
    stored = set(first)
    embeddings = [name for name in stored if EMBEDDING.search(name)]
    tied = ties(first) and len(embeddings) == 1 and not any(map(_is_output, stored))
    twins: dict[str, str] = {}
    for other in others:
        twins |= {name: origin for name, origin in twins_in(other).items() if name not in stored and origin in stored}
        names = Names(first, other)
        rows = names.find(embeddings[0]) if tied and not names.tied else None
        if rows is not None and not twins:
            own = (name for name in other if _is_output(name) and other.shape(name) == other.shape(rows))
            twins |= {names.plain(name): embeddings[0] for name in own}
    return [Untied(first, twins), *others] if twins else [first, *others]


def _is_output(name: str) -> bool:
    return bool(OUTPUT.search(name)) and name.endswith(".weight")


def _same_output(source: Source, name: str, has_base: bool, models: int) -> Output:
    file, key = "", name
    while (inner := getattr(source, "inner", None)) is not None:
        source = inner
    if isinstance(source, Weights) and name in source:
        path, key = source.file_of(name)
        root = source.path if source.path.is_dir() else source.path.parent
        relative = path.relative_to(root)
        file = relative.as_posix() if path.suffix == ".safetensors" else relative.parent.as_posix().lstrip(".")
    return Output(name, file, key, name if has_base else None, (name,) * models)


class _Fits:
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
            if isinstance(values[name], (list, tuple)):
                values[name] = [values[name][number] for number in present]
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
                    f"merge {model.path} into {into}", found, self._way_out(number, differ, bool(missing or differ))
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

    def _way_out(self, number: int, differ: Sequence[str], lacks: bool) -> str:
        if number in self.kinds:
            return f"{UNPACK}; or take the base's tensors there: --on-mismatch keep-base"
        if not lacks:
            return (
                "merge only checkpoints that were tuned from this base; to go on without these tensors (such as heads "
                "that were put on the base): --on-mismatch keep-base"
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
        if self.tied and _is_output(name):
            return next((n for n in sorted(self.known) if EMBEDDING.search(n)), None)
        return None

    def plain(self, name: str) -> str:
        """What the base would call a tensor of the model's."""
        return name[len(self.prefix) :] if self.prefix and name.startswith(self.prefix) else self.stripped + name

    def is_tied(self, name: str) -> bool:
        """Whether a tensor only repeats another, so that nothing is lost without it."""
        return self.tied and bool(OUTPUT.search(name))


def _shards(first: Source, items: Mapping[str, list[Item]]) -> list[Shard]:
    metadata = (getattr(first, "metadata", None) or {}) | {"format": "pt"}
    shards = []
    own = [file for file in items if "/" not in file and file.endswith(".safetensors")]
    if own and "" in items:  # a head that an adapter brings: beside the others, where libraries look for it
        items = {file: [*listed, *(items[""] if file == own[-1] else ())] for file, listed in items.items() if file}
    for file, listed in items.items():
        if file.endswith(".safetensors"):
            shards.append(Shard(file, tuple(listed), metadata))
            continue
        parts: list[list[Item]] = [[]]
        for item in listed:
            if parts[-1] and sum(map(_bytes, parts[-1])) + _bytes(item) > SHARD:
                parts.append([])
            parts[-1].append(item)
        folder = f"{file}/" if file else ""
        for number, part in enumerate(parts, 1):
            name = f"model-{number:05d}-of-{len(parts):05d}" if len(parts) > 1 else "model"
            shards.append(Shard(f"{folder}{name}.safetensors", tuple(part), metadata))
    return shards


def _bytes(item: Item) -> int:
    size = SIZES[item.dtype]
    for length in item.shape:
        size *= length
    return size


def check_alike(base: Source, tuned: Sequence[Source]) -> None:
    """An error unless all checkpoints have the base's tensors, with its shapes. Reads headers only."""
    sources = iter([base, *tuned])
    make_plan(
        Recipe("average", tuple(Model(str(t.path)) for t in tuned), Model(str(base.path))),
        opener=lambda model, base: next(sources),
    )
