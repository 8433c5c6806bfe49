"""A stream's results as a page that needs nothing else."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from markupsafe import Markup

from allround.continual.pictures import WIDTH, drawn, plot_curves, plot_final, plot_overlap
from allround.continual.report import (
    REFERENCES,
    best_of,
    courses_words,
    ends_text,
    measured,
    measures_of,
    points_text,
    summary,
)
from allround.continual.results import StreamResults
from allround.core.words import count, duration, plural, size_text
from allround.evaluation.intervals import Interval, verdict
from allround.evaluation.page_pictures import PagePicture, page_picture
from allround.evaluation.pages import breakable, template
from allround.evaluation.pictures import page_colours, page_style

#: Shades of a cell by how far its score lies from that right after its arrival came: the least difference of each.
SHADES = ((0.10, 7), (0.02, 6), (-0.02, 5), (-0.10, 4), (-0.25, 3), (-0.50, 2), (-0.75, 1), (-np.inf, 0))


@dataclass(frozen=True)
class _Figure:
    title: str
    picture: PagePicture
    caption: str


@dataclass(frozen=True)
class _Row:
    name: str
    best: bool
    gap: Interval | None
    verdict: str
    measures: dict[str, Interval | None]
    bytes: str
    rows: str
    stored: str
    time: str
    steps: str


@dataclass(frozen=True)
class _Cell:
    text: str
    shade: int


@dataclass(frozen=True)
class _Level:
    shade: int
    words: str


@dataclass(frozen=True)
class _Matrix:
    name: str
    rows: list[list[_Cell]]


def html(found: StreamResults) -> str:
    """The answer, a table, pictures, every matrix of scores, and how it was measured."""
    page = template(Path(__file__).with_name("page.html.j2"),
                    {"points": points_text, "ends": ends_text, "breakable": breakable}, {"plural": plural})  # fmt: skip
    first = next(course for course in found.courses if course.order == 0)
    return page.render(
        found=found,
        words=[re.sub(r"(?<=[ \[])-(?=\d)", "−", line) for line in summary(found)],
        over=courses_words(found),
        measures=measured(found),
        courses=len(found.of(found.strategies[0])),
        size=len(first.arrivals),
        arrivals=first.arrivals,
        rows=[_row(found, name) for name in found.strategies],
        figures=_figures(found),
        matrices=[_matrix(found, name) for name in found.strategies],
        levels=_levels(),
        picture_style=Markup(page_style()),
        light_colours=Markup(page_colours()),
        dark_colours=Markup(page_colours(dark=True)),
    )


def _row(found: StreamResults, name: str) -> _Row:
    own = measures_of(found, name)
    gap = found.difference(name, "ridge") if name != "ridge" and "ridge" in found.strategies else None
    return _Row(
        name,
        name == best_of(found),
        gap,
        "" if gap is None or gap.low is None else {"better": "better", "worse": "worse"}.get(verdict(gap), ""),
        {measure: own.get(measure) for measure in measured(found)},
        size_text(found.cost(name, "bytes")),
        plural(round(found.cost(name, "rows")), "row"),
        count(found.of(name)[0].stored),
        duration(found.cost(name, "seconds")),
        plural(round(found.cost(name, "steps")), "step"),
    )


def _figures(found: StreamResults) -> list[_Figure]:
    several = len(found.of(found.strategies[0])) > 1
    over = "Lines are 95% intervals over courses, small dots single ones. " if several else ""
    left_out = [name for name in found.strategies if name not in drawn(found)]
    hidden = f" Not drawn: {', '.join(left_out)}." if left_out else ""
    made = [
        _Figure("Final score", page_picture(lambda width: plot_final(found, width=width), "Final scores", WIDTH),
                f"{over}Hollow: {', '.join(REFERENCES)}. Right: what is remembered."),
        _Figure("Along the stream",
                page_picture(lambda width: plot_curves(found, width=width), "Scores after each arrival", WIDTH),
                f"Test rows of all arrivals so far. Dashed: {', '.join(REFERENCES)}.{hidden}"),
    ]  # fmt: skip
    if found.overlap is not None and found.overlap.drops(found.of("none")):
        known = found.overlap.correlation(found.of("none"))
        said = "" if known is None else f" Spearman's rank correlation is {known:+.2f}.".replace("-", "−")
        picture = page_picture(lambda width: plot_overlap(found, width=width), "Overlap and forgetting", WIDTH)
        caption = f"Each dot is two arrivals in a row, learned by none, which takes no care of the old.{said}"
        made.append(_Figure("Alike arrivals, and what is forgotten", picture, caption))
    return made


def _matrix(found: StreamResults, name: str) -> _Matrix:
    scores = np.mean([course.scores for course in found.of(name) if course.order == 0], 0)
    return _Matrix(name, [[_cell(value, scores[of, of]) for of, value in enumerate(row)] for row in scores])


def _cell(value: float, learned: float) -> _Cell:
    if np.isnan(value):
        return _Cell("", -1)
    return _Cell(f"{100 * value:.0f}", next(shade for least, shade in SHADES if value - learned >= least))


def _levels() -> list[_Level]:
    found, above = [], ""
    for least, shade in SHADES:
        words = f"below {above}" if np.isinf(least) else f"{100 * least:+.0f} and above" if not above else \
            f"{100 * least:+.0f} to {above}"  # fmt: skip
        found.append(_Level(shade, words.replace("-", "−")))
        above = f"{100 * least:+.0f}" if np.isfinite(least) else above
    return found[::-1]
