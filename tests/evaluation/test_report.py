"""The page holds everything it needs, says what was given, and trusts no name."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from boards import SYSTEMS, board, parts
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox

from allround.evaluation.errors import Mistake, TaskErrors
from allround.evaluation.labels import Box, Spot, place
from allround.evaluation.pictures import style, svg_text
from allround.evaluation.report import html, write_report

HOSTILE = '"><script>alert(1)</script><img src=//evil.example/x onerror=alert(1)>'
EXTRA: dict[str, Any] = {
    "title": "Three tasks",
    "commands": "allround predict model --task one < rows.csv",
    "python": 'model.predict("one", ["text"])',
    "choices": [
        {"method": "ties", "settings": {"keep": 0.1}, "validation": 0.91, "chosen": False},
        {"method": "ties", "settings": {"keep": 0.2}, "validation": 0.93, "chosen": True},
    ],
    "tasks": [
        {
            "name": "one",
            "train": 1000,
            "validation": 200,
            "notes": ["Four rows occur twice."],
            "findings": [{"code": "blank_texts", "words": "7 rows are blank", "do": "leave them out"}],
        }
    ],
    "budget": "The same rows for all.",
    "machine": "a machine",
    "date": "2026-01-02",
    "versions": {"torch": "2.0"},
    "seconds_total": 75.0,
    "peak_memory": 2**30,
}


class Page(HTMLParser):
    """Tags, attributes and text of a page; tags must be closed in order."""

    VOID = frozenset({"meta", "br", "wbr", "line", "circle", "rect", "polygon", "img"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_errors_say_what_there_is() -> None:
    made = board()
    images = {name: replace(one, modality="image") for name, one in made.definitions.items()}
    number = TaskErrors("mae", 3, 3, worst=(Mistake(4, "image", "1", "2.5", None, 1.5, None),))
    text = Page(html(replace(made, definitions=images), extra={"errors": {"one": number}})).text
    assert "test row 4" in text and "The answers above are the furthest off, of 3." in text
    assert "answers are wrong" not in text and "confusion" not in text and ".csv" not in text
    worst = tuple(Mistake(row, "a text", "a", "b", 0.5, None, 2) for row in range(6))
    label = TaskErrors("accuracy", 9, 6, ("a", "b"), ((2, 6), (0, 1)), (), worst)
    text = Page(html(made, extra={"errors": {"one": label}})).text
    assert "6 of 9 answers are wrong. Those above are the ones that the system is surest of." in text
    assert "errors/one.csv has more of them. The confusion matrix is in confusion/one.csv." in text
    assert text.count("a text") == 5, "as many as the page shows"


def test_everything_given_is_shown_in_order(tmp_path: Path) -> None:
    write_report(board(), tmp_path / "report.html", extra=EXTRA)
    text = Page((tmp_path / "report.html").read_text(encoding="utf-8")).text
    order = [
        "chosen on validation rows, is ties (TIES)",
        "How much each system keeps",
        "Retention against cost",
        "Systems and costs",
        "Scores, task by task",
        "Retention, task by task",
        "What was chosen on validation rows",
        "Four rows occur twice.",
        "What the check of the data found",
        "7 rows are blank",
        "leave them out",
        "allround predict model --task one < rows.csv",
        'model.predict("one", ["text"])',
        "How this was measured",
        "The same rows for all.",
    ]
    places = [text.index(part) for part in order]
    assert places == sorted(places)
    for part in (
        "1 min 15 s",
        "1.0 GiB",
        "torch 2.0",
        "2026-01-02",
        "a machine",
        "keep 0.1",
        "93.0",
        "1,200 test rows",
    ):
        assert part in text


@pytest.mark.parametrize("extra", [None, EXTRA])
def test_nothing_is_fetched_and_nothing_runs(extra: dict[str, Any] | None) -> None:
    text = html(board(), extra=extra)
    page = Page(text)
    assert not {"script", "img", "link", "iframe", "object", "embed"} & set(page.tags)
    assert not [(n, v) for n, v in page.attributes if n in ("src", "href", "srcset", "data") or n.startswith("on")]
    assert "url(" not in text and "@import" not in text
    assert re.findall(r"https?://[^\"' ]+", text) in ([], ["http://www.w3.org/2000/svg"] * 6)


def test_hostile_words_stay_words() -> None:
    names = ("one", HOSTILE)
    warned = {"tasks": {"one": [HOSTILE]}, "budget": HOSTILE}
    given = {**EXTRA, "title": HOSTILE, "commands": HOSTILE, "python": HOSTILE, "machine": HOSTILE}
    given["choices"] = [{"method": HOSTILE, "settings": {HOSTILE: HOSTILE}, "validation": None, "chosen": True}]
    page = Page(html(board(names=names, label=HOSTILE, notes=warned), extra=given))
    assert "script" not in page.tags and "img" not in page.tags
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert page.text.count("<script>alert(1)</script>") >= 8


def test_a_hostile_system_name_stays_a_name_in_the_figures() -> None:
    odd = board()
    name = "<b>&$x\x1b"
    systems = [replace(s, name=name) if s.name == "joint" else s for s in odd.systems]
    cells = {name if key == "joint" else key: value for key, value in odd.cells.items()}
    mean = {name if key == "joint" else key: value for key, value in odd.mean.items()}
    text = svg_text(replace(odd, systems=systems, cells=cells, mean=mean).plot_cost())
    ElementTree.fromstring(text)
    assert "<b>" not in text and "&lt;b&gt;&amp;$x?" in text


def test_absent_parts_are_left_out() -> None:
    text = Page(html(board(validation=None))).text
    assert "How to use" not in text and "What was chosen" not in text and "Machine" not in text
    given = {**parts(), "systems": [SYSTEMS[3]]}
    alone = Page(html(board(**given, validation=None, best=None))).text
    assert "Retention against cost" not in alone and "etention is" not in alone
    assert "1 system on 3 tasks, scored on 1,200 test rows." in alone


def test_undefined_retention_is_a_dash() -> None:
    given = parts()
    for (_, task), made in given["predictions"].items():
        if task == "one":
            made.predictions[:] = 0
    text = Page(html(board(**given))).text
    assert "A dash: undefined" in text and "–" in text
    assert "A dash: undefined" not in Page(html(board())).text


def names_in(figure: Figure, start: str) -> list[Bbox]:
    """The places of the names in a picture that begin so, as wide as they are in the font for measuring."""
    with style():
        drawn = FigureCanvasAgg(figure).get_renderer()
        figure.draw(drawn)
        texts = [text for text in figure.findobj(Annotation) if text.get_text().startswith(start)]
        return [Text.get_window_extent(text, drawn) for text in texts]


@pytest.mark.parametrize("seed", range(5))
def test_names_in_pictures_overlap_neither_each_other_nor_points(seed: int) -> None:
    rng = np.random.default_rng(seed)
    spots = []
    for i in range(9):
        x, y = float(rng.choice([80, 300])), float(rng.uniform(130, 320))
        spots.append(Spot(x, y, y, y, 80.0, i == 0))
    boxes = [label.box for label in place(spots, Box(48, 52, 518, 378))]
    assert all(a.overlap(b) == 0 for a, b in itertools.combinations(boxes, 2))
    assert not [1 for b in boxes for s in spots if b.left < s.x < b.right and b.bottom < s.y < b.top]
    assert all(b.left >= 0 and b.right <= 520 and b.top <= 380 for b in boxes)


def test_specialists_that_still_got_better_are_named_below_the_retention() -> None:
    words = ["The specialist of one was still getting better at its last evaluation."]
    page, text = html(board(notes={"training": words})), board(notes={"training": words}).markdown()
    assert f"<li>{words[0]}</li>" in page.split('id="retention"')[1].split("</section>")[0]
    assert f"- {words[0]}" in text.split("## Notes")[1]
    assert "getting better" not in html(board())
