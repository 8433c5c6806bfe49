"""What models changed of their base, before they are merged: how much, where, and whether the changes agree.

    diff("base", ["first", "second"]).print()

Checkpoints are read in stretches, so a model of any size fits; for the spectrum a matrix at a time.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from itertools import combinations
from pathlib import Path
from statistics import median
from types import NoneType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from allround.checkpoints.adapted import Adapted
from allround.checkpoints.header import FLOATS
from allround.checkpoints.source import Source
from allround.checkpoints.tied import EMBEDDING, OUTPUT
from allround.checkpoints.tokens import vocabulary_of
from allround.core.errors import AllroundError
from allround.core.files import json_text, read_json, read_settings
from allround.core.jobs import available_cores
from allround.core.outputs import write_texts
from allround.core.progress import make_console
from allround.core.reading import read_bytes
from allround.core.schema import STRICT, checked
from allround.core.words import count, listed, plural, printable
from allround.merging.kernels import compiled
from allround.merging.names import Names
from allround.merging.recipe import Model
from allround.merging.sources import open_model, untie
from allround.merging.tensors import in_threads, one_thread

if TYPE_CHECKING:
    from rich.console import Console

#: A change of an entry is noticeable where it is larger than this part of the root mean square of the model's change
#: in the tensor.
NOTICEABLE = 0.1
#: The share of the squared norm that the singular values which are counted hold.
HELD = 0.9
#: The longest shorter side of a matrix whose spectrum is taken, by default.
LARGEST = 2048

_FORMAT = "allround diff 1"
#: No norm is larger, and its square is still a number.
_LARGEST = 1e150
#: What a diff is saved as.
FILES = ("diff.json", "diff.svg", "diff.html")
#: Entries of all checkpoints in one stretch: few enough for the processor's cache.
_STRETCH = 1 << 18
#: Entries of the largest matrix that is held as a whole: 256 MB.
_WHOLE = 1 << 26
EMBEDDINGS, OTHER = "embeddings", "head and other"
_TOKENIZER = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt", "merges.txt")
#: Settings that say where a model was saved, not what it is.
_IDLE = ("_name_or_path", "transformers_version", "__version__", "is_local", "local_files_only")
#: Cosines from here on, and from the second on, are called partly aligned and aligned; below their negatives opposed.
NEAR, ALIGNED = 0.1, 0.5


@dataclass(frozen=True)
class Part:
    """What is known of one tensor, of a group of them (embeddings, layer 3, head and other), or of all.

    Lists have one value per model; None where a model lacks the tensor, or where there is nothing to say.

    norm, relative: of the change, and divided by the norm of the same tensors of the base. changed: share of entries
    that are not the base's. largest: the largest change of an entry. cosine: mean over the pairs of models. conflict:
    share of the entries that two or more models change noticeably (`NOTICEABLE`) in which they do not all have the
    same sign; chance: the share that random signs would give. shared: share of the entries that some model changes
    noticeably which two or more do. cancelled: 1 - |sum of the changes| / sum of their magnitudes, over all entries:
    what adding them loses (an election of signs drops half of that). rank: effective rank of the change, the
    exponential of the entropy of s^2 / sum s^2, with s its singular values (Roy and Vetterli take s instead of s^2).
    held_by: how many singular values hold 90% of the squared norm. side: the shorter side. Of a group these are
    medians over its matrices, and `most` is the largest `held_by`.
    """

    __pydantic_config__ = STRICT

    name: str
    tensors: int
    entries: int
    base_norm: float
    norm: list[float | None]
    relative: list[float | None]
    changed: list[float | None]
    largest: list[float | None]
    cosine: float | None = None
    conflict: float | None = None
    chance: float | None = None
    shared: float | None = None
    cancelled: float | None = None
    rank: list[float | None] = field(default_factory=list)
    held_by: list[float | None] = field(default_factory=list)
    most: list[float | None] = field(default_factory=list)
    side: list[float | None] = field(default_factory=list)
    group: str | None = None
    shape: list[int] | None = None
    dtype: str | None = None


@dataclass
class Diff:
    """What `diff` found. Everything in it is plain data; the k models are in the order they were given in.

    base, models: short names. paths: the base's and the models'. cosines: between the changes, (k, k), over all
    weights that both models have. kept: what of each change is left along its own direction when all are averaged.
    likeness: cosine between the weights of the base and of each model. differences: what differs besides weights, as
    {what, name, models}: what is one of missing, extra, shape, dtype, values, setting, tokenizer.
    """

    __pydantic_config__ = STRICT

    base: str
    models: list[str]
    paths: list[str]
    total: Part
    groups: list[Part]
    tensors: list[Part]
    cosines: list[list[float | None]]
    kept: list[float | None]
    likeness: list[float | None]
    differences: list[dict[str, str | dict[str, str | None] | None]]
    notes: list[str]
    spectrum: bool = True

    def to_json(self) -> dict[str, Any]:
        """Plain data; `Diff.from_json` reads it."""
        facts = {"noticeable": NOTICEABLE, "held": HELD}
        return {"format": _FORMAT, "verdict": self.verdict(), **facts, **asdict(self)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any], *, asked: str = "read a diff") -> Diff:
        """What `to_json` gave. Errors: anything else."""
        if not isinstance(value, Mapping) or value.get("format") != _FORMAT:
            raise AllroundError(asked, "the data are not what `allround diff` writes", "make it again")
        given = {k: v for k, v in value.items() if k not in ("format", "verdict", "noticeable", "held")}
        made = checked(cls, given, asked, "make it again")
        models, parts = len(made.models), [made.total, *made.groups, *made.tensors]
        lists: list[list[Any]] = [made.paths[1:], made.cosines, made.kept, made.likeness, *made.cosines]
        lists += [part for one in parts for part in (one.norm, one.relative, one.changed, one.largest)]
        some = [part for one in parts for part in (one.rank, one.held_by, one.most, one.side)]
        if any(len(part) != models for part in lists) or any(len(part) not in (0, models) for part in some):
            raise AllroundError(asked, "it is damaged: a list in it is not of all models", "make it again")
        numbers = [x for part in [*made.cosines, *(p.norm for p in parts), *some] for x in part if x is not None]
        if any(abs(x) > _LARGEST for x in [*numbers, *(p.base_norm for p in parts)]):
            raise AllroundError(asked, "it is damaged: a number in it is larger than any norm", "make it again")
        keys: dict[str, Any] = {"what": str, "name": str, "base": (str, NoneType), "models": dict}
        if any(set(d) != set(keys) or any(not isinstance(d[k], t) for k, t in keys.items()) for d in made.differences):
            raise AllroundError(asked, "it is damaged: a difference in it is not one", "make it again")
        return made

    @classmethod
    def load(cls, folder: Path | str) -> Diff:
        """Read what `save` wrote."""
        path = Path(folder) / "diff.json"
        return cls.from_json(read_settings(path), asked=f"read {path}")

    def save(self, folder: Path | str, *, force: bool = False) -> None:
        """Write diff.json, diff.html and diff.svg; they need nothing from outside and run no script.

        Files that are there are replaced only where `save` wrote them and they are unchanged, or with `force`.
        """
        write_texts(folder, self.files(), "Diff.save", force=force)

    def files(self) -> dict[str, str]:
        """What `save` writes, by the names of the files."""
        return dict(zip(FILES, (json_text(self.to_json()), self.svg(), self.html()), strict=True))

    def verdict(self) -> list[str]:
        """What the numbers say, in a few lines."""
        from allround.merging.diff_words import verdict

        return verdict(self)

    def svg(self) -> str:
        """The picture: each layer's change, cosine, conflict and rank, and the cosine of every pair."""
        from allround.merging.diff_picture import draw

        return draw(self)

    def html(self) -> str:
        """A page with the verdict, the picture and the tables."""
        from markupsafe import Markup

        from allround.evaluation.pages import template
        from allround.merging.diff_picture import draw
        from allround.merging.diff_words import by_kind, number_text, share_text

        filters = {"share": share_text, "number": number_text, "count": count}
        return template(Path(__file__).with_name("diff.html.j2"), filters).render(
            diff=self,
            verdict=self.verdict(),
            picture=Markup(draw(self, titled=False)),
            title=self.title,
            several=len(self.models) > 1,
            differences=list(by_kind(self.differences)),
            noticeable=share_text(NOTICEABLE),
            held=share_text(HELD),
        )

    @property
    def title(self) -> str:
        """What was compared: `2 models beside base`."""
        what = self.models[0] if len(self.models) == 1 else plural(len(self.models), "model")
        return f"What {what} changed of {self.base}"

    def print(self, console: Console | None = None) -> None:
        """Print the verdict and tables in ASCII that fit the console's width."""
        from rich.text import Text

        from allround.merging.diff_words import by_kind, cosines_table, groups_table, legend, models_table, rich_table

        console = console or make_console()
        for line in self.verdict():
            console.print(Text(printable(f"- {line}")))
        tables = [models_table(self), groups_table(self, console.width)]
        if 2 < len(self.models) <= (console.width - 6) // 7:
            tables.append(cosines_table(self))
        for title, head, body in tables:
            console.print()
            console.print(Text(title, style="bold"))
            console.print(rich_table(head, body))
        for what, rows in by_kind(self.differences):
            console.print()
            console.print(Text(what, style="bold"))
            for row in rows[:12]:
                console.print(Text(printable("  " + row)))
            if len(rows) > 12:
                console.print(Text(f"  and {len(rows) - 12} more"))
        console.print()
        for note in [*self.notes, *legend(self)]:
            console.print(Text(printable(note), style="dim"))


def diff(
    base: Model | Path | str,
    tuned: Sequence[Model | Path | str],
    *,
    workers: int | None = None,
    spectrum: bool = True,
    largest: int = LARGEST,
) -> Diff:
    """Compare models with their base: folders, files, Hub ids, or adapters. Reads every weight twice.

    workers: threads. spectrum: also the singular values of each matrix's change, which takes minutes for large models;
    `largest`: of matrices whose shorter side is not longer than this.
    Errors: no model; NaN or infinity in one and not in the base.
    """
    if not tuned:
        raise AllroundError(f"compare models with {base}", "no model was given", "give at least one beside the base")
    given = [m if isinstance(m, Model) else Model(str(m)) for m in (base, *tuned)]
    first = open_model(given[0], None)
    first, *sources = untie([first, *(open_model(model, first) for model in given[1:])])
    labels = _labels([str(model) for model in given])
    return _Comparison(first, sources, labels, [str(m) for m in given], largest if spectrum else 0).run(workers)


# Reading.


@dataclass
class _Sums:
    """What a tensor adds up to, k models; a model that lacks the tensor adds nothing."""

    tensors: int
    entries: int
    base: float
    #: (k,): entries and base's squared norm where the model has the tensor, <base, change>, entries changed, largest.
    has: np.ndarray
    bases: np.ndarray
    dots: np.ndarray
    changed: np.ndarray
    largest: np.ndarray
    #: (k, k): <change i, change j>; and the squared norm of change i where j has the tensor as well.
    gram: np.ndarray
    beside: np.ndarray
    #: (k + 1,): entries that so many models change noticeably.
    noticed: np.ndarray
    #: Conflicting entries, |sum of changes|, sum of magnitudes.
    clash: np.ndarray

    @classmethod
    def empty(cls, k: int) -> _Sums:
        row, square = np.zeros(k), np.zeros((k, k))
        rows = row, row.copy(), row.copy(), row.copy(), row.copy()
        return cls(0, 0, 0.0, *rows, square, square.copy(), np.zeros(k + 1), np.zeros(3))

    def add(self, other: _Sums) -> None:
        for name in self.__dataclass_fields__:
            if name != "largest":
                setattr(self, name, getattr(self, name) + getattr(other, name))
        self.largest = np.maximum(self.largest, other.largest)

    def cosines(self) -> list[list[float | None]]:
        k = len(self.has)
        return [[_ratio(self.gram[i, j], math.sqrt(self.beside[i, j] * self.beside[j, i])) for j in range(k)]
                for i in range(k)]  # fmt: skip

    def part(self, name: str, spectra: Iterable[_Spectrum] = (), **facts: Any) -> Part:
        norms = np.sqrt(self.gram.diagonal())
        here = range(len(self.has))
        cosines = self.cosines()
        pairs = [c for i, j in combinations(here, 2) if (c := cosines[i][j]) is not None]
        many = self.noticed[2:].sum()
        expected = sum(n * (1 - 2.0 ** (1 - m)) for m, n in enumerate(self.noticed) if m > 1)
        spectra = list(spectra)

        def middle(pick: Callable[[_Spectrum], float], reduce: Callable[[list[float]], float]) -> list[float | None]:
            found = [[pick(s) for s in spectra if s.model == number] for number in here]
            return [reduce(values) if values else None for values in found] if spectra else []

        def each(pick: Callable[[int], float | None]) -> list[float | None]:
            return [pick(i) if self.has[i] else None for i in here]

        return Part(
            name,
            self.tensors,
            self.entries,
            math.sqrt(self.base),
            each(lambda i: float(norms[i])),
            each(lambda i: _ratio(norms[i], math.sqrt(self.bases[i])) if norms[i] else 0.0),
            each(lambda i: _ratio(self.changed[i], self.has[i])),
            each(lambda i: float(self.largest[i])),
            sum(pairs) / len(pairs) if pairs else None,
            _ratio(self.clash[0], many),
            _ratio(expected, many),
            _ratio(many, self.noticed[1:].sum()) if len(self.has) > 1 else None,
            None if self.clash[2] == 0 else max(0.0, 1 - float(self.clash[1] / self.clash[2])),
            middle(lambda s: s.rank, median),
            middle(lambda s: s.held_by, median),
            middle(lambda s: s.held_by, max),
            middle(lambda s: s.side, median),
            **facts,
        )


@dataclass(frozen=True)
class _Spectrum:
    model: int
    rank: float
    held_by: int
    side: int


class _Comparison:
    def __init__(self, base: Source, models: list[Source], labels: list[str], paths: list[str], largest: int) -> None:
        self.base, self.models, self.labels, self.paths, self.largest = base, models, labels, paths, largest
        self.names = [Names(base, model) for model in models]
        self.differences: list[dict[str, str | dict[str, str | None] | None]] = []
        self.left_out: list[str] = []
        #: The tensors that are compared as weights: the base's name, and model -> its name there.
        self.weights: list[tuple[str, dict[int, str]]] = []
        self.values: list[tuple[str, dict[int, str]]] = []

    def run(self, workers: int | None) -> Diff:
        self._match()
        threads = workers or min(available_cores(), 8)
        large = sum(self.base.numel(name) for name, _ in self.weights) / 16
        order = sorted(range(len(self.weights)), key=lambda n: self.base.numel(self.weights[n][0]) < large)

        def work(position: int) -> tuple[_Sums, list[_Spectrum]]:
            if position + threads < len(order):
                name, ahead = self.weights[order[position + threads]]
                self.base.announce(name)
                for number, other in ahead.items():
                    self.models[number].announce(other)
            with torch.inference_mode():
                return self._tensor(*self.weights[order[position]])

        with one_thread(), torch.inference_mode():
            found = dict(zip(order, in_threads(work, range(len(order)), threads), strict=True))
            self._compare_values()
        self._compare_files()
        return self._sum_up([found[number] for number in range(len(order))])

    def _match(self) -> None:
        """Which tensor of each model belongs to which of the base, and what does not fit."""
        found: dict[tuple[str, str], dict[int, str | None]] = {}
        used: set[tuple[int, str]] = set()
        for name in self.base:
            floating, present = self.base.dtype(name) in FLOATS, {}
            for number, model in enumerate(self.models):
                other = self.names[number].find(name)
                if other is None:
                    if floating:
                        found.setdefault(("missing", name), {})[number] = None
                    continue
                used.add((number, other))
                if model.shape(other) != self.base.shape(name):
                    found.setdefault(("shape", name), {})[number] = str(list(model.shape(other)))
                elif floating and model.dtype(other) not in FLOATS:
                    found.setdefault(("dtype", name), {})[number] = model.dtype(other)
                else:
                    present[number] = other
                    if floating and not isinstance(model, Adapted) and model.dtype(other) != self.base.dtype(name):
                        key = "dtype", f"weights that are {self.base.dtype(name)} in the base"
                        found.setdefault(key, {})[number] = model.dtype(other)
            if present and self.base.numel(name):
                (self.weights if floating else self.values).append((name, present))
        for number, model in enumerate(self.models):
            for name in model:
                if (number, name) in used or model.dtype(name) not in FLOATS or self.names[number].is_tied(name):
                    continue
                found.setdefault(("extra", name), {})[number] = str(list(model.shape(name)))
        for (what, name), models in sorted(found.items(), key=lambda item: KINDS.index(item[0][0])):
            base = str(list(self.base.shape(name))) if what == "shape" else None
            self._differs(what, name, models, base)

    def _differs(self, what: str, name: str, models: Mapping[int, str | None], base: str | None = None) -> None:
        named = {self.labels[number + 1]: value for number, value in sorted(models.items())}
        self.differences.append({"what": what, "name": name, "base": base, "models": named})

    def _compare_values(self) -> None:
        """Tensors of whole numbers (and of float8): the same bytes, or not."""
        for name, present in self.values:
            differ: dict[int, str | None] = {}
            for number, other in present.items():
                model = self.models[number]
                same = model.dtype(other) == self.base.dtype(name)
                for start, stop in _stretches(self.base.numel(name), 1 << 20):
                    same = same and torch.equal(
                        self.base.read(name, start, stop).view(torch.uint8),
                        model.read(other, start, stop).view(torch.uint8),
                    )
                if not same:
                    kind = model.dtype(other)
                    differ[number] = "other values" if kind == self.base.dtype(name) else kind
            if differ:
                alike = set(differ.values()) == {"other values"}
                self._differs("values", name, differ, None if alike else self.base.dtype(name))

    def _compare_files(self) -> None:
        root = _root(self.base)
        if root is None:
            return
        for file in sorted(root.rglob("*.json")):
            if "config" not in file.name or file.stat().st_size > 1 << 20:
                continue
            relative = file.relative_to(root).as_posix()
            settings = dict(_flat(_read(file)))
            theirs = {
                number: dict(_flat(_read(path / relative)))
                for number, model in enumerate(self.models)
                if (path := _root(model)) is not None and (path / relative).is_file()
            }
            for key in dict.fromkeys([*settings, *(k for t in theirs.values() for k in t)]):
                other = {n: t.get(key) for n, t in theirs.items() if t.get(key) != settings.get(key)}
                if other and key.split(".")[-1] not in _IDLE:
                    self._differs("setting", f"{relative}: {key}", other, settings.get(key))
        for name in _TOKENIZER:
            differ: dict[int, str | None] = {}
            for number, model in enumerate(self.models):
                path = _root(model)
                if path is None or not (path / "config.json").is_file() or not (root / name).is_file():
                    continue
                words = _tokens_differ(root / name, path / name)
                if words:
                    differ[number] = words
            if differ:
                self._differs("tokenizer", name, differ)

    def _tensor(self, name: str, present: dict[int, str]) -> tuple[_Sums, list[_Spectrum]]:
        reader = _Stretches(self.base, self.models, self.labels, name, present)
        size, k = self.base.numel(name), len(present)
        gram, changed, largest = np.zeros((k + 1, k + 1)), np.zeros(k), np.zeros(k)
        length, row = max(1 << 14, _STRETCH // (k + 1)), self.base.shape(name)[-1] if self.base.shape(name) else 1
        cuts = _stretches(size, length // row * row if row <= length else length)
        rows: Tensor | None = None
        for start, stop in cuts:
            rows = reader.read(start, stop)
            found = _first(rows)
            if not np.isfinite(found[0]).all():
                rows = reader.repaired(start, stop)
                found = _first(rows)
                if not np.isfinite(found[0]).all():
                    raise AllroundError(
                        f"compare the tensor '{name}'", "its values are too large to square", "check the checkpoints"
                    )
            gram, changed, largest = gram + found[0], changed + found[1], np.maximum(largest, found[2])
        norms = np.sqrt(gram.diagonal()[1:])
        noticed, clash = np.zeros(k + 1), np.zeros(3)
        if (norms > 0).sum() > 1:
            for start, stop in cuts:
                if len(cuts) > 1:
                    rows = reader.repaired(start, stop) if reader.odd else reader.read(start, stop)
                assert rows is not None
                counts, sums = _second(rows, NOTICEABLE * norms / math.sqrt(size))
                noticed, clash = noticed + counts, clash + sums
        spectra = []
        shape = self.base.shape(name)
        if self.largest and len(shape) == 2 and min(shape) > 1 and not reader.odd:
            if min(shape) > self.largest or (shape[1] > shape[0] and size > _WHOLE):
                self.left_out.append(name)
            else:
                for row, number in enumerate(present):
                    if norms[row] > 0:
                        rank, held_by = reader.spectrum(row, shape, float(largest[row]))
                        spectra.append(_Spectrum(number, rank, held_by, min(shape)))
        return self._sums(size, list(present), gram, changed, largest, noticed, clash), spectra

    def _sums(self, size: int, at: list[int], gram: np.ndarray, changed: np.ndarray, largest: np.ndarray,
              noticed: np.ndarray, clash: np.ndarray) -> _Sums:  # fmt: skip
        sums = _Sums.empty(len(self.models))
        sums.tensors, sums.entries, sums.base = 1, size, float(gram[0, 0])
        sums.has[at], sums.bases[at], sums.dots[at] = size, gram[0, 0], gram[0, 1:]
        sums.changed[at], sums.largest[at] = changed, largest
        sums.gram[np.ix_(at, at)] = gram[1:, 1:]
        sums.beside[np.ix_(at, at)] = gram.diagonal()[1:, None]
        sums.noticed[: len(noticed)], sums.clash = noticed, clash
        return sums

    def _sum_up(self, found: list[tuple[_Sums, list[_Spectrum]]]) -> Diff:
        k = len(self.models)
        total, tensors, spectra = _Sums.empty(k), [], []
        groups: dict[str, tuple[_Sums, list[_Spectrum]]] = {}
        for (name, _), (sums, ranks) in zip(self.weights, found, strict=True):
            group = group_of(name)
            facts = {"group": group, "shape": list(self.base.shape(name)), "dtype": self.base.dtype(name)}
            tensors.append(sums.part(name, ranks, **facts))
            total.add(sums)
            spectra += ranks
            of_group = groups.setdefault(group, (_Sums.empty(k), []))
            of_group[0].add(sums)
            of_group[1].extend(ranks)
        norms = total.gram.diagonal()
        whole = [
            math.sqrt(max(0.0, b * (b + 2 * d + g))) for b, d, g in zip(total.bases, total.dots, norms, strict=True)
        ]
        return Diff(
            self.labels[0],
            self.labels[1:],
            self.paths,
            total.part("all", spectra),
            [
                sums.part(name, ranks)
                for name, (sums, ranks) in sorted(groups.items(), key=lambda g: _group_order(g[0]))
            ],
            tensors,
            total.cosines(),
            [_ratio(total.gram[i].sum() / k, norms[i]) for i in range(k)],
            [_ratio(total.bases[i] + total.dots[i], whole[i]) for i in range(k)],
            self.differences,
            self._notes(),
            self.largest > 0,
        )

    def _notes(self) -> list[str]:
        notes = []
        if self.left_out:
            number = "1 matrix" if len(self.left_out) == 1 else f"{len(self.left_out)} matrices"
            notes.append(f"The spectrum of {number} is left out: too large (such as {min(self.left_out)}).")
        stacks: dict[str, set[str]] = {}
        for name, _ in self.weights:
            if (found := _LAYER.search(name)) is not None:
                stacks.setdefault(found[2], set()).add(found[1].strip("./"))
        joined = sorted(set().union(*(s for s in stacks.values() if len(s) > 1)))
        if joined:
            notes.append(f"Layers are told by the first number in a name: {listed(joined)} are counted together.")
        return notes


class _Stretches:
    """Reads the base and the changes of one tensor."""

    def __init__(
        self, base: Source, models: list[Source], labels: list[str], name: str, present: Mapping[int, str]
    ) -> None:
        self.base, self.labels, self.name = base, labels, name
        self.others = [(number, models[number], other) for number, other in present.items()]
        dtypes = [base.dtype(name), *(source.dtype(other) for _, source, other in self.others)]
        self.dtype = torch.float64 if "F64" in dtypes else torch.float32
        #: Whether anything in it is not finite, or too large for its squares to be.
        self.odd = False

    def read(self, start: int, stop: int) -> Tensor:
        """The base, and each model's change: (k + 1, stop - start)."""
        rows = torch.empty(len(self.others) + 1, stop - start, dtype=self.dtype)
        rows[0].copy_(self.base.read(self.name, start, stop))
        for row, (_, source, other) in zip(rows[1:], self.others, strict=True):
            source.change(other, start, stop, rows[0], row)
        return rows

    def repaired(self, start: int, stop: int) -> Tensor:
        """The same in float64, zero where the base and all models hold the same NaN or infinity."""
        self.odd = True
        base = self.base.read(self.name, start, stop).double()
        rows = [base, *(source.read(other, start, stop).double() for _, source, other in self.others)]
        for number, row in zip([-1, *(n for n, _, _ in self.others)], rows, strict=True):
            same = row == base
            if not (same | (row.isnan() & base.isnan()) | (row.isfinite() & base.isfinite())).all():
                whole = bool(base.isfinite()[~same & ~row.isfinite()].any())
                who, do = self.labels[number + 1], "leave that model out, or tune it again"
                if not whole:
                    who, do = f"the base {self.labels[0]}", "use a base that is whole"
                raise AllroundError(
                    f"compare the tensor '{self.name}' with the base's", f"{who} holds NaN or infinity there", do
                )
        finite = base.isfinite()
        kept = torch.where(finite, torch.stack(rows), 0)
        kept[1:] -= kept[:1]
        return kept

    def spectrum(self, row: int, shape: tuple[int, ...], scale: float) -> tuple[float, int]:
        """The effective rank of one model's change of a matrix, and how many singular values hold most of it."""
        _, source, other = self.others[row]
        high, wide = shape
        dtype = torch.float64 if min(shape) <= 512 else self.dtype
        step = max(1, (1 << 22) // wide) if wide <= high else high
        gram = torch.zeros(min(shape), min(shape), dtype=dtype)
        for start in range(0, high, step):
            stop = min(start + step, high)
            base = self.base.read(self.name, start * wide, stop * wide).to(self.dtype)
            change = torch.empty_like(base)
            source.change(other, start * wide, stop * wide, base, change)
            change = (change / scale).to(dtype).reshape(stop - start, wide)
            gram.addmm_(*((change.T, change) if wide <= high else (change, change.T)))
        squares = torch.linalg.eigvalsh(gram).double().flip(0)
        # What is below the rounding of the sums is none.
        squares[squares < squares[0] * len(squares) * torch.finfo(dtype).eps] = 0
        shares = squares / squares.sum()
        rank = math.exp(float(torch.special.entr(shares).sum()))
        return rank, int((shares.cumsum(0) < HELD - 1e-6).sum()) + 1


def _stretches(size: int, length: int) -> list[tuple[int, int]]:
    return [(start, min(start + length, size)) for start in range(0, size, length)]


def _first(rows: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of rows (k + 1, n), base and changes: all inner products (k + 1, k + 1), entries changed, largest change (k,)."""
    values = rows.numpy()
    k = len(values) - 1
    gram, changed, largest = np.zeros((k + 1, k + 1)), np.zeros(k), np.zeros(k)
    _compiled()["first"](values, values.dtype.type(0), gram, changed, largest)
    return gram, changed, largest


def _second(rows: Tensor, least: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of rows (k + 1, n): how many entries 0 to k models change by more than `least` (k,); and how many of them
    conflict, |sum of changes|, sum of magnitudes."""
    values = rows.numpy()
    counts, sums = np.zeros(len(values)), np.zeros(3)
    _compiled()["second"](values, values.dtype.type(0), least.astype(values.dtype), counts, sums)
    return counts, sums


@cache
def _compiled() -> dict[str, Callable[..., Any]]:
    def first(rows, zero, gram, changed, largest):  # type: ignore[no-untyped-def]
        count, size = rows.shape
        for start in range(0, size, 1024):
            stop = min(start + 1024, size)
            for i in range(count):
                one = rows[i, start:stop]
                for j in range(i, count):
                    other = rows[j, start:stop]
                    total = zero
                    for x in range(stop - start):
                        total += one[x] * other[x]
                    gram[i, j] += total
                if i > 0:
                    differ, most = 0, zero
                    for x in range(stop - start):
                        differ += one[x] != zero
                        most = max(most, abs(one[x]))
                    changed[i - 1] += differ
                    largest[i - 1] = max(largest[i - 1], most)
        for i in range(count):
            for j in range(i):
                gram[i, j] = gram[j, i]

    def second(rows, zero, least, counts, sums):  # type: ignore[no-untyped-def]
        count, size = rows.shape
        up, down = np.empty(1024, np.int32), np.empty(1024, np.int32)
        added, noticed = np.empty(1024, rows.dtype), np.zeros(count, np.int64)
        for start in range(0, size, 1024):
            length = min(1024, size - start)
            up[:], down[:], added[:] = 0, 0, zero
            magnitude = zero
            for i in range(1, count):
                one, limit = rows[i, start : start + length], least[i - 1]
                for x in range(length):
                    value = one[x]
                    up[x] += value > limit
                    down[x] += value < -limit
                    added[x] += value
                    magnitude += abs(value)
            total, clash = zero, 0
            for x in range(length):
                total += abs(added[x])
                clash += (up[x] > 0) & (down[x] > 0)
                noticed[up[x] + down[x]] += 1
            sums[0] += clash
            sums[1] += total
            sums[2] += magnitude
        for i in range(count):
            counts[i] += noticed[i]

    # Sums of a stretch may be taken in any order, so that several entries are added at once; NaN stays NaN.
    return {kernel.__name__: compiled(kernel, fastmath={"reassoc", "contract", "nsz"}) for kernel in (first, second)}


# What belongs together, and files beside the weights.

_LAYER = re.compile(r"^((?:.*?[./])??)(\d+)(?=[./]|$)")
KINDS = ("missing", "extra", "shape", "dtype", "values", "setting", "tokenizer")
TITLES = {
    "missing": "Tensors of the base that are missing",
    "extra": "Tensors that are not in the base",
    "shape": "Tensors of another shape",
    "dtype": "Weights of another dtype",
    "values": "Tensors that are no floating point, with other values or dtype (a merge keeps the base's)",
    "setting": "Settings",
    "tokenizer": "Tokenizer",
}


def _ratio(one: float, other: float) -> float | None:
    return float(one / other) if other > 0 else None


def group_of(name: str) -> str:
    """The group that a tensor is summed up in, from its name.

    >>> group_of("model.layers.12.mlp.up_proj.weight"), group_of("model.embed_tokens.weight"), group_of("lm_head.bias")
    ('layer 12', 'embeddings', 'head and other')
    """
    if (found := _LAYER.search(name)) is not None:
        return f"layer {int(found[2])}"
    if OUTPUT.search(name):
        return OTHER
    return EMBEDDINGS if EMBEDDING.search(name) or re.search(r"embed|\bw[tp]e\b", name) else OTHER


def _group_order(group: str) -> tuple[int, int]:
    return (1, int(group[6:])) if group.startswith("layer ") else (0 if group == EMBEDDINGS else 2, 0)


def _labels(paths: list[str]) -> list[str]:
    """A short name for each: the end of its path, as much of it as tells it from the others."""
    parts = [[p for p in re.split(r"[/\\]+", path) if p not in ("", ".")] or [path] for path in paths]
    found = []
    for own in parts:
        others = [p for p in parts if p != own]
        length = next((n for n in range(1, len(own) + 1) if all(p[-n:] != own[-n:] for p in others)), len(own))
        found.append("/".join(own[-length:]))
    return [name if found.count(name) == 1 else f"{name} ({number})" for number, name in enumerate(found)]


def _root(source: Source) -> Path | None:
    return source.path if source.path.is_dir() else None


def _read(path: Path) -> Any:
    try:
        return read_json(path)
    except AllroundError:
        return "not readable as JSON"


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """A configuration as dotted keys and short texts."""
    import json

    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{prefix}.{key}" if prefix else str(key))
        return
    text = json.dumps(value, ensure_ascii=False)
    if len(text) > 80:
        import zlib

        text = f"{text[:60]}... ({len(text)} letters, {zlib.crc32(text.encode()):08x})"
    yield prefix or "(all)", text


def _tokens_differ(mine: Path, other: Path) -> str | None:
    """How two files of a tokenizer differ, in words; None where they say the same."""
    if not other.is_file():
        return "not there"
    if read_bytes(mine) == read_bytes(other):
        return None
    if mine.suffix != ".json":
        return "other content"
    first, second = _read(mine), _read(other)
    if first == second:
        return None
    one, two = vocabulary_of(first), vocabulary_of(second)
    if not one or not two:
        return "other content"
    added, gone = len(two.keys() - one.keys()), len(one.keys() - two.keys())
    moved = sum(two[token] != place for token, place in one.items() if token in two)
    words = [f"{n:,} tokens {what}" for n, what in ((added, "more"), (gone, "fewer"), (moved, "at other ids")) if n]
    return ", ".join(words) or "the same tokens, other settings"
