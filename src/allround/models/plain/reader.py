"""What a reader must do: turn rows of a task into plain numbers that a linear model reads."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from allround.tasks.definition import Definition
from allround.tasks.values import Row

#: One row of numbers for each target, float32; sparse where most of them are 0.
Matrix: TypeAlias = "NDArray[np.float32] | csr_matrix"
#: The arrays of a reader, by name.
Arrays: TypeAlias = Mapping[str, NDArray[np.generic]]
#: Inverse strengths of a penalty, for labels and for numbers.
Strengths: TypeAlias = Mapping[str, tuple[float, ...]]


class Reader(ABC):
    """Rows in, numbers out; the numbers of a row depend on that row alone.

    A reader is made from training rows (`of`), and written as plain data and arrays.
    """

    #: Its name in a saved folder.
    sort: ClassVar[str]
    #: What it reads, in a few words for people.
    words: ClassVar[str]
    #: Inverse strengths of the penalty that are tried with it, from strong to weak: for labels, and for numbers.
    strengths: ClassVar[Strengths]

    @classmethod
    @abstractmethod
    def of(cls, rows: Sequence[Row], definition: Definition) -> Reader:
        """A reader for rows such as these training rows."""

    @property
    @abstractmethod
    def width(self) -> int:
        """How many numbers a target gets."""

    @property
    @abstractmethod
    def stored(self) -> int:
        """How many numbers the reader itself keeps."""

    @abstractmethod
    def numbers(self, rows: Sequence[Row]) -> Matrix:
        """The numbers of each target of these rows: (n, width)."""

    @abstractmethod
    def written(self) -> tuple[dict[str, Any], Arrays]:
        """What `read` needs: plain data and arrays."""

    @classmethod
    @abstractmethod
    def read(cls, about: Mapping[str, Any], arrays: Arrays, definition: Definition) -> Reader:
        """The inverse of `written`. A ValueError, KeyError or TypeError for anything else."""


def check_array(arrays: Arrays, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """An array of finite float32 numbers of a shape, or a ValueError."""
    found: NDArray[Any] = arrays[name]
    if found.dtype != np.float32 or found.shape != shape:
        raise ValueError(f"'{name}' is {found.dtype} {found.shape}, and not float32 {shape}")
    if not np.isfinite(found).all():
        raise ValueError(f"'{name}' has numbers that are not finite")
    return found


def check_names(arrays: Arrays, names: Sequence[str]) -> None:
    """A ValueError unless there are just the arrays of these names."""
    if set(arrays) != set(names):
        raise ValueError(f"its arrays are {', '.join(sorted(arrays))[:100]}")
