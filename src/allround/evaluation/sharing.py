"""What pages and files say of how tasks share a model: who uses which module, drawn and in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from allround.core.schema import STRICT
from allround.core.words import listed, size_text
from allround.models.share.further import FurtherTask
from allround.models.share.usage import ModuleUse

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Height of a task's strip, and room for names left of the strips and for those of places above them, in points.
STRIP, LEFT, TOP = 22.0, 120.0, 60.0


@dataclass(frozen=True)
class SharingFacts:
    """How the tasks of a system share.

    way: the preset with its settings. uses: of modules by tasks. dead, twins: modules that no task uses, and pairs that
    are nearly the same, in words. tree: which tasks go through the same copy of each stage, a line for each. further:
    what one further task would store; None where it was not measured.
    """

    __pydantic_config__ = STRICT

    system: str
    way: str
    uses: tuple[ModuleUse, ...]
    dead: tuple[str, ...] = ()
    twins: tuple[str, ...] = ()
    tree: tuple[str, ...] = ()
    further: FurtherTask | None = None

    @property
    def words(self) -> list[str]:
        """The tree, and sentences on dead modules, twins, and what a further task stores.

        >>> SharingFacts("joint-mmoe", "mmoe", (), ("shared 2 of level 1",)).words
        ['No task uses shared 2 of level 1.']
        """
        found = list(self.tree)
        if self.dead:
            found.append(f"No task uses {_some(self.dead)}.")
        if self.twins:
            found.append(f"Nearly the same are {_some(self.twins)}.")
        if self.further is not None:
            found.append(
                f"A further task would store {size_text(self.further.size)}: {size_text(self.further.modules)} of "
                f"modules and gates, and {size_text(self.further.head)} of its head."
            )
        return found

    @property
    def tasks(self) -> list[str]:
        return list(dict.fromkeys(use.task for use in self.uses))

    @property
    def columns(self) -> list[tuple[str, str]]:
        """The modules, each by its place and its name."""
        return list(dict.fromkeys((use.place, use.module) for use in self.uses))

    @property
    def svg(self) -> str:
        """The picture of `draw_uses`, for a screen."""
        from allround.evaluation.pictures import svg_text

        return svg_text(draw_uses(self, 720.0), f"How much each task uses each module of {self.system}")

    @property
    def csv(self) -> str:
        """A line for each task and module that it sees."""
        lines = [f"{use.place},{use.module},{use.task},{use.weight:.6g}" for use in self.uses]
        return "\n".join(["place,module,task,weight", *lines]) + "\n"


def _some(words: Sequence[str], most: int = 5) -> str:
    more = len(words) - most
    return listed(words) if more <= 0 else f"{', '.join(words[:most])} and {more} more"


def draw_uses(facts: SharingFacts, width: float) -> Figure:
    """A strip for each task, a field for each module, darker where the task's gate gives it more."""
    from matplotlib.patches import Rectangle

    from allround.evaluation.pictures import add_axes, colour, picture, shortened, style, text_width, write

    tasks, columns = facts.tasks, facts.columns
    left = min(LEFT, width / 3)
    bottom = TOP + STRIP * len(tasks)
    figure = picture(width, bottom + 30)
    axes = add_axes(figure, left, TOP, width - 12, bottom)
    highest = max((use.weight for use in facts.uses), default=0.0) or 1.0
    starts = [n for n, (place, _) in enumerate(columns) if n == 0 or columns[n - 1][0] != place]
    with style():
        axes.set_xlim(0, len(columns))
        axes.set_ylim(len(tasks), 0)
        axes.add_patch(Rectangle((0, 0), len(columns), len(tasks), facecolor=colour("tint"), linewidth=0))
        for use in facts.uses:
            corner = columns.index((use.place, use.module)), tasks.index(use.task)
            axes.add_patch(Rectangle(corner, 1, 1, facecolor=colour("paper"), linewidth=0))
            axes.add_patch(Rectangle(corner, 1, 1, facecolor=colour("m0"), alpha=use.weight / highest, linewidth=0))
        for row in range(1, len(tasks)):
            axes.axhline(row, color=colour("paper"), linewidth=1.5)
        for start in starts[1:]:
            axes.axvline(start, color=colour("soft"), linewidth=0.8)
        axes.set_yticks([n + 0.5 for n in range(len(tasks))], [shortened(task, 16) for task in tasks])
    few = len(starts) <= 4
    share = (width - 12 - left) / len(columns)
    for number, start in enumerate(starts):
        name = shortened(columns[start][0], 24) if few else str(number + 1)
        write(figure, left + start * share + 2, TOP - 8, name, size=11, ink="soft")
    write(figure, left, TOP - 30, "Modules by place" if few else "Modules; numbers count the layers", size=11,
          ink="soft")  # fmt: skip
    legend = f"darkest: a weight of {highest:.2g}; grey: not seen by the task"
    fits = left + text_width(legend, 11) <= width
    write(figure, left if fits else 8.0, bottom + 20, legend, size=11, ink="soft")
    return figure
