"""Comparing checkpoints with their base: matching tensors, summing up their changes, and what else differs.

Checkpoints are read in stretches, so a model of any size fits; for the spectrum a matrix at a time.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from allround.checkpoints.source import Source
from allround.core.errors import AllroundError
from allround.core.jobs import available_cores
from allround.core.words import listed
from allround.merging.diff.changes import NOTICEABLE, Mismatch
from allround.merging.diff.counting import count_first, count_second
from allround.merging.diff.files import compare_files
from allround.merging.diff.groups import LAYER, group_of, group_order
from allround.merging.diff.matching import Unlike, compare_values, match
from allround.merging.diff.result import Diff
from allround.merging.diff.stretches import Stretches, stretches
from allround.merging.diff.sums import Spectrum, Sums, ratio
from allround.merging.recipe import Model
from allround.merging.sources import open_model, untie
from allround.merging.tensors import in_threads, one_thread

#: The longest shorter side of a matrix whose spectrum is taken, by default.
LARGEST = 2048
#: Entries of all checkpoints in one stretch: few enough for the processor's cache.
_STRETCH = 1 << 18
#: Entries of the largest matrix that is held as a whole: 256 MB.
_WHOLE = 1 << 26


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


class _Comparison:
    def __init__(self, base: Source, models: list[Source], labels: list[str], paths: list[str], largest: int) -> None:
        self.base, self.models, self.labels, self.paths, self.largest = base, models, labels, paths, largest
        self.left_out: list[str] = []
        matches = match(base, models)
        self.weights, self.values, self.unlike = matches.weights, matches.values, matches.unlike

    def run(self, workers: int | None) -> Diff:
        threads = workers or min(available_cores(), 8)
        large = sum(self.base.numel(name) for name, _ in self.weights) / 16
        order = sorted(range(len(self.weights)), key=lambda n: self.base.numel(self.weights[n][0]) < large)

        def work(position: int) -> tuple[Sums, list[Spectrum]]:
            if position + threads < len(order):
                name, ahead = self.weights[order[position + threads]]
                self.base.announce(name)
                for number, other in ahead.items():
                    self.models[number].announce(other)
            with torch.inference_mode():
                return self._tensor(*self.weights[order[position]])

        with one_thread(), torch.inference_mode():
            found = dict(zip(order, in_threads(work, range(len(order)), threads), strict=True))
            self.unlike += compare_values(self.base, self.models, self.values)
        self.unlike += compare_files(self.base, self.models)
        return self._sum_up([found[number] for number in range(len(order))])

    def _tensor(self, name: str, present: dict[int, str]) -> tuple[Sums, list[Spectrum]]:
        reader = Stretches(self.base, self.models, self.labels, name, present)
        size, k = self.base.numel(name), len(present)
        gram, changed, largest = np.zeros((k + 1, k + 1)), np.zeros(k), np.zeros(k)
        length, row = max(1 << 14, _STRETCH // (k + 1)), self.base.shape(name)[-1] if self.base.shape(name) else 1
        cuts = stretches(size, length // row * row if row <= length else length)
        rows: Tensor | None = None
        for start, stop in cuts:
            rows = reader.read(start, stop)
            found = count_first(rows)
            if not np.isfinite(found[0]).all():
                rows = reader.repaired(start, stop)
                found = count_first(rows)
                if not np.isfinite(found[0]).all():
                    raise AllroundError(
                        f"compare the tensor '{name}'", "its values are too large to square", "check the checkpoints"
                    )
            gram, changed, largest = gram + found[0], changed + found[1], np.maximum(largest, found[2])
        norms = np.sqrt(gram.diagonal()[1:])
        noticed, clash, pairs = np.zeros(k + 1), np.zeros(3), np.zeros((2, k, k))
        if (norms > 0).sum() > 1:
            for start, stop in cuts:
                if len(cuts) > 1:
                    rows = reader.repaired(start, stop) if reader.odd else reader.read(start, stop)
                assert rows is not None
                counts, sums, both = count_second(rows, NOTICEABLE * norms / math.sqrt(size))
                noticed, clash, pairs = noticed + counts, clash + sums, pairs + both
        spectra = []
        shape = self.base.shape(name)
        if self.largest and len(shape) == 2 and min(shape) > 1 and not reader.odd:
            if min(shape) > self.largest or (shape[1] > shape[0] and size > _WHOLE):
                self.left_out.append(name)
            else:
                for row, number in enumerate(present):
                    if norms[row] > 0:
                        rank, held_by = reader.spectrum(row, shape, float(largest[row]))
                        spectra.append(Spectrum(number, rank, held_by, min(shape)))
        return self._sums(size, list(present), gram, changed, largest, noticed, clash, pairs), spectra

    def _sums(self, size: int, at: list[int], gram: np.ndarray, changed: np.ndarray, largest: np.ndarray,
              noticed: np.ndarray, clash: np.ndarray, pairs: np.ndarray) -> Sums:  # fmt: skip
        sums = Sums.empty(len(self.models))
        sums.tensors, sums.entries, sums.base = 1, size, float(gram[0, 0])
        sums.has[at], sums.bases[at], sums.dots[at] = size, gram[0, 0], gram[0, 1:]
        sums.changed[at], sums.largest[at] = changed, largest
        sums.gram[np.ix_(at, at)] = gram[1:, 1:]
        sums.beside[np.ix_(at, at)] = gram.diagonal()[1:, None]
        sums.noticed[: len(noticed)], sums.clash = noticed, clash
        sums.pairs[np.ix_((0, 1), at, at)] = pairs
        return sums

    def _sum_up(self, found: list[tuple[Sums, list[Spectrum]]]) -> Diff:
        k = len(self.models)
        total, tensors, spectra = Sums.empty(k), [], []
        groups: dict[str, tuple[Sums, list[Spectrum]]] = {}
        for (name, _), (sums, ranks) in zip(self.weights, found, strict=True):
            group = group_of(name)
            tensors.append(
                sums.part(name, ranks, group=group, shape=list(self.base.shape(name)), dtype=self.base.dtype(name))
            )
            total.add(sums)
            spectra += ranks
            of_group = groups.setdefault(group, (Sums.empty(k), []))
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
            [sums.part(name, ranks) for name, (sums, ranks) in sorted(groups.items(), key=lambda g: group_order(g[0]))],
            tensors,
            total.cosines(),
            total.conflicts(),
            [ratio(total.gram[i].sum() / k, norms[i]) for i in range(k)],
            [ratio(total.bases[i] + total.dots[i], whole[i]) for i in range(k)],
            [self._mismatch(one) for one in self.unlike],
            self._notes(),
            self.largest > 0,
        )

    def _mismatch(self, one: Unlike) -> Mismatch:
        models = {self.labels[number + 1]: value for number, value in sorted(one.models.items())}
        return Mismatch(one.what, one.name, one.base, models)

    def _notes(self) -> list[str]:
        notes = []
        if self.left_out:
            number = "1 matrix" if len(self.left_out) == 1 else f"{len(self.left_out)} matrices"
            notes.append(f"The spectrum of {number} is left out: too large (such as {min(self.left_out)}).")
        stacks: dict[str, set[str]] = {}
        for name, _ in self.weights:
            if (found := LAYER.search(name)) is not None:
                stacks.setdefault(found[2], set()).add(found[1].strip("./"))
        joined = sorted(set().union(*(s for s in stacks.values() if len(s) > 1)))
        if joined:
            notes.append(f"Layers are identified by the first number in a name: {listed(joined)} are counted together.")
        return notes


def _labels(paths: list[str]) -> list[str]:
    """A short name for each: the end of its path, as much of it as tells it from the others."""
    parts = [[p for p in re.split(r"[/\\]+", path) if p not in ("", ".")] or [path] for path in paths]
    found = []
    for own in parts:
        others = [p for p in parts if p != own]
        length = next((n for n in range(1, len(own) + 1) if all(p[-n:] != own[-n:] for p in others)), len(own))
        found.append("/".join(own[-length:]))
    return [name if found.count(name) == 1 else f"{name} ({number})" for number, name in enumerate(found)]
