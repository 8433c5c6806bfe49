"""What `diff` gives back: said in words, printed, drawn, saved and read again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from allround.core.errors import AllroundError
from allround.core.files import json_text, read_settings
from allround.core.outputs import write_texts
from allround.core.schema import checked
from allround.merging.diff.changes import HELD, KINDS, NOTICEABLE, Changes
from allround.merging.diff.tables import print_changes
from allround.merging.diff.words import verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import Console

_FORMAT = "allround diff 2"
#: No norm is larger, and its square is still a number.
_LARGEST = 1e150
#: What a diff is saved as.
FILES = ("diff.json", "diff.svg", "diff.html")


@dataclass
class Diff(Changes):
    """What `diff` found. Everything in it is plain data; the k models are in the order they were given in.

    base, models: short names. paths: the base's and the models'. cosines: between the changes, (k, k), over all
    weights that both models have. conflicts: (k, k), of the entries that both models of a pair change noticeably the
    share that they change in opposite directions; None on the diagonal, and where there is no such entry. kept: what of
    each change is left along its own direction when all are averaged. likeness: cosine between the weights of the base
    and of each model. differences: what differs besides weights, as `Mismatch`.
    """

    def to_json(self) -> dict[str, object]:
        """Plain data; `Diff.from_json` reads it."""
        facts = {"noticeable": NOTICEABLE, "held": HELD}
        return {"format": _FORMAT, "verdict": self.verdict(), **facts, **asdict(self)}

    @classmethod
    def from_json(cls, value: Mapping[str, object], *, asked: str = "read a diff") -> Diff:
        """What `to_json` gave. Errors: anything else."""
        if not isinstance(value, Mapping) or value.get("format") != _FORMAT:
            raise AllroundError(asked, "the data are not what `allround diff` writes", "make it again")
        given = {k: v for k, v in value.items() if k not in ("format", "verdict", "noticeable", "held")}
        made = checked(cls, given, asked, "make it again")
        models, parts = len(made.models), [made.total, *made.groups, *made.tensors]
        lists: list[Sequence[object]] = [made.paths[1:], made.cosines, made.kept, made.likeness, *made.cosines]
        lists += [made.conflicts, *made.conflicts]
        lists += [part for one in parts for part in (one.norm, one.relative, one.changed, one.largest)]
        some = [part for one in parts for part in (one.rank, one.held_by, one.most, one.side)]
        if any(len(part) != models for part in lists) or any(len(part) not in (0, models) for part in some):
            raise AllroundError(asked, "it is damaged: a list does not have one value for each model", "make it again")
        numbers = [x for part in [*made.cosines, *(p.norm for p in parts), *some] for x in part if x is not None]
        if any(abs(x) > _LARGEST for x in [*numbers, *(p.base_norm for p in parts)]):
            raise AllroundError(asked, "it is damaged: a number is too large for a norm", "make it again")
        if any(one.what not in KINDS for one in made.differences):
            raise AllroundError(asked, "it is damaged: a difference is of an unknown sort", "make it again")
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
        return verdict(self)

    def plot(self) -> Figure:
        """Draw each layer's change, cosine, conflict and rank, and the cosine of every pair."""
        from allround.merging.diff.picture import plot

        return plot(self)

    def svg(self) -> str:
        """The picture as SVG."""
        from allround.merging.diff.picture import svg

        return svg(self)

    def html(self) -> str:
        """A page with the verdict, the picture and the tables."""
        from allround.merging.diff.page import html

        return html(self)

    def print(self, console: Console | None = None) -> None:
        """Print the verdict and tables in ASCII that fit the console's width."""
        print_changes(self, console)
