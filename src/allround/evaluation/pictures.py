"""The one style of all pictures, and how they are written as SVG.

A picture is a matplotlib figure, made without pyplot, so that it needs no display and leaves no global state behind.
Lengths are points: one point is one unit of the SVG. As SVG its text stays text, nothing in it refers to anything, and
the same figure gives the same bytes. Colours come from `COLOURS`: where a page defines a CSS variable of the same name
(`--ink`), its value takes their place, so that pictures follow the page in print and in dark mode.
"""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import matplotlib
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from allround.core.words import printable

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.lines import Line2D
    from matplotlib.text import Text

#: Name -> its colour on white paper, and on dark paper.
COLOURS = {
    "paper": ("#ffffff", "#15171a"),
    "ink": ("#1b1d20", "#e4e6e9"),
    "soft": ("#575c65", "#a2a8b1"),
    "rule": ("#d6d9de", "#363a41"),
    "tint": ("#eef0f2", "#2a2d32"),
    "merge": ("#1d5796", "#8dbdf0"),
    "joint": ("#a34f0b", "#f0a868"),
    "specialists": ("#1b1d21", "#e4e6ea"),
    "base": ("#767c86", "#9098a3"),
    "plus": ("#1d5797", "#3f83c8"),
    "minus": ("#b2560f", "#c9681f"),
    "on": ("#fffffe", "#fffffe"),
    "m0": ("#1d5798", "#7db4f0"),
    "m1": ("#c2570c", "#f0a060"),
    "m2": ("#14703f", "#6fcf97"),
    "m3": ("#8a3ea8", "#cf94e8"),
    "m4": ("#a9861a", "#e0c25a"),
    "m5": ("#148a96", "#62ced8"),
    "m6": ("#c2255c", "#f2789f"),
    "m7": ("#5c6570", "#a8b0ba"),
}
_FONTS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, 'Liberation Sans', sans-serif"
_NAMESPACE = "http://www.w3.org/2000/svg"
#: What the group of an artist is called that has words for each of its points.
_POINTS = "points:"
#: And what that of an artist is called that has words as a whole.
_PART = "part:"


def colour(name: str) -> str:
    """The colour called so, on white paper."""
    return COLOURS[name][0]


class Picture(Figure):
    """A figure in the style of all pictures, that a notebook shows by itself."""

    def _repr_svg_(self) -> str:
        return svg_text(self)


def picture(width: float, height: float) -> Picture:
    """An empty picture of so many points."""
    with style():
        return Picture(figsize=(width / 72, height / 72), dpi=144, facecolor=colour("paper"))


@contextmanager
def style() -> Iterator[None]:
    """The style, while artists are made or drawn; the user's own settings hold again afterwards."""
    with warnings.catch_warnings(), matplotlib.rc_context():
        warnings.simplefilter("ignore", matplotlib.MatplotlibDeprecationWarning)
        # A letter that the font for measuring lacks is drawn by the reader's own font.
        warnings.filterwarnings("ignore", message=r"Glyph \d+ .*missing from")
        matplotlib.rcdefaults()
        matplotlib.rc("font", family="sans-serif", size=12.0, **{"sans-serif": ["DejaVu Sans"]})
        matplotlib.rc("text", parse_math=False)
        matplotlib.rc("path", simplify=False)
        matplotlib.rc("svg", fonttype="none", hashsalt="allround")
        yield


def add_axes(figure: Figure, left: float, top: float, right: float, bottom: float) -> Axes:
    """Axes without frame or ticks, given by the distances of their edges from the picture's left and top, in points."""
    width, height = (72 * size for size in figure.get_size_inches())
    axes = figure.add_axes((left / width, 1 - bottom / height, (right - left) / width, (bottom - top) / height))
    axes.set_facecolor("none")
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.tick_params(length=0, width=1, labelsize=12, labelcolor=colour("soft"), color=colour("soft"), pad=6)
    axes.set_xticks([])
    axes.set_yticks([])
    return axes


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers around [low, high], `most` steps of them at most.

    >>> ticks(0, 4.2), ticks(-0.1, 0.32), ticks(3, 3)
    ([0.0, 1.0, 2.0, 3.0, 4.0, 5.0], [-0.1, 0.0, 0.1, 0.2, 0.3, 0.4], [2.4, 2.6, 2.8, 3.0, 3.2, 3.4, 3.6])
    """
    if high <= low:
        low, high = low - 0.5, high + 0.5
    found = ticker.MaxNLocator(nbins=most, steps=[1, 2, 5, 10]).tick_values(low, high)
    return [float(f"{value:.9g}") + 0.0 for value in found]


def number(value: float) -> str:
    """A number beside a tick, with a real minus sign.

    >>> number(-0.5), number(2.0)
    ('−0.5', '2')
    """
    return f"{value:g}".replace("-", "−")


def grid(
    axes: Axes, values: Sequence[float], *, across: bool, marked: float | None = None, margin: float = 0.0
) -> None:
    """Thin lines at the values, which are named beside them; a dashed one at `marked`.

    across: lines lie across. margin: room beyond the first and the last value, as a share of what lies between them.
    """
    axis, draw = (axes.yaxis, axes.axhline) if across else (axes.xaxis, axes.axvline)
    axis.set_ticks(values, [number(value) for value in values])
    room = margin * (values[-1] - values[0])
    (axes.set_ylim if across else axes.set_xlim)(values[0] - room, values[-1] + room)
    for value in values:
        if value == marked:
            draw(value, color=colour("soft"), linewidth=1, dashes=(4, 3), zorder=0.6)
        else:
            draw(value, color=colour("rule"), linewidth=1, zorder=0.5)


def write(
    figure: Figure,
    x: float,
    y: float,
    text: str,
    *,
    size: float = 12,
    ink: str = "ink",
    bold: bool = False,
    align: str = "left",
) -> Text:
    """Text at a place of the picture: points from its left, and of the baseline from its top."""
    width, height = (72 * length for length in figure.get_size_inches())
    return figure.text(
        x / width,
        1 - y / height,
        printable(text),
        fontsize=size,
        color=colour(ink),
        fontweight="bold" if bold else "normal",
        horizontalalignment=align,
        verticalalignment="baseline",
    )


@lru_cache(maxsize=4096)
def text_width(text: str, size: float, *, bold: bool = False) -> float:
    """How wide a text is, in points, in a wide font; so others fit too."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    if not text:
        return 0.0
    font = FontProperties(family="DejaVu Sans", size=size, weight="bold" if bold else "normal")
    with style():
        return float(TextPath((0, 0), printable(text), prop=font).get_extents().x1)


def name_points(line: Line2D, words: Sequence[str]) -> None:
    """Give each point of a line's markers words, which SVG shows where the reader points at it."""
    line.set_gid(_POINTS + json.dumps(list(words)))


def name_part(artist: Artist, words: str) -> None:
    """Give a part words, which SVG shows where the reader points at it."""
    artist.set_gid(_PART + json.dumps(words))


def shortened(name: str, most: int) -> str:
    """A long name without its middle.

    >>> shortened("a/folder/with/a/long/name", 12)
    'a/fold…name'
    """
    return name if len(name) <= most else f"{name[: most * 3 // 5 - 1]}…{name[len(name) - most * 2 // 5 :]}"


def svg_text(figure: Figure, label: str | None = None, *, inline: bool = False) -> str:
    """The figure as SVG that runs no script and refers to nothing, inside or outside.

    label: what it shows, for readers who do not see it. inline: as part of a page, whose style and width it takes.
    """
    with style():
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    root = ElementTree.fromstring(file.getvalue())
    shapes = {f"#{element.get('id')}": element for element in root.iter(f"{{{_NAMESPACE}}}path") if element.get("id")}
    kept = _plain(root, shapes, ())
    size = [float(number) for number in root.get("viewBox", "").split()[2:]]
    kept.attrib = {"xmlns": _NAMESPACE, "viewBox": f"0 0 {size[0]:g} {size[1]:g}", "role": "img"}
    if not inline:
        kept.attrib |= {"width": f"{size[0]:g}", "height": f"{size[1]:g}"}
    width = f"min-width: {0.75 * size[0]:.0f}px; max-width: {1.1 * size[0]:.0f}px"
    kept.set("style", f"font-family: inherit; {width}" if inline else f"font-family: {_FONTS}")
    if label:
        kept.set("aria-label", printable(label))
        title = ElementTree.Element("title")
        title.text = printable(label)
        if not inline:
            kept.insert(0, title)
    if not inline:
        dark = ElementTree.Element("style")
        dark.text = _dark_style()
        kept.insert(1 if label else 0, dark)
    return ElementTree.tostring(kept, encoding="unicode") + "\n"


def page_style() -> str:
    """CSS by which the colours of pictures in a page follow its variables."""
    return "\n".join(
        f'svg [style*="{kind}: {light}"] {{ {kind}: var(--{name}, {light}) !important; }}'
        for name, (light, _) in COLOURS.items()
        for kind in ("fill", "stroke")
    )


def page_colours(dark: bool = False) -> str:
    """The colours as CSS variables."""
    return " ".join(f"--{name}: {pair[dark]};" for name, pair in COLOURS.items())


def _dark_style() -> str:
    rules = "\n".join(
        f'[style*="{kind}: {light}"] {{ {kind}: {dark} !important; }}'
        for light, dark in COLOURS.values()
        for kind in ("fill", "stroke")
        if light != dark
    )
    return f"@media (prefers-color-scheme: dark) {{\n{rules}\n}}"


def _plain(
    element: ElementTree.Element, shapes: dict[str, ElementTree.Element], words: Sequence[str]
) -> ElementTree.Element:
    """The element without names, references and metadata; shapes stand where they are referred to."""
    made = ElementTree.Element(element.tag.removeprefix(f"{{{_NAMESPACE}}}"))
    made.text = element.text
    for name, value in element.attrib.items():
        if name == "style":
            made.set(name, _plain_style(value))
        elif name not in ("id", "clip-path") and not name.startswith("{"):
            made.set(name, value)
    name = element.get("id", "")
    if name.startswith(_POINTS):
        words = json.loads(name.removeprefix(_POINTS))
    if name.startswith(_PART):
        ElementTree.SubElement(made, "title").text = json.loads(name.removeprefix(_PART))
    at = 0
    for child in element:
        tag = child.tag.removeprefix(f"{{{_NAMESPACE}}}")
        if tag in ("metadata", "defs"):
            continue
        if tag == "use":
            shape = shapes[child.get("{http://www.w3.org/1999/xlink}href", "")]
            part = ElementTree.Element("path", {"d": " ".join(shape.get("d", "").split())})
            part.set("transform", f"translate({_short(child.get('x'))} {_short(child.get('y'))})")
            part.set("style", _plain_style(child.get("style", "")))
            if at < len(words):
                ElementTree.SubElement(part, "title").text = words[at]
                at += 1
        else:
            part = _plain(child, shapes, words)
            if tag == "path":
                part.set("d", " ".join(part.get("d", "").split()))
            if tag == "g" and not len(part):
                continue
        made.append(part)
    if made.tag == "g":
        made.text = None
    return made


def _plain_style(text: str) -> str:
    """A style without the family of the font, which the picture gives once."""
    return "; ".join(part for part in text.split("; ") if not part.startswith("font-family"))


def _short(value: str | None) -> str:
    return f"{float(value or 0):.2f}"
