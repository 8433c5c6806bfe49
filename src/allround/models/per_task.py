"""Systems whose tasks share nothing: each is answered by a part of its own."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

from allround.models.system import System

if TYPE_CHECKING:
    from typing_extensions import Self


class PerTask(System):
    """A system that is the sum of its parts, so that those of several systems can be put together."""

    @classmethod
    @abstractmethod
    def joined(cls, systems: Sequence[Self]) -> Self:
        """One system with the tasks of all of these; each task is in one of them."""
