"""Comparisons of trainings: two sources of noise, verdicts in words, files, figures and the page."""

from __future__ import annotations

import itertools
import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from comparisons import RIGHT, ROWS, SEEDS, comparison, definition, predictions
from rich.console import Console
from test_report import Page, names_in

from allround.core.errors import AllroundError
from allround.core.files import MANIFEST
from allround.evaluation.intervals import Interval, over_seeds, task_level
from allround.evaluation.pictures import svg_text
from allround.evaluation.training import EQUAL, SPECIALISTS, Baseline, TrainingComparison, TrainingCost, measure
from allround.evaluation.training.page import html
from allround.evaluation.training.pictures import front, plot_retention, plot_trade_off, svg, trade_off_caption
from allround.evaluation.training.words import how

HOSTILE = '"><script>alert(1)</script><img src=//evil.example/x onerror=alert(1)>'


# Intervals.


def test_an_interval_adds_seeds_and_rows_in_squares() -> None:
    # By hand: s = 2 over the seeds 1, 3, 5; t(2 degrees, 97.5%) = 4.302653; the means over seeds of the three
    # resamples are 2, 3 and 4, so r = 1; z = 1.959964.
    resampled = np.array([[0.0, 1.0, 2.0], [2.0, 3.0, 4.0], [4.0, 5.0, 6.0]])
    half = math.sqrt((4.302653 * 2 / math.sqrt(3)) ** 2 + 1.959964**2)
    found = over_seeds([1.0, 3.0, 5.0], resampled)
    assert found.value == 3.0
    assert (found.low, found.high) == pytest.approx((3 - half, 3 + half), abs=1e-5)


def test_row_noise_is_that_of_the_mean_over_seeds() -> None:
    # Two seeds whose resamples move against each other: their mean does not move at all.
    assert over_seeds([1.0, 1.0], np.array([[0.0, 2.0], [2.0, 0.0]])) == Interval(1.0, 1.0, 1.0)
    moved = over_seeds([1.0, 1.0], np.array([[0.0, 2.0], [0.0, 2.0]]))
    assert moved.high == pytest.approx(1 + 1.959964 * math.sqrt(2), abs=1e-5)


def test_one_seed_leaves_the_rows_alone_and_a_level_widens() -> None:
    found = over_seeds([2.0], np.array([[1.0, 2.0, 3.0]]))
    assert found.high == pytest.approx(2 + 1.959964, abs=1e-5)
    wider = over_seeds([2.0], np.array([[1.0, 2.0, 3.0]]), level=task_level(10))
    assert wider.high == pytest.approx(2 + 2.807034, abs=1e-5), "z at 99.75%"
    assert over_seeds([1.0, 3.0], np.full((2, 9), 2.0), level=0.995).high == pytest.approx(2 + 127.3213, abs=1e-3)


def test_resamples_without_a_value_are_left_out() -> None:
    nan = float("nan")
    assert over_seeds([1.0], np.array([[nan, nan, nan, 1.0]])) == Interval(1.0, None, None)
    assert over_seeds([1.0], np.array([[nan, 1.0, 1.0, 1.0]])) == Interval(1.0, 1.0, 1.0)


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    # A difference with a deviation of 0.02 over seeds and of 0.01 by the rows, which all seeds share; truth 0.
    rng, covered, trials = np.random.default_rng(4), 0, 2000
    for _ in range(trials):
        shift = rng.normal(scale=0.01)
        values = rng.normal(scale=0.02, size=3) + shift
        resampled = values[:, None] + rng.normal(scale=0.01, size=(1, 100))
        low, high = over_seeds(values, resampled)[1:]
        covered += low is not None and high is not None and low <= 0 <= high
    assert 0.94 <= covered / trials <= 0.99


# Measuring.


def test_measures_are_means_over_seeds_paired_by_seed() -> None:
    found = comparison().method("nash_mtl").test
    # Seed s answers s rows less, the specialist too: 240 - s against 360 - s of 400 on `two`.
    kept = [np.mean([1.0, (240 - s) / (360 - s), (356 - s) / (360 - s)]) for s in SEEDS]
    assert found.mean is not None and found.mean.seeds == pytest.approx(kept)
    assert found.mean.value == pytest.approx(np.mean(kept))
    assert found.worst == "two" and found.retention["two"].value == pytest.approx(0.6657, abs=1e-4)
    assert found.scores["two"].value == pytest.approx((240 - 1) / 400)
    difference = found.equal.tasks["two"]
    assert difference.seeds == pytest.approx([-112 / 400] * 3), "240 right answers against 352, for every seed"
    # The same difference for every seed: what is left is the noise of the rows, at the level of three tasks.
    spread = math.sqrt(0.28 * 0.72 / ROWS)
    assert difference.high == pytest.approx(-0.28 + 2.394 * spread, abs=0.006)
    assert found.equal.verdict == "worse" and found.equal.where("worse") == ["two"]


def test_the_level_of_single_tasks_is_right_for_all_of_them() -> None:
    apart = predictions()
    definitions = {task: definition(task) for task in ("one", "two", "three")}
    level = measure([SPECIALISTS, EQUAL, "tuned"], definitions, SEEDS, apart, resamples=400)
    wide, narrow = (
        measure([SPECIALISTS, EQUAL], {t: definitions[t] for t in names}, (0,), apart, resamples=400)
        for names in (("one", "two", "three"), ("two",))
    )
    ends = [found[EQUAL].specialists.tasks["two"] for found in (wide, narrow)]
    halves = [float(e.high or 0) - e.value for e in ends]
    assert halves[0] / halves[1] == pytest.approx(2.39398 / 1.95996, abs=1e-4)
    assert level["tuned"].equal.tasks["two"].value == pytest.approx(2 / 400)


def test_the_same_answers_differ_by_exactly_nothing() -> None:
    beside = comparison().method("uw").test.equal
    assert beside.mean is not None
    assert (beside.mean.value, beside.mean.low, beside.mean.high) == (0.0, 0.0, 0.0)
    assert beside.verdict == "no difference found" and not beside.where("worse") and not beside.where("better")


# Words.


def test_the_verdict_says_who_differs_and_who_does_not() -> None:
    words = " ".join(comparison().words())
    assert words.startswith(
        "No difference found between equal and tuned or uw, on the mean of 3 tasks or on any of them."
    )
    assert re.search(
        r"nash_mtl vs equal: worse on the mean \(-10\.\d \[-\S+, -\S+\] points of mean retention\); worse on 1 of "
        r"3 tasks \(two\)\.",
        words,
    )
    assert "Best on validation, of 4 methods: tuned, mean retention 99.1% (mean of 3 seeds); on test it keeps" in words
    assert re.search(r"Compared with the specialists \(100%\), mean retention is lower with .*nash_mtl \(88", words)
    assert "15 settings were compared on validation rows: 12 of joint training, 3 of the specialists." in words


def test_one_seed_is_said_to_be_one() -> None:
    found = comparison(seeds=(0,))
    assert "There is one seed only" in " ".join(found.words())
    assert "over the test rows alone" in how(found) and "Student" not in how(found)
    assert "2 degrees of freedom" in how(comparison())


def test_tuned_weights_that_came_out_equal_are_said_to_be_equal() -> None:
    made = comparison()
    methods = [replace(m, settings={"weights": dict.fromkeys(made.definitions, 1.0)}) if m.name == "tuned" else m
               for m in made.methods]  # fmt: skip
    words = " ".join(replace(made, methods=methods).words())
    assert "tuned is the same model as equal" in words and "tuned or uw" not in words


def test_a_tie_on_validation_and_an_edge_of_the_grid_are_told() -> None:
    made = comparison(names=(EQUAL, "uw"))
    assert "equal (the same as uw)" in " ".join(made.words())
    assert "more --trials" not in " ".join(made.words()), "of two rates each is an edge"
    three = [replace(made.methods[0].tried[0], learning_rate=r, chosen=r == 0.003) for r in (0.001, 0.003, 0.0003)]
    edge = replace(made.methods[0], tried=three, learning_rate=0.003)
    assert edge.at_edge
    assert "the smallest or the largest that was tried for equal" in " ".join(replace(made, methods=[edge]).words())


def test_undefined_retention_is_told() -> None:
    wrong = {key: replace(one, predictions=one.predictions * 0) for key, one in predictions().items()}
    definitions = {task: definition(task) for task in ("one", "two", "three")}
    found = measure([SPECIALISTS, EQUAL], definitions, SEEDS, wrong, resamples=100)
    assert found[EQUAL].mean is None and found[EQUAL].worst is None
    made = comparison(names=(EQUAL,))
    made = replace(made, methods=[replace(made.methods[0], test=found[EQUAL])])
    assert "no score of the specialists is above zero" in " ".join(made.words())
    assert "undefined" in made.markdown()
    Page(html(made))
    ElementTree.fromstring(svg(made))


def test_the_front_of_a_sweep() -> None:
    assert front([(1, 1), (2, 2), (1, 3), (2, 2)]) == [(1, 3), (2, 2)]
    assert front([]) == []


# Files.


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    made = comparison()
    made.save(tmp_path)
    written = [f"comparison.{e}" for e in ("html", "json", "md", "svg")]
    assert sorted(p.name for p in tmp_path.iterdir()) == [MANIFEST, *written]
    again = TrainingComparison.load(tmp_path)
    assert json.dumps(again.to_json()) == json.dumps(made.to_json())
    assert again.words() == made.words() and again.fingerprint() == made.fingerprint()
    with pytest.raises(AllroundError, match="its format is 'other'"):
        TrainingComparison.from_json({"format": "other"})
    with pytest.raises(AllroundError, match=r"it is damaged: methods\.0\.name: Field required"):
        TrainingComparison.from_json({**made.to_json(), "methods": [{}]})


def test_the_fingerprint_is_of_all_but_times_and_memory() -> None:
    made = comparison()
    slow = [replace(m, cost=replace(m.cost, seconds=99.0, peak_memory=7)) for m in made.methods]
    assert replace(made, methods=slow).fingerprint() == made.fingerprint()
    assert comparison(seeds=(0, 1)).fingerprint() != made.fingerprint()


def test_markdown_has_every_number_with_what_it_was_measured_on() -> None:
    text = comparison().markdown()
    for part in ("# Joint trainings compared: made up on nothing", "1,200 test rows", "Seeds: 0, 1, 2", "a machine",
                 "1.00 GiB", "2 degrees of freedom", "| sweep | 0.001 | one 0.50, two 1.50, three 2.50 |"):  # fmt: skip
        assert part in text, part
    row = next(line for line in text.splitlines() if line.startswith("| nash"))
    assert "| 66.6 two |" in row and "-10." in row and "12 s" in row
    assert re.search(r"^\| two \| accuracy \| 400 \| 89\.\d \[.*\| 66\.6 \[\d.*\] - \|$", text, re.MULTILINE)


def test_what_a_further_task_would_store_stands_beside_the_costs() -> None:
    made = comparison()
    assert "urther task" not in made.markdown(), "it was not measured"
    methods = [replace(m, cost=replace(m.cost, further=1500)) for m in made.methods]
    reference = replace(made.reference, cost=replace(made.reference.cost, further=2_000_000))
    found = replace(made, methods=methods, reference=reference)
    row = {line.split(" | ")[0]: line for line in reversed(found.markdown().splitlines())}
    assert row["| nash_mtl"].endswith("| 1.5 kB |") and row["| specialists"].endswith("| 2.0 MB |")
    assert html(found).count('<td data-label="Further task">1.5 kB</td>') == len(methods)
    assert set(found.to_frame().further_task) == {1500, 2_000_000}
    assert found.fingerprint() == made.fingerprint()


def test_what_is_no_joint_training_stands_beside_the_methods() -> None:
    made = comparison()
    cost = TrainingCost(seconds=3.0, choices=6, further=900)
    trees = Baseline("trees", "boosted trees for each task", cost, made.method("nash_mtl").test)
    found = replace(made, baselines=[trees])
    text = found.markdown()
    row = {line.split(" | ")[0]: line.split(" | ") for line in reversed(text.splitlines())}
    assert row["| trees"][1:5] == [*row["| nash_mtl"][1:4], ""] and row["| trees"][6:8] == ["6", "3.0 s"]
    assert "| task | metric | test rows | specialists | trees | equal |" in text
    words = " ".join(found.words())
    assert "trees vs equal: worse on the mean" in words and "Best on validation, of 4 methods: tuned" in words
    assert "21 settings were compared on validation rows: 12 of joint training" in words
    assert "3 of the specialists, 6 of boosted trees for each task." in words
    page = html(found)
    Page(page)
    assert page.count('<th scope="row">trees<small>boosted trees for each task</small></th>') == 1
    assert page.count('<td data-label="trees">') == 3
    frame = found.to_frame()
    assert len(frame) == 18 and frame[frame.method == "trees"].learning_rate.isna().all()
    assert "trees" in svg_text(plot_retention(found)) and "trees" not in svg_text(plot_trade_off(found))
    again = TrainingComparison.from_json(json.loads(json.dumps(found.to_json())))
    assert again.baselines == found.baselines and "baselines" not in made.to_json()
    with pytest.raises(AllroundError, match="a method is there twice"):
        TrainingComparison.from_json(replace(found, baselines=[trees, trees]).to_json())


@pytest.mark.parametrize("width", [60, 80, 140])
def test_what_is_printed_fits_the_screen(width: int) -> None:
    console = Console(width=width, record=True, highlight=False, file=open("/dev/null", "w"))  # noqa: SIM115
    comparison().print(console)
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= width
    assert all(ord(letter) < 128 for line in lines for letter in line)
    assert ("peak memory" in " ".join(lines)) == (width == 140)
    assert any(line.startswith("two") and line.rstrip().endswith("66.6 -") for line in lines)


def test_a_frame_has_a_row_for_each_method_and_task() -> None:
    made = comparison()
    frame = made.to_frame()
    assert frame.method.unique().tolist() == [SPECIALISTS, *(one.name for one in made.methods)]
    assert len(frame) == 15
    kept = frame.pivot(index="task", columns="method", values="retention")
    assert kept.loc["two", "nash_mtl"] == made.method("nash_mtl").test.retention["two"].value
    assert kept[SPECIALISTS].tolist() == [1, 1, 1]
    row = frame[(frame.method == "nash_mtl") & (frame.task == "two")].iloc[0]
    found = made.method("nash_mtl").test.equal.tasks["two"]
    assert (row.difference, row.difference_low, row.difference_high) == (found.value, found.low, found.high)
    assert (row.n, row.learning_rate, row.peak_memory, row.backward_passes) == (400, 0.001, 2**30, 3)


# Figures and page.


def test_names_in_the_trade_off_do_not_lie_over_each_other() -> None:
    made = comparison()
    crowd = []
    for number in range(8):
        method = made.methods[number % 4]
        point = replace(method.tried[0], mean=0.97 + number * 0.0006, retention={"one": 0.95 + number * 0.0004},
                        chosen=True)  # fmt: skip
        crowd.append(replace(method, name=f"method_{number}", tried=[point]))
    placed = names_in(plot_trade_off(replace(made, methods=crowd)), "method_")
    assert len(placed) == 8
    for one, other in itertools.combinations(placed, 2):
        assert not one.overlaps(other)


def test_a_method_far_below_is_named_and_does_not_squeeze_the_others() -> None:
    made = comparison()
    assert "Far below and not drawn: nash_mtl (88.5, 66.7)." in trade_off_caption(made)
    trade_off, forest = (svg_text(plot(made)) for plot in (plot_trade_off, plot_retention))
    assert "nash_mtl" not in trade_off
    assert "◂ 88.5" in forest
    assert "equal, uw" in trade_off, "two methods at one place share a name"


def test_of_two_tasks_each_has_an_axis() -> None:
    text = svg_text(comparison(tasks=("one", "two")).plot_trade_off())
    assert "retention of one, %" in text and "retention of two, %" in text
    assert "least retention of a task, %" in svg_text(comparison().plot_trade_off())


def test_without_retention_there_is_nothing_to_draw() -> None:
    made = comparison(names=(EQUAL,))
    undefined = replace(made.methods[0].test, mean=None)
    with pytest.raises(AllroundError, match="no score of the specialists is above 0"):
        replace(made, methods=[replace(made.methods[0], test=undefined)]).plot_retention()


@pytest.mark.parametrize("change", [{}, {"sweep": []}, {"seeds": (0,)}, {"names": (EQUAL,)}, {"tasks": ("a", "b")}])
def test_the_figure_is_sound_and_says_what_it_was_measured_on(change: dict[str, Any]) -> None:
    text = svg(comparison(**change))
    ElementTree.fromstring(text)
    words = " ".join(re.findall(r">([^<]+)<", text))
    assert "Validation rows" in words and "Test rows" in words and "seed 0" in words
    assert "href" not in text and "url(" not in text


def test_the_page_fetches_nothing_and_shows_all() -> None:
    text = html(comparison())
    page = Page(text)
    assert not {"script", "img", "link", "iframe"} & set(page.tags)
    assert not [(n, v) for n, v in page.attributes if n in ("src", "href") or n.startswith("on")]
    for line in comparison().words():
        assert line in page.text
    for part in (*RIGHT, "Backward", "1.00 GiB", "How this was measured", "Bonferroni", "2 degrees of freedom"):
        assert part in page.text


def test_hostile_words_stay_words() -> None:
    made = comparison(tasks=("one", HOSTILE, "x"), notes=[HOSTILE], provenance={"suite": HOSTILE, "base": HOSTILE})
    odd = [replace(m, name=HOSTILE if m.name == "uw" else m.name) for m in made.methods]
    made = replace(made, methods=odd)
    page = Page(html(made))
    assert "script" not in page.tags and "img" not in page.tags
    figure = svg(made)
    ElementTree.fromstring(figure)
    assert "<script" not in figure and "<img" not in figure
    assert "<script" not in made.markdown()
