"""Which entries of which dimensions are the same features: axes made of atoms that are tied, split and fixed.

An `Axis` says what one dimension of a tensor is made of. It is a sum of segments (a concatenation), each of which is a
product of factors (a flattened block, the last factor running fastest): a flattened image of 8 channels is
`((channels, height, width),)`, three texts side by side are `((d,), (d,), (d,))`. The entries of two dimensions that an
operation brings together are the same features, so their atoms are tied into one.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

#: A dimension of a weight, by the weight's name.
Origin = tuple[str, int]


class Atom:
    """A number of features that are told apart by position only.

    fixed: why their order may not change; empty where it may. paired: two sets of activations are multiplied over
    them, so features may be reordered but not averaged.
    """

    __slots__ = ("_fixed", "paired", "parent", "parts", "size", "sums")

    def __init__(self, size: int, fixed: str = "") -> None:
        self.size = size
        self._fixed = fixed
        self.paired = False
        self.parent: Atom | None = None
        self.parts: tuple[Atom, ...] = ()  # factors of a product
        self.sums: tuple[Atom, ...] = ()  # pieces of a concatenation

    @property
    def root(self) -> Atom:
        found = self
        while found.parent is not None:
            found = found.parent
        return found

    @property
    def fixed(self) -> str:
        return self.root._fixed

    def fix(self, why: str) -> None:
        """Forbid to reorder these features."""
        root = self.root
        root._fixed = root._fixed or why
        for part in (*root.parts, *root.sums):
            part.fix(why)

    def pair(self) -> None:
        """Note that two sets of activations are multiplied over these features."""
        root = self.root
        root.paired = True
        for part in (*root.parts, *root.sums):
            part.pair()

    def divide(self, sizes: Sequence[int], *, product: bool) -> tuple[Atom, ...]:
        """Cut an atom into factors, or into pieces side by side."""
        made = tuple(Atom(size, self._fixed) for size in sizes)
        for atom in made:
            atom.paired = self.paired
        if product:
            self.parts = made
        else:
            self.sums = made
        return made


class Factor(NamedTuple):
    """An atom within an axis. origin: the dimension of a weight that it is, where it is one."""

    atom: Atom
    origin: Origin | None = None

    @property
    def size(self) -> int:
        return self.atom.size


Segment = tuple[Factor, ...]
Axis = tuple[Segment, ...]


def axis(size: int, fixed: str = "", origin: Origin | None = None) -> Axis:
    """An axis of one new atom; of no factor where its size is 1."""
    return ((Factor(Atom(size, fixed), origin),) if size != 1 else (),)


def length(segment: Iterable[Factor]) -> int:
    return math.prod(factor.size for factor in segment)


def size_of(given: Axis) -> int:
    return sum(length(segment) for segment in given)


def resolve(given: Axis) -> Axis:
    """The axis in terms of atoms as they are now: tied, and cut where they have been cut.

    >>> whole = Atom(6)
    >>> _ = whole.divide((2, 3), product=True)
    >>> [factor.size for factor in resolve(((Factor(whole),),))[0]]
    [2, 3]
    """
    found: list[Segment] = []
    for segment in given:
        found += _segments(segment)
    return tuple(found)


def _segments(segment: Segment) -> list[Segment]:
    flat: list[Factor] = []
    for factor in segment:
        flat += _factors(factor)
    for factor in flat[1:]:
        if factor.atom.sums:  # pieces that are interleaved cannot be written as segments
            factor.atom.fix("pieces of it are interleaved")
    if flat and flat[0].atom.sums:
        found: list[Segment] = []
        for piece in flat[0].atom.sums:
            found += _segments((Factor(piece, flat[0].origin), *flat[1:]))
        return found
    return [tuple(flat)]


def _factors(factor: Factor) -> list[Factor]:
    root = factor.atom.root
    if root.parts:
        return [inner for part in root.parts for inner in _factors(Factor(part, factor.origin))]
    return [Factor(root, factor.origin)]


def plain(given: Axis) -> Axis:
    """The axis without what dimensions of weights it comes from."""
    return tuple(tuple(Factor(factor.atom) for factor in segment) for segment in given)


def factors(given: Iterable[Axis]) -> Iterable[Factor]:
    """All factors of some axes, as they are now."""
    return (factor for one in given for segment in resolve(one) for factor in segment)


def products(given: Sequence[Axis]) -> Iterator[tuple[Atom, ...]]:
    """The atoms of a tensor, for each of the blocks that its segments make."""
    for segments in itertools.product(*(resolve(one) for one in given)):
        yield tuple(factor.atom for segment in segments for factor in segment)


def fix(given: Iterable[Axis], why: str) -> None:
    """Forbid to reorder anything of these axes."""
    for factor in factors(given):
        factor.atom.fix(why)


def tie(first: Axis, second: Axis) -> None:
    """Make two axes the same features, entry by entry. They are as long as each other."""
    one, other = list(resolve(first)), list(resolve(second))
    while one and other:
        one[:1], other[:1] = _segments(one[0]), _segments(other[0])  # what was cut just now
        a, b = one.pop(0), other.pop(0)
        if length(a) == length(b):
            _tie_products(list(a), list(b))
            continue
        shorter, longer = (a, b) if length(a) < length(b) else (b, a)
        rest = one if longer is a else other
        (other if longer is a else one).insert(0, shorter)
        if len(longer) == 1:
            sizes = (length(shorter), length(longer) - length(shorter))
            pieces = longer[0].atom.divide(sizes, product=False)
            rest[:0] = [(Factor(piece, longer[0].origin),) for piece in pieces]
        else:
            fix((first, second), "two ways of cutting it do not fit together")
            return


def _tie_products(one: list[Factor], other: list[Factor]) -> None:
    everything = (*one, *other)
    while one and other:
        a, b = one.pop(0), other.pop(0)
        if a.atom.root.parts or b.atom.root.parts:  # cut on the way, where an atom is there twice
            one[:0], other[:0] = _factors(a), _factors(b)
        elif a.size == b.size:
            _tie_atoms(a.atom.root, b.atom.root)
        elif a.size % b.size and b.size % a.size:
            fix([((factor,),) for factor in everything], "two ways of cutting it do not fit together")
            return
        else:
            small, large, rest = (a, b, other) if a.size < b.size else (b, a, one)
            (one if small is a else other).insert(0, small)
            parts = large.atom.divide((small.size, large.size // small.size), product=True)
            rest[:0] = [Factor(part, large.origin) for part in parts]


def _tie_atoms(a: Atom, b: Atom) -> None:
    if a is b:
        return
    if b.parts or b.sums:
        a, b = b, a
    why, paired = a._fixed or b._fixed, a.paired or b.paired
    if b.sums and a.sums:
        for piece in (*a.sums, *b.sums):
            piece.fix("two ways of cutting it do not fit together")
    b.parent = a
    if why:
        a.fix(why)
    if paired:
        a.pair()


def reshape(given: Sequence[Axis], shape: Sequence[int]) -> list[Axis]:
    """The axes of a tensor that is read, in the same order, in another shape.

    >>> heads = reshape([axis(6)], (2, 3))
    >>> [size_of(one) for one in heads], [size_of(one) for one in reshape(heads, (6,))]
    ([2, 3], [6])
    """
    old = [resolve(one) for one in given if size_of(one) != 1]
    found: list[Axis] = [((),)] * len(shape)
    if 0 in shape or any(size_of(one) == 0 for one in old):
        return [axis(size, "it is empty") for size in shape]
    new = [i for i, size in enumerate(shape) if size != 1]
    while old and new:
        left, right = [old.pop(0)], [new.pop(0)]
        a, b = size_of(left[0]), shape[right[0]]
        while a != b:
            if a < b:
                left.append(old.pop(0))
                a *= size_of(left[-1])
            else:
                right.append(new.pop(0))
                b *= shape[right[-1]]
        for i, one in zip(right, _regroup(left, [shape[i] for i in right]), strict=True):
            found[i] = one
    return found


def _regroup(old: list[Axis], shape: list[int]) -> list[Axis]:
    if len(old) == len(shape) == 1:
        return old
    if len(shape) == 1 and all(len(one) == 1 for one in old[1:]):
        tail = tuple(factor for one in old[1:] for factor in one[0])
        return [tuple((*segment, *tail) for segment in old[0])]
    why = "a reshape cuts it unevenly"
    if any(len(one) > 1 for one in old):
        fix(old, why)
        return [axis(size, why) for size in shape]
    flat = [factor for one in old for factor in one[0]]
    found: list[Axis] = []
    for size in shape:
        taken: list[Factor] = []
        while length(taken) < size:
            flat[:1] = _factors(flat[0])
            factor, wanted = flat.pop(0), size // length(taken)
            if factor.size > wanted and factor.size % wanted == 0 and not factor.atom.sums:
                parts = factor.atom.divide((wanted, factor.size // wanted), product=True)
                flat.insert(0, Factor(parts[1], factor.origin))
                factor = Factor(parts[0], factor.origin)
            taken.append(factor)
        if length(taken) != size:
            fix(old, why)
            return [axis(one, why) for one in shape]
        found.append((tuple(taken),))
    return found


def cut(given: Axis, start: int, stop: int) -> Axis:
    """The entries from `start` to `stop` of an axis, which is cut there where it can be.

    >>> size_of(cut(axis(6), 0, 2))
    2
    """
    given = resolve(given)
    if start == 0 and stop == size_of(given):
        return given
    found: list[Segment] = []
    at = 0
    for segment in given:
        end = at + length(segment)
        low, high = max(start, at), min(stop, end)
        if low < high and (low, high) != (at, end):
            sizes = [size for size in (low - at, high - low, end - high) if size]
            if len(segment) != 1:
                fix((given,), "a part of it is taken")
                return axis(stop - start, "it is a part of something larger")
            pieces = segment[0].atom.divide(sizes, product=False)
            found.append((Factor(pieces[1 if low > at else 0], segment[0].origin),))
        elif low < high:
            found.append(segment)
        at = end
    return tuple(found) or axis(stop - start)
