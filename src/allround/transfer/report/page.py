"""Relations between tasks as a page that needs nothing else."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from markupsafe import Markup

from allround.core.words import plural
from allround.evaluation.page_pictures import page_picture
from allround.evaluation.pages import breakable, template
from allround.evaluation.pictures import Picture, page_colours, page_style
from allround.transfer.findings import Findings
from allround.transfer.report import pictures, tables
from allround.transfer.report.words import estimators_legend, words


def html(found: Findings) -> str:
    """The advice, pictures, how good each estimate was, every estimate, and how it was made."""
    page = template(Path(__file__).with_name("page.html.j2"), {"breakable": breakable}, {"plural": plural})
    drawn: list[tuple[str, Callable[..., Picture], str]] = [
        (pictures.matrix_title(found), pictures.plot_matrix, pictures.matrix_caption(found)),
        ("A map of the tasks", pictures.plot_map, pictures.map_caption(found)),
    ]
    if found.judged:
        title = "Estimates against what was measured"
        drawn.append((title, pictures.plot_estimates, pictures.estimates_caption(found)))
    figures = [
        (title, page_picture(partial(_drawn, draw, found), title, pictures.WIDTH), caption)
        for title, draw, caption in drawn
    ]
    return page.render(
        found=found,
        words=words(found),
        figures=figures,
        judged=tables.judged_table(found),
        judged_legend=estimators_legend(found),
        expected=[(one.name, tables.expected_table(found, one)) for one in [found.together, *found.estimates]],
        expected_legend=tables.EXPECTED,
        facts=tables.facts(found),
        picture_style=Markup(page_style()),
        light_colours=Markup(page_colours()),
        dark_colours=Markup(page_colours(dark=True)),
    )


def _drawn(draw: Callable[..., Picture], found: Findings, width: float) -> Picture:
    return draw(found, width=width)
