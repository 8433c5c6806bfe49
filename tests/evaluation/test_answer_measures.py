"""Measures of answers: hand computations, what they need, and where a user meets them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score, f1_score, roc_auc_score
from typer.testing import CliRunner

from allround.building.compare_versions import compare_versions
from allround.building.single import evaluate
from allround.building.viewing import view_of
from allround.cli.app import app
from allround.core import checking, registry
from allround.core.errors import AllroundError
from allround.evaluation.measures.choices import NONE, shuffled, with_none
from allround.evaluation.measures.judge import kappa
from allround.evaluation.measures.out_of_scope import auroc
from allround.evaluation.measures.prompt_sensitivity import pair_distance
from allround.evaluation.measuring import Measured, MeasureView, measure
from allround.evaluation.predictions import Predictions
from allround.models.encoders.small_image import SmallImage
from allround.models.fitting import fit_head
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.definition import Definition
from allround.tasks.prompt import Prompt
from allround.tasks.suite import Suite
from allround.tasks.task import Split, Task

DIGIT = Definition("digit", "classification", ("x",), "text", "accuracy", ("one", "two", "three"))
PARITY = Definition("parity", "classification", ("x",), "text", "accuracy", ("odd", "even"))
INTENT = Definition("intent", "classification", ("x",), "text", "accuracy", ("pay", "call", "oos"))


def scored(definition: Definition, targets: list[int], scores: list[list[float]]) -> Predictions:
    found = np.array(scores, dtype=np.float32)
    return Predictions(definition, "test", np.array(targets), found.argmax(1), found.max(1).tolist(), scores=found)


def said(definition: Definition, targets: list[int], answers: list[int]) -> Predictions:
    return Predictions(definition, "test", np.array(targets), np.array(answers))


def values(found: list[Measured]) -> list[float]:
    return [round(one.value, 4) for one in found]


def test_they_are_documented() -> None:
    for entry in registry.entries("measure"):
        checking.documented(entry, ("Formula:",), example=False)


def test_cross_task_by_hand() -> None:
    """One is odd, two even, three odd. Row 0 (one, odd): its contrast (two, even) is less probable in both tasks. Row 1
    (two, even) has the contrasts one and three: three is more probable than two, one is not, and odd is: half. Row 2
    (three, odd): the digit is right and the parity is not: none. Answers: (one, odd) goes together, (three, odd) too,
    (three, even) does not."""
    digit = scored(DIGIT, [0, 1, 2], [[0.6, 0.3, 0.1], [0.1, 0.3, 0.6], [0.2, 0.2, 0.6]])
    parity = scored(PARITY, [0, 1, 0], [[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]])
    view = MeasureView({"digit": digit, "parity": parity})
    found = measure("cross_task:tasks=digit+parity", view)
    assert values(found) == [0.5, 0.6667]
    low, high = found[0].interval[1:]
    assert low is not None and high is not None and low <= 0.5 <= high
    # A system that is wrong in both tasks alike is consistent, though it is never right.
    digit = scored(DIGIT, [0, 1, 0], [[0.1, 0.8, 0.1], [0.7, 0.1, 0.2], [0.0, 0.9, 0.1]])
    parity = scored(PARITY, [0, 1, 0], [[0.1, 0.9], [0.9, 0.1], [0.2, 0.8]])
    assert values(measure("cross_task:tasks=digit+parity", MeasureView({"digit": digit, "parity": parity}))) == [1, 1]
    with pytest.raises(AllroundError, match="was not answered"):
        measure("cross_task:tasks=digit+colour", view)
    with pytest.raises(AllroundError, match="names 1 tasks"):
        measure("cross_task:tasks=digit", view)
    with pytest.raises(AllroundError, match="no pair of labels differs"):
        measure("cross_task:tasks=digit+parity", MeasureView({"digit": scored(DIGIT, [0], [[1, 0, 0]]),
                                                              "parity": scored(PARITY, [0], [[1, 0]])}))  # fmt: skip
    with pytest.raises(AllroundError, match="lack the probability of each label"):
        measure("cross_task:tasks=digit+parity", MeasureView({"digit": said(DIGIT, [0], [0]), "parity": parity}))


def test_prompt_sensitivity_by_hand() -> None:
    """Two prompts, four rows of two labels: rows 0 and 2 are answered alike, rows 1 and 3 differently (entropy 1 of 1).
    Class odd: rows 0 (1, 0), 1 (.5, .5): distance .5; class even: rows 2 (0, 1), 3 (.5, .5): .5. Scores 3/4 and 3/4."""
    targets = [0, 0, 1, 1]
    made = [said(PARITY, targets, [0, 1, 1, 1]), said(PARITY, targets, [0, 0, 1, 0])]
    found = measure("prompt_sensitivity", MeasureView({"parity": made[0]}, {"parity": made}))
    assert values(found) == [0.0, 0.5, 0.5]
    same = measure("prompt_sensitivity", MeasureView({}, {"parity": [made[0], made[0]]}))
    assert values(same)[1:] == [0.0, 0.5], "rows 0 and 1 differ, whatever the prompt; rows 2 and 3 do not"
    with pytest.raises(AllroundError, match="no task was answered with several prompts"):
        measure("prompt_sensitivity", MeasureView({"parity": made[0]}))


def test_pair_distances_are_those_of_all_pairs() -> None:
    rng = np.random.default_rng(0)
    rows, weights = rng.dirichlet([1, 1, 1], 12), rng.integers(0, 4, (5, 12)).astype(float)
    gaps = np.abs(rows[:, None] - rows[None]).sum(-1) / 2
    for one, found in zip(weights, pair_distance(rows, weights), strict=True):
        pairs = np.triu(np.outer(one, one), 1)
        assert found == pytest.approx((pairs * gaps).sum() / pairs.sum())


def test_out_of_scope_by_hand() -> None:
    """Four rows in scope, the last of which is answered wrongly, and two out of scope. Refusal by the label: .1, .2,
    .3, .6 in scope and .9, .5 out of it: one of eight pairs is in the wrong order. One row in four may be lost that
    the other labels answer rightly: the threshold is the second such refusal, .2; both are refused."""
    scores = [[0.8, 0.1, 0.1], [0.7, 0.1, 0.2], [0.1, 0.6, 0.3], [0.3, 0.1, 0.6], [0.05, 0.05, 0.9], [0.3, 0.2, 0.5]]
    made = scored(INTENT, [0, 0, 1, 1, 2, 2], scores)
    found = measure("out_of_scope:drop=0.25", MeasureView({"intent": made}))
    assert values(found) == [0.75, 1.0, 0.875, 1.0]
    assert values(measure("out_of_scope:drop=0", MeasureView({"intent": made})))[3] == 1.0
    by = measure("out_of_scope:by=confidence", MeasureView({"intent": made}))
    refusal = [0.2, 0.3, 0.4, 0.7, 0.95, 0.7]
    assert by[2].value == pytest.approx(roc_auc_score([0, 0, 0, 0, 1, 1], refusal))
    rng = np.random.default_rng(0)
    points, outside = rng.integers(0, 9, 40) / 10, rng.random(40) < 0.4
    weights = rng.integers(0, 3, (3, 40)).astype(float)
    for one, area in zip(weights, auroc(points, outside, weights), strict=True):
        assert area == pytest.approx(roc_auc_score(outside, points, sample_weight=one))
    with pytest.raises(AllroundError, match="no task has this label"):
        measure("out_of_scope:label=none", MeasureView({"intent": made}))
    with pytest.raises(AllroundError, match="are of one sort"):
        measure("out_of_scope", MeasureView({"intent": scored(INTENT, [0, 1], scores[:2])}))


def test_weakest_link_by_hand() -> None:
    """Reading .9, adding .5, and stories, which take both, .55: .05 above the weaker, and nearer to it."""
    rights = {"read": 90, "add": 50, "story": 55}
    made = {name: said(replace(PARITY, name=name), [0] * 100, [0] * n + [1] * (100 - n)) for name, n in rights.items()}
    above, nearer = measure("weakest_link:whole=story;parts=read+add", MeasureView(made))
    assert above.name == "story above the weaker part, add" and above.value == pytest.approx(0.05)
    low, high = above.interval[1:]
    assert low is not None and high is not None and low < 0 < high and nearer.value > 0.95
    made["story"] = said(replace(PARITY, name="story"), [0] * 100, [0] * 85 + [1] * 15)
    assert measure("weakest_link:whole=story;parts=read+add", MeasureView(made))[1].value < 0.05
    made["story"] = replace(made["story"], definition=replace(made["story"].definition, metric="macro_f1"))
    with pytest.raises(AllroundError, match="their metrics are accuracy, macro_f1"):
        measure("weakest_link:whole=story;parts=read+add", MeasureView(made))


def test_levels_by_hand() -> None:
    """Three prompts: rows are first right at level 1, 2, 3 and never: (1 + 2 + 3 + 3 + 1) / 4, and with a penalty of
    2.5 (1 + 2 + 3 + 5.5) / 4."""
    made = [said(PARITY, [0] * 4, answers) for answers in ([0, 1, 1, 1], [1, 0, 1, 1], [0, 0, 0, 1])]
    assert values(measure("levels", MeasureView({}, {"parity": made}))) == [2.5, 0.25]
    assert values(measure("levels:penalty=2.5", MeasureView({}, {"parity": made})))[0] == 2.875


def test_competence_by_hand() -> None:
    """Scores .9 and .8, of which the second task falls to .7 by its worst prompt."""
    first, second, worse = (said(replace(PARITY, name=name), [0] * 10, [0] * n + [1] * (10 - n))
                            for name, n in (("a", 9), ("b", 8), ("b", 7)))  # fmt: skip
    made = {"a": first, "b": second}
    assert values(measure("competence", MeasureView(made))) == [1.0]
    assert values(measure("competence", MeasureView(made, {"b": [second, worse]}))) == [0.5]
    assert values(measure("competence:at=0.85", MeasureView(made))) == [0.5]
    stars = replace(PARITY, name="a", metric="log_loss")
    with pytest.raises(AllroundError, match="no task has a metric"):
        measure("competence", MeasureView({"a": replace(first, definition=stars)}))


def test_judges_by_hand() -> None:
    people, judged, swapped = [0, 0, 1, 1, 0, 1], [0, 0, 1, 0, 0, 0], [1, 1, 0, 0, 0, 0]
    turned = said(PARITY, [1 - label for label in people], swapped)
    view = MeasureView({"better": said(PARITY, people, judged), "swapped": turned})
    found = measure("judge:task=better;swapped=swapped", view)
    # Agreement 4 of 6; kept under the swap: rows 0, 1, 2 only; the first preferred 5 and 4 times of 12.
    assert values(found) == [0.6667, round(float(cohen_kappa_score(people, judged)), 4), 0.5, 0.75]
    rng = np.random.default_rng(0)
    one, other, weights = rng.integers(0, 3, 30), rng.integers(0, 3, 30), rng.integers(0, 3, (2, 30)).astype(float)
    for row, value in zip(weights, kappa(one, other, weights), strict=True):
        assert value == pytest.approx(cohen_kappa_score(one, other, sample_weight=row))
    with pytest.raises(AllroundError, match="has 3 labels"):
        measure("judge:task=digit;swapped=digit", MeasureView({"digit": said(DIGIT, [0], [0])}))


def test_compare_and_evaluate_take_measures(small_image: SmallImage, digits_suite: Suite, tmp_path: Path) -> None:
    text, limit = "cross_task:tasks=digit+parity", {"train": 60, "validation": 30, "test": 30}
    suite = Suite.load("digits", only=["digit", "parity"], limit=limit)
    for name, rows in (("old", 60), ("new", 40)):
        model = MultiTaskModel(small_image, {})
        for task in suite.tasks.values():
            few = replace(task, splits={**task.splits, "train": task.splits["train"].take(range(rows))}, table=None)
            model.add_task(task.definition, fit_head(small_image, few).state)
        model.save(tmp_path / name)
    names = ["consistency of digit and parity", "agreement of digit and parity"]
    board = evaluate(model, suite, measures=[text])
    assert [line.partition(":")[0] for line in board.notes["measures"]] == names
    found = compare_versions(tmp_path / "old", tmp_path / "new", suite, measures=[text], out=tmp_path / "out")
    assert [new.name for _, new in found.measures] == names
    kept = json.loads((tmp_path / "out" / "compare.json").read_text())["measures"][0]
    assert kept["difference"]["value"] == pytest.approx(kept["new"]["value"] - kept["old"]["value"])
    assert "Consistency of digit and parity: " in (tmp_path / "out" / "compare.md").read_text()
    words = ["evaluate", str(tmp_path / "new"), "digits", "--only", "digit,parity", "--limit", "test=30"]
    result = CliRunner().invoke(app, [*words, "--measure", text])
    assert result.exit_code == 0 and "agreement of digit and parity: " in result.output


class Meter:
    """A tracker that has read two watt-hours and half a gram."""

    def __init__(self, mode: str) -> None:
        self._hardware = [SimpleNamespace(_mode=mode), SimpleNamespace()]
        self.final_emissions_data = SimpleNamespace(energy_consumed=0.002, emissions=0.0005)
        self.calls: list[str] = []

    def start(self) -> None:
        self.calls.append("start")

    def stop(self) -> None:
        self.calls.append("stop")


@pytest.mark.parametrize(("mode", "said"), [("intel_rapl", "by meters"), ("constant", "cannot be measured here")])
def test_energy_by_hand(mode: str, said: str, digits_suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two watt-hours over 8 rows are 250 for a thousand; without a meter the name says so."""
    module, meter = ModuleType("codecarbon"), Meter(mode)
    module.OfflineEmissionsTracker = lambda **given: meter  # type: ignore[attr-defined]
    data = ModuleType("codecarbon.input")
    data.DataSource = lambda: SimpleNamespace(get_global_energy_mix_data=lambda: {"DEU": {}})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "codecarbon", module)
    monkeypatch.setitem(sys.modules, "codecarbon.input", data)
    monkeypatch.setattr("allround.evaluation.power.SECONDS", 0)
    task = digits_suite["digit"]

    def answer(asked: Task) -> Predictions:
        split = asked.splits["test"]
        return Predictions(asked.definition, "test", split.targets, split.targets)

    view = MeasureView({}, tasks={"digit": task}, answer=answer)
    hours, grams = measure("energy:country=DEU;rows=8", view)
    assert (hours.value, grams.value) == (pytest.approx(250), pytest.approx(62.5)) and meter.calls == ["start", "stop"]
    assert said in hours.name and hours.interval[1:] == (None, None) and hours.words.endswith(": 250")
    with pytest.raises(AllroundError, match="knows no country 'DE'"):
        measure("energy:country=DE", view)
    with pytest.raises(AllroundError, match="there are answers alone"):
        measure("energy:country=DEU", MeasureView({}))
    monkeypatch.setitem(sys.modules, "codecarbon", None)
    with pytest.raises(AllroundError, match=r"allround\[energy\]"):
        measure("energy:country=DEU", view)


def test_choices_find_what_was_learned_by_heart() -> None:
    """One system knows that the right choice begins with "long"; another one that it was the second in the test."""
    definition = Definition("quiz", "multiple_choice", ("q", "c"), "fields", "accuracy", tuple("ABCD"),
                            prompt=Prompt(options="c"))  # fmt: skip
    rows = [(f"question {i}", [f"{'long ' * 9 * (j == 1)}choice {i} {j}" for j in range(4)]) for i in range(200)]
    task = Task(definition, {"test": Split(rows, np.full(200, 1))})

    def system(pick: Callable[[list[str]], int]) -> MeasureView:
        def answer(asked: Task) -> Predictions:
            split = asked.splits["test"]
            picked = np.array([pick(row[1]) for row in split.inputs])
            return Predictions(asked.definition, "test", split.targets, picked)

        return MeasureView({"quiz": answer(task)}, tasks={"quiz": task}, answer=answer)

    knows = system(lambda texts: max(range(4), key=lambda i: texts[i].startswith("long")))
    parrot = system(lambda texts: 1)
    order, none = measure("choices:none=1.0", knows)
    assert order.value == 0 and none.value == pytest.approx(-0.25, abs=0.1), "a right choice that is gone is missed"
    order, none = measure("choices", parrot)
    assert (
        order.value == pytest.approx(-0.75, abs=0.1) and order.interval.high is not None and order.interval.high < -0.6
    )
    assert none.value == 0
    same = {"quiz": parrot.predictions["quiz"], "again": knows.predictions["quiz"]}
    assert values(measure("choices:task=quiz;rephrased=again", MeasureView(same))) == [0.0]
    altered = with_none(task, "test", 1.0, 0)
    assert all(row[1].count(NONE) == 1 for row in altered.splits["test"].inputs)
    moved = shuffled(task, "test", 0).splits["test"]
    assert all(row[1][target].startswith("long") for row, target in zip(moved.inputs, moved.targets, strict=True))
    with pytest.raises(AllroundError, match="no multiple-choice task"):
        measure("choices", MeasureView({"digit": said(DIGIT, [0], [0])}))


def test_few_shot_fits_on_few_rows_alone(small_image: SmallImage, digits_suite: Suite) -> None:
    digit = digits_suite["digit"]
    model = MultiTaskModel(small_image, {digit.name: digit.definition})
    view = view_of(
        model, digits_suite.part(["digit"]), "test", {("model", "digit"): said(digit.definition, [0], [0])}, {}
    )
    seen: list[Task] = []
    fit = view.fit
    assert fit is not None

    def watched(task: Task) -> Predictions:
        seen.append(task)
        return fit(task)

    mean, spread = measure("few_shot:rows=40;draws=3", replace(view, fit=watched))
    assert [(len(one.splits["train"]), len(one.splits["validation"])) for one in seen] == [(32, 8)] * 3
    expected = [f1_score(one.targets, one.predictions, average="macro", labels=range(10), zero_division=0)
                for one in map(fit, seen)]  # fmt: skip
    assert mean.value == pytest.approx(np.mean(expected)) and spread.value == pytest.approx(np.std(expected, ddof=1))
    with pytest.raises(AllroundError, match="no encoder that a head could read"):
        measure("few_shot", replace(view, fit=None))
    with pytest.raises(AllroundError, match="fewer than five rows"):
        measure("few_shot:rows=3", view)
