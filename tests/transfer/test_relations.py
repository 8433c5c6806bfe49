"""What follows from estimates and measured transfer: effects, hit rates, groups, sentences, tables, pages and files."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from allround.transfer import findings
from allround.transfer.findings import Findings
from allround.transfer.matrix import TaskMatrix
from allround.transfer.relations import FILES, Relations, matrices_of
from allround.transfer.report.page import html
from allround.transfer.report.tables import judged_table, markdown, measured_table, places_of
from allround.transfer.report.words import words

NAN = float("nan")
ABC = ("a", "b", "c")
#: Rows are sources. The best source is b for a, c for b, b for c.
GAINS = [[NAN, 0.10, -0.27], [0.27, NAN, 0.05], [0.25, 0.20, NAN]]
#: Right for a and b, wrong for c.
GOOD = [[NAN, 1.0, 3.0], [2.0, NAN, 2.0], [1.0, 2.0, NAN]]


def matrix(name: str, values: Any, tasks: tuple[str, ...] = ABC, **more: Any) -> TaskMatrix:
    return TaskMatrix(name, tasks, tasks, np.array(values), **more)


def relations(measured: TaskMatrix | None, *estimates: TaskMatrix, **more: Any) -> Relations:
    about = {"metrics": dict.fromkeys(estimates[0].targets, "accuracy"), "facts": {"seed": "0"}, **more}
    return Relations("How tasks relate", estimates, {"sizes": "it needs rows"}, measured, measure="pairs", **about)


@pytest.fixture(scope="module")
def found() -> Relations:
    errors = np.where(np.eye(3, dtype=bool), np.nan, 0.1)
    good, bad = matrix("good", GOOD, seconds=2.0), matrix("bad", (5 - np.array(GOOD)).tolist())
    return relations(matrix("pairs", GAINS, errors=errors, kind="measured", seconds=60.0), good, bad)


@pytest.fixture(scope="module")
def estimated() -> Relations:
    return relations(None, matrix("good", GOOD))


# -- what is found -----------------------------------------------------------------------------------------------------


def test_an_effect_is_found_at_a_level_that_holds_for_all_pairs_together(found: Relations) -> None:
    """By hand: for 6 pairs the two-sided 5 % becomes 5/6 %, whose quantile of the normal distribution is 2.638. So
    0.27 +- 0.1 is found, and 0.25 +- 0.1, which would be for one pair alone (1.96), is not."""
    said = {(one.source, one.target): one.verdict for one in found.effects}
    assert said["b", "a"] == "better" and said["a", "c"] == "worse"
    assert [pair for pair, verdict in said.items() if verdict == "none"] == [
        ("c", "a"),
        ("c", "b"),
        ("a", "b"),
        ("b", "c"),
    ]
    assert found.measured is not None
    alone = replace(found, measured=found.measured.take(["c"], ["a"]))
    assert [one.verdict for one in alone.effects] == ["better"]


def test_hits_and_their_interval(found: Relations) -> None:
    """Clopper and Pearson of 2 in 3 by hand: P(2 or more) = 3 p^2 - 2 p^3 is 2.5 % at the lower end, and P(2 or fewer)
    = 1 - p^3 at the upper one."""
    judged = {one.score.name: one for one in found.judged}
    good, bad = judged["good"], judged["bad"]
    assert (good.hits, good.targets, bad.hits) == (2, 3, 1)
    low, high = good.share
    assert 3 * low**2 - 2 * low**3 == pytest.approx(0.025, abs=1e-6)
    assert high == pytest.approx(0.975 ** (1 / 3), abs=1e-6)
    assert good.score.mean("regret@1") == pytest.approx((0 + 0 + 0.05 + 0.27) / 3)


def test_random_and_popularity_stand_beside_every_estimate(found: Relations) -> None:
    judged = {one.score.name: one for one in found.judged}
    assert {"random", "popularity", "rank_sum", "good", "bad"} < set(judged)
    assert judged["random"].beside_random is None and judged["popularity"].beside_popularity is None
    good = judged["good"].beside_random
    assert good is not None and good.low <= good.mean <= good.high
    assert good.mean == pytest.approx(judged["good"].score.mean("ndcg") - judged["random"].score.mean("ndcg"))
    order = [one.score.mean("ndcg") for one in found.judged]
    assert order == sorted(order, reverse=True)


def test_few_targets_make_no_estimate_sure() -> None:
    """Three targets are all on one side in one of four cases by chance alone, whatever a bootstrap over them says."""
    for count, sure in ((3, False), (12, True)):
        tasks = tuple("abcdefghijkl"[:count])
        values = np.where(np.eye(count, dtype=bool), np.nan, np.arange(count)[:, None] + np.eye(count, k=1))
        found = relations(
            matrix("pairs", values, tasks, errors=0 * values, kind="measured"), matrix("copy", values, tasks)
        )
        copy = next(one for one in found.judged if one.score.name == "copy")
        assert copy.beside_random is not None and copy.beside_random.low > 0 and copy.sure is sure
        assert ("Better than a random order: " in words(found)[-1]) is sure


def test_an_estimate_that_orders_no_target_is_left_out() -> None:
    one = matrix("one", [[NAN, NAN, NAN], [1.0, NAN, NAN], [NAN, 2.0, NAN]])
    found = relations(matrix("pairs", GAINS, kind="measured"), matrix("good", GOOD), one)
    names = [each.score.name for each in found.judged]
    assert "one" not in names and {"good", "random", "popularity"} <= set(names)


def test_a_target_whose_sources_gain_the_same_judges_nothing() -> None:
    flat = matrix("pairs", [[NAN, 0.1, 0.0], [0.2, NAN, 0.0], [0.1, 0.3, NAN]], kind="measured")
    found = relations(flat, matrix("good", GOOD))
    judged = {one.score.name: one for one in found.judged}
    assert (judged["good"].targets, judged["popularity"].targets) == (2, 0), (
        "each target has one source that is popular"
    )
    assert judged["good"].beside_random is not None and judged["good"].beside_popularity is None
    assert html(found) and markdown(found)
    none = matrix("pairs", np.where(np.eye(3, dtype=bool), np.nan, 0.0).tolist(), kind="measured",
                  errors=np.zeros((3, 3)))  # fmt: skip
    found = relations(none, matrix("good", GOOD))
    assert found.judged == [] and "no estimate can be judged" in " ".join(words(found))
    assert html(found) and markdown(found)


def check_blends_are_blind(make: Callable[[TaskMatrix], Findings], truth: TaskMatrix) -> None:
    for column, target in enumerate(truth.targets):
        changed = truth.mapped(lambda v, place=column: np.where(np.arange(v.shape[1]) == place, 9 - 2 * v, v))  # type: ignore[misc]
        for one, other in zip(make(truth).blends, make(changed).blends, strict=True):
            assert one.name == other.name
            assert np.array_equal(
                one.take(targets=[target]).values, other.take(targets=[target]).values, equal_nan=True
            )


def test_no_blend_sees_what_was_measured_of_its_target(found: Relations, monkeypatch: pytest.MonkeyPatch) -> None:
    assert found.measured is not None

    def make(truth: TaskMatrix) -> Findings:
        return replace(found, measured=truth)

    check_blends_are_blind(make, found.measured)
    names = [one.name for one in found.blends]
    assert names[0] == "rank_sum" and {"neighbours", "pivots", "regression"} <= set(names)

    # a blend that takes all it is given learns nothing of the target, and is caught where it is given the whole
    honest, leave_one_out = findings.blend, findings.leave_one_out

    def greedy(name: str, estimates: Any, measured: TaskMatrix | None = None) -> TaskMatrix:
        made = honest(name, estimates, measured)
        if measured is None:
            return made
        columns = [measured.targets.index(name) if name in measured.targets else None for name in made.targets]
        known = [np.zeros(3) if column is None else measured.values[:, column] for column in columns]
        return made.mapped(lambda _: np.stack(known, 1))

    monkeypatch.setattr(findings, "blend", greedy)
    check_blends_are_blind(make, found.measured)
    monkeypatch.setattr(
        findings, "leave_one_out", lambda predict, truth, name: predict(truth, "").mapped(np.array, name)
    )
    with pytest.raises(AssertionError):
        check_blends_are_blind(make, found.measured)
    assert leave_one_out is not findings.leave_one_out


def test_groups_are_of_tasks_that_help_each_other() -> None:
    tasks = ("a", "x", "b", "y")
    values = [[NAN, 0.0, 0.9, 0.1], [0.1, NAN, 0.0, 0.8], [0.8, 0.1, NAN, 0.0], [0.0, 0.9, 0.1, NAN]]
    known = matrix("pairs", values, tasks, kind="measured", errors=np.full((4, 4), 0.01))
    other = matrix("guess", [[NAN, 1, 0, 0], [1, NAN, 0, 0], [0, 0, NAN, 1], [0, 0, 1, NAN]], tasks, symmetric=True)
    found = relations(known, other)
    assert found.clusters == [["a", "b"], ["x", "y"]] and found.tree.shape == (3, 4)
    assert [set(found.order[:2]), set(found.order[2:])] in ([{"a", "b"}, {"x", "y"}], [{"x", "y"}, {"a", "b"}])
    assert "Closest to each other: a and b; x and y." in words(found)
    # where a pair was not measured, the estimates say it
    assert replace(found, measured=known.mapped(lambda v: np.where(v == 0.9, np.nan, v))).clusters == [
        ["a", "x"],
        ["b", "y"],
    ]


def test_the_best_sources_are_those_measured_or_else_those_expected(found: Relations, estimated: Relations) -> None:
    assert found.best("c") == ["b", "a"] and estimated.best("c", 1) == ["a"]


# -- what is said ------------------------------------------------------------------------------------------------------


def test_what_is_said_of_what_was_measured(found: Relations) -> None:
    said = words(found)
    assert said[0] == (
        "Of 6 measured pairs of tasks, tuning on one task before another helped in 1 and hurt in 1; in 4 no difference "
        "was found."
    )
    assert said[1:3] == ["Helped most: a by b (+27.0).", "Hurt most: c by a (−27.0)."]
    assert "its first source was the best one measured for" in said[-2] and "looks better than it is" in said[-2]
    assert (
        said[-1] == "No estimate was found to be better than a random order: with so few targets, take them as hints."
    )


def test_what_is_said_of_estimates(estimated: Relations) -> None:
    said = words(estimated)
    assert said[0].startswith("Nothing was trained: 1 estimate")
    assert said[1] == "To tune on first, by all estimates together: a: b, c; b: c, a; c: a, b."
    assert estimated.judged == [] and estimated.effects == []


def test_a_gain_of_a_loss_is_in_its_own_unit(found: Relations) -> None:
    other = replace(found, metrics={**found.metrics, "a": "mae"})
    assert "Helped most: a by b (+0.27)." in words(other)
    # nor are regrets of several metrics then taken for points
    column = judged_table(found)[0].index("regret@1")
    both = [
        dict(zip((r[0] for r in judged_table(one)[1]), judged_table(one)[1], strict=True)) for one in (found, other)
    ]
    assert [one["bad"][column] for one in both] == [f"{scale * (0.02 + 0.1) / 3:.2f}" for scale in (100, 1)]


def test_tables(found: Relations) -> None:
    head, body = measured_table(found)
    assert head == ["source", *found.order]
    cells = {(row[0], target): cell for row in body for target, cell in zip(head[1:], row[1:], strict=True)}
    assert cells["b", "a"] == "+27.0*" and cells["c", "a"] == "+25.0" and cells["a", "a"] == ""
    tied = TaskMatrix("tied", ("a", "b", "c"), ("t",), [[1.0], [3.0], [1.0]])
    assert places_of(tied) == [["2.5"], ["1"], ["2.5"]]
    row = next(row for row in judged_table(found)[1] if row[0] == "good")
    assert row[-3:] == ["2 of 3", "67 [9, 99]", "2.0 s"]


def test_a_console_gets_ascii_within_its_width(found: Relations) -> None:
    console = Console(file=StringIO(), width=60, color_system=None)
    found.print(console)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert printed.isascii() and max(map(len, printed.splitlines())) <= 60
    assert "Measured gains" in printed and "Hurt most: c by a (-27.0)." in printed


def test_names_of_tasks_are_text_and_never_markup() -> None:
    tasks = ("<script>alert(1)</script>", "a|b\n# c", "[x](http://y) & <img src=z>")
    errors = np.where(np.eye(3, dtype=bool), np.nan, 0.1)
    hostile = relations(
        matrix("pairs", GAINS, tasks, errors=errors, kind="measured"), matrix("<b>good</b>", GOOD, tasks),
        facts={"<i>": "<script>2</script>"}, notes=["<script>3</script>"],
    )  # fmt: skip
    page = html(replace(hostile, title="<script>4</script>"))
    assert "<script" not in page and "<img" not in page and "<b>good" not in page
    assert "&lt;script&gt;alert(1)" in page
    text = markdown(hostile)
    assert "<script" not in text and "<img" not in text and "\n# c" not in text


# -- files -------------------------------------------------------------------------------------------------------------


def test_what_is_saved_is_read_back(found: Relations, tmp_path: Path) -> None:
    found.save(tmp_path)
    assert {*FILES} <= {path.name for path in tmp_path.iterdir()}
    back = matrices_of(tmp_path)
    assert list(back) == ["pairs", "good", "bad", *(one.name for one in found.blends)]
    assert found.measured is not None and found.measured.errors is not None and back["pairs"].errors is not None
    assert np.array_equal(back["pairs"].values, found.measured.values, equal_nan=True)
    assert np.array_equal(back["pairs"].errors, found.measured.errors, equal_nan=True)
    assert (back["pairs"].kind, back["good"].kind, back["good"].seconds) == ("measured", "estimate", 2.0)
    data = json.loads((tmp_path / "relations.json").read_text())
    assert data["format"] == "allround relations 1" and data["tasks"]["a"] == {"metric": "accuracy", "best": ["b", "c"]}
    assert data["matrices"][0]["values"][0][0] is None
    ElementTree.parse(tmp_path / "relations.svg")


def test_what_was_only_estimated_is_saved_too(estimated: Relations, tmp_path: Path) -> None:
    estimated.save(tmp_path)
    assert list(matrices_of(tmp_path)) == ["good", "rank_sum"]
    assert json.loads((tmp_path / "relations.json").read_text())["estimators"] == []
