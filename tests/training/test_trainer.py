"""The trainer: it learns, keeps the best, stops early, goes on after a kill, and gives the same bits."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from allround.core.errors import AllroundError
from allround.core.seeds import seed_of
from allround.models.base import load_encoder
from allround.models.batches import draw_batches
from allround.models.encoder import hash_tensors
from allround.models.encoders.module import Module
from allround.models.encoders.small_table import SmallTable
from allround.models.fitting import fit_head
from allround.models.likelihood import likelihood
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.make import make_task
from allround.tasks.metric import metric
from allround.tasks.suite import Suite
from allround.tasks.task import Task
from allround.training import trainer, unfinished, validation
from allround.training.course import Course
from allround.training.feeds import Feed
from allround.training.sampling import arrange, counts_of
from allround.training.settings import Settings
from allround.training.trainer import train

LONG = 10_000  # patience that never runs out


def chosen(**values: Any) -> Settings:
    """Settings in float32, so that numbers are alike on every processor."""
    return Settings(**{"precision": "fp32", **values})


def tables(small_table: SmallTable, suite: Suite, *names: str, heads: bool = True) -> tuple[MultiTaskModel, list[Task]]:
    tasks = [suite.tasks[n] for n in names or suite.tasks]
    model = MultiTaskModel(copy.deepcopy(small_table), {})
    generator = torch.Generator().manual_seed(0)
    for task in tasks:
        model.add_task(task.definition)
        if heads:
            linear = model.heads[task.name]
            linear.weight.data.copy_(0.3 * torch.randn(linear.weight.shape, generator=generator))
    return model, tasks


@pytest.fixture
def flowers(small_table: SmallTable, table_suite: Suite) -> Callable[..., tuple[MultiTaskModel, list[Task]]]:
    return lambda *names, **options: tables(small_table, table_suite, *names, **options)


def texts(folder: Path, suite: Suite, *names: str) -> tuple[MultiTaskModel, list[Task]]:
    """A text model with heads fitted on the frozen encoder, as a build has it."""
    model, tasks = MultiTaskModel(load_encoder(folder), {}), [suite.tasks[n] for n in names]
    for task in tasks:
        head = fit_head(model.encoder, task)
        model.add_task(task.definition, head.state)
    return model, tasks


def loss_of(model: MultiTaskModel, task: Task, split: str = "train") -> float:
    rules = likelihood(task.definition)
    outputs = model.outputs(task.name, task.splits[split].inputs)
    return float(rules.loss(outputs.logits, rules.tensor(task.splits[split].targets)))


def score_of(model: MultiTaskModel, task: Task) -> float:
    predicted = model.answers(task.name, task.splits["validation"].inputs).predictions
    return metric(task.definition.metric).score(task.splits["validation"].targets, predicted, task.definition)


def state(module: nn.Module) -> dict[str, Tensor]:
    return {n: t.clone() for n, t in module.state_dict().items()}


def same(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return set(one) == set(two) and all(torch.equal(one[n], two[n]) for n in one)


# It learns.


def test_the_loss_goes_down(flowers: Any) -> None:
    model, tasks = flowers(heads=False)
    before = [loss_of(model, t) for t in tasks]
    course = train(model, tasks, chosen(epochs=4, heads="tuned", learning_rate=1e-2), seed=0)
    after = [loss_of(model, t) for t in tasks]
    assert all(b < 0.7 * a for a, b in zip(before, after, strict=True)), (before, after)
    assert course.best_step > 0
    assert not model.training and all(p.requires_grad for p in model.parameters())


def test_images_learn(small_image: Any, digits_suite: Suite) -> None:
    tasks = [digits_suite.tasks[n] for n in ("digit", "segments")]
    model = MultiTaskModel(copy.deepcopy(small_image), {t.name: t.definition for t in tasks})
    before = [loss_of(model, t) for t in tasks]
    train(model, tasks, chosen(epochs=3, heads="tuned", learning_rate=3e-3), seed=0)
    assert all(loss_of(model, t) < b for t, b in zip(tasks, before, strict=True))


@pytest.mark.slow
def test_all_kinds_of_text_train_together(
    bert_folder: Path, text_suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = list(text_suite.tasks.values())
    model = MultiTaskModel(load_encoder(bert_folder), {t.name: t.definition for t in tasks})
    before = [loss_of(model, t) for t in tasks]
    rising(monkeypatch)
    course = train(model, tasks, chosen(epochs=12, heads="tuned", learning_rate=1e-3, patience=LONG), seed=0)
    assert course.examples == {t.name: 12 * 24 for t in tasks}, "every row, once an epoch"
    assert all(torch.isfinite(p).all() for p in model.parameters())
    after = [loss_of(model, t) for t in tasks]
    assert all(a < b for a, b in zip(after, before, strict=True)), (before, after)


# What it keeps.


def test_the_best_state_is_kept(flowers: Any) -> None:
    """With a wild learning rate the last state is hardly ever the best one."""
    model, tasks = flowers()
    course = train(model, tasks, chosen(epochs=6, heads="tuned", learning_rate=1.0, patience=LONG), seed=1)
    first = course.evaluations[0]["scores"]
    means = {
        e["step"]: sum(e["scores"][t.name] / max(first[t.name], 0.05) for t in tasks) / len(tasks)
        for e in course.evaluations
    }
    assert len(means) == 7
    assert means[course.best_step] == max(means.values())
    assert course.best_step != course.evaluations[-1]["step"], "the test is about something"
    kept = next(e for e in course.evaluations if e["step"] == course.best_step)
    assert {t.name: score_of(model, t) for t in tasks} == pytest.approx(kept["scores"])


def test_training_that_only_harms_leaves_the_first_state(flowers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tasks = flowers()
    before = state(model)
    scripted(monkeypatch, {t.name: [0.9, 0.5, 0.6] for t in tasks})
    course = train(model, tasks, chosen(epochs=2, learning_rate=0.1, heads="tuned"), seed=0)
    assert course.best_step == 0 and same(state(model), before)


@pytest.mark.parametrize("metric_name", ["rmse", "pearson"])
def test_better_may_be_lower(small_table: SmallTable, table_suite: Suite, metric_name: str) -> None:
    task = table_suite.tasks["petal"]
    changed = Task(type(task.definition)(**{**vars(task.definition), "metric": metric_name}), task.splits)
    model = MultiTaskModel(copy.deepcopy(small_table), {"petal": changed.definition})
    course = train(model, [changed], chosen(epochs=3, heads="tuned", learning_rate=1e-2, patience=LONG), seed=0)
    scores = {e["step"]: e["scores"]["petal"] for e in course.evaluations}
    best = min(scores.values()) if metric_name == "rmse" else max(scores.values())
    assert scores[course.best_step] == best


@pytest.mark.parametrize("heads", ["frozen", "tuned"])
def test_heads_stay_or_move(flowers: Any, heads: str) -> None:
    model, tasks = flowers()
    before, encoder = state(model.heads), hash_tensors(model.encoder)
    course = train(model, tasks, chosen(epochs=3, heads=heads, learning_rate=1e-2), seed=0)
    assert course.best_step > 0 and hash_tensors(model.encoder) != encoder
    after = state(model.heads)
    if heads == "frozen":
        assert same(after, before), "frozen heads keep every bit"
    else:
        assert all(not torch.equal(after[n], before[n]) for n in before)


# When it stops.


def scripted(monkeypatch: pytest.MonkeyPatch, scores: dict[str, list[float]]) -> None:
    """Let validation give these scores, one after the other, the last one for ever."""
    left = {name: list(values) for name, values in scores.items()}

    def score(definition: Any, *_: Any) -> float:
        values = left[definition.name]
        return values.pop(0) if len(values) > 1 else values[0]

    monkeypatch.setattr(validation, "score_of", score)


def rising(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every evaluation be better than all before, so that the last state is kept."""
    count = itertools.count(1)

    monkeypatch.setattr(validation, "score_of", lambda *_: float(next(count)))


def test_a_task_that_gets_no_better_is_drawn_no_more(flowers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tasks = flowers("species", "petal")
    scripted(monkeypatch, {"species": [0.5], "petal": [0.1 * i for i in range(1, 20)]})
    settings = chosen(epochs=5, patience=2, batch_size=10)
    course = train(model, tasks, settings, seed=0)
    drawn = arrange(counts_of([0.5, 0.5], 80), [[0, 1]], 1, seed_of(0, "tasks"))
    expected = 10 * drawn[:32].count([0])  # two epochs of sixteen steps
    assert course.examples == {"species": expected, "petal": 400}
    assert course.steps == (expected + 400) // 10
    assert [e["step"] for e in course.evaluations] == [0, 16, 32, 48, 64, 80]
    assert course.best_step == 80


def test_a_better_score_starts_the_patience_anew(flowers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tasks = flowers("species")
    scripted(monkeypatch, {"species": [0.5, 0.4, 0.6, 0.5, 0.5, 0.9]})
    course = train(model, tasks, chosen(epochs=9, patience=2), seed=0)
    assert [e["scores"]["species"] for e in course.evaluations] == [0.5, 0.4, 0.6, 0.5, 0.5]
    assert course.best_step == course.evaluations[2]["step"]


def test_when_no_task_is_left_training_ends(flowers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tasks = flowers()
    scripted(monkeypatch, {t.name: [0.5] for t in tasks})
    course = train(model, tasks, chosen(epochs=50, patience=1, batch_size=20), seed=0)
    assert course.steps == 8 and len(course.evaluations) == 2


# How it draws.


@pytest.mark.parametrize(
    ("sample", "values", "expected"),
    [
        ("proportional", {}, {"species": 80, "petal": 40}),
        ("uniform", {}, {"species": 60, "petal": 60}),
        # sqrt(40) : sqrt(20) of twelve steps is 7.03 : 4.97
        ("temperature", {"temperature": 2.0}, {"species": 70, "petal": 50}),
        ("temperature", {"temperature": 1.0}, {"species": 80, "petal": 40}),
    ],
)
def test_joint_training_draws_as_told(flowers: Any, sample: str, values: Any, expected: dict[str, int]) -> None:
    model, (species, petal) = flowers("species", "petal")
    tasks = [species.limit({"train": 40}), petal.limit({"train": 20})]
    settings = chosen(epochs=2, batch_size=10, patience=LONG, sample=sample, sample_settings=values)
    course = train(model, tasks, settings, seed=0)
    assert course.examples == expected and course.steps == 12


def test_every_row_is_seen_once_an_epoch(flowers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, (task,) = flowers("species")
    task = task.limit({"train": 23})
    seen: list[list[int]] = []
    batch = Feed.batch
    monkeypatch.setattr(Feed, "batch", lambda feed, number: seen.append(batch(feed, number)) or seen[-1])
    train(model, [task], chosen(epochs=5, batch_size=7, patience=LONG), seed=0)
    assert len(seen) == 5 * 4
    epochs = [seen[i : i + 4] for i in range(0, 20, 4)]
    for epoch in epochs:
        assert sorted(row for batch in epoch for row in batch) == list(range(23))
        assert sorted(len(batch) for batch in epoch) == [2, 7, 7, 7]
    assert epochs[0] != epochs[1] != epochs[2], "each in another order"


@pytest.mark.parametrize(("rows", "size"), [(1, 4), (4, 4), (23, 7), (300, 8)])
def test_batches_of_an_epoch(rows: int, size: int) -> None:
    lengths = [(7 * row) % 50 + 1 for row in range(rows)]
    batches = draw_batches(lengths, size, seed=0)
    assert sorted(row for batch in batches for row in batch) == list(range(rows))
    assert len(batches) == -(-rows // size) and all(1 <= len(batch) <= size for batch in batches)
    assert draw_batches(lengths, size, seed=0) == batches
    if rows > 100:
        assert draw_batches(lengths, size, seed=1) != batches
        spread = [max(lengths[r] for r in batch) - min(lengths[r] for r in batch) for batch in batches]
        assert sum(spread) / len(spread) < 12, "rows of like length are together"


def test_a_task_smaller_than_a_batch(flowers: Any) -> None:
    model, (task,) = flowers("petal")
    course = train(model, [task.limit({"train": 3})], chosen(epochs=2, batch_size=16, patience=LONG), seed=0)
    assert course.examples == {"petal": 6} and course.steps == 2


def watch(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, float]]:
    """Learning rate and gradient norm at each step of the optimiser."""
    seen: list[tuple[float, float]] = []
    real = torch.optim.AdamW.step

    def step(self: Any, *args: Any, **options: Any) -> Any:
        grads = [p.grad.norm() for g in self.param_groups for p in g["params"] if p.grad is not None]
        seen.append((self.param_groups[0]["lr"], float(torch.stack(grads).norm())))
        return real(self, *args, **options)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    return seen


def test_the_rate_rises_then_falls_to_zero(flowers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = watch(monkeypatch)
    model, tasks = flowers("species")
    train(model, tasks, chosen(epochs=4, batch_size=16, learning_rate=0.01, warmup=0.2, patience=LONG), seed=0)
    rising = [0.01 * i / 4 for i in range(1, 5)]
    falling = [0.01 * i / 16 for i in range(16, 0, -1)]
    assert [rate for rate, _ in seen] == pytest.approx(rising + falling)


@pytest.mark.parametrize("clip", [1e-3, 0.05, 1e9])
def test_gradients_are_clipped(flowers: Any, monkeypatch: pytest.MonkeyPatch, clip: float) -> None:
    seen = watch(monkeypatch)
    model, tasks = flowers()
    train(model, tasks, chosen(epochs=1, clip=clip), seed=0)
    norms = [norm for _, norm in seen]
    assert all(norm <= clip * 1.001 for norm in norms)
    if clip == 1e9:
        assert max(norms) > 0.05, "the test is about something"
    else:
        assert max(norms) == pytest.approx(clip, rel=1e-2)


# The same bits.


def test_one_seed_one_result(flowers: Any) -> None:
    results = []
    for seed in (0, 0, 1):
        model, tasks = flowers()
        torch.rand(len(results) + 1)  # whatever was drawn before does not matter
        course = train(model, tasks, chosen(epochs=2, heads="tuned"), seed=seed)
        results.append((state(model), course.evaluations))
    assert same(results[0][0], results[1][0]) and results[0][1] == results[1][1]
    assert not same(results[0][0], results[2][0])


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("tune", ["full", "lora"])
def test_one_seed_one_result_with_dropout(
    bert_folder: Path, text_suite: Suite, monkeypatch: pytest.MonkeyPatch, tune: str, precision: str
) -> None:
    if tune == "lora":
        pytest.importorskip("peft")
    results = []
    for seed in (0, 0, 1):
        model, tasks = texts(bert_folder, text_suite, "mood", "names")
        torch.rand(len(results) + 1)
        settings = chosen(epochs=2, tune=tune, learning_rate=1e-3, patience=LONG, precision=precision)
        with monkeypatch.context() as patch:
            rising(patch)
            train(model, tasks, settings, seed=seed)
        results.append(state(model))
    assert same(results[0], results[1])
    assert not same(results[0], results[2])


class Killed(Exception):
    """Stands for whatever ends a process."""


def ends_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Let training end before a step, with its state saved after every step."""
    real = trainer.TrainingRun.one_step

    def one_step(run: Any) -> None:
        if run.schedule.step == step:
            raise Killed
        real(run)

    monkeypatch.setattr(unfinished, "SAVE_EVERY", 0.0)
    monkeypatch.setattr(trainer.TrainingRun, "one_step", one_step)


def comparable(course: Course) -> dict[str, Any]:
    return {k: v for k, v in vars(course).items() if k != "seconds"}


@pytest.mark.parametrize("stops", [[1], [9], [10], [11], [19], [3, 12]], ids=str)
def test_a_killed_run_goes_on_to_the_same_bits(
    flowers: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stops: list[int]
) -> None:
    settings = chosen(epochs=2, heads="tuned", learning_rate=1e-2, patience=LONG)
    model, tasks = flowers()
    whole = train(model, tasks, settings, seed=3)
    assert whole.steps == 20
    expected = state(model)
    for stop in stops:
        model, tasks = flowers()
        with monkeypatch.context() as patch, pytest.raises(Killed):
            ends_at(patch, stop)
            train(model, tasks, settings, seed=3, scratch=tmp_path)
        assert [p.name for p in tmp_path.iterdir()] == ["training.pt"]
        torch.rand(5)
    model, tasks = flowers()
    course = train(model, tasks, settings, seed=3, scratch=tmp_path)
    assert same(state(model), expected)
    assert comparable(course) == comparable(whole)
    assert list(tmp_path.iterdir()) == [], "nothing is left over"


def test_the_best_state_before_a_kill_is_kept_after_it(
    flowers: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = chosen(epochs=2, learning_rate=1e-2, patience=LONG)
    model, tasks = flowers("species")
    scripted(monkeypatch, {"species": [0.1, 0.9, 0.2]})
    whole = train(model, tasks, settings, seed=0)
    assert whole.best_step == 5
    expected = state(model)
    model, tasks = flowers("species")
    scripted(monkeypatch, {"species": [0.1, 0.9]})
    with monkeypatch.context() as patch, pytest.raises(Killed):
        ends_at(patch, 8)
        train(model, tasks, settings, seed=0, scratch=tmp_path)
    model, tasks = flowers("species")
    scripted(monkeypatch, {"species": [0.2]})
    assert comparable(train(model, tasks, settings, seed=0, scratch=tmp_path)) == comparable(whole)
    assert same(state(model), expected)


def test_what_was_done_is_not_done_again(flowers: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = chosen(epochs=2, patience=LONG)
    model, tasks = flowers()
    with monkeypatch.context() as patch, pytest.raises(Killed):
        ends_at(patch, 15)
        train(model, tasks, settings, seed=0, scratch=tmp_path)
    steps: list[int] = []
    real = trainer.TrainingRun.one_step
    monkeypatch.setattr(trainer.TrainingRun, "one_step", lambda run: steps.append(run.schedule.step) or real(run))
    model, tasks = flowers()
    train(model, tasks, settings, seed=0, scratch=tmp_path)
    assert steps == list(range(15, 20))


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("tune", ["full", "lora"])
def test_a_killed_run_with_dropout_goes_on_to_the_same_bits(
    bert_folder: Path, text_suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tune: str, precision: str
) -> None:
    if tune == "lora":
        pytest.importorskip("peft")
    settings = chosen(epochs=2, tune=tune, learning_rate=1e-3, patience=LONG, batch_size=12, precision=precision)
    rising(monkeypatch)
    model, tasks = texts(bert_folder, text_suite, "mood", "topics")
    before = state(model)
    train(model, tasks, settings, seed=3)
    expected = state(model)
    assert not same(expected, before)
    model, tasks = texts(bert_folder, text_suite, "mood", "topics")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        ends_at(patch, 5)
        train(model, tasks, settings, seed=3, scratch=tmp_path)
    model, tasks = texts(bert_folder, text_suite, "mood", "topics")
    train(model, tasks, settings, seed=3, scratch=tmp_path)
    assert same(state(model), expected)


def test_a_killed_run_goes_on_in_the_precision_that_it_began_with(
    flowers: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = chosen(epochs=2, batch_size=20, precision="auto")
    monkeypatch.setattr(trainer, "precision", lambda name, device: "bf16")
    model, tasks = flowers()
    train(model, tasks, settings, seed=0)
    expected = state(model)
    model, tasks = flowers()
    with monkeypatch.context() as patch, pytest.raises(Killed):
        ends_at(patch, 4)
        train(model, tasks, settings, seed=0, scratch=tmp_path)
    monkeypatch.setattr(trainer, "precision", lambda name, device: "fp32")
    model, tasks = flowers()
    train(model, tasks, settings, seed=0)
    assert not same(state(model), expected)
    model, tasks = flowers()
    train(model, tasks, settings, seed=0, scratch=tmp_path)
    assert same(state(model), expected)


def test_early_stopping_and_a_kill(flowers: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Patience is remembered: a task that was drawn no more stays so."""
    settings = chosen(epochs=4, patience=1, batch_size=20)
    scores = {"species": [0.5], "petal": [0.1, 0.2, 0.3, 0.4, 0.5]}
    model, tasks = flowers("species", "petal")
    with monkeypatch.context() as patch:
        scripted(patch, scores)
        whole = train(model, tasks, settings, seed=0)
    expected = state(model)
    scripted(monkeypatch, scores)
    model, tasks = flowers("species", "petal")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        ends_at(patch, 18)
        train(model, tasks, settings, seed=0, scratch=tmp_path)
    model, tasks = flowers("species", "petal")
    assert comparable(train(model, tasks, settings, seed=0, scratch=tmp_path)) == comparable(whole)
    assert same(state(model), expected)


# Losses that are no numbers.


class Brittle(nn.Module):
    """Gives NaN for rows that begin with 99, and an endless gradient for those that begin with 98."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 4)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.layer(x)
        if (x[:, 0] == 99).any():
            found = found * torch.where(x[:, :1] == 99, float("nan"), 1.0)
        if (x[:, 0] == 98).any():
            found = found + (found - found.detach()).abs().sqrt()
        return found


def brittle(bad: int, number: float = 99.0, rows: int = 24) -> tuple[MultiTaskModel, list[Task]]:
    made = [{"a": number if i < bad else i / rows, "b": float(i % 2), "y": "yn"[i % 2]} for i in range(rows)]
    good = [{"a": i / 8, "b": float(i % 2), "y": "yn"[i % 2]} for i in range(8)]
    task = make_task(
        "t",
        kind="classification",
        inputs=["a", "b"],
        target="y",
        data={"train": made, "validation": good, "test": good},
    )
    torch.manual_seed(0)
    return MultiTaskModel(Module(Brittle(), dim=4), {"t": task.definition}), [task]


@pytest.mark.parametrize("number", [99.0, 98.0], ids=["loss", "gradient"])
def test_a_batch_that_is_not_finite_is_skipped(number: float) -> None:
    model, tasks = brittle(1, number)
    settings = chosen(epochs=3, batch_size=4, heads="tuned", learning_rate=0.01, patience=LONG)
    course = train(model, tasks, settings, seed=0)
    assert course.skipped == 3, "once an epoch"
    assert course.steps == 18
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_ten_in_a_row_are_an_error() -> None:
    model, tasks = brittle(24)
    with pytest.raises(AllroundError) as caught:
        train(model, tasks, chosen(epochs=3, batch_size=4, heads="tuned", patience=LONG), seed=0)
    assert "ten times in a row" in caught.value.found and "task 't'" in caught.value.asked
    assert "lower the learning rate" in caught.value.do


def test_nine_in_a_row_are_none() -> None:
    model, tasks = brittle(24, rows=24)
    course = train(model, tasks, chosen(epochs=1, batch_size=3, heads="tuned", patience=LONG), seed=0)
    assert course.skipped == 8


def test_untrained_heads_must_not_stay_frozen() -> None:
    """They answer zeros, so no gradient would reach the encoder, and all steps would be for nothing."""
    model, tasks = brittle(0)
    with pytest.raises(AllroundError, match="these heads are untrained"):
        train(model, tasks, chosen(epochs=1), seed=0)
    model.add_task(tasks[0].definition, fit_head(model.encoder, tasks[0], "mlp_tanh").state)
    before = model.encoder.network.layer.weight.detach().clone()
    train(model, tasks, chosen(epochs=1, keep="last"), seed=0)
    assert not torch.equal(model.encoder.network.layer.weight, before)


# LoRA.


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft's, of transformers
def test_an_adapter_is_what_was_learned(
    bert_folder: Path, hf_folder: Path, text_suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rising(monkeypatch)
    peft = pytest.importorskip("peft")
    from transformers import AutoModel

    model, tasks = texts(bert_folder, text_suite, "mood", "alike")
    before, heads = state(model.encoder), state(model.heads)
    settings = chosen(tune="lora", lora_rank=4, epochs=3, learning_rate=5e-3, patience=LONG)
    course = train(model, tasks, settings, seed=0, adapter=tmp_path / "adapter")
    assert course.best_step > 0
    after = state(model.encoder)
    assert set(after) == set(before), "the adapter is merged: no trace of it is left in the network"
    assert same(state(model.heads), heads)
    changed = {n for n in before if not torch.equal(before[n], after[n])}
    assert changed and all(n.endswith(".weight") and after[n].dim() == 2 for n in changed)
    assert not [n for n in changed if "embeddings" in n or "LayerNorm" in n]

    assert sorted(p.name for p in (tmp_path / "adapter").iterdir() if p.suffix in (".bin", ".safetensors")) == [
        "adapter_model.safetensors"
    ]
    base = AutoModel.from_pretrained(hf_folder)
    loaded = peft.PeftModel.from_pretrained(base, str(tmp_path / "adapter")).merge_and_unload()
    theirs = loaded.state_dict()
    prefix = next(n for n in after if n.endswith("embeddings.word_embeddings.weight")).removesuffix(
        "embeddings.word_embeddings.weight"
    )
    assert {n.removeprefix(prefix) for n in after} == set(theirs)
    for name, tensor in theirs.items():
        assert torch.allclose(tensor, after[prefix + name], rtol=1e-5, atol=1e-6), name

    # By hand: base + alpha / rank * B A, with alpha / rank = 2.
    from safetensors.torch import load_file

    learned = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    name = "encoder.layer.0.attention.self.query"
    a, b = (learned[f"base_model.model.{name}.lora_{side}.weight"] for side in "AB")
    assert a.shape == (4, 32) and b.shape == (32, 4)
    expected = before[f"{prefix}{name}.weight"] + 2 * b @ a
    assert torch.allclose(after[f"{prefix}{name}.weight"], expected, rtol=1e-5, atol=1e-6)

    model.save(tmp_path / "model")
    from allround import load

    rows = tasks[0].splits["test"].inputs
    again = load(tmp_path / "model")
    assert torch.equal(again.outputs("mood", rows).logits, model.outputs("mood", rows).logits)


def test_lora_on_images(small_image: Any, digits_suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("peft")
    task = digits_suite.tasks["digit"]
    model = MultiTaskModel(copy.deepcopy(small_image), {})
    head = fit_head(model.encoder, task)
    model.add_task(task.definition, head.state)
    before = state(model.encoder)
    rising(monkeypatch)
    train(model, [task], chosen(tune="lora", epochs=3, learning_rate=1e-2), seed=0, adapter=tmp_path / "adapter")
    after = state(model.encoder)
    assert set(after) == set(before)
    changed = {n for n in before if not torch.equal(before[n], after[n])}
    assert changed == {f"layers.{i}.weight" for i in (0, 3, 7)}, "the convolutions"
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()


# The device.


def test_a_device_that_is_not_there(flowers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    model, tasks = flowers()
    with pytest.raises(AllroundError, match="no CUDA device"):
        train(model, tasks, chosen(device="cuda"), seed=0)
