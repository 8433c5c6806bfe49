"""Training with several tasks in a step: what is drawn, what is remembered after a kill, rates, heads, sampling."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from allround.core import registry
from allround.core.errors import AllroundError
from allround.models.base import load_encoder
from allround.models.encoders.small_table import SmallTable
from allround.models.fitting import fit_head
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.suite import Suite
from allround.tasks.task import Task
from allround.training import trainer, unfinished
from allround.training.course import Course
from allround.training.feeds import Feed
from allround.training.preconditions import check_settings
from allround.training.schedule import Schedule
from allround.training.settings import Settings
from allround.training.trainer import train
from allround.training.validation import Validation


def chosen(**values: Any) -> Settings:
    return Settings(**{"precision": "fp32", "mix": "all", **values})


@pytest.fixture
def flowers(small_table: SmallTable, table_suite: Suite) -> Any:
    def make(**limits: int) -> tuple[MultiTaskModel, list[Task]]:
        species = table_suite.tasks["species"]
        third = replace(species, definition=replace(species.definition, name="again"))
        tasks = [t.limit({"train": limits.get(t.name, 80)}) for t in (*table_suite.tasks.values(), third)]
        model = MultiTaskModel(copy.deepcopy(small_table), {t.name: t.definition for t in tasks})
        generator = torch.Generator().manual_seed(0)
        for task in tasks:
            weight = model.heads[task.name].weight
            weight.data.copy_(0.3 * torch.randn(weight.shape, generator=generator))
        return model, tasks

    return make


class Log:
    """Which feeds and rows each step holds, and the optimiser's rate."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps: list[list[str]] = []
        self.rows: dict[str, list[list[int]]] = {}
        self.rates: list[list[float]] = []
        real_feeds, real_batch, real_step = Schedule.next_feeds, Feed.batch, torch.optim.AdamW.step

        def feeds(run: Any) -> list[int]:
            found = real_feeds(run)
            self.steps.append([run.feeds[i].name for i in found])
            return found

        def batch(feed: Feed, number: int) -> list[int]:
            rows = real_batch(feed, number)
            self.rows.setdefault(feed.name, []).append(rows)
            return rows

        def step(optimiser: Any, *args: Any, **options: Any) -> Any:
            self.rates.append([g["lr"] for g in optimiser.param_groups])
            return real_step(optimiser, *args, **options)

        monkeypatch.setattr(Schedule, "next_feeds", feeds)
        monkeypatch.setattr(Feed, "batch", batch)
        monkeypatch.setattr(torch.optim.AdamW, "step", step)


def state(model: MultiTaskModel) -> dict[str, Tensor]:
    return {n: t.clone() for n, t in model.state_dict().items()}


def same(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return set(one) == set(two) and all(torch.equal(one[n], two[n]) for n in one)


# What a step holds.


def test_all_tasks_in_every_step(flowers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log(monkeypatch)
    model, tasks = flowers()
    course = train(model, tasks, chosen(epochs=2, batch_size=16), seed=0)
    assert log.steps == [[t.name for t in tasks]] * 10
    assert course.steps == 10 and course.backward_passes == 10 * len(tasks)
    assert course.examples == {t.name: 160 for t in tasks}
    assert [e["step"] for e in course.evaluations] == [0, 5, 10]


def test_a_smaller_task_is_missing_from_some_steps(flowers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log(monkeypatch)
    model, tasks = flowers(petal=20)
    course = train(model, tasks, chosen(epochs=4, batch_size=10), seed=0)
    assert len(log.steps) == 32 and sum("petal" in s for s in log.steps) == 8
    assert course.examples == {t.name: 4 * (20 if t.name == "petal" else 80) for t in tasks}
    seen = sorted(row for batch in log.rows["petal"][:2] for row in batch)
    assert seen == list(range(20)), "every row once an epoch, as ever"


def test_some_tasks_in_every_step(flowers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log(monkeypatch)
    model, tasks = flowers()
    train(model, tasks, chosen(epochs=2, batch_size=16, mix="2"), seed=0)
    assert {len(s) for s in log.steps} <= {1, 2} and sum(map(len, log.steps)) == 10 * len(tasks)
    assert len({tuple(s) for s in log.steps}) > 1, "not always the same two"


def test_batches_of_one_kind(flowers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log(monkeypatch)
    model, tasks = flowers()
    kinds = {t.name: t.definition.kind for t in tasks}
    assert len(set(kinds.values())) > 1
    course = train(model, tasks, chosen(epochs=1, mix="kind", batch_size=16, batch_sizes={"regression": 8}), seed=0)
    assert all(len({kinds[name] for name in s}) == 1 for s in log.steps)
    assert {len(rows) for name, drawn in log.rows.items() for rows in drawn if kinds[name] == "regression"} == {8}
    assert course.examples == {t.name: 80 for t in tasks}


def test_a_batch_size_for_nobody(flowers: Any) -> None:
    model, tasks = flowers()
    with pytest.raises(AllroundError, match="no task, table or kind"):
        train(model, tasks, chosen(batch_sizes={"petals": 8}), seed=0)


# Rates and heads.


def test_the_rate_of_one_task(flowers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log(monkeypatch)
    model, tasks = flowers()
    first = tasks[0].name
    settings = chosen(epochs=1, mix="one", heads="tuned", learning_rate=0.01, warmup=0, task_rates={first: 0.5})
    train(model, tasks, settings, seed=0)
    full = [0.01] + [0.01 * (len(log.steps) - i) / (len(log.steps) - 1) for i in range(1, len(log.steps))]
    for (name,), rates, rate in zip(log.steps, log.rates, full, strict=True):
        assert rates[0] == pytest.approx(rate * (0.5 if name == first else 1.0)), "shared weights"
        assert rates[1] == pytest.approx(rate * 0.5), "the head of the first task"
        assert rates[2] == pytest.approx(rate)


def test_a_rate_for_nobody(flowers: Any) -> None:
    model, tasks = flowers()
    with pytest.raises(AllroundError, match="there is no such task"):
        train(model, tasks, chosen(task_rates={"petals": 8.0}), seed=0)


def test_a_task_gets_its_best_head_back(flowers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only where that head scores better with the final encoder: scripted, and looked at by its weights."""
    model, tasks = flowers()
    names = [t.name for t in tasks]
    heads: list[dict[str, Tensor]] = []
    scores = {n: [0.5, 0.6, 0.7] for n in names}
    scores[names[0]] = [0.5, 0.9, 0.2, 0.2, 0.3]  # best in the middle, and better with that head in the end
    scores[names[1]] = [0.5, 0.9, 0.8, 0.8, 0.7]  # best in the middle, and worse with that head in the end
    for name in names[2:]:
        scores[name] += [0.7, 0.7]
    real = Validation.validate

    def validate(run: Any, index: int) -> tuple[float, float]:
        heads.append(state(run.model.heads))
        return scores[run.tasks[index].name].pop(0), real(run, index)[1]

    monkeypatch.setattr(Validation, "validate", validate)
    settings = chosen(epochs=2, heads="tuned", learning_rate=0.01, keep="last", restore_heads=True)
    course = train(model, tasks, settings, seed=0)
    assert course.restored == [names[0]]
    middle, last = heads[len(names)], heads[3 * len(names) - 1]
    found = state(model.heads)
    assert torch.equal(found[f"{names[0]}.weight"], middle[f"{names[0]}.weight"])
    for name in names[1:]:
        assert torch.equal(found[f"{name}.weight"], last[f"{name}.weight"])
    assert not torch.equal(middle[f"{names[0]}.weight"], last[f"{names[0]}.weight"])


def test_a_stopped_task_is_left_out_of_mixed_steps(flowers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tasks = flowers()
    first = tasks[0].name
    rising = iter(range(1, 1000))
    real = Validation.validate

    def validate(run: Any, index: int) -> tuple[float, float]:
        _, loss = real(run, index)
        return (0.5 if run.tasks[index].name == first else float(next(rising))), loss

    monkeypatch.setattr(Validation, "validate", validate)
    course = train(model, tasks, chosen(epochs=5, patience=2, batch_size=16), seed=0)
    assert course.examples == {t.name: 80 * (2 if t.name == first else 5) for t in tasks}
    assert course.steps == 25


# Sampling.


def test_two_stages_with_their_own_rates(flowers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log(monkeypatch)
    model, tasks = flowers(petal=10)
    settings = chosen(epochs=4, mix="one", batch_size=10, warmup=0.25, learning_rate=0.01, sample="two_stage",
                      sample_settings={"first": 0.5})  # fmt: skip
    train(model, tasks, settings, seed=0)
    half = len(log.steps) // 2
    assert ["petal"] not in log.steps[:half] and ["petal"] in log.steps[half:]
    shared = [rates[0] for rates in log.rates]
    warm = round(0.25 * half)
    for start in (0, half):
        assert shared[start] == pytest.approx(0.01 / warm) and max(shared[start : start + half]) == pytest.approx(0.01)
    assert shared[half - 1] < 0.1 * 0.01, "the first stage ends at about no rate"


def test_each_block_of_a_curriculum_has_the_whole_schedule(flowers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log(monkeypatch)
    model, tasks = flowers()
    settings = chosen(epochs=3, mix="one", batch_size=10, warmup=0.25, learning_rate=0.01, sample="curriculum",
                      sample_settings={"mode": "sequential"})  # fmt: skip
    train(model, tasks, settings, seed=0)
    means = [
        sum(rates[0] for (name,), rates in zip(log.steps, log.rates, strict=True) if name == task.name) / 24
        for task in tasks
    ]
    assert [sum(s == [t.name] for s in log.steps) for t in tasks] == [24] * 3
    assert means == pytest.approx([means[0]] * 3) and means[0] > 0.4 * 0.01


def test_smart_trains_on_the_rows_it_chose(flowers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log(monkeypatch)
    model, tasks = flowers()
    settings = chosen(epochs=3, sample="smart", sample_settings={"budget": 0.25}, mix="one", batch_size=5)
    course = train(model, tasks, settings, seed=0)
    rows = {name: {row for batch in drawn for row in batch} for name, drawn in log.rows.items()}
    assert sum(map(len, rows.values())) == pytest.approx(0.25 * 80 * len(tasks), abs=5)
    for name, drawn in rows.items():
        assert course.examples[name] == pytest.approx(3 * len(drawn), abs=15), "the same rows in every epoch"


def test_stop_and_go_slows_a_task_that_has_converged(flowers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tasks = flowers()
    first = tasks[0].name
    rising = iter(range(1, 1000))
    real = Validation.validate

    def validate(run: Any, index: int) -> tuple[float, float]:
        _, loss = real(run, index)
        return (0.5 if run.tasks[index].name == first else float(next(rising))), loss

    monkeypatch.setattr(Validation, "validate", validate)
    course = train(model, tasks, chosen(epochs=8, sample="stop_and_go", mix="one", batch_size=8), seed=0)
    others = [n for t, n in course.examples.items() if t != first]
    assert 0 < course.examples[first] < 0.75 * min(others)


@pytest.mark.parametrize("sample", [e.name for e in registry.entries("sample") if e.facts["feedback"]])
def test_three_epochs_are_enough_to_follow_validation(
    flowers: Any, monkeypatch: pytest.MonkeyPatch, sample: str
) -> None:
    """The default of text and image encoders. One task never scores better than before training."""
    model, tasks = flowers()
    first, rising, real = tasks[0].name, iter(range(1, 1000)), Validation.validate

    def validate(run: Any, index: int) -> tuple[float, float]:
        _, loss = real(run, index)
        return (0.5 if run.tasks[index].name == first else float(next(rising))), loss

    monkeypatch.setattr(Validation, "validate", validate)
    course = train(model, tasks, chosen(epochs=3, sample=sample, mix="one", batch_size=8), seed=0)
    others = [n for t, n in course.examples.items() if t != first]
    assert 0 < course.examples[first] < 0.9 * min(others)


# Steps with one task each.


@pytest.mark.parametrize(("mix", "number"), [("one", 3), ("1", 3), ("kind", 2)])
@pytest.mark.parametrize("raw", [False, True])
def test_a_balancer_that_does_nothing_alone_is_refused(flowers: Any, mix: str, number: int, raw: bool) -> None:
    tasks = flowers()[1][:number]
    if mix == "kind":
        assert len({t.definition.kind for t in tasks}) == number, "so no two of them share a step"
    refused = set()
    for entry in registry.entries("balance"):
        settings = chosen(mix=mix, balance=entry.name, raw_scale=raw)
        try:
            check_settings(settings, tasks)
        except AllroundError as error:
            assert "against each other" in error.found and "--mix all" in error.do
            refused.add(entry.name)
        check_settings(replace(settings, mix="all"), tasks)
        check_settings(settings, tasks[:1])
    never = {"gradnorm", "rep_mtl", "covariance", "pcgrad", "gradvac", "cagrad", "mgda", "mgda_ub", "imtl_g",
             "aligned_mtl", "config", "dualproj", "upgrad", "graddrop", "gls", "famo"}  # fmt: skip
    # On their own scale, these follow a task's own loss, norm or rows.
    scaled = {"nash_mtl", "fairgrad", "stch", "focal", "normalised"}
    assert refused == (never if raw else never | scaled)


# After a kill.


class Killed(Exception):
    """Stands for whatever ends a process."""


def ends_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    real = trainer.TrainingRun.one_step

    def one_step(run: Any) -> None:
        if run.schedule.step == step:
            raise Killed
        real(run)

    monkeypatch.setattr(unfinished, "SAVE_EVERY", 0.0)
    monkeypatch.setattr(trainer.TrainingRun, "one_step", one_step)


def comparable(course: Course) -> dict[str, Any]:
    return {k: v for k, v in vars(course).items() if k != "seconds"}


@pytest.mark.parametrize(
    "values",
    [{"balance": name} for name in registry.names("balance")]
    + [{"sample": name, "mix": "2"} for name in registry.names("sample")]
    + [{"flat": 0.05, "balance": "gradvac"}, {"restore_heads": True}, {"balance": "cagrad", "raw_scale": True}],
    ids=str,
)
def test_a_killed_run_goes_on_to_the_same_bits(
    flowers: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, values: dict[str, Any]
) -> None:
    settings = chosen(**{"epochs": 3, "heads": "tuned", "learning_rate": 1e-2, "batch_size": 20, **values})
    model, tasks = flowers(petal=30)
    whole = train(model, tasks, settings, seed=3)
    expected = state(model)
    assert whole.steps > 7
    for stop in (3, 7):
        model, tasks = flowers(petal=30)
        with monkeypatch.context() as patch, pytest.raises(Killed):
            ends_at(patch, stop)
            train(model, tasks, settings, seed=3, scratch=tmp_path)
        torch.rand(5)
    model, tasks = flowers(petal=30)
    course = train(model, tasks, settings, seed=3, scratch=tmp_path)
    assert same(state(model), expected)
    assert comparable(course) == comparable(whole)


@pytest.mark.slow
@pytest.mark.parametrize("balance", ["uw", "mgda", "graddrop", "mgda_ub"])
@pytest.mark.parametrize("tune", ["full", "lora"])
def test_half_precision_and_adapters(bert_folder: Path, text_suite: Suite, balance: str, tune: str) -> None:
    if tune == "lora":
        pytest.importorskip("peft")
    tasks = [text_suite.tasks[n] for n in ("mood", "topics")]
    model = MultiTaskModel(load_encoder(bert_folder), {})
    for task in tasks:
        head = fit_head(model.encoder, task)
        model.add_task(task.definition, head.state)
    before = state(model)
    settings = chosen(epochs=2, tune=tune, balance=balance, precision="bf16", learning_rate=1e-3, keep="last")
    course = train(model, tasks, settings, seed=0)
    assert course.skipped == 0
    after = state(model)
    assert all(torch.isfinite(t).all() for t in after.values()) and not same(before, after)
    assert all(t.dtype == before[n].dtype for n, t in after.items())
