"""The changes between checkpoints as a page that needs nothing else."""

from __future__ import annotations

from pathlib import Path

from markupsafe import Markup

from allround.core.words import count, number_text, share_text
from allround.evaluation.pages import template
from allround.evaluation.pictures import page_colours, page_style, svg_text
from allround.merging.diff.changes import HELD, NOTICEABLE, Changes
from allround.merging.diff.picture import plot, said
from allround.merging.diff.tables import by_kind, pairs_table
from allround.merging.diff.words import verdict


def html(found: Changes) -> str:
    """The verdict, the picture and the tables."""
    filters = {"share": share_text, "number": number_text, "count": count}
    return template(Path(__file__).with_name("page.html.j2"), filters).render(
        diff=found,
        verdict=verdict(found),
        picture=Markup(svg_text(plot(found, titled=False), said(found), inline=True)),
        picture_style=Markup(page_style()),
        light=Markup(page_colours()),
        dark=Markup(page_colours(dark=True)),
        title=found.title,
        several=len(found.models) > 1,
        pairs=pairs_table(found),
        differences=list(by_kind(found.differences)),
        noticeable=share_text(NOTICEABLE),
        held=share_text(HELD),
    )
