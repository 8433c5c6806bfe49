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
from html import escape
from itertools import combinations
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from allround.checkpoints.adapter import Adapted
from allround.checkpoints.header import FLOATS
from allround.checkpoints.source import Source
from allround.core.errors import AllroundError
from allround.core.files import atomic_file, read_json, write_json
from allround.core.jobs import available_cores, keep_freed_memory
from allround.evaluate.scoreboard import count, listed, plural
from allround.merge.plan import _EMBEDDING, _OUTPUT, _Names, _open_model
from allround.merge.recipe import Model
from allround.merge.run import _each, _one_thread

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
#: Entries of all checkpoints in one stretch: few enough for the processor's cache.
_STRETCH = 1 << 18
#: Entries of the largest matrix that is held as a whole: 256 MB.
_WHOLE = 1 << 26
_EMBEDDINGS, _OTHER = "embeddings", "head and other"
_TOKENIZER = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt", "merges.txt")
#: Settings that say where a model was saved, not what it is.
_IDLE = ("_name_or_path", "transformers_version", "__version__")
#: Cosines from here on, and from the second on, are called partly aligned and aligned; below their negatives opposed.
_NEAR, _ALIGNED = 0.1, 0.5


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

    base: str
    models: list[str]
    paths: list[str]
    total: Part
    groups: list[Part]
    tensors: list[Part]
    cosines: list[list[float | None]]
    kept: list[float | None]
    likeness: list[float | None]
    differences: list[dict[str, Any]]
    notes: list[str]
    spectrum: bool = True

    def to_json(self) -> dict[str, Any]:
        """Plain data; `Diff.from_json` reads it."""
        facts = {"noticeable": NOTICEABLE, "held": HELD}
        return {"format": _FORMAT, "verdict": self.verdict(), **facts, **asdict(self)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Diff:
        """What `to_json` gave. Errors: anything else."""
        if not isinstance(value, Mapping) or value.get("format") != _FORMAT:
            raise AllroundError("read a diff", "the data are not what `allround diff` writes", "make it again")
        given = {k: v for k, v in value.items() if k in cls.__dataclass_fields__}
        given["total"] = Part(**value["total"])
        for key in ("groups", "tensors"):
            given[key] = [Part(**part) for part in value[key]]
        return cls(**given)

    @classmethod
    def load(cls, folder: Path | str) -> Diff:
        """Read what `save` wrote."""
        return cls.from_json(read_json(Path(folder) / "diff.json"))

    def save(self, folder: Path | str) -> None:
        """Write diff.json, diff.html and diff.svg; they need nothing from outside and run no script."""
        folder = Path(folder)
        write_json(folder / "diff.json", self.to_json())
        for name, text in (("diff.svg", self.svg()), ("diff.html", self.html())):
            with atomic_file(folder / name) as temporary:
                temporary.write_text(text, encoding="utf-8")

    def verdict(self) -> list[str]:
        """What the numbers say, in a few lines."""
        return [line for lines in (_distance, _sizes, _pairs, _places, _ranks, _obstacles) for line in lines(self)]

    def svg(self) -> str:
        """The picture: each layer's change, cosine, conflict and rank, and the cosine of every pair."""
        return _Picture(self).draw()

    def html(self) -> str:
        """A page with the verdict, the picture and the tables."""
        import jinja2
        from markupsafe import Markup

        environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(Path(__file__).parent),
            autoescape=True,
            trim_blocks=True,
            lstrip_blocks=True,
            undefined=jinja2.StrictUndefined,
        )
        environment.filters.update(share=_share, number=_number, count=count)
        return environment.get_template("diff.html.j2").render(
            diff=self,
            verdict=self.verdict(),
            picture=Markup(_Picture(self).draw(titled=False)),
            title=self.title,
            several=len(self.models) > 1,
            differences=list(_by_kind(self.differences)),
            noticeable=_share(NOTICEABLE),
            held=_share(HELD),
        )

    @property
    def title(self) -> str:
        """What was compared: `2 models beside base`."""
        what = self.models[0] if len(self.models) == 1 else plural(len(self.models), "model")
        return f"What {what} changed of {self.base}"

    def print(self, console: Console | None = None) -> None:
        """Print the verdict and tables in ASCII that fit the console's width."""
        from rich.console import Console
        from rich.text import Text

        from allround.evaluate.scoreboard import _plain

        console = console or Console(highlight=False)
        for line in self.verdict():
            console.print(Text(_plain(f"- {line}")))
        tables = [_models_table(self), _groups_table(self, console.width)]
        if 2 < len(self.models) <= (console.width - 6) // 7:
            tables.append(_cosines_table(self))
        for title, head, body in tables:
            console.print()
            console.print(Text(title, style="bold"))
            console.print(_rich_table(head, body))
        for what, rows in _by_kind(self.differences):
            console.print()
            console.print(Text(what, style="bold"))
            for row in rows[:12]:
                console.print(Text(_plain("  " + row)))
            if len(rows) > 12:
                console.print(Text(f"  and {len(rows) - 12} more"))
        console.print()
        for note in [*self.notes, *_legend(self)]:
            console.print(Text(_plain(note), style="dim"))


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
    keep_freed_memory()
    given = [m if isinstance(m, Model) else Model(str(m)) for m in (base, *tuned)]
    first = _open_model(given[0], None)
    sources = [_open_model(model, first) for model in given[1:]]
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
        self.names = [_Names(base, model) for model in models]
        self.differences: list[dict[str, Any]] = []
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

        with _one_thread(), torch.inference_mode():
            found = dict(zip(order, _each(work, range(len(order)), threads), strict=True))
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
        for (what, name), models in sorted(found.items(), key=lambda item: _KINDS.index(item[0][0])):
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
def _compiled() -> dict[str, Any]:
    from numba import njit

    # Sums of a stretch may be taken in any order, so that several entries are added at once; NaN stays NaN.
    compile_ = njit(nogil=True, cache=True, boundscheck=False, fastmath={"reassoc", "contract", "nsz"})

    @compile_
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

    @compile_
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

    return {"first": first, "second": second}


# What belongs together, and files beside the weights.

_LAYER = re.compile(r"^((?:.*?[./])??)(\d+)(?=[./]|$)")
_KINDS = ("missing", "extra", "shape", "dtype", "values", "setting", "tokenizer")
_TITLES = {
    "missing": "Tensors of the base that are missing",
    "extra": "Tensors that are not in the base",
    "shape": "Tensors of another shape",
    "dtype": "Weights of another dtype",
    "values": "Tensors that are no floating point, with other values or dtype (a merge keeps the base's)",
    "setting": "Settings",
    "tokenizer": "Tokenizer",
}


def group_of(name: str) -> str:
    """The group that a tensor is summed up in, from its name.

    >>> group_of("model.layers.12.mlp.up_proj.weight"), group_of("model.embed_tokens.weight"), group_of("lm_head.bias")
    ('layer 12', 'embeddings', 'head and other')
    """
    if (found := _LAYER.search(name)) is not None:
        return f"layer {int(found[2])}"
    if _OUTPUT.search(name):
        return _OTHER
    return _EMBEDDINGS if _EMBEDDING.search(name) or re.search(r"embed|\bw[tp]e\b", name) else _OTHER


def _group_order(group: str) -> tuple[int, int]:
    return (1, int(group[6:])) if group.startswith("layer ") else (0 if group == _EMBEDDINGS else 2, 0)


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
    if mine.read_bytes() == other.read_bytes():
        return None
    if mine.suffix != ".json":
        return "other content"
    first, second = _read(mine), _read(other)
    if first == second:
        return None
    one, two = _vocabulary(first), _vocabulary(second)
    if not one or not two:
        return "other content"
    added, gone = len(two.keys() - one.keys()), len(one.keys() - two.keys())
    moved = sum(two[token] != place for token, place in one.items() if token in two)
    words = [f"{n:,} tokens {what}" for n, what in ((added, "more"), (gone, "fewer"), (moved, "at other ids")) if n]
    return ", ".join(words) or "the same tokens, other settings"


def _vocabulary(value: Any) -> dict[str, Any]:
    """Token -> id of a tokenizer.json or vocab.json; empty where it is neither."""
    if not isinstance(value, dict):
        return {}
    model = value.get("model")
    vocab = model.get("vocab") if isinstance(model, dict) else None if "added_tokens" in value else value
    if isinstance(vocab, list):
        vocab = {str(entry[0]): n for n, entry in enumerate(vocab) if isinstance(entry, list) and entry}
    found = dict(vocab) if isinstance(vocab, dict) else {}
    for token in value.get("added_tokens") or () if isinstance(model, dict) else ():
        if isinstance(token, dict):
            found[str(token.get("content"))] = token.get("id")
    return found


# The verdict: lines that follow from the numbers.


def _changed(found: Diff) -> list[int]:
    return [i for i, norm in enumerate(found.total.norm) if norm]


def _distance(found: Diff) -> Iterator[str]:
    far = [i for i, like in enumerate(found.likeness) if like is not None and like < 0.5]
    for i in far:
        yield (
            f"{found.models[i]} has little in common with {found.base} (cosine between their weights "
            f"{_cosine(found.likeness[i])}): as it is, it hardly was tuned from it."
        )


def _sizes(found: Diff) -> Iterator[str]:
    changed = _changed(found)
    same = [name for i, name in enumerate(found.models) if i not in changed and found.total.norm[i] is not None]
    if same:
        yield f"{listed(same)} {'has' if len(same) == 1 else 'have'} the same weights as {found.base}."
    known = [i for i in changed if found.total.relative[i] is not None]
    if not known:
        return
    relative = {i: found.total.relative[i] or 0.0 for i in known}
    low, high = min(relative, key=lambda i: relative[i]), max(relative, key=lambda i: relative[i])
    touched = [found.total.changed[i] or 0.0 for i in known]
    entries = (
        "nearly all" if 0.99 < min(touched) < 1 else "all" if min(touched) == 1 else _span(min(touched), max(touched))
    )
    entries += " entries" if entries.endswith("all") else " of the entries"
    if len(known) == 1:
        name = found.models[low]
        yield f"{name} changes the weights by {_share(relative[low])} of their norm, in {entries}."
    else:
        size = _span(relative[low], relative[high])
        yield f"The models change the weights by {size} of their norm, in {entries}."
    norm = [found.total.norm[i] or 0.0 for i in known]
    if len(known) > 1 and max(norm) >= 3 * min(norm):
        big, small = known[norm.index(max(norm))], known[norm.index(min(norm))]
        yield (
            f"{found.models[big]} changes {max(norm) / min(norm):.1f} times as much as {found.models[small]}, and "
            "outweighs it in a plain average."
        )


def _kind(cosine: float) -> str:
    if abs(cosine) < _NEAR:
        return "nearly orthogonal"
    if abs(cosine) < _ALIGNED:
        return "partly aligned" if cosine > 0 else "partly opposed"
    return "aligned" if cosine > 0 else "opposed"


def _pairs(found: Diff) -> Iterator[str]:
    changed = _changed(found)
    pairs = {(i, j): c for i, j in combinations(changed, 2) if (c := found.cosines[i][j]) is not None}
    if not pairs:
        return
    part, names = found.total, found.models
    least, most = min(pairs, key=lambda p: pairs[p]), max(pairs, key=lambda p: pairs[p])
    low, high = pairs[least], pairs[most]
    if len(pairs) == 1:
        yield f"The changes of {names[least[0]]} and {names[least[1]]} are {_kind(low)}: cosine {_cosine(low)}."
    elif _kind(low) == _kind(high):
        cosines = _cosine(low) if _cosine(low) == _cosine(high) else f"{_cosine(low)} to {_cosine(high)}"
        yield f"The changes of all pairs are {_kind(low)}: cosine {cosines}."
    else:
        yield (
            f"The changes range from {_kind(low)} ({names[least[0]]} and {names[least[1]]}: cosine {_cosine(low)}) to "
            f"{_kind(high)} ({names[most[0]]} and {names[most[1]]}: {_cosine(high)})."
        )
    if part.shared is not None and part.shared < 0.2:
        yield (
            f"They are mostly in different weights: of the entries that are changed noticeably, {_share(part.shared)} "
            "are by more than one model."
        )
    if part.conflict is not None:
        yield (
            f"Where two or more models change an entry noticeably, their signs conflict in {_share(part.conflict)} "
            f"({_share(part.chance)} if signs were random); adding the changes cancels {_share(part.cancelled)} of "
            "their magnitude."
        )
    kept = {i: k for i in changed if (k := found.kept[i]) is not None}
    if kept:
        few, many = min(kept, key=lambda i: kept[i]), max(kept, key=lambda i: kept[i])
        least_kept, most_kept = _share(kept[few]), _share(kept[many])
        if least_kept == most_kept:
            each = f"{least_kept} of each"
        elif len(kept) == 2:
            each = f"{least_kept} of {names[few]} and {most_kept} of {names[many]}"
        else:
            each = f"between {least_kept} ({names[few]}) and {most_kept} ({names[many]}) of each"
        if kept[few] > 0.75:
            yield f"Expect averaging to lose little: of the changes it keeps {each}, along their own directions."
        elif kept[few] <= 0:
            yield f"Expect averaging to undo {names[few]}: of the changes it keeps {each}, along their own directions."
        else:
            yield f"Expect averaging to weaken the changes: it keeps {each}, along their own directions."


def _places(found: Diff) -> Iterator[str]:
    """Where the changes are concentrated, by their squared norm, each model counting the same."""
    changed = _changed(found)
    if not changed:
        return
    weight = {g.name: sum(((g.norm[i] or 0.0) / (found.total.norm[i] or 1.0)) ** 2 for i in changed) / len(changed)
              for g in found.groups}  # fmt: skip
    size = {g.name: g.entries / max(1, found.total.entries) for g in found.groups}
    for name in (_EMBEDDINGS, _OTHER):
        if weight.get(name, 0) > 0.5 and weight[name] > 1.5 * size[name] and len(weight) > 1:
            where = "embeddings" if name == _EMBEDDINGS else "head and other tensors outside the layers"
            of_all = _share(size[name])
            yield f"{_share(weight[name])} of the squared change is in the {where} ({of_all} of the entries)."
    layers = [g for g in found.groups if g.name.startswith("layer ")]
    total = sum(weight[g.name] for g in layers)
    if len(layers) < 4 or total <= 0:
        return
    # The shortest run of layers that holds three quarters of what the layers change.
    runs = [
        (b - a, -sum(weight[g.name] for g in layers[a:b]), a)
        for a in range(len(layers))
        for b in range(a + 1, len(layers) + 1)
    ]
    length, held, start = min(run for run in runs if -run[1] >= 0.75 * total)
    last = layers[start + length - 1].name[6:]
    where = layers[start].name if length == 1 else f"layers {layers[start].name[6:]} to {last}"
    among = "the change of the layers" if total < 0.999 else "the change"
    if length <= len(layers) / 2:
        yield f"{_share(-held / total)} of the squared norm of {among} is in {where}, of {len(layers)} layers."
    else:
        yield (
            f"{among[0].upper()}{among[1:]} is spread over the depth: three quarters of its squared norm take {length} "
            f"of {len(layers)} layers."
        )


def _ranks(found: Diff) -> Iterator[str]:
    kinds: dict[str, list[int]] = {}
    for i in _changed(found):
        shares = [h / s for p in found.tensors if (h := _at(p.held_by, i)) and (s := _at(p.side, i)) and s >= 16]
        if shares:
            share = median(shares)
            kind = "low" if share <= 0.1 else "not low" if share >= 0.3 else "between"
            kinds.setdefault(kind, []).append(i)
    words = {"low": "low-rank", "not low": "not low-rank", "between": "neither low-rank nor full"}
    for kind, numbers in kinds.items():
        alone = len(numbers) == len(found.models)
        if not alone:
            who = f"{listed([found.models[i] for i in numbers])} {'is' if len(numbers) == 1 else 'are'} {words[kind]}"
        elif len(numbers) == 1:
            who = f"The change is {words[kind]}"
        else:
            who = "No change is low-rank" if kind == "not low" else f"All changes are {words[kind]}"
        held = [_at(found.total.held_by, i) or 0 for i in numbers]
        side = [_at(found.total.side, i) or 0 for i in numbers]
        most = max(_at(found.total.most, i) or 0 for i in numbers)
        few = f"{min(held):.0f}" if round(min(held)) == round(max(held)) else f"{min(held):.0f} to {max(held):.0f}"
        yield (
            f"{who}: in the median matrix {few} of {max(side):.0f} singular values hold {_share(HELD)} of the squared "
            f"norm, {most:.0f} at most."
        )


def _at(values: Sequence[float | None], i: int) -> float | None:
    return values[i] if i < len(values) else None


def _obstacles(found: Diff) -> Iterator[str]:
    counts = {what: len({d["name"] for d in found.differences if d["what"] == what}) for what in _KINDS}
    stops = {"missing": "missing", "extra": "not in the base", "shape": "of another shape"}
    parts = [f"{counts[what]} {words}" for what, words in stops.items() if counts[what]]
    if parts:
        yield f"Not all tensors fit ({', '.join(parts)}): a merge stops there unless told what to do (--on-mismatch)."
    if any(d["what"] == "dtype" for d in found.differences):
        yield "Weights are stored in other dtypes than the base's: changes may contain rounding."
    if counts["tokenizer"]:
        yield "The tokenizers differ; see below."


# Numbers in words, and tables.


def _ratio(one: float, other: float) -> float | None:
    return float(one / other) if other > 0 else None


def _share(value: float | None) -> str:
    """A share in percent with two digits.

    >>> _share(0.41234), _share(0.0123), _share(1.414), _share(0.0), _share(2e-7), _share(0.9999)
    ('41%', '1.2%', '141%', '0%', '0.00002%', '99.99%')
    """
    if value is None:
        return "-"
    x = 100 * abs(value)
    digits = 0 if x >= 10 or x == 0 else min(7, 1 - math.floor(math.log10(x)))
    if 99 < x < 100:
        digits = min(4, max(0, -math.floor(math.log10(100 - x))))
    text = f"{x:.{digits}f}"
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return f"{'-' if value < 0 and float(text) else ''}{text}%"


def _span(low: float, high: float) -> str:
    one, two = _share(low), _share(high)
    return one if one == two else f"{one} to {two}"


def _cosine(value: float | None) -> str:
    """
    >>> _cosine(0.0312), _cosine(-0.001), _cosine(None)
    ('0.03', '0.00', '-')
    """
    return "-" if value is None else f"{round(value, 2) + 0.0:.2f}"


def _number(value: float | None) -> str:
    """
    >>> _number(12.345), _number(1234.5), _number(0.00012345), _number(None)
    ('12.3', '1234', '0.000123', '-')
    """
    return "-" if value is None else f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _by_kind(differences: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, list[str]]]:
    """What differs besides values, a title and lines each."""
    differences = list(differences)
    for what in _KINDS:
        lines = []
        for one in (d for d in differences if d["what"] == what):
            values: dict[str, list[str]] = {}
            for model, value in one["models"].items():
                values.setdefault("absent" if value is None else value, []).append(model)
            if what == "missing":
                lines.append(f"{one['name']}: in {listed(list(one['models']))}")
                continue
            said = "; ".join(f"{value} in {listed(models)}" for value, models in values.items())
            base = "absent" if one["base"] is None and what == "setting" else one["base"]
            lines.append(f"{one['name']}: {f'{base} in the base, ' if base else ''}{said}")
        if lines:
            yield _TITLES[what], lines


_Table = tuple[str, list[str], list[list[str]]]


def _models_table(found: Diff) -> _Table:
    part, k = found.total, len(found.models)
    head = ["", "model", "change", "entries", "largest"]
    head += ["kept"] if k > 1 else []
    head += ["rank", f"hold {_share(HELD)}"] if found.spectrum else []
    body = []
    for i, name in enumerate(found.models):
        row = [str(i + 1), name, _share(part.relative[i]), _share(part.changed[i]), _number(part.largest[i])]
        row += [_share(found.kept[i])] if k > 1 else []
        row += [_number(_at(part.rank, i)), _number(_at(part.held_by, i))] if found.spectrum else []
        body.append(row)
    return f"Changes from {found.base} ({count(part.entries)} weights)", head, body


def _groups_table(found: Diff, width: int) -> _Table:
    k = len(found.models)
    wide = k <= max(2, (width - 52) // 7)
    head = ["", "weights", *([str(i + 1) for i in range(k)] if wide else ["least", "most"])]
    head += ["cosine", "conflict", "cancelled"] if k > 1 else []
    body = []
    for part in [*found.groups, found.total]:
        known = [r for r in part.relative if r is not None]
        ends = [_share(min(known)), _share(max(known))] if known else ["-", "-"]
        row = [part.name, count(part.entries), *([_share(r) for r in part.relative] if wide else ends)]
        row += [_cosine(part.cosine), _share(part.conflict), _share(part.cancelled)] if k > 1 else []
        body.append(row)
    what = "Change by model" if wide else "Change, least and most of the models"
    return f"{what}, and how the changes agree" if k > 1 else "Change by layer", head, body


def _cosines_table(found: Diff) -> _Table:
    k = len(found.models)
    body = [[str(i + 1), *(_cosine(c) for c in row)] for i, row in enumerate(found.cosines)]
    return "Cosine between the changes", ["", *(str(i + 1) for i in range(k))], body


def _legend(found: Diff) -> list[str]:
    lines = ["Change: norm of the change / norm of the base's weights. Entries: share that is not the base's."]
    if len(found.models) > 1:
        lines[0] += " Kept: what an average of all keeps of it, along its own direction."
        lines.append(
            f"Conflict: signs differ, among entries that two or more models change by over {_share(NOTICEABLE)} of the "
            "root mean square of their change in the tensor. Cancelled: 1 - |sum| / sum of magnitudes. Cosine: mean of "
            "all pairs."
        )
    if found.spectrum:
        lines.append(
            "Rank: exp of the entropy of the normalised squared singular values; "
            f"hold {_share(HELD)}: how many hold that share of the squared norm; medians over matrices."
        )
    return lines


def _rich_table(head: list[str], body: list[list[str]]) -> Any:
    from rich.text import Text

    from allround.evaluate.scoreboard import _plain, _table

    table = _table()
    for number, title in enumerate(head):
        left = number == 0 or title == "model"
        table.add_column(title, justify="left" if left else "right", overflow="fold", no_wrap=not left)
    for row in body:
        table.add_row(*(Text(_plain(cell)) for cell in row), style="bold" if row[0] == "all" else None)
    return table


# The picture: hand-made SVG that stands alone; its colours follow the reader's choice of light or dark.

_LEFT, _PLOT, _RIGHT, _PANEL, _GAP, _EDGE, _TOP = 64, 566, 300, 132, 54, 24, 106
#: Width of the places of what is in no layer.
_ZONE = 94
_STYLE = """
.allround-diff { --paper: #ffffff; --ink: #1b1d20; --soft: #575c65; --rule: #dfe2e6; --tint: #eef0f2; --on: #ffffff;
  --plus: #1d5796; --minus: #b2560f; --m0: #1d5796; --m1: #c2570c; --m2: #14703f; --m3: #8a3ea8; --m4: #a9861a;
  --m5: #148a96; --m6: #c2255c; --m7: #5c6570; font-family: system-ui, -apple-system, "Segoe UI", Roboto,
  "Helvetica Neue", Arial, "Liberation Sans", sans-serif; }
@media (prefers-color-scheme: dark) { .allround-diff { --paper: #15171a; --ink: #e4e6e9; --soft: #a2a8b1;
  --rule: #33373d; --tint: #2a2d32; --on: #ffffff; --plus: #3f83c8; --minus: #c9681f; --m0: #7db4f0; --m1: #f0a060;
  --m2: #6fcf97; --m3: #cf94e8; --m4: #e0c25a; --m5: #62ced8; --m6: #f2789f; --m7: #a8b0ba; } }
.allround-diff text { fill: var(--ink); font-size: 13px; }
.allround-diff .title { font-size: 18px; font-weight: 650; }
.allround-diff .head { font-weight: 600; }
.allround-diff .rest { font-weight: 400; fill: var(--soft); }
.allround-diff .soft { fill: var(--soft); font-size: 12px; }
.allround-diff .tick { fill: var(--soft); font-size: 12px; font-variant-numeric: tabular-nums; }
.allround-diff .paper { fill: var(--paper); }
.allround-diff .grid { stroke: var(--rule); stroke-width: 1; }
.allround-diff .axis { stroke: var(--soft); stroke-width: 1; }
.allround-diff .line { fill: none; stroke-width: 1.75; stroke-linejoin: round; }
.allround-diff .chance { fill: none; stroke: var(--soft); stroke-width: 1.25; stroke-dasharray: 4 3; }
.allround-diff .one { stroke: var(--ink); fill: var(--ink); }
.allround-diff .line.one { fill: none; }
.allround-diff .cell { stroke: var(--paper); stroke-width: 2; }
.allround-diff .none { fill: var(--tint); }
.allround-diff .plus { fill: var(--plus); }
.allround-diff .minus { fill: var(--minus); }
.allround-diff .strong { fill: var(--on); }
""" + "".join(
    f".allround-diff .m{n} {{ stroke: var(--m{n}); fill: var(--m{n}); }} .allround-diff .line.m{n} {{ fill: none; }} "
    f".allround-diff .open.m{n} {{ fill: var(--paper); stroke-width: 1.5; }}\n"
    for n in range(8)
)


class _Picture:
    def __init__(self, found: Diff) -> None:
        self.found, self.k = found, len(found.models)
        self.groups = found.groups
        self.parts: list[str] = []
        layers = [g for g in self.groups if g.name.startswith("layer ")]
        before = any(g.name == _EMBEDDINGS for g in self.groups)
        after = any(g.name == _OTHER for g in self.groups)
        inner = _PLOT - _ZONE * (before + after)
        self.slot = inner / max(1, len(layers))
        first = _LEFT + _ZONE * before
        self.x = {g.name: first + self.slot * (n + 0.5) for n, g in enumerate(layers)}
        self.x |= {_EMBEDDINGS: _LEFT + _ZONE / 2, _OTHER: _LEFT + _PLOT - _ZONE / 2}
        if not layers:  # what is left spreads over the whole width
            places = [g.name for g in self.groups]
            self.x |= {name: _LEFT + _PLOT * (n + 0.5) / len(places) for n, name in enumerate(places)}
        self.layers = layers
        self.size = 3.2 if self.slot >= 14 else 2.2

    def draw(self, *, titled: bool = True) -> str:
        """The SVG as text; without its title where the page around it has one."""
        found, several = self.found, self.k > 1
        top: float = _TOP
        per_model = range(self.k)
        title = "Change, %", "norm of the change / norm of the base's weights"
        top = self._panel(top, title, [(i, [_percent(_at(g.relative, i)) for g in self.groups]) for i in per_model])
        if several:
            title = "Cosine", "between the changes, mean of all pairs"
            top = self._panel(top, title, [(None, [g.cosine for g in self.groups])], least=0.1)
            title = "Sign conflicts, %", "of entries that two or more models change (dashed: random signs)"
            chance = [_percent(g.chance) for g in self.groups]
            top = self._panel(top, title, [(None, [_percent(g.conflict) for g in self.groups])], chance)
        if any(g.held_by for g in self.groups):
            title = "Rank, %", f"singular values that hold {_share(HELD)} of the squared change, of all"
            top = self._panel(top, title, [(i, [_percent(_held(g, i)) for g in self.groups]) for i in per_model])
        self._layer_names(top - _GAP + 4)
        bottom = max(top, self._side(_TOP) + 20)
        width = _LEFT + _PLOT + 40 + _RIGHT + _EDGE
        subtitle = f"{plural(len(self.layers), 'layer')}, {count(found.total.entries)} weights"
        said = f"{found.title}: {subtitle}"
        above = 0 if titled else _TOP - 36
        start = [
            f'<svg class="allround-diff" xmlns="http://www.w3.org/2000/svg" '
            f'viewBox="0 {above} {width} {bottom - above:.0f}" role="img" aria-label="{escape(said)}">',
            f"<title>{escape(said)}</title>",
            f"<style>{_STYLE}</style>",
            f'<rect class="paper" width="{width}" height="{bottom:.0f}"/>',
            f'<text class="title" x="{_EDGE}" y="36">{escape(_shortened(found.title, 88))}</text>',
            f'<text class="soft" x="{_EDGE}" y="56">{escape(subtitle)}'
            f"{'; the values of a layer are over all its weights' if self.layers else ''}</text>",
        ]
        return "\n".join([*start, *self.parts, "</svg>"]) + "\n"

    def _add(self, text: str) -> None:
        self.parts.append(text)

    def _panel(
        self,
        top: float,
        title: tuple[str, str],
        lines: Sequence[tuple[int | None, list[float | None]]],
        chance: list[float | None] | None = None,
        least: float = 0.0,
    ) -> float:
        """One row of the picture, under the one before; returns where the next begins.

        title: its first words, and the rest. lines: of each model, or of all together (None). chance: a dashed line.
        least: how far the axis reaches both ways, at least.
        """
        known = [v for _, values in lines for v in values if v is not None]
        known += [v for v in chance or [] if v is not None]
        ticks = _even_ticks(min([-least, *known]), max([least, *known]))
        low, high, base = ticks[0], ticks[-1], top + _PANEL

        def y(value: float) -> float:
            return base - _PANEL * (value - low) / (high - low)

        rest = f'<tspan class="rest">{escape(title[1])}</tspan>'
        self._add(f'<text class="head" x="{_EDGE}" y="{top - 14}">{escape(title[0])} {rest}</text>')
        for tick in ticks:
            kind = "axis" if tick == 0 else "grid"
            self._add(f'<line class="{kind}" x1="{_LEFT}" x2="{_LEFT + _PLOT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
            self._add(
                f'<text class="tick" x="{_LEFT - 8}" y="{y(tick) + 4:.1f}" text-anchor="end">{_minus(tick)}</text>'
            )
        if chance is not None and any(v is not None for v in chance):
            for run in self._runs(chance):
                if len(run) > 1:
                    self._add(f'<polyline class="chance" points="{_points((x, y(v)) for _, x, v in run)}"/>')
            for name, x, value in self._alone(chance):
                half = min(14, self.slot / 3) if name.startswith("layer ") else 14
                ends = f'x1="{x - half:.1f}" x2="{x + half:.1f}" y1="{y(value):.1f}" y2="{y(value):.1f}"'
                self._add(f'<line class="chance" {ends}/>')
        for number, values in lines:
            kind = "one" if number is None else f"m{number % 8}"
            for run in self._runs(values):
                if len(run) > 1:
                    self._add(f'<polyline class="line {kind}" points="{_points((x, y(v)) for _, x, v in run)}"/>')
        for number, values in lines:
            kind = "one" if number is None else f"m{number % 8}"
            who = "" if number is None else f"{self.found.models[number]}, "
            for group, height in zip(self.groups, values, strict=True):
                if height is None:
                    continue
                x = self.x[group.name] + (0 if group.name.startswith("layer ") else self._beside(number))
                said = escape(f"{who}{group.name}: {height:.3g}")
                self._add(f"<g><title>{said}</title>{_mark(number, kind, x, y(height), self.size)}</g>")
        return base + _GAP

    def _beside(self, number: int | None) -> float:
        """How far from the middle of its place a model's mark stands, where none are joined by lines."""
        return 0.0 if number is None or self.k == 1 else (number - (self.k - 1) / 2) * min(12.0, 62 / self.k)

    def _runs(self, values: list[float | None]) -> list[list[tuple[str, float, float]]]:
        """The layers' values in stretches without gaps."""
        runs: list[list[tuple[str, float, float]]] = [[]]
        for group, value in zip(self.groups, values, strict=True):
            if group.name.startswith("layer ") and value is not None:
                runs[-1].append((group.name, self.x[group.name], value))
            elif runs[-1]:
                runs.append([])
        return [run for run in runs if run]

    def _alone(self, values: list[float | None]) -> list[tuple[str, float, float]]:
        """The values that no line reaches."""
        lonely = {run[0][0] for run in self._runs(values) if len(run) == 1}
        return [(g.name, self.x[g.name], v) for g, v in zip(self.groups, values, strict=True)
                if v is not None and (g.name in lonely or not g.name.startswith("layer "))]  # fmt: skip

    def _layer_names(self, y: float) -> None:
        """What stands under the lowest row."""
        every = next((s for s in (1, 2, 4, 5, 8, 10, 20, 50, 100, 200) if s * self.slot >= 24), 500)
        for group in self.groups:
            x, layer = self.x[group.name], group.name.startswith("layer ")
            if layer and int(group.name[6:]) % every:
                continue
            words = [group.name[6:]] if layer else ["head,", "other"] if group.name == _OTHER else [group.name]
            for line, word in enumerate(words):
                place = f'x="{x:.1f}" y="{y + 14 + 15 * line:.1f}" text-anchor="middle"'
                self._add(f'<text class="tick" {place}>{word}</text>')
        if self.layers:
            middle = (self.x[self.layers[0].name] + self.x[self.layers[-1].name]) / 2
            self._add(f'<text class="soft" x="{middle:.1f}" y="{y + 33:.1f}" text-anchor="middle">layer</text>')

    def _side(self, top: float) -> float:
        """The models' names, and the cosine of every pair; returns where it ends."""
        left = _LEFT + _PLOT + 40
        y = top - 14.0
        self._add(f'<text class="head" x="{left}" y="{y:.1f}">{"Models" if self.k > 1 else "Model"}</text>')
        for number, name in enumerate(self.found.models):
            y += 21
            kind = f"m{number % 8}"
            self._add(f'<line class="line {kind}" x1="{left}" x2="{left + 24}" y1="{y - 4:.1f}" y2="{y - 4:.1f}"/>')
            self._add(_mark(number, kind, left + 12, y - 4, 3.6))
            full = f"<title>{escape(name)}</title>"
            label = escape(_shortened(f"{number + 1}  {name}" if self.k > 1 else name, 36))
            self._add(f'<text x="{left + 32}" y="{y:.1f}">{full}{label}</text>')
        return y if self.k == 1 else self._heat(left, y + 44)

    def _heat(self, left: float, y: float) -> float:
        found = self.found
        self._add(f'<text class="head" x="{left}" y="{y:.1f}">Cosine between the changes, all weights</text>')
        across = _RIGHT - 26
        side = min(52.0, across / self.k)
        x0, y0 = left + 24, y + 32
        for i in range(self.k):
            middle = i * side + side / 2
            place = f'x="{x0 + middle:.1f}" y="{y0 - 7:.1f}" text-anchor="middle"'
            self._add(f'<text class="tick" {place}>{i + 1}</text>')
            place = f'x="{x0 - 8:.1f}" y="{y0 + middle + 4:.1f}" text-anchor="end"'
            self._add(f'<text class="tick" {place}>{i + 1}</text>')
            for j in range(self.k):
                value = found.cosines[i][j]
                at = f'x="{x0 + j * side:.1f}" y="{y0 + i * side:.1f}" width="{side:.1f}" height="{side:.1f}"'
                said = escape(f"{found.models[i]} and {found.models[j]}: {_cosine(value)}")
                self._add(f'<g><title>{said}</title><rect class="cell none" {at}/>')
                strength = 0.0 if value is None or i == j else min(1.0, abs(value))
                if strength:
                    kind = "plus" if value is not None and value > 0 else "minus"
                    self._add(f'<rect class="cell {kind}" {at} fill-opacity="{strength:.3f}"/>')
                text = _cosine(value)
                if side < 30:
                    text = text.replace("0.", ".")
                font = min(13.0, (side - 5) / (2.6 if side < 30 else 3.1))
                kind = "strong" if strength > 0.55 else "soft" if i == j else ""
                place = f'x="{x0 + (j + 0.5) * side:.1f}" y="{y0 + (i + 0.5) * side + font * 0.35:.1f}"'
                text = text.replace("-", "−") if value is not None else "–"
                style = f'style="font-size:{font:.1f}px" text-anchor="middle"'
                self._add(f'<text class="{kind}" {place} {style}>{text}</text></g>')
        end = y0 + self.k * side + 20
        for word in ("1: the same direction; 0: nothing in common;", "−1: opposite directions"):
            self._add(f'<text class="soft" x="{left}" y="{end:.1f}">{word}</text>')
            end += 17
        return end


def _minus(value: float) -> str:
    return f"{value:g}".replace("-", "−")


def _percent(value: float | None) -> float | None:
    return None if value is None else 100 * value


def _held(part: Part, i: int) -> float | None:
    """The share of the singular values that hold most of a model's change."""
    held, side = _at(part.held_by, i), _at(part.side, i)
    return held / side if held and side else None


def _shortened(name: str, most: int) -> str:
    """A long name without its middle."""
    return name if len(name) <= most else f"{name[: most * 3 // 5 - 1]}…{name[len(name) - most * 2 // 5 :]}"


def _points(places: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in places)


def _mark(number: int | None, kind: str, x: float, y: float, r: float) -> str:
    """A model's sign: four shapes, filled or open, so that none is told by its colour alone."""
    shape = 0 if number is None else (number + number // 8) % 4
    kind = f"{kind} open" if number is not None and number % 8 >= 4 else kind
    if shape == 0:
        return f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{r:g}"/>'
    if shape == 1:
        return f'<rect class="{kind}" x="{x - r:.1f}" y="{y - r:.1f}" width="{2 * r:g}" height="{2 * r:g}"/>'
    s = r * 1.35
    corners = (
        [(x, y - s), (x + s, y), (x, y + s), (x - s, y)] if shape == 2 else [(x, y - s), (x + s, y + r), (x - s, y + r)]
    )
    return f'<polygon class="{kind}" points="{_points(corners)}"/>'


def _even_ticks(low: float, high: float) -> list[float]:
    """Three to seven round numbers around [low, high].

    >>> _even_ticks(0, 4.2), _even_ticks(-0.1, 0.32), _even_ticks(0, 0)
    ([0, 1, 2, 3, 4, 5], [-0.1, 0, 0.1, 0.2, 0.3, 0.4], [0, 0.5, 1])
    """
    if high <= low:
        return [0, 0.5, 1]
    power = 10.0 ** math.floor(math.log10((high - low) / 5))
    step = next(
        f * power for f in (1, 2, 5, 10, 20) if math.ceil(high / (f * power)) - math.floor(low / (f * power)) <= 6
    )
    numbers = (float(f"{n * step:.6g}") for n in range(math.floor(low / step), math.ceil(high / step) + 1))
    return [int(n) if n == int(n) and abs(n) < 1e6 else n for n in numbers]
