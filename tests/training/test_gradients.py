"""One step's gradient, for every balancer: what the plain sum would give, parts of batches, tasks that are not there or
not finite, heads, and several processes."""

from __future__ import annotations

import copy
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from allround.core import registry
from allround.core.errors import AllroundError
from allround.models.encoders.module import Module
from allround.models.encoders.small_table import SmallTable
from allround.models.likelihood import likelihood
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.make import make_task
from allround.tasks.suite import Suite
from allround.tasks.task import Task
from allround.training.balancing import Outline, make_balancer
from allround.training.feeds import make_feeds
from allround.training.gradients import Gradients, StepResult
from allround.training.losses import Part
from allround.training.processes import Processes
from allround.training.settings import Settings
from allround.training.trainer import train

BALANCERS = registry.names("balance")
#: Those that look at the features of a whole step at once.
BY_FEATURES = [n for n in BALANCERS if "features" in registry.find("balance", n).needs]


@pytest.fixture
def flowers(small_table: SmallTable, table_suite: Suite) -> tuple[MultiTaskModel, list[Task]]:
    tasks = list(table_suite.tasks.values())
    model = MultiTaskModel(copy.deepcopy(small_table), {t.name: t.definition for t in tasks})
    generator = torch.Generator().manual_seed(0)
    for task in tasks:
        weight = model.heads[task.name].weight
        weight.data.copy_(0.3 * torch.randn(weight.shape, generator=generator))
    return model, tasks


def outline(tasks: Sequence[Task]) -> Outline:
    outputs = tuple(likelihood(t.definition).outputs(t.definition) for t in tasks)
    return Outline(tuple(t.name for t in tasks), outputs, tuple(len(t.splits["train"]) for t in tasks), 100, 10)


def gradients_of(
    model: MultiTaskModel, tasks: Sequence[Task], balance: str = "equal", heads: bool = True, **options: Any
) -> Gradients:
    for name, p in model.named_parameters():
        p.requires_grad_(p.dtype.is_floating_point and (heads or not name.startswith("heads.")))
    settings = options.pop("settings", {})
    made = outline(tasks)
    return Gradients(
        model,
        tasks,
        registry.find("balance", balance),
        lambda: make_balancer(balance, settings, made),
        processes=Processes(cpu=True),
        products=nullcontext,
        **options,
    )


def parts_of(model: MultiTaskModel, tasks: Sequence[Task], rows: int = 10, split: str = "train") -> list[Part]:
    feeds = make_feeds(tasks, model, batch_size=rows, batch_sizes={}, seed=0, split=split)
    return [Part(feed, feed.batch(0), list(feed.tasks), split) for feed in feeds]


def grads(model: nn.Module) -> dict[str, Tensor]:
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def close(one: dict[str, Tensor], two: dict[str, Tensor], rtol: float = 1e-4, atol: float = 1e-6) -> bool:
    return set(one) == set(two) and all(torch.allclose(one[n], two[n], rtol=rtol, atol=atol) for n in one)


def plain(model: MultiTaskModel, tasks: Sequence[Task], part: Part, task: int) -> dict[str, Tensor]:
    """The gradient of one task's mean loss, the way everybody writes it."""
    model.zero_grad()
    about, rules = tasks[task].definition, likelihood(tasks[task].definition)
    places = [int(part.feed.places[task][i]) for i in part.rows if part.feed.places[task][i] >= 0]
    data = tasks[task].splits["train"].take(places)
    batch = model.encoder.batch(model.encoder.prepare(data.inputs, about), about)
    rules.loss(model(about.name, batch), rules.tensor(data.targets)).backward()
    return grads(model)


def settle(gradients: Gradients, parts: Sequence[Part], model: MultiTaskModel, steps: int = 3) -> StepResult:
    """A few steps without moving, so that what a balancer remembers plays its part too."""
    held = parts_of(model, gradients.tasks, 1000, "validation") if "validation" in gradients.needs else []
    for number in range(steps):
        taken = gradients.step(parts, number, number / 10, held)
        if taken.seen is not None and "after" in gradients.needs:
            after = gradients.losses(parts, taken.seen.tasks.tolist())
            gradients.balancers[0].stepped(taken.seen, after * torch.linspace(0.5, 0.9, len(after)))
    return taken


def test_equal_weights_are_the_mean_of_the_plain_gradients(flowers: Any) -> None:
    model, tasks = flowers
    parts = parts_of(model, tasks)
    own = [plain(model, tasks, part, i) for i, part in enumerate(parts)]
    taken = gradients_of(model, tasks).step(parts, 0, 0.0)
    for name, got in grads(model).items():
        expected = sum(g[name] for g in own if name in g) / len(tasks)
        assert torch.allclose(got, torch.as_tensor(expected), atol=1e-7), name
    assert taken.weights == (1.0,) * len(tasks) and taken.bad == ()
    assert gradients_of(model, tasks, raw_scale=True).step(parts, 0, 0.0).weights == taken.weights
    for name, got in grads(model).items():
        assert torch.allclose(got, torch.as_tensor(sum(g[name] for g in own if name in g)), atol=1e-6)


def test_fixed_weights_keep_their_relation_when_tasks_are_missing(flowers: Any) -> None:
    model, tasks = flowers
    parts = parts_of(model, tasks)
    weights = [1.0, 3.0, *[2.0] * (len(tasks) - 2)]
    gradients = gradients_of(model, tasks, "fixed", settings={"weights": weights})
    taken = gradients.step(parts[1:2], 0, 0.0)
    own = plain(model, tasks, parts[1], 1)
    gradients.step(parts[1:2], 0, 0.0)
    expected = 3.0 * len(tasks) / sum(weights)
    assert taken.weights == pytest.approx([expected])
    assert close(grads(model), {n: expected * g for n, g in own.items()})


@pytest.mark.parametrize("name", BALANCERS)
def test_every_balancer_gives_a_step(flowers: Any, name: str) -> None:
    model, tasks = flowers
    gradients = gradients_of(model, tasks, name)
    taken = settle(gradients, parts_of(model, tasks), model)
    assert taken.seen is not None and len(taken.weights) == len(tasks)
    found = grads(model)
    assert all(torch.isfinite(g).all() for g in found.values())
    assert any(g.abs().max() > 0 for n, g in found.items() if n.startswith("encoder"))
    if not gradients.raw:
        assert sum(map(abs, taken.weights)) == pytest.approx(len(tasks))


@pytest.mark.parametrize("name", [n for n in BALANCERS if n not in BY_FEATURES])
def test_a_batch_in_parts_gives_the_same(flowers: Any, name: str) -> None:
    model, tasks = flowers
    parts = parts_of(model, tasks, 11)
    found = []
    for accumulate in (1, 3):
        settle(gradients_of(model, tasks, name, accumulate=accumulate), parts, model)
        found.append(grads(model))
    assert close(*found, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", BY_FEATURES)
def test_who_looks_at_features_takes_no_parts(flowers: Any, name: str) -> None:
    model, tasks = flowers
    with pytest.raises(AllroundError, match="features of a whole step"):
        gradients_of(model, tasks, name, accumulate=2)


class Odd(nn.Module):
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


def odd_tasks(number: float) -> tuple[MultiTaskModel, list[Task]]:
    tasks = []
    for index, first in enumerate((0.0, number, 1.0)):
        rows = [{"a": first + (0 if first > 90 else i / 24), "b": (i + index) % 3, "y": "yn"[i % 2]} for i in range(24)]
        good = [{"a": i / 8, "b": i % 3, "y": "yn"[i % 2]} for i in range(8)]
        data = {"train": rows, "validation": good, "test": good}
        tasks.append(make_task(f"t{index}", kind="classification", inputs=["a", "b"], target="y", data=data))
    torch.manual_seed(0)
    model = MultiTaskModel(Module(Odd(), dim=4), {t.name: t.definition for t in tasks})
    for task in tasks:
        nn.init.normal_(model.heads[task.name].weight)
    return model, tasks


@pytest.mark.parametrize("number", [99.0, 98.0], ids=["loss", "gradient"])
@pytest.mark.parametrize("name", BALANCERS)
def test_a_task_that_is_not_finite_harms_no_other(name: str, number: float) -> None:
    """The step is that of the other two tasks, and the third is counted."""
    model, tasks = odd_tasks(number)
    parts = parts_of(model, tasks)
    taken = settle(gradients_of(model, tasks, name), parts, model)
    found = grads(model)
    assert taken.bad == (1,) and taken.seen is not None and taken.seen.tasks.tolist() == [0, 2]
    settle(gradients_of(model, tasks, name), [parts[0], parts[2]], model)
    assert close(found, grads(model), atol=1e-7)
    assert not [n for n in found if n.startswith("heads.t1")]


@pytest.mark.parametrize("name", BALANCERS)
def test_nothing_finite_is_no_step(name: str) -> None:
    model, tasks = odd_tasks(99.0)
    taken = gradients_of(model, tasks, name).step(parts_of(model, tasks)[1:2], 0, 0.0)
    assert taken.seen is None and taken.bad == (1,) and not grads(model)


@pytest.mark.parametrize("balance", ["uw", "mgda"])
def test_heads_follow_their_own_task(flowers: Any, balance: str) -> None:
    """With the task's weight where losses are weighed, without it where gradients of shared weights are."""
    model, tasks = flowers
    parts = parts_of(model, tasks)
    own = [plain(model, tasks, part, i) for i, part in enumerate(parts)]
    taken = settle(gradients_of(model, tasks, balance), parts, model)
    found = grads(model)
    for i, task in enumerate(tasks):
        name = f"heads.{task.name}.weight"
        weight = taken.weights[i] if balance == "uw" else 1.0
        assert torch.allclose(found[name], weight / len(tasks) * own[i][name], atol=1e-6)
    assert max(taken.weights) - min(taken.weights) > 1e-4, "the test is about something"


@pytest.mark.parametrize(
    ("name", "settings"), [("rep_mtl", {"tsr": 2.0, "csa": 3.0}), ("covariance", {"strength": 3.0})]
)
def test_a_penalty_is_added_to_the_sum_of_the_losses(flowers: Any, name: str, settings: dict[str, float]) -> None:
    """As in the papers: the trainer divides losses by the number of tasks, and so the penalty."""
    model, tasks = flowers
    parts = parts_of(model, tasks)
    gradients_of(model, tasks, name, settings=settings).step(parts, 0, 0.0)
    found = grads(model)
    model.zero_grad()
    features, losses = [], []
    for i, part in enumerate(parts):
        about, rules = tasks[i].definition, likelihood(tasks[i].definition)
        data = tasks[i].splits["train"].take([int(part.feed.places[i][row]) for row in part.rows])
        features.append(model.encoder(model.encoder.batch(model.encoder.prepare(data.inputs, about), about)).values)
        losses.append(rules.loss(model.heads[about.name](features[i]), rules.tensor(data.targets)))
    slopes = [torch.autograd.grad(loss, f, create_graph=True)[0] for loss, f in zip(losses, features, strict=True)]
    penalty = make_balancer(name, settings, outline(tasks)).penalty(features, slopes)
    assert penalty is not None
    ((torch.stack(losses).sum() + penalty) / len(tasks)).backward()
    assert close(found, grads(model))
    assert not close(found, plain(model, tasks, parts[0], 0)) and float(penalty.detach()) > 0.01


@pytest.mark.parametrize("balance", ["equal", "mgda", "pcgrad", "graddrop"])
def test_flat_regions_by_hand(flowers: Any, balance: str) -> None:
    """Loss parts g and flatness parts g_near - g, each aggregated on its own, and added (Phan et al., Algorithm 1)."""
    model, tasks = flowers
    parts, radius = parts_of(model, tasks), 0.05
    shared = [p for n, p in model.named_parameters() if n.startswith("encoder")]
    here, near = [], []
    for i, part in enumerate(parts):
        plain(model, tasks, part, i)
        g = [p.grad.clone() if p.grad is not None else torch.zeros_like(p) for p in shared]
        length = torch.cat([x.reshape(-1) for x in g]).norm()
        kept = [p.detach().clone() for p in shared]
        with torch.no_grad():
            for p, x in zip(shared, g, strict=True):
                p += radius * x / length
        plain(model, tasks, part, i)
        there = [p.grad.clone() if p.grad is not None else torch.zeros_like(p) for p in shared]
        with torch.no_grad():
            for p, k in zip(shared, kept, strict=True):
                p.copy_(k)
        here.append(torch.cat([x.reshape(-1) for x in g]))
        near.append(torch.cat([x.reshape(-1) for x in there]))
    j, f = torch.stack(here), torch.stack(near) - torch.stack(here)

    def aggregated(rows: Tensor) -> Tensor:
        if balance == "equal":
            return rows.mean(0)
        from torchjd.aggregation import MGDA, GradDrop, PCGrad

        torch.manual_seed(seed_of_step())
        if balance == "graddrop":
            return GradDrop()(rows) / len(rows)
        weighting = (MGDA() if balance == "mgda" else PCGrad()).gramian_weighting
        weights = weighting((rows @ rows.T).double())
        return (weights / weights.abs().sum()).float() @ rows

    expected = aggregated(j) + aggregated(f)
    before = [p.detach().clone() for p in shared]
    gradients_of(model, tasks, balance, flat=radius).step(parts, 0, 0.0)
    got = torch.cat([(p.grad if p.grad is not None else torch.zeros_like(p)).reshape(-1) for p in shared])
    assert torch.allclose(got, expected, rtol=1e-3, atol=1e-6)
    assert all(torch.equal(p, b) for p, b in zip(shared, before, strict=True)), "the weights are back where they were"
    assert (aggregated(f)).abs().max() > 1e-5, "the test is about something"


def seed_of_step() -> int:
    from allround.core.seeds import seed_of

    return seed_of(0, "balance", 0)


def test_rates_of_single_tasks(flowers: Any) -> None:
    """A step of one task has that task's rate; a mixed step has their mean, and their relation in the gradient."""
    model, tasks = flowers
    parts = parts_of(model, tasks)[:2]
    own = [plain(model, tasks, part, i) for i, part in enumerate(parts)]
    rates = [2.0, 0.5, *[1.0] * (len(tasks) - 2)]
    gradients = gradients_of(model, tasks, rates=rates)
    taken = gradients.step(parts[:1], 0, 0.0)
    assert taken.rate == 2.0 and close(grads(model), own[0])
    taken = gradients.step(parts, 0, 0.0)
    assert taken.rate == pytest.approx(1.25)
    for name, got in grads(model).items():
        if name.startswith("encoder"):
            expected = (2.0 * own[0][name] + 0.5 * own[1][name]) / 2 / 1.25
            assert torch.allclose(got, expected, atol=1e-6)


# One table, several targets.


def shop(rows: int = 40, seed: int = 0) -> dict[str, list[dict[str, Any]]]:
    """Clicks of all rows, and conversions of few: an empty cell for the others."""
    draw = np.random.default_rng(seed)

    def make(count: int) -> list[dict[str, Any]]:
        found = []
        for _ in range(count):
            a, b = draw.normal(size=2)
            converted = "yes" if b > 0 else "no"
            found.append({"a": a, "b": b, "click": "yes" if a > 0 else "no",
                          "conversion": converted if draw.random() < 0.25 else None})  # fmt: skip
        return found

    return {"train": make(rows), "validation": make(200), "test": make(20)}


def shop_tasks(table: str | None) -> list[Task]:
    return [
        make_task(t, kind="classification", inputs=["a", "b"], target=t, data=shop(), missing="drop", table=table)
        for t in ("click", "conversion")
    ]


def small(tasks: Sequence[Task]) -> SmallTable:
    """A small net for two columns of numbers."""
    return SmallTable(columns=[{"name": n, "mean": 0.0, "scale": 1.0} for n in "ab"], width=16)


def shop_model(tasks: Sequence[Task]) -> MultiTaskModel:
    torch.manual_seed(0)
    model = MultiTaskModel(small(tasks), {t.name: t.definition for t in tasks})
    for task in tasks:
        nn.init.normal_(model.heads[task.name].weight)
    return model


def test_losses_of_partial_labels_have_the_right_denominators() -> None:
    """By hand: each task's loss is the mean over its own labelled rows of the batch, not over all rows."""
    tasks = shop_tasks("shop")
    model = shop_model(tasks)
    (part,) = parts_of(model, tasks, 16)
    rows = shop()["train"]
    seen = gradients_of(model, tasks).step([part], 0, 0.0).seen
    assert seen is not None
    for index, task in enumerate(tasks):
        labelled = [i for i in part.rows if rows[i][task.name] is not None]
        logits = model.outputs(task.name, [(rows[i]["a"], rows[i]["b"]) for i in labelled]).logits.double()
        by_hand = 0.0
        for i, (no, yes) in zip(labelled, logits.tolist(), strict=True):
            right = yes if rows[i][task.name] == "yes" else no
            by_hand += float(np.log(np.exp(no) + np.exp(yes)) - right) / len(labelled)
        assert float(seen.losses[index]) == pytest.approx(by_hand, rel=1e-5)
        assert int(seen.rows[index]) == len(labelled)
    assert int(seen.rows[1]) < 8 <= 16 == int(seen.rows[0]), "the second label is rare"


@pytest.mark.parametrize("table", ["shop", None], ids=["one table", "two data sets"])
def test_mgda_ub_by_hand(table: str | None) -> None:
    """The shortest point between two gradients by the features: of all rows side by side where the rows are shared,
    else summed over each task's own rows."""
    data = {split: [{**row, "conversion": "yes" if row["a"] + row["b"] > 0 else "no"} for row in rows]
            for split, rows in shop().items()}  # fmt: skip
    tasks = [
        make_task(t, kind="classification", inputs=["a", "b"], target=t, data=data, table=table)
        for t in ("click", "conversion")
    ]
    model = shop_model(tasks)
    parts = parts_of(model, tasks, 16)
    taken = gradients_of(model, tasks, "mgda_ub").step(parts, 0, 0.0)
    slopes = []
    for index, task in enumerate(tasks):
        about, rules = task.definition, likelihood(task.definition)
        part = next(p for p in parts if index in p.tasks)
        rows = task.splits["train"].take([int(part.feed.places[index][row]) for row in part.rows])
        features = model.encoder(model.encoder.batch(model.encoder.prepare(rows.inputs, about), about)).values
        loss = rules.loss(model.heads[about.name](features), rules.tensor(rows.targets))
        (slope,) = torch.autograd.grad(loss, features)
        slopes.append(slope.double().flatten() if table else slope.double().sum(0))
    one, two = slopes
    share = float(((two - one) @ two / (two - one).square().sum()).clamp(0, 1))
    assert taken.weights == pytest.approx((2 * share, 2 - 2 * share), abs=1e-4)
    assert 0.02 < share < 0.98, "the test is about something"


# rep_mtl is not among them: it compares the tasks' saliencies row by row, where rows are the same.
@pytest.mark.parametrize("name", [n for n in BALANCERS if n != "rep_mtl"])
def test_one_table_or_two_data_sets_give_the_same_gradients(name: str) -> None:
    found = []
    for table in ("shop", None):
        tasks = shop_tasks(table)
        model = shop_model(tasks)
        parts = parts_of(model, tasks, 16)
        if table is None:
            (whole,) = parts_of(model, shop_tasks("shop"), 16)
            for index, part in enumerate(parts):
                places = whole.feed.places[index][whole.rows]
                parts[index] = Part(part.feed, [int(p) for p in places if p >= 0], [index])
        settle(gradients_of(model, tasks, name), parts, model, steps=2)
        found.append(grads(model))
    assert close(*found, rtol=1e-3, atol=1e-6)


def test_a_rare_label_is_missing_from_some_steps_and_learned_all_the_same() -> None:
    tasks = shop_tasks("shop")
    model = shop_model(tasks)
    settings = Settings(epochs=30, batch_size=4, learning_rate=0.02, heads="tuned", precision="fp32", balance="uw")
    course = train(model, tasks, settings, seed=0)
    conversions = len(tasks[1].splits["train"])
    assert course.examples == {"click": 30 * 40, "conversion": 30 * conversions} and conversions < 15
    assert course.steps == 30 * 10 and course.skipped == 0
    first, last = course.evaluations[0]["losses"], course.evaluations[-1]["losses"]
    assert all(last[t] < first[t] for t in first)


# Several processes.

SCRIPT = Path(__file__).with_name("two_processes.py")


def test_two_processes_give_what_one_gives(tmp_path: Path) -> None:
    """For balancers, ways to share and guards: two processes with half of each batch each, against one with all."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    base = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
            "ACCELERATE_USE_CPU": "true"}  # fmt: skip

    def start(number: int | None, out: Path) -> subprocess.Popen[str]:
        more = {} if number is None else {"RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": "2",
                                          "LOCAL_WORLD_SIZE": "2"}  # fmt: skip
        return subprocess.Popen([sys.executable, str(SCRIPT), str(out)], env={**base, **more}, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip

    running = [start(0, tmp_path / "first.pt"), start(1, tmp_path / "second.pt")]
    said = [process.communicate(timeout=240)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0], "\n".join(said)
    alone = start(None, tmp_path / "alone.pt")
    said = [alone.communicate(timeout=240)[0]]
    assert alone.returncode == 0, said[0]
    one, two, whole = (torch.load(tmp_path / f"{n}.pt") for n in ("first", "second", "alone"))
    sharing = {"share adapters", "share ple", "share sparse"}
    guards = {f"guard {name}" for name in registry.names("term") if name != "candidate_scores"}
    assert set(whole) == {*BALANCERS, "flat", "flat+pcgrad", "accumulate", "one", "table", *sharing, *guards}
    for name, expected in whole.items():
        assert one[name]["processes"] == 2 and expected["processes"] == 1
        for parameter, value in expected["weights"].items():
            assert torch.equal(one[name]["weights"][parameter], two[name]["weights"][parameter]), f"{name}: apart"
            moved = (value - expected["before"][parameter]).norm()
            off = (one[name]["weights"][parameter] - value).norm()
            most = 1e-6 * (1 + value.norm()) if name in sharing else 2e-3 * moved + 1e-6
            assert off <= most, f"{name}: {parameter} is off by {off:.2e}, moved by {moved:.2e}"
        assert any((v - expected["before"][n]).norm() > 1e-3 for n, v in expected["weights"].items()), name
        assert one[name]["losses"] == pytest.approx(expected["losses"], rel=1e-3), name


@pytest.mark.slow
def test_the_command_in_two_processes(tmp_path: Path) -> None:
    """`torchrun -m allround train`: one folder, written and spoken of once."""
    options = "--only parity,segments --limit train=60 --limit test=50 --epochs 1 --mix all --balance mgda --device cpu"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "allround",
               "train", "digits", *options.split(), "--out", str(tmp_path / "joint")]  # fmt: skip
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
                          capture_output=True, text=True, timeout=200, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(f"model   {tmp_path / 'joint'}") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["joint"]
