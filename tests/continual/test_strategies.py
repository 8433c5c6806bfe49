"""Every strategy: what it promises of old answers and of its memory, and courses that go on after a kill."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from allround.building.stream import stream
from allround.continual import learning
from allround.continual.growing import GrowingLearner
from allround.continual.learner import StreamLearner, begin, with_labels
from allround.continual.learning import Learner
from allround.continual.rows import Memory
from allround.continual.strategy import strategy_of
from allround.continual.stream import Arrival, of_tasks, renamed, split_labels
from allround.core import registry
from allround.core.errors import AllroundError
from allround.core.progress import Progress
from allround.models.base import load_encoder
from allround.models.encoder import Encoder
from allround.models.encoders.small_image import SmallImage
from allround.models.system import load
from allround.tasks.suite import Suite
from allround.tasks.task import Task
from allround.training.settings import Settings

QUICK = Settings(epochs=1, batch_size=16, learning_rate=1e-3, device="cpu", precision="fp32")
STRATEGIES = registry.names("strategy")


#: Strategies for encoders that read a sequence.
OF_TEXTS = ("diana", "multi_lane", "pp_tf")


def case(name: str, request: pytest.FixtureRequest) -> tuple[Encoder, Task, int]:
    """An encoder that a strategy can start from, a task with labels that can come in two parts, and labels of each."""
    if name in OF_TEXTS:
        return load_encoder(request.getfixturevalue("bert_folder")), request.getfixturevalue("text_suite")["mood"], 1
    return request.getfixturevalue("small_image"), request.getfixturevalue("digits_suite")["digit"], 5


def learned(name: str, encoder: Encoder, arrivals: tuple[Arrival, ...], fit: bool) -> StreamLearner:
    plan = strategy_of(name)
    learner = begin(copy.deepcopy(encoder), plan)
    for arrival in arrivals:
        learner.learn(arrival, plan, QUICK, base=copy.deepcopy(encoder), fit=fit)
    return learner


@pytest.mark.parametrize("name", [name for name in STRATEGIES if "class" in strategy_of(name).scenarios])
def test_labels_that_come_later_are_learned(name: str, request: pytest.FixtureRequest) -> None:
    encoder, task, per = case(name, request)
    plan, arrivals = strategy_of(name), split_labels(task, per, "class").arrivals
    learner = learned(name, encoder, arrivals, fit=False)
    assert learner.system.definitions[task.name].labels == task.definition.labels
    split = task.splits["validation"]
    answers = np.asarray(learner.system.answers(task.name, split.inputs).predictions)
    assert set(answers.tolist()) <= set(range(2 * per))
    if plan.memory == "none":
        assert learner.memory.rows == 0
    elif plan.bytes is None:
        assert learner.memory.rows == len(task.splits["train"])
    else:
        assert 0 < learner.memory.bytes <= plan.bytes
    assert learner.bytes >= learner.memory.bytes
    if name in ("none", "l2"):
        assert learner.bytes == 0, "what holds it is the model itself"


@pytest.mark.parametrize("name", [name for name in STRATEGIES if strategy_of(name).exact])
def test_answers_to_old_tasks_stay_to_the_bit_where_that_is_promised(name: str, request: pytest.FixtureRequest) -> None:
    encoder, task, _ = case(name, request)
    first, second = of_tasks("two", [task, renamed(task, "again")]).arrivals
    plan, rows = strategy_of(name), task.splits["test"].inputs
    learner = learned(name, encoder, (first,), fit=True)
    before = learner.system.answers(task.name, rows, scores=True)
    learner.learn(second, plan, QUICK, base=copy.deepcopy(encoder), fit=True)
    after = learner.system.answers(task.name, rows, scores=True)
    assert np.array_equal(np.asarray(before.scores), np.asarray(after.scores)) and before.confidence == after.confidence
    assert learner.system.answers("again", rows).predictions.tolist()


@pytest.mark.parametrize("name", [name for name in STRATEGIES if strategy_of(name).grow != "same"])
def test_what_is_kept_is_all_that_a_strategy_goes_on_with(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """A learner that was written after an arrival and read again learns the next one to the same bytes."""
    encoder, task, per = case(name, request)
    plan, arrivals = strategy_of(name), of_tasks("two", [task, renamed(task, "again")]).arrivals
    if "class" in plan.scenarios:
        arrivals = split_labels(task, per, "class").arrivals
    whole = learned(name, encoder, arrivals, fit=False)
    first = learned(name, encoder, arrivals[:1], fit=False)
    first.system.save(tmp_path / "first")
    if first.memory.tasks:
        first.memory.write(tmp_path / "memory")
    again = begin(copy.deepcopy(encoder), plan)
    again.adopt(load(tmp_path / "first"))
    again.memory = Memory.load(tmp_path / "memory")
    again.recall(first.remembered)
    again.learn(arrivals[1], plan, QUICK, base=copy.deepcopy(encoder))
    assert again.bytes == whole.bytes and again.stored == whole.stored
    for learner, place in ((again, tmp_path / "again"), (whole, tmp_path / "whole")):
        learner.system.save(place)
    files = sorted(path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole").rglob("*.safetensors"))
    assert files
    assert all((tmp_path / "again" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes() for file in files)


def test_remembered_tasks_are_learned_on_beside_new_ones(small_image: SmallImage, digits_suite: Suite) -> None:
    arrivals = of_tasks("digits", list(digits_suite)).arrivals
    learner = learned("er", small_image, arrivals, fit=True)
    assert set(learner.memory.tasks) == set(digits_suite.tasks)
    trained = learner.to_train([digits_suite["ink"]], repeat=True)
    assert [task.name for task in trained] == ["ink", "digit", "segments"]
    assert len(trained[0].splits["train"]) > len(digits_suite["ink"].splits["train"])


def test_rows_of_few_remembered_tasks_are_as_many_as_new_ones(small_image: SmallImage, digits_suite: Suite) -> None:
    """Else a task that arrives beside many others would have few of the steps."""
    learner = Learner(small_image, strategy_of("er"))
    few = {name: digits_suite[name].limit({"train": rows}) for name, rows in (("digit", 20), ("segments", 10))}
    learner.memory = Memory(few)
    new = digits_suite["ink"]
    assert [len(task.splits["train"]) for task in learner.to_train([new], repeat=True)] == [60, 40, 20]
    assert [len(task.splits["train"]) for task in learner.to_train([new], repeat=False)] == [60, 20, 10]


def test_a_head_with_new_labels_is_fitted_on_remembered_rows_too(small_image: SmallImage, digits_suite: Suite) -> None:
    """With steps that move nothing, what the head knows of old and new labels is from this fit."""
    still = QUICK.with_(learning_rate=1e-12)
    first, second = split_labels(digits_suite["digit"], 5, "class").arrivals
    scores = {}
    for name in ("er", "none"):
        plan = strategy_of(name)
        learner = begin(copy.deepcopy(small_image), plan)
        for arrival in (first, second):
            learner.learn(arrival, plan, still)
        test = digits_suite["digit"].splits["test"]
        made = learner.system.predict("digit", [row[0] for row in test.inputs])
        scores[name] = np.mean([str(one) == str(true) for one, true in zip(made, test.targets, strict=True)])
    assert scores["er"] > 0.6 > 0.3 > scores["none"]


def test_rows_that_are_not_replayed_are_shown_to_guards_alone(small_image: SmallImage, digits_suite: Suite) -> None:
    arrivals = split_labels(digits_suite["digit"], 5, "class").arrivals
    agem, none, er = (learned(name, small_image, arrivals, fit=False) for name in ("agem", "none", "er"))
    assert agem.steps == none.steps < er.steps and agem.memory.rows == er.memory.rows
    (shown,) = agem.guards[0].remembered
    assert shown.name == "digit" and set(shown.splits["train"].targets) == set(range(5)), "rows before the last arrival"
    weights = [dict(one.model.named_parameters())["encoder.layers.0.weight"] for one in (agem, none)]
    assert not torch.equal(*weights)


def test_remembered_rows_are_repeated_until_labels_are_even(digits_suite: Suite) -> None:
    first, second = (one.tasks[0] for one in split_labels(digits_suite["digit"], 5, "class").arrivals)
    whole = second.as_defined(digits_suite["digit"].definition)
    few = first.as_defined(digits_suite["digit"].definition)
    few = few.limit({"train": 5})
    found = learning.with_old_rows(whole, few, repeat=True).splits["train"].targets
    per_new = len(second.splits["train"]) / 5
    assert sum(y < 5 for y in found) == 5 * round(per_new)
    assert sum(y < 5 for y in learning.with_old_rows(whole, few, repeat=False).splits["train"].targets) == 5


def test_a_task_of_another_sort_under_a_known_name_is_refused(small_image: SmallImage, digits_suite: Suite) -> None:
    learner = learned("none", small_image, (Arrival("one", (digits_suite["digit"],)),), fit=True)
    with pytest.raises(AllroundError, match="the model knows it as classification"):
        with_labels(renamed(digits_suite["ink"], "digit"), learner.system.definitions["digit"])


def ran(suite: Suite, out: Path, base: Path, **more: Any) -> Any:
    given = {"strategies": ["er", "icarl", "ewc", "residual"], "task": "digit", "labels": 5, "settings": QUICK,
             "base": base, "workers": 1, "progress": Progress(quiet=True)} | more  # fmt: skip
    return stream(suite, out=out, **given)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, small_image: SmallImage) -> Path:
    folder = tmp_path_factory.mktemp("base") / "base"
    folder.mkdir()
    small_image.save(folder)
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, digits_suite: Suite, base: Path) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("stream")
    return folder, ran(digits_suite, folder, base, orders=2)


def test_a_stream_has_a_row_for_each_strategy_and_its_references(whole: tuple[Path, Any]) -> None:
    folder, found = whole
    assert set(found.strategies) == {"er", "icarl", "ewc", "residual", "none", "ridge", "joint"}
    for course in found.courses:
        assert np.isnan(course.scores[0, 1]) and np.isfinite(course.scores[1]).all()
        assert len(course.bytes) == 2 and course.seconds[1] > course.seconds[0] > 0
    assert found.cost("none", "bytes") == 0 and found.cost("joint", "rows") == 60
    mean = found.mean("ridge", "final")
    assert mean.low is not None and mean.low <= mean.value, "two orders give an interval"
    assert found.kernel is not None and np.allclose(found.kernel.values.diagonal(), 1)
    assert 0 < found.kernel.values[0, 1] < 1 and not np.allclose(found.kernel.values, found.overlap.values)
    about = json.loads((folder / "stream.json").read_text())
    assert about["kernel"] == found.kernel.values.tolist()
    assert about["scenario"] == "class" and len(about["courses"]) == 14
    page = (folder / "stream.md").read_text()
    assert "| ridge |" in page and "| picked | oracle |" in page
    grown = next(one for one in found.courses if one.strategy == "residual")
    assert grown.picks and np.isnan(grown.picked[0]).all(), "there is nothing to pick from after one arrival"
    assert (grown.oracle[1] >= grown.scores[1]).all() and ((grown.picked[1] > 0) & (grown.picked[1] <= 1)).all()
    assert not found.of("er")[0].picks and "picked" not in about["strategies"]["er"]


def test_a_killed_stream_ends_with_the_same_bytes(
    whole: tuple[Path, Any], digits_suite: Suite, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before every second arrival and in the middle of others, by an error where a signal would end it."""
    calls = [0]
    for sort in (Learner, GrowingLearner):

        def dying(self: Any, *args: Any, learn: Any = sort.learn, **more: Any) -> None:
            calls[0] += 1
            if calls[0] % 2 == 0:
                raise KeyboardInterrupt
            learn(self, *args, **more)

        monkeypatch.setattr(sort, "learn", dying)
    for _ in range(60):
        try:
            found = ran(digits_suite, tmp_path / "out", base)
            break
        except KeyboardInterrupt:
            continue
    assert calls[0] > 14
    folder, _ = whole
    for name in ("er", "icarl", "ewc", "residual", "ridge", "joint"):
        one, other = (next((place / "pieces").glob(f"course-{name}-0-0-*")) for place in (folder, tmp_path / "out"))
        files = sorted(path.relative_to(one) for path in one.rglob("*") if path.suffix in (".safetensors", ".arrow"))
        assert files and all((one / file).read_bytes() == (other / file).read_bytes() for file in files), name
    assert not list((tmp_path / "out" / "pieces").glob("unfinished/*")) and found.courses


@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_a_memory_that_was_touched_between_kills_is_noticed(
    damage: str, digits_suite: Suite, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learn, calls = Learner.learn, [0]

    def dying(self: Learner, *args: Any, **more: Any) -> None:
        calls[0] += 1
        if calls[0] == 2:
            raise KeyboardInterrupt
        learn(self, *args, **more)

    def go() -> object:
        return stream(digits_suite, out=tmp_path / "out", task="digit", labels=5, strategies=["er"], base=base,
                      settings=QUICK, workers=1, progress=Progress(quiet=True))  # fmt: skip

    monkeypatch.setattr(Learner, "learn", dying)
    with pytest.raises(KeyboardInterrupt):
        go()
    rows = next(tmp_path.rglob("after-001/memory/digit/train.arrow"))
    content = rows.read_bytes()
    rows.unlink()
    if damage == "changed":
        rows.write_bytes(content.replace(content[600:604], b"abcd", 1))
    words = "is missing" if damage == "missing" else "is not as it was written"
    with pytest.raises(AllroundError, match=f"memory/digit/train.arrow {words}"):
        go()
    rows.write_bytes(content)
    assert go() is not None


def test_merge_adds_a_share_of_the_change(small_image: SmallImage, digits_suite: Suite) -> None:
    """By hand: on the first arrival the model is the base, so that `scale` leads from it to the tuned copy."""
    digit = digits_suite["digit"]

    def weights(scale: float) -> dict[str, torch.Tensor]:
        plan = strategy_of("merge", {"scale": scale})
        learner = Learner(copy.deepcopy(small_image), plan)
        learner.learn(Arrival("one", (digit,)), plan, QUICK, base=copy.deepcopy(small_image), fit=True)
        return {name: value.clone() for name, value in learner.model.encoder.named_parameters()}

    base, half, whole = dict(small_image.named_parameters()), weights(0.5), weights(1.0)
    assert any(not torch.equal(value, base[name]) for name, value in whole.items())
    for name, value in half.items():
        assert torch.allclose(value, (base[name] + whole[name]) / 2, atol=1e-6), name


def test_a_finished_model_goes_on(small_image: SmallImage, digits_suite: Suite) -> None:
    """Guards hold what a model that they have not seen in training answers, and rows of its tasks are remembered."""
    tasks = (digits_suite["digit"], digits_suite["ink"])
    model = learned("none", small_image, (Arrival("one", (tasks[0],)),), fit=True).model
    learner = Learner.go_on(model, strategy_of("lwf"))
    assert set(learner.guards[0].state) == {"digit"} and not learner.memory.rows
    learner = Learner.go_on(model, strategy_of("er"), [tasks[0]])
    assert set(learner.memory.tasks) == {"digit"} and 0 < learner.memory.bytes <= 50_000
    learner.learn(Arrival("two", (tasks[1],)), strategy_of("er"), QUICK, fit=True)
    assert list(learner.model.definitions) == ["digit", "ink"]


def test_what_cannot_be_run_is_said_first(digits_suite: Suite, base: Path, tmp_path: Path) -> None:
    for words, asked in (
        ("use the strategy 'erm'", {"strategies": ["erm"]}),
        ("--seeds is 0", {"seeds": 0}),
        ("no base was given", {"base": None, "suite": Suite("mine", list(digits_suite))}),
        ("bytez", {"strategies": ["er:bytez=3"]}),
    ):
        given = {"suite": digits_suite, "out": tmp_path / "out", "base": base} | asked
        with pytest.raises(AllroundError) as caught:
            ran(**given)  # type: ignore[arg-type]
        assert words in str(caught.value) and not (tmp_path / "out").exists(), caught.value
