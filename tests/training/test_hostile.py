"""Training under bad input, bad luck and odd data: an error in three parts, or the numbers that plain torch gives."""

from __future__ import annotations

import copy
import gc
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from allround.core import registry
from allround.core.errors import AllroundError
from allround.models.base import load_encoder
from allround.models.encoders.module import Module
from allround.models.likelihood import likelihood
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.make import make_task
from allround.tasks.suite import Suite
from allround.tasks.task import Task
from allround.training import trainer, unfinished
from allround.training.balancing import Outline, make_balancer, rescaled
from allround.training.feeds import Feed, make_feeds
from allround.training.gradients import Gradients, StepResult
from allround.training.losses import Part
from allround.training.sampling import Mixture, make_policy
from allround.training.settings import Settings
from allround.training.trainer import train
from allround.training.validation import Validation

BALANCERS = registry.names("balance")


def chosen(**values: Any) -> Settings:
    return Settings(**{"precision": "fp32", "device": "cpu", "mix": "all", "epochs": 2, "batch_size": 8, **values})


def rows(count: int, seed: int, **more: Any) -> list[dict[str, Any]]:
    drawn = np.random.default_rng(seed).normal(size=(count, 2))
    return [{"a": float(a), "b": float(b), "y": "yn"[i % 2], **more} for i, (a, b) in enumerate(drawn)]


def task(name: str, count: int = 24, seed: int = 0, held: int = 8, **more: Any) -> Task:
    data = {
        s: rows(n, seed + i, **more) for i, (s, n) in enumerate({"train": count, "validation": held, "test": 4}.items())
    }
    return make_task(name, kind="classification", inputs=["a", "b", *more], target="y", data=data)


def model_of(tasks: Sequence[Task], network: nn.Module | None = None, dim: int = 4) -> MultiTaskModel:
    torch.manual_seed(0)
    network = network or nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, dim))
    model = MultiTaskModel(Module(network, dim=dim), {t.name: t.definition for t in tasks})
    for one in tasks:
        nn.init.normal_(model.heads[one.name].weight)
    return model


def state(module: nn.Module) -> dict[str, Tensor]:
    return {n: t.clone() for n, t in module.state_dict().items()}


def same(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return set(one) == set(two) and all(torch.equal(one[n], two[n]) for n in one)


def pair() -> list[Task]:
    return [task("a"), task("b", 40, 10)]


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What each step of the optimiser holds: task -> places of its rows, rates, and shared weights before and after."""
    seen: list[dict[str, Any]] = []
    real, real_optimiser = Gradients.step, torch.optim.AdamW.step

    def step(self: Gradients, parts: Sequence[Part], *args: Any) -> StepResult:
        held = {}
        for part in parts:
            for index in part.tasks:
                places = part.feed.places[index][part.rows]
                held[self.tasks[index].name] = [int(p) for p in places if p >= 0]
        seen.append({"rows": held, "shared": self.shared})
        return real(self, parts, *args)

    def optimise(self: Any, *args: Any, **options: Any) -> Any:
        one = seen[-1]
        one["rates"] = [g["lr"] for g in self.param_groups]
        one["before"] = [p.detach().clone() for p in one["shared"]]
        made = real_optimiser(self, *args, **options)
        one["after"] = [p.detach().clone() for p in one["shared"]]
        return made

    monkeypatch.setattr(Gradients, "step", step)
    monkeypatch.setattr(torch.optim.AdamW, "step", optimise)
    return seen


# What plain torch does.


class Branches(nn.Module):
    """Rows whose last number is 1 go through the second layer, the others through the first: weights of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.out = nn.Linear(3, 8), nn.Linear(3, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        layer = self.second if bool((x[:, -1] == 1).all()) else self.first
        found: Tensor = self.out(torch.tanh(layer(x)))
        return found


def plainly(model: MultiTaskModel, tasks: Sequence[Task], drawn: list[dict[str, Any]], settings: Settings) -> None:
    """The same steps as everybody writes them: the mean of the losses, backward, clip, AdamW; absent gradients None."""
    about = {t.name: t for t in tasks}
    trained = [p for n, p in model.named_parameters() if settings.heads == "tuned" or not n.startswith("heads.")]
    optimiser = torch.optim.AdamW(trained, lr=1.0, weight_decay=settings.weight_decay)
    model.train()
    for one in drawn:
        optimiser.zero_grad(set_to_none=True)
        losses = []
        for name, places in one["rows"].items():
            data, definition = about[name].splits["train"].take(places), about[name].definition
            batch = model.encoder.batch(model.encoder.prepare(data.inputs, definition), definition)
            rules = likelihood(definition)
            losses.append(rules.loss(model(name, batch), rules.tensor(data.targets)))
        torch.stack(losses).mean().backward()
        torch.nn.utils.clip_grad_norm_(trained, settings.clip)
        optimiser.param_groups[0]["lr"] = one["rates"][0]
        optimiser.step()


@pytest.mark.parametrize("mix", ["all", "one"])
def test_steps_are_those_of_plain_torch(mix: str, steps: list[dict[str, Any]]) -> None:
    """Also of weights that only some tasks use: neither decay nor old momentum moves them in steps without these."""
    tasks = [task("a", 24, 0, flag=0.0), task("b", 40, 10, flag=1.0)]
    settings = chosen(mix=mix, weight_decay=0.1, learning_rate=0.02, heads="tuned", keep="last")
    model, plain = model_of(tasks, Branches()), model_of(tasks, Branches())
    plain.load_state_dict(model.state_dict())
    before = state(model)
    train(model, tasks, settings, seed=0)
    assert {frozenset(one["rows"]) for one in steps} >= {frozenset("b")}, "some steps lack a task"
    plainly(plain, tasks, [dict(one) for one in steps], settings)
    found, expected = state(model), state(plain)
    for name, value in found.items():
        assert torch.allclose(value, expected[name], rtol=1e-4, atol=1e-5), name
        assert not torch.equal(value, before[name]), "it is trained at all"


@pytest.mark.parametrize("balance", ["uw", "normalised", "mgda", "graddrop", "mgda_ub"])
def test_weights_that_a_step_does_not_use_stay(balance: str, steps: list[dict[str, Any]]) -> None:
    tasks = [task("a", 24, 0, flag=0.0), task("b", 40, 10, flag=1.0)]
    train(model_of(tasks, Branches()), tasks, chosen(balance=balance, weight_decay=0.1, heads="tuned"), seed=0)
    alone = [one for one in steps if set(one["rows"]) == {"b"}]
    assert len(alone) >= 4
    for one in alone:
        still = [torch.equal(before, after) for before, after in zip(one["before"], one["after"], strict=True)]
        assert still == [True, True, False, False, False, False], "the first branch is that of the other task"


def test_the_rate_never_exceeds_itself(steps: list[dict[str, Any]]) -> None:
    """Also where one step does more batches than the warm-up has."""
    tasks = [task(f"t{i}", (24, 50, 3, 2, 7)[i % 5], i) for i in range(30)]
    for warmup in (0.0, 0.1):
        steps.clear()
        course = train(model_of(tasks), tasks, chosen(warmup=warmup, learning_rate=0.01, mix="all"), seed=0)
        rates = [one["rates"][0] for one in steps]
        assert max(rates) == pytest.approx(0.01) and min(rates) > 0
        assert {len(one["rows"]) for one in steps} != {30} and sum(course.examples.values()) > 0


def test_a_rate_of_nothing_moves_nothing(steps: list[dict[str, Any]]) -> None:
    """Not even by old momentum or weight decay, in steps that hold that task alone."""
    tasks = pair()
    settings = chosen(mix="one", task_rates={"a": 0.0}, weight_decay=0.1, heads="tuned", keep="last")
    model = model_of(tasks)
    head = state(model.heads["a"])
    train(model, tasks, settings, seed=0)
    moved = {name: [not all(map(torch.equal, one["before"], one["after"])) for one in steps if name in one["rows"]]
             for name in "ab"}  # fmt: skip
    assert not any(moved["a"]) and all(moved["b"]) and len(moved["a"]) > 3
    assert same(state(model.heads["a"]), head)


def test_the_head_of_a_task_with_a_rate_is_not_slowed_twice() -> None:
    tasks = pair()
    found = []
    for rates in ([1.0, 1.0], [0.5, 1.0]):
        model = model_of(tasks)
        run = trainer.TrainingRun(model, tasks, chosen(balance="mgda_ub", heads="tuned"))
        run.gradients.rates = rates
        taken = run.gradients.step([run.next_part(0), run.next_part(1)], 0, 0.0)
        assert taken.seen is not None
        found.append({n: p.grad.clone() for n, p in model.heads.named_parameters() if p.grad is not None})
    assert len(found[0]) == 4 and all(torch.allclose(g, found[1][n]) for n, g in found[0].items())


# Numbers without measure.


@pytest.mark.parametrize("weights", [[1e308, 1e308], [5e-324, 5e-324]])
def test_only_the_relation_of_weights_counts(weights: list[float]) -> None:
    tasks = pair()
    results = []
    for given in (weights, [1.0, 1.0]):
        model = model_of(tasks)
        train(model, tasks, chosen(balance="fixed", balance_settings={"weights": given}, keep="last"), seed=0)
        results.append(state(model))
    assert same(*results)


def test_rescaled_weights_sum_to_their_number() -> None:
    for scale in (1e-300, 1e-30, 1.0, 1e30, 1e300):
        made = rescaled(torch.tensor([1.0, -3.0], dtype=torch.float64) * scale)
        assert made.tolist() == pytest.approx([0.5, -1.5])
    assert rescaled(torch.zeros(2)).tolist() == [0.0, 0.0]


def test_a_sum_that_is_not_finite_is_no_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the balancer says: weights stay finite, tasks are counted, and ten such steps are an error."""
    tasks = pair()
    model = model_of(tasks)
    settings = chosen(balance="fixed", balance_settings={"weights": [1e38, 1e38]}, raw_scale=True, epochs=1)
    monkeypatch.setattr(trainer, "MOST_BAD", 1000)
    before = state(model)
    with torch.no_grad():
        for parameter in model.heads.parameters():
            parameter.mul_(100)
    course = train(model, tasks, settings, seed=0)
    assert course.skipped_of == {"a": 3, "b": 5} and course.skipped == 8
    assert same(state(model.encoder), {n.removeprefix("encoder."): t for n, t in before.items() if n[0] == "e"})
    monkeypatch.undo()
    with pytest.raises(AllroundError, match="ten times in a row"):
        train(model, tasks, replace(settings, epochs=9), seed=0)


def test_a_loss_after_the_step_that_is_not_finite_teaches_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        Gradients, "losses", lambda self, parts, tasks: torch.tensor([math.nan, *[1.0] * (len(tasks) - 1)])
    )
    tasks = pair()
    run = trainer.TrainingRun(model_of(tasks), tasks, chosen(balance="famo"))
    course = run.run()
    assert course.skipped == 0 and run.balancers[0].state["logits"].tolist() == [0.0, 0.0]


def test_a_bad_task_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """One loss is not finite, and another task's gradient is not, which is found out only in the sum."""

    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 4)

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = self.layer(x)
            if (x[:, 0] == 99).any():
                found = found * math.nan
            if (x[:, 0] == 98).any():
                found = found + (found - found.detach()).abs().sqrt()
            return found

    def constant(name: str, first: float) -> Task:
        made = [{**row, "a": first} for row in rows(8, 0)]
        return make_task(name, kind="classification", inputs=["a", "b"], target="y",
                         data={"train": made, "validation": rows(8, 1), "test": rows(8, 2)})  # fmt: skip

    tasks = [task("good", 8), constant("loss", 99.0), constant("gradient", 98.0)]
    course = train(model_of(tasks, Odd()), tasks, chosen(balance="mgda_ub", epochs=3), seed=0)
    assert course.skipped_of == {"good": 0, "loss": 3, "gradient": 3}


# What is left of a run.


class Counting(nn.Module):
    """Counts along (running means), and drops at random."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.first, self.norm, self.out = nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.out(nn.functional.dropout(torch.tanh(self.norm(self.first(x))), 0.3, self.training))
        return found


class Killed(Exception):
    """Stands for whatever ends a process."""


def killed(
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    settings: Settings,
    tasks: Sequence[Task],
    make: Callable[[], nn.Module],
) -> None:
    real = trainer.TrainingRun.one_step

    def one_step(run: Any) -> None:
        if run.schedule.step == 3:
            raise Killed
        real(run)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(unfinished, "SAVE_EVERY", 0.0)
        patch.setattr(trainer.TrainingRun, "one_step", one_step)
        train(model_of(tasks, make()), tasks, settings, seed=1, scratch=folder)


@pytest.mark.parametrize("values", [{}, {"flat": 0.05, "balance": "mgda"}, {"mix": "one", "accumulate": 2}], ids=str)
def test_running_means_go_on_after_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, values: dict[str, Any]
) -> None:
    tasks = pair()
    settings = chosen(heads="tuned", keep="last", learning_rate=0.02, **values)
    model = model_of(tasks, Counting())
    whole = train(model, tasks, settings, seed=1)
    killed(monkeypatch, tmp_path, settings, tasks, Counting)
    (tmp_path / ".training.pt.abc.pt").write_bytes(b"a save that was killed")
    again = model_of(tasks, Counting())
    course = train(again, tasks, settings, seed=1, scratch=tmp_path)
    assert same(state(again), state(model)) and whole.evaluations == course.evaluations
    assert list(tmp_path.iterdir()) == []


def test_the_best_state_has_its_running_means() -> None:
    tasks = pair()
    model = model_of(tasks, Counting())
    course = train(model, tasks, chosen(heads="tuned", learning_rate=0.5, epochs=6), seed=0)
    kept = next(e for e in course.evaluations if e["step"] == course.best_step)
    assert course.best_step != course.evaluations[-1]["step"], "the test is about something"
    for one in tasks:
        rules, held = likelihood(one.definition), one.splits["validation"]
        logits = model.outputs(one.name, held.inputs).logits
        assert float(rules.loss(logits, rules.tensor(held.targets))) == pytest.approx(kept["losses"][one.name])


@pytest.mark.parametrize(
    "changes",
    [{"epochs": 5}, {"mix": "one"}, {"heads": "tuned"}, {"balance": "uw"}, {"balance": "mgda", "flat": 0.1},
     {"optimiser": "sgd"}, {"sample": "uniform"}, {"batch_size": 4}, "seed", "rows", "tasks", "base", "head", "reader"],
    ids=str,
)  # fmt: skip
def test_unfinished_training_of_something_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: Any) -> None:
    """It is an error, and what was done is not touched; with the old arguments it still goes on."""
    tasks, settings = pair(), chosen()
    killed(monkeypatch, tmp_path, settings, tasks, Counting)
    kept = (tmp_path / "training.pt").read_bytes()
    others, network, seed = list(tasks), Counting(), 1
    new = replace(settings, **changes) if isinstance(changes, dict) else settings
    if changes == "seed":
        seed = 2
    elif changes == "rows":
        others[0] = task("a", 24, 50)
    elif changes == "tasks":
        others = others[:1]
    elif changes == "base":
        with torch.no_grad():
            network.first.bias[0] += 1e-3
    model = model_of(others, network)
    if changes == "head":
        with torch.no_grad():
            model.heads[others[0].name].bias[0] += 1e-3
    elif changes == "reader":
        model.encoder.reader = "another"
    with pytest.raises(AllroundError, match="other settings") as caught:
        train(model, others, new, seed=seed, scratch=tmp_path)
    assert str(tmp_path / "training.pt") in caught.value.asked
    assert (tmp_path / "training.pt").read_bytes() == kept
    train(model_of(tasks, Counting()), tasks, replace(settings, device="auto"), seed=1, scratch=tmp_path)


@pytest.mark.parametrize("damage", ["empty", "half", "end", "text", "other"])
def test_a_damaged_file_of_unfinished_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
    tasks, settings, path = pair(), chosen(), tmp_path / "training.pt"
    killed(monkeypatch, tmp_path, settings, tasks, Counting)
    whole = path.read_bytes()
    made = {"empty": b"", "half": whole[: len(whole) // 2], "end": whole[:-20], "text": b"hello" * 99}
    if damage == "other":
        torch.save([1], path)
    else:
        path.write_bytes(made[damage])
    with pytest.raises(AllroundError) as caught:
        train(model_of(tasks, Counting()), tasks, settings, seed=1, scratch=tmp_path)
    assert "remove" in caught.value.do and path.exists()
    path.unlink()
    assert train(model_of(tasks, Counting()), tasks, settings, seed=1, scratch=tmp_path).steps > 3


def test_parts_of_a_training_draw_what_the_whole_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a step holds several batches, so that a part may end a little later."""
    tasks = [task("a", 24), task("b", 40, 10), task("c", 9, 20)]
    drawn: list[tuple[str, tuple[int, ...]]] = []
    real = Gradients.step

    def step(self: Gradients, parts: Sequence[Part], *args: Any) -> StepResult:
        drawn.extend((part.feed.name, tuple(part.rows)) for part in parts)
        return real(self, parts, *args)

    monkeypatch.setattr(Gradients, "step", step)
    for mix in ("all", "2", "one"):
        found = []
        for cuts in ([0, 1], [0, 0.3, 0.35, 0.9, 1]):
            drawn.clear()
            for start, stop in itertools.pairwise(cuts):
                train(model_of(tasks), tasks, chosen(mix=mix, start=start, stop=stop, batch_size=4), seed=0)
            found.append(list(drawn))
        assert found[0] == found[1]


@pytest.mark.parametrize("balance", ["equal", "mgda", "graddrop", "rep_mtl", "autolambda", "famo"])
def test_nothing_piles_up_over_steps(balance: str) -> None:
    tasks = pair()
    gc.freeze()  # what was there before is not looked at
    try:
        run = trainer.TrainingRun(
            model_of(tasks), tasks, chosen(balance=balance, epochs=99, heads="tuned"), 0, None, None
        )
        run.evaluate()
        counts = []
        for _ in range(3):
            for _ in range(6):
                run.one_step()
            gc.collect()
            counts.append(sum(issubclass(type(o), Tensor) for o in gc.get_objects()))
    finally:
        gc.unfreeze()
    assert counts[0] > 10 and counts[1] == counts[2]


def test_no_gradient_is_left_over() -> None:
    tasks = pair()
    model = model_of(tasks)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 1e6)
    other = model_of(tasks)
    for one in (model, other):
        train(one, tasks[:1], chosen(heads="tuned"), seed=0)
    assert same(state(model), state(other)), "old gradients, also of other heads, play no part"
    assert all(p.grad is None for p in model.parameters())


# Bad input.


def fails(tasks: Sequence[Task], model: MultiTaskModel, match: str, **values: Any) -> None:
    with pytest.raises(AllroundError, match=match):
        train(model, tasks, chosen(**values), seed=0)


def test_tasks_that_cannot_be_trained() -> None:
    tasks = pair()
    fails([], model_of(tasks), "nothing to learn")
    fails([tasks[0], tasks[0]], model_of(tasks), "two tasks have that name")
    fails(tasks, model_of(tasks[:1]), "no head for it")
    for split in ("train", "validation"):
        empty = replace(tasks[0], splits={**tasks[0].splits, split: tasks[0].splits[split].take([])})
        fails([empty, tasks[1]], model_of(tasks), f"it has no {split} rows")


def test_an_encoder_without_weights() -> None:
    tasks = pair()
    fails(tasks, model_of(tasks, nn.Identity(), 2), "no weights, and heads are frozen")
    for balance in ("mgda", "graddrop", "mgda_ub"):
        words = "no weights that the tasks share are trained"
        fails(tasks, model_of(tasks, nn.Identity(), 2), words, heads="tuned", balance=balance)
    model = model_of(tasks, nn.Identity(), 2)
    course = train(model, tasks, chosen(heads="tuned", balance="uw", flat=0.1, epochs=4, learning_rate=0.1), seed=0)
    first, last = (course.evaluations[i]["losses"] for i in (0, -1))
    assert all(last[name] < first[name] for name in "ab")


BAG: list[Any] = [
    None, 5, -1, 0, "abc", "", [], {}, [1], [1, 2, 3], [math.nan] * 2, [math.inf, 1], [-1, 1], [0, 0], ["a", "b"],
    ["a"], ["nope"], {"a": 1}, {"nope": 1}, {"a": "x"}, {"a": None}, {"a": math.nan}, {1: 2}, True, math.nan,
    math.inf, 1e301, 10**400, [[1], [2]], [1e308, 1e308], [5e-324, 5e-324], {"a": 0, "b": 0}, (1, 2), {"a"},
    object(), 1j, b"x", 1.5,
]  # fmt: skip


@pytest.mark.parametrize("family", ["balance", "sample"])
def test_no_setting_of_a_method_is_a_riddle(family: str) -> None:
    """Whatever stands in it: it is taken, and gives finite numbers, or it is an error in three parts."""
    mixture = Mixture(("a", "b"), (30, 10), ("classification", "regression"))
    outline = Outline(("a", "b"), (2, 1), (30, 10), 100, 10)
    for name in registry.names(family):
        entry = registry.find(family, name)
        for parameter, value in ((p.name, value) for p in entry.parameters for value in BAG):
            what = f"{name} {parameter}={value!r}"
            try:
                entry.resolve({parameter: value})
                if family == "sample":
                    shares = make_policy(name, {parameter: value}, mixture).shares(0.0)
                    assert min(shares) >= 0 and sum(shares) == pytest.approx(1), what
                else:
                    everyone = make_balancer(name, {parameter: value}, outline).everyone()
                    assert everyone is None or bool(everyone.isfinite().all()), what
            except AllroundError as error:
                assert error.asked and error.found and error.do, what
            except AssertionError:
                raise
            except Exception as error:
                pytest.fail(f"{what}: {type(error).__name__}: {error}")


@pytest.mark.parametrize(
    "values",
    [{"balance_settings": {"rat": 1}, "balance": "uw"}, {"balance": "uww"}, {"balance": ""}, {"mix": "0"},
     {"mix": "-1"}, {"mix": "1.5"}, {"mix": "²"}, {"mix": 4}, {"sample": "two_stages"}, {"flat": -0.1},
     {"flat": math.nan}, {"flat": math.inf}, {"flat": True}, {"accumulate": 0}, {"accumulate": 1.5},
     {"batch_sizes": {"a": 0}}, {"batch_sizes": {"a": "8"}}, {"batch_sizes": {"a": True}},
     {"batch_sizes": {"a": math.nan}}, {"batch_sizes": [8]}, {"raw_scale": 1}, {"restore_heads": "yes"},
     {"start": 0.5, "stop": 0.5}, {"start": math.nan}, {"batch_size": 0}, {"task_rates": "a=1"}, {"clip": 0.0},
     {"balance": "equal", "balance_settings": {"weights": [1, 1]}}], ids=str
)  # fmt: skip
def test_settings_that_mean_nothing(values: dict[str, Any]) -> None:
    with pytest.raises(AllroundError):
        chosen(**values)


@pytest.mark.parametrize(
    ("values", "match"),
    [({"batch_sizes": {"nobody": 8}}, "no task, table or kind"), ({"task_rates": {"nobody": 1.0}}, "no such task"),
     ({"task_rates": {"a": -1.0}}, "not one number"), ({"task_rates": {"a": math.nan}}, "not one number"),
     ({"task_rates": {"a": "1"}}, "not one number"), ({"task_rates": {"a": True}}, "not one number"),
     ({"balance": "fixed", "balance_settings": {"weights": {"nobody": 1}}}, "no such task"),
     ({"balance": "fixed", "balance_settings": {"weights": [1, 2, 3]}}, "not one number"),
     ({"balance": "fixed", "balance_settings": {"weights": [0, 0]}}, "all weights are 0"),
     ({"balance": "fixed", "balance_settings": {"weights": [1, math.inf]}}, "not one number"),
     ({"sample": "two_stage", "sample_settings": {"high": ["nobody"]}}, "nothing of that name"),
     ({"sample": "two_stage", "sample_settings": {"high": 5}}, "no list of different names"),
     ({"sample": "curriculum", "sample_settings": {"order": ["a"]}}, "leaves out b"),
     ({"sample": "weighted", "sample_settings": {"weights": [1.0]}}, "not one positive number"),
     ({"sample": "smart", "sample_settings": {"budget": 0.01}}, "keep one at least"),
     ({"balance": "mgda_ub", "accumulate": 2}, "whole step"), ({"device": "tpu"}, "no such device")], ids=str
)  # fmt: skip
def test_settings_that_do_not_fit_the_tasks(values: dict[str, Any], match: str) -> None:
    tasks = pair()
    fails(tasks, model_of(tasks), match, **values)


# Odd data.


@pytest.mark.parametrize("balance", BALANCERS)
def test_one_row_one_task_and_others(balance: str) -> None:
    """A task with one row beside a larger one; then alone; batches larger than the data; few validation rows."""
    tasks = [task("a", 2, 0, held=1).limit({"train": 1}), task("b", 12, 10, held=3)]
    for chosen_tasks in (tasks, tasks[:1]):
        model = model_of(chosen_tasks)
        before = state(model.encoder)
        settings = chosen(balance=balance, batch_size=500, heads="tuned", keep="last", sample="uniform")
        course = train(model, chosen_tasks, settings, seed=0)
        assert course.examples["a"] == 2 and course.skipped == 0
        assert all(bool(t.isfinite().all()) for t in model.state_dict().values())
        assert not same(state(model.encoder), before)


def test_a_task_of_weight_0_has_no_say() -> None:
    tasks = pair()
    results = []
    for balance, values in (("fixed", {"weights": {"a": 0.0}}), ("fixed", {"weights": {"a": 0.0, "b": 7.0}})):
        model = model_of(tasks)
        head = state(model.heads["a"])
        settings = chosen(balance=balance, balance_settings=values, heads="tuned", keep="last", mix="one")
        train(model, tasks, settings, seed=0)
        assert same(state(model.heads["a"]), head)
        results.append(state(model))
    assert same(*results)


@pytest.mark.parametrize("name", ["heads", "encoder", "lora_a", "training", "a-b", "x" * 100])
def test_any_name_of_a_task_will_do(name: str) -> None:
    tasks = [task(name), task("b", 40, 10)]
    settings = chosen(heads="tuned", balance="mgda", restore_heads=True, batch_sizes={name: 4}, task_rates={name: 0.5})
    course = train(model_of(tasks), tasks, settings, seed=0)
    assert set(course.examples) == {name, "b"} and course.best_step >= 0


# Tables.


def labelled(missing: float = 0.5) -> list[Task]:
    """One table, three targets of three kinds, each of which about half of the rows lack."""
    draw = np.random.default_rng(0)

    def make(count: int) -> list[dict[str, Any]]:
        found = rows(count, count)
        for row in found:
            row["class"] = "yn"[int(row["a"] > 0)]
            row["number"] = row["a"] + row["b"]
            row["labels"] = [n for n in "ab" if row[n] > 0] or ["none"]
            for name in ("class", "number", "labels"):
                row[name] = None if draw.random() < missing else row[name]
        return found

    data = {"train": make(40), "validation": make(30), "test": make(20)}
    kinds = {"class": "classification", "number": "regression", "labels": "multilabel"}
    return [
        make_task(n, kind=k, inputs=["a", "b"], target=n, data=data, missing="drop", table="all")
        for n, k in kinds.items()
    ]


@pytest.mark.parametrize("accumulate", [1, 3, 50])
def test_losses_of_all_kinds_in_a_table(accumulate: int) -> None:
    """Each is the mean over its own labelled rows of the batch, in however many pieces."""
    tasks = labelled()
    model = model_of(tasks)
    run = trainer.TrainingRun(model, tasks, chosen(batch_size=16, accumulate=accumulate, heads="tuned"))
    assert [feed.name for feed in run.feeds] == ["all"] and run.feeds[0].tasks == (0, 1, 2)
    part = run.next_part(0)
    taken = run.gradients.step([part], 0, 0.0)
    assert taken.seen is not None
    for index, one in enumerate(tasks):
        places = [int(p) for p in part.feed.places[index][part.rows] if p >= 0]
        data, rules = one.splits["train"].take(places), likelihood(one.definition)
        by_hand = rules.loss(model.outputs(one.name, data.inputs).logits, rules.tensor(data.targets))
        assert float(taken.seen.losses[index]) == pytest.approx(float(by_hand), rel=1e-5)
        assert int(taken.seen.rows[index]) == len(places) < 16


@pytest.mark.parametrize("balance", ["equal", "uw", "mgda", "graddrop"])
def test_flat_steps_are_those_of_tasks_apart(balance: str) -> None:
    """Weights are moved while the graph of a table's other tasks waits: it must not notice."""
    found = []
    for table in ("all", None):
        tasks = [replace(t, table=table) for t in labelled()]
        model = model_of(tasks)
        run = trainer.TrainingRun(
            model, tasks, chosen(flat=0.1, balance=balance, batch_size=100, heads="tuned"), 0, None, None
        )
        run.gradients.step([run.next_part(i) for i in range(len(run.feeds))], 0, 0.0)
        found.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    assert set(found[0]) == set(found[1]) and len(found[0]) == 4 + 6
    for name, gradient in found[0].items():
        assert torch.allclose(gradient, found[1][name], rtol=1e-3, atol=1e-6), name


def test_patience_within_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stopped task is trained no more on the table's rows, the others are; when all are stopped, training ends."""
    tasks = labelled()
    real, growing = Validation.validate, iter(range(1, 999))

    def validate(run: Any, index: int) -> tuple[float, float]:
        return (0.5 if index == 0 else 0.1 * next(growing)), real(run, index)[1]

    monkeypatch.setattr(Validation, "validate", validate)
    model = model_of(tasks)
    course = train(model, tasks, chosen(patience=2, epochs=5, heads="tuned", optimiser="sgd"), seed=0)
    sizes = [len(t.splits["train"]) for t in tasks]
    number = tasks[1].definition
    assert course.examples["class"] == 2 * sizes[0] and course.examples["labels"] == 5 * sizes[2]
    assert number.metric == "pearson" or course.examples["number"] <= 5 * sizes[1]


def test_two_tables_and_two_ways_to_read_one(monkeypatch: pytest.MonkeyPatch) -> None:
    data = {"train": rows(24, 0), "validation": rows(8, 1), "test": rows(8, 2)}
    for split in data.values():
        for i, row in enumerate(split):
            row.update(z="pq"[i % 2], one=row["a"] * 2)

    def make(name: str, inputs: list[str], target: str, table: str) -> Task:
        return make_task(name, kind="classification", inputs=inputs, target=target, data=data, table=table)

    both = ["a", "b"]
    tasks = [make("t0", both, "y", "one"), make("t1", both, "z", "one"), make("t2", ["one", "b"], "y", "one"),
             make("t3", ["one", "b"], "z", "one"), make("t4", both, "y", "two"), make("t5", both, "z", "two"),
             make("t6", ["b", "a"], "z", "two")]  # fmt: skip
    model = model_of(tasks)
    feeds = make_feeds(tasks, model, batch_size=8, batch_sizes={"two": 5, "t3": 3}, seed=0)
    assert [feed.tasks for feed in feeds] == [(0, 1), (2, 3), (4, 5), (6,)]
    assert [feed.name for feed in feeds] == ["one", "t2+t3", "two", "t6"], "each has a name of its own"
    assert [feed.batch_size for feed in feeds] == [8, 3, 5, 5]
    course = train(
        model, tasks, chosen(balance="mgda", sample="two_stage", sample_settings={"high": ["t2+t3"]}), seed=0
    )
    assert course.steps > 0 and all(n > 0 for n in course.examples.values())


def test_validation_counts_each_task_alike() -> None:
    """The gradient that autolambda compares with is that of the mean over tasks, however many share a table."""
    tasks = labelled(0.0)
    found = []
    for table in ("all", None):
        apart = [replace(t, table=table) for t in tasks]
        run = trainer.TrainingRun(model_of(apart), apart, chosen(balance="autolambda", batch_size=100))
        held = [Part(f, f.batch(0), list(f.tasks), "validation") for f in run.held]
        found.append(torch.cat([g.reshape(-1) for g in run.gradients.task_gradients.validation(held) if g is not None]))
    assert torch.allclose(*found, rtol=1e-4, atol=1e-6)


class Idle:
    """A process that gets no row of a batch."""

    count, number = 1, 0

    def share(self, rows: Sequence[int]) -> list[int]:
        return []

    def add(self, tensor: Tensor) -> Tensor:
        return tensor

    def add_each(self, gradient: Sequence[Tensor | None], parameters: Sequence[Tensor]) -> list[Tensor | None]:
        return list(gradient)


@pytest.mark.parametrize("balance", BALANCERS)
def test_a_process_without_a_row(balance: str) -> None:
    tasks = pair()
    run = trainer.TrainingRun(model_of(tasks), tasks, chosen(balance=balance))
    run.gradients.processes = run.gradients.part_losses.processes = Idle()  # type: ignore[assignment]
    held = [Part(f, f.batch(0), list(f.tasks), "validation") for f in run.held]
    taken = run.gradients.step([run.next_part(0), run.next_part(1)], 0, 0.0, held)
    assert taken.bad == ()


# Texts.


def texts(folder: Path, suite: Suite, *names: str) -> tuple[MultiTaskModel, list[Task]]:
    tasks = [suite.tasks[n] for n in names]
    torch.manual_seed(0)
    model = MultiTaskModel(load_encoder(folder), {t.name: t.definition for t in tasks})
    for one in tasks:
        nn.init.normal_(model.heads[one.name].weight, std=0.3)
    return model, tasks


def test_smart_counts_rows_not_words(bert_folder: Path, text_suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tasks = texts(bert_folder, text_suite, "names", "mood")
    settings = chosen(sample="smart", sample_settings={"budget": 0.5}, epochs=1)
    run = trainer.TrainingRun(model, tasks, settings)
    assert sum(len(feed) for feed in run.feeds) == 24
    assert all(max(feed.use) < len(feed.rows) for feed in run.feeds if feed.use)
    model, tasks = texts(bert_folder, text_suite, "alike", "mood")
    fails(tasks, model, "features of 2 lengths", sample="smart")


@pytest.mark.parametrize("balance", ["uw", "graddrop", "rep_mtl"])
def test_words_and_sentences_in_one_step(bert_folder: Path, text_suite: Suite, balance: str) -> None:
    """A loss per word is the mean over words of the whole batch, beside one per sentence."""
    model, tasks = texts(bert_folder, text_suite, "names", "mood")
    run = trainer.TrainingRun(model, tasks, chosen(balance=balance))
    model.eval()
    parts = [run.next_part(0), run.next_part(1)]
    taken = run.gradients.step(parts, 0, 0.0)
    assert taken.seen is not None and taken.bad == ()
    for index, (one, part) in enumerate(zip(tasks, parts, strict=True)):
        data, rules = one.splits["train"].take(part.rows), likelihood(one.definition)
        targets = rules.tensor(data.targets)
        by_hand = rules.loss(model.outputs(one.name, data.inputs).logits, targets)
        assert float(taken.seen.losses[index]) == pytest.approx(float(by_hand), rel=1e-4)
        assert int(taken.seen.terms[index]) == len(targets)


def test_a_row_without_words_harms_no_batch(bert_folder: Path, text_suite: Suite) -> None:
    """Alone in its piece of a batch it has no loss, and the step is that of the other words."""
    model, (names,) = texts(bert_folder, text_suite, "names")
    names = copy.deepcopy(names)  # the suite is everybody's
    run = trainer.TrainingRun(model, [names], chosen(heads="tuned"))
    model.eval()
    feed: Feed = run.feeds[0]
    found = []
    for accumulate, picked in ((1, [1, 2]), (3, [1, 2, 0])):
        run.gradients.task_gradients.accumulate = accumulate
        if 0 in picked:
            feed.lengths[0] = 0
            feed.rows[0] = {**feed.rows[0], "words": []}
            names.splits["train"].targets[0] = names.splits["train"].targets[0][:0]
        taken = run.gradients.step([Part(feed, picked, [0])], 0, 0.0)
        assert taken.bad == ()
        found.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    assert all(torch.allclose(g, found[1][n], rtol=1e-3, atol=1e-6) for n, g in found[0].items())
