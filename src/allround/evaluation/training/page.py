"""A comparison of joint trainings as a page that needs nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from allround.core.words import count, duration, gibibytes, percent, plural, rate, shown, span_text
from allround.evaluation.page_pictures import PagePicture, page_picture
from allround.evaluation.pages import breakable, settings_text, template
from allround.evaluation.pictures import page_colours, page_style
from allround.evaluation.training.pictures import (
    WIDTH,
    plot_retention,
    plot_trade_off,
    retention_caption,
    trade_off_caption,
)
from allround.evaluation.training.results import EQUAL, SPECIALISTS, TrainingResults
from allround.evaluation.training.tables import facts, stored_text
from allround.evaluation.training.words import how, legend, memory_words, task_legend, words
from allround.tasks.metric import better


@dataclass(frozen=True)
class _Figure:
    title: str
    picture: PagePicture
    caption: str


def html(results: TrainingResults) -> str:
    """The verdict, tables, pictures, what was tried, and how it was measured."""
    page = template(
        Path(__file__).with_name("page.html.j2"),
        {
            "percent": percent,
            "count": count,
            "duration": duration,
            "settings": settings_text,
            "breakable": breakable,
            "rate": rate,
            "gibibytes": gibibytes,
            "stored": stored_text,
        },
        {"plural": plural, "percent": percent, "shown": shown, "span": span_text, "better": better},
    )
    return page.render(
        board=results,
        reference=results.reference,
        figures=_figures(results),
        picture_style=Markup(page_style()),
        light_colours=Markup(page_colours()),
        dark_colours=Markup(page_colours(dark=True)),
        equal=EQUAL,
        specialists=SPECIALISTS,
        words=words(results),
        legend=legend(results),
        stored=any(one.cost.further is not None for one in results.methods),
        task_legend=task_legend(results),
        memory_words=memory_words(results),
        how=how(results),
        facts=facts(results),
        test_rows=sum(results.rows.values()),
    )


def _figures(results: TrainingResults) -> list[_Figure]:
    title = "On validation: methods and the weight sweep"
    label = "Trade-off of the methods on the validation rows"
    picture = page_picture(lambda width: plot_trade_off(results, width=width), label, WIDTH)
    found = [_Figure(title, picture, trade_off_caption(results))]
    if any(one.test.mean for one in results.methods):
        label = "Mean retention of each method on the test rows"
        picture = page_picture(lambda width: plot_retention(results, width=width), label, WIDTH)
        found.append(_Figure("On test: mean retention of each method", picture, retention_caption(results)))
    return found
