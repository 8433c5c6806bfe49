"""Every picture stands alone: the same bytes each time, text that stays text, no references, the reader's colours."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from xml.etree import ElementTree

import matplotlib
import pytest
from boards import SYSTEMS, board, parts
from comparisons import comparison
from matplotlib.figure import Figure

from allround.core.errors import AllroundError
from allround.evaluation.pictures import COLOURS, page_style, picture, style, svg_text, write

PICTURES: dict[str, Callable[[], Figure]] = {
    "retention": lambda: board().plot_retention(),
    "stored": lambda: board().plot_cost(),
    "seconds": lambda: board().plot_cost("seconds"),
    "trainings": lambda: comparison().plot(),
    "trade-off": lambda: comparison().plot_trade_off(),
    "retention of trainings": lambda: comparison().plot_retention(),
}
every = pytest.mark.parametrize("make", PICTURES.values(), ids=PICTURES)


@every
def test_the_same_input_gives_the_same_bytes(make: Callable[[], Figure]) -> None:
    first = svg_text(make(), "words")
    with matplotlib.rc_context({"font.size": 30, "lines.linewidth": 9, "svg.fonttype": "path", "axes.grid": True}):
        assert svg_text(make(), "words") == first, "the user's own settings change nothing"
        assert matplotlib.rcParams["font.size"] == 30


@every
@pytest.mark.parametrize("inline", [False, True])
def test_it_refers_to_nothing_and_its_text_is_text(make: Callable[[], Figure], inline: bool) -> None:
    text = svg_text(make(), 'What <it> "shows"', inline=inline)
    root = ElementTree.fromstring(text)
    assert root.get("aria-label") == 'What <it> "shows"' and root.get("role") == "img"
    assert not re.search(r"href|url\(|<script|<use|<image|\bid=|clip-path|@import", text)
    assert text.count("http") == 1  # the name of SVG itself
    words = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert any(word and "retention" in word for word in words)
    assert inline != bool(root.get("width"))


@every
def test_all_its_colours_have_one_for_dark_paper(make: Callable[[], Figure]) -> None:
    used = set(re.findall(r"(?:fill|stroke): (#\w+)", svg_text(make(), inline=True)))
    assert used and used <= {light for light, _ in COLOURS.values()}
    assert all(f"fill: {one}" in page_style() for one in used)


def test_colours_are_told_apart_by_their_values() -> None:
    assert len({light for light, _ in COLOURS.values()}) == len(COLOURS)


def test_a_notebook_shows_it_by_itself_and_png_works(tmp_path_factory: pytest.TempPathFactory) -> None:
    made = board().plot_cost()
    assert "<svg" in made._repr_svg_()  # type: ignore[attr-defined]
    path = tmp_path_factory.mktemp("png") / "cost.png"
    made.savefig(path)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_letters_that_the_font_lacks_and_control_characters_are_no_trouble() -> None:
    made = picture(200, 40)
    with style():
        write(made, 4, 20, "数字 \x00\ud800 🎈")
    text = svg_text(made, "数字 \x00")
    assert "数字 ?? 🎈" in text
    ElementTree.fromstring(text)


def test_what_cannot_be_drawn_is_said_in_three_parts() -> None:
    with pytest.raises(AllroundError, match="it has no specialists"):
        board(reference=None).plot_retention()
    with pytest.raises(AllroundError, match="use one of: stored, seconds"):
        board().plot_cost("price")  # type: ignore[arg-type]
    free = [replace(system, cost=replace(system.cost, parameters_stored=0)) for system in SYSTEMS]
    with pytest.raises(AllroundError, match="this cost is known of 0 systems"):
        board(**{**parts(), "systems": free}).plot_cost()


def test_a_base_far_below_is_named_and_not_drawn() -> None:
    high = board(**{**parts(), "systems": [s for s in SYSTEMS if s.name != "average"]})
    text = svg_text(high.plot_cost())
    assert re.search(r"Not drawn: floor \d\d\.\d%", text)
    assert "Not drawn" not in svg_text(board().plot_cost())


def test_matplotlib_is_loaded_only_where_something_is_drawn() -> None:
    code = (
        "import sys; sys.path.insert(0, 'tests/evaluation'); from boards import board; made = board(); "
        "made.markdown(); import allround.merging.diff, allround.evaluation.report, allround.evaluation.training; "
        "assert 'matplotlib' not in sys.modules; made.plot_cost(); assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
