"""Pictures in pages: each is there twice, for a screen and, with letters that stay readable, for a phone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.figure import Figure

#: Width of the pictures for phones, in points.
PHONE = 344.0


@dataclass(frozen=True)
class PagePicture:
    """A picture for a screen, and the same one for a phone; the page's style shows the one that fits."""

    wide: Markup
    narrow: Markup

    def __html__(self) -> str:
        return f'<div class="wide">{self.wide}</div>\n<div class="narrow">{self.narrow}</div>'


def page_picture(draw: Callable[[float], Figure], label: str, width: float) -> PagePicture:
    """What `draw` draws at so many points of width, and at those of a phone. label: for readers who do not see it."""
    from markupsafe import Markup

    from allround.evaluation.pictures import svg_text

    wide, narrow = (Markup(svg_text(draw(size), label, inline=True)) for size in (width, PHONE))
    return PagePicture(wide, narrow)
