"""Estimators of transfer: the properties of each, and that a planted fault fails them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from allround.core import checking, registry
from allround.core.entry import Entry
from allround.core.errors import AllroundError
from allround.models.batch import Batch, Features
from allround.models.encoders.module import Module
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.kind import kind
from allround.tasks.make import make_task
from allround.tasks.suite import Suite
from allround.tasks.task import Split, Task
from allround.transfer.costs import Costs
from allround.transfer.estimating import estimate, estimates
from allround.transfer.headed_base import fit_linear, product_of
from allround.transfer.matrix import TaskMatrix, Values
from allround.transfer.task_rows import TaskRows, text_of
from allround.transfer.view import TransferView

NAMES = registry.names("estimate")
#: Each with its defaults, and with settings that change the formula.
SPELLED = (
    *NAMES,
    *(f"divergence:kind={kind}" for kind in ("coral", "js", "wasserstein")),
    "h_score:shrunk=false",
    "delta_overlap:keep=1.0",
    "gradient_cosine:rows=20",
    "tag_affinity:rows=20",
    "experts_retrieval:votes=true",
    "data_map:epochs=1",
)
COLUMNS = tuple("abcdef")
#: Three questions about the same sort of rows, of which the first two are nearly the same one; rows of another sort;
#: and a number, and several labels.
TASKS = ("east", "easterly", "north", "afar", "amount", "several")
Estimator = Callable[..., Values]


class Net(nn.Module):
    """Two layers whose features are near to the inputs."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 6)
        draw = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for layer in (self.first, self.last):
                layer.weight.copy_(
                    torch.eye(*layer.weight.shape) + 0.1 * torch.randn(layer.weight.shape, generator=draw)
                )
                layer.bias.zero_()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.last(torch.tanh(self.first(x)))
        return found


def task(name: str, rows: int = 40, change: Callable[[Values], Values] = lambda x: x) -> Task:
    draw = np.random.default_rng(TASKS.index(name) if name in TASKS else 99)
    x = draw.normal(size=(rows, 6)) + (name == "afar") * 3 * np.eye(6)[5]
    if name == "amount":
        y: Any = x[:, 0] + 0.1 * x[:, 2]
    elif name == "several":
        y = [[label for label, there in zip("pqr", row > 0.2, strict=True) if there] for row in x[:, :3]]
    else:
        way = {"east": [1, 0.0], "easterly": [1, 0.1], "north": [0, 1.0]}.get(name, [0.5, 0.5])
        y = np.where(x[:, :2] @ way > 0.2, "yes", np.where(x[:, 2] > 0.8, "maybe", "no")).tolist()
    data = [dict(zip(COLUMNS, row.tolist(), strict=True)) | {"y": target}
            for row, target in zip(change(x), y, strict=True)]  # fmt: skip
    sort = {"amount": "regression", "several": "multilabel"}.get(name, "classification")
    labels: Any = {"labels": {one: one for one in ("no", "maybe", "yes")}} if sort == "classification" else {}
    return make_task(name, kind=sort, inputs=COLUMNS, target="y", types=dict.fromkeys(COLUMNS, "number"),
                     data=dict.fromkeys(("train", "validation", "test"), data), **labels)  # fmt: skip


BASE = Module(Net(), dim=6)
SUITE = [task(name) for name in TASKS]


def specialist(one: Task, seed: int) -> MultiTaskModel:
    """A model of a task whose network was moved a little, by a step of its own."""
    network = Net()
    with torch.no_grad():
        for number, parameter in enumerate(network.parameters()):
            draw = torch.Generator().manual_seed(100 * seed + number)
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=draw))
    model = MultiTaskModel(Module(network, dim=6), {one.name: one.definition})
    view = TransferView.of([one], model.encoder)
    features = view.features(one.name)
    assert features is not None
    head = fit_linear(one.definition, torch.from_numpy(features).float(), one.splits["train"].targets)
    model.head(one.name).load_state_dict(head.state_dict())
    return model.eval()


MODELS = {one.name: specialist(one, 1 + number) for number, one in enumerate(SUITE)}
GAINS = np.where(np.eye(6, dtype=bool), np.nan, np.random.default_rng(7).normal(size=(6, 6)))
RUNS = TaskMatrix("gain", TASKS, TASKS, GAINS, kind="measured")


def view(tasks: list[Task] = SUITE, *, models: bool = False, **more: Any) -> TransferView:
    names = [one.name for one in tasks]
    given = {name: MODELS[name] for name in names} if models else None
    return TransferView.of(tasks, BASE, models=given, runs=RUNS.take(names, names), **more)


ODD_ORDER = [4, 2, 0, 5, 1, 3]


@cache
def known(what: str, models: bool) -> TransferView:
    """Views that all estimators are checked on: made once, as are the heads that are fitted for them."""
    if what == "turned":
        return view([replace(one, splits={"train": one.splits["train"].take(range(39, -1, -1))}) for one in SUITE],
                    models=models)  # fmt: skip
    if what == "other order":
        return view([SUITE[place] for place in ODD_ORDER], models=models)
    return view(models=models, batch_size=3 if what == "small batches" else 64)


@cache
def degenerate(models: bool) -> dict[str, TransferView]:
    """Views whose first task is an odd one."""
    east, amount = SUITE[0].splits["train"], SUITE[4].splits["train"]
    odd = {
        "one class": (0, east.take(np.flatnonzero(east.targets == east.targets[0]).tolist())),
        "no features": (0, Split([(0.0,) * 6] * 40, east.targets)),
        "two rows": (0, east.take([0, 1])),
        "one row": (0, east.take([0])),
        "one number": (4, Split(amount.inputs, np.zeros(40))),
    }
    return {what: view([replace(SUITE[place], splits={"train": split}), *SUITE[1:3]], models=models)
            for what, (place, split) in odd.items()}  # fmt: skip


def called(name: str) -> tuple[Estimator, Entry]:
    method, settings = registry.spelled("estimate", name)
    entry = registry.find("estimate", method)
    return partial(entry.load(), **settings), entry


def views(entry: Entry) -> list[bool]:
    """Whether there are specialists, in the views that an estimator is checked on."""
    return [True] if "models" in entry.needs else [False, True]


# -- the properties ----------------------------------------------------------------------------------------------------


def check_order_of_rows(run: Estimator, models: bool) -> None:
    same(run(known("plain", models)), run(known("turned", models)), 2e-3)


def check_order_of_tasks(run: Estimator, models: bool) -> None:
    same(run(known("plain", models))[np.ix_(ODD_ORDER, ODD_ORDER)], run(known("other order", models)), 1e-4)


def check_batch_size(run: Estimator, models: bool) -> None:
    same(run(known("plain", models)), run(known("small batches", models)), 1e-4)


def check_repeated(run: Estimator, models: bool) -> None:
    same(run(known("plain", models)), run(known("again", models)), 0)


def check_symmetric(run: Estimator, models: bool) -> None:
    found = run(known("plain", models))
    same(found, found.T, 1e-6)


def check_self_best(run: Estimator, models: bool, sign: int = 1) -> None:
    found = sign * run(known("plain", models))
    there = ~np.isnan(found.diagonal())
    assert there.any()
    best = np.where(np.isnan(found), -np.inf, found).max(0)
    assert (found.diagonal()[there] >= best[there] - 1e-5).all(), found


def check_degenerate(run: Estimator, models: bool) -> None:
    for what, seen in degenerate(models).items():
        with np.errstate(all="raise", under="ignore"):
            found = run(seen)
        assert found.shape == (3, 3), what
        assert not np.isinf(found).any(), what


def check_unread_splits(run: Estimator, models: bool, of: Callable[..., TransferView] = view) -> None:
    class Untouchable:
        def __getattr__(self, name: str) -> Any:
            raise AssertionError(f"{name} of a split that is not for training")

        def __len__(self) -> int:
            raise AssertionError("the length of a split that is not for training")

    closed: Any = Untouchable()
    guarded = [replace(one, splits={**one.splits, "validation": closed, "test": closed}) for one in SUITE]
    same(run(known("plain", models)), run(of(guarded, models=models)), 0)


def same(one: Values, other: Values, tolerance: float) -> None:
    np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance, equal_nan=True)


ALWAYS = (
    check_order_of_rows,
    check_order_of_tasks,
    check_batch_size,
    check_repeated,
    check_degenerate,
    check_unread_splits,
)


@pytest.mark.parametrize("name", SPELLED)
def test_each_has_the_properties(name: str) -> None:
    run, entry = called(name)
    for models in views(entry):
        for check in ALWAYS:
            check(run, models)
        assert not np.isnan(run(known("plain", models))).all(), "it knows some pair"
        if entry.facts["symmetric"]:
            check_symmetric(run, models)
        if entry.facts["self_best"]:
            check_self_best(run, models, 1 if entry.facts["better"] == "higher" else -1)


@pytest.mark.parametrize("name", NAMES)
def test_it_is_documented(name: str) -> None:
    names = {"np": np, "TransferView": TransferView}
    checking.documented(registry.find("estimate", name), parts=["Formula:"], parameters=True, names=names)


@pytest.mark.parametrize("name", NAMES)
def test_what_it_looks_at_is_what_it_says(name: str) -> None:
    """A view that has what the estimator needs, and nothing else, is enough."""
    run, entry = called(name)
    needs = set(entry.needs)
    made = TransferView.of(
        SUITE,
        BASE if needs & {"features", "heads", "gradients"} else None,
        models=MODELS if "models" in needs else None,
        runs=RUNS if "runs" in needs else None,
    )
    assert not np.isnan(run(made)).all()


def _first_row(seen: TransferView) -> Values:
    return seen.between(lambda s, t: float(s[0] @ t[0]), seen.common)


def _batch_mean_squared(seen: TransferView) -> Values:
    """The fault of squaring the mean over a batch: it depends on the batch's size."""

    def squares(name: str) -> Values | None:
        x = seen.common(name)
        if x is None:
            return None
        size = seen.batch_size
        parts = [x[start : start + size].mean(0) ** 2 for start in range(0, len(x), size)]
        return np.asarray(np.stack(parts).mean(0))

    return seen.between(lambda s, t: float(s @ t), squares)


def _drawn(seen: TransferView) -> Values:
    return np.random.default_rng().normal(size=(len(seen.sources), len(seen.targets)))


def _one_way(seen: TransferView) -> Values:
    return seen.table(lambda s, t: float(s[:, 0].var() / t[:, 0].var()), lambda s, t: (seen.common(s), seen.common(t)))


def _upside_down(seen: TransferView) -> Values:
    return -called("text_embedding")[0](seen)


def _by_place(seen: TransferView) -> Values:
    return np.arange(len(seen.sources))[:, None] * np.ones(len(seen.targets))


def _raw(seen: TransferView) -> Values:
    return seen.between(lambda s, t: float(1 / (s.std() * t.std())), seen.common)


@pytest.mark.parametrize(
    ("fault", "check"),
    [
        (_first_row, check_order_of_rows),
        (_batch_mean_squared, check_batch_size),
        (_drawn, check_repeated),
        (_one_way, check_symmetric),
        (_upside_down, check_self_best),
        (_by_place, check_order_of_tasks),
        (_raw, check_degenerate),
    ],
)
def test_a_planted_fault_fails(fault: Estimator, check: Callable[[Estimator, bool], None]) -> None:
    with pytest.raises((AssertionError, ArithmeticError)):
        check(fault, False)


def test_a_look_at_the_test_rows_is_found() -> None:
    def peeking(tasks: list[Task], **more: Any) -> TransferView:
        return view([replace(one, splits={"train": one.splits["test"]}) for one in tasks], **more)

    with pytest.raises(AssertionError, match="not for training"):
        check_unread_splits(called("sizes")[0], False, peeking)


# -- the view ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        n
        for n in NAMES
        if {"labels", "gradients"} & (needs := set(registry.find("estimate", n).needs)) and "models" not in needs
    ],
)
def test_related_questions_are_found(name: str) -> None:
    """`easterly` is a better source for `east` than `north` is, for every estimator that looks at labels."""
    assert estimate(name, known("plain", False)).take(TASKS[:3], TASKS[:3]).best("east")[0] == "easterly"


def test_a_seed_decides_which_rows_are_looked_at() -> None:
    one, again, other = (view(SUITE[:2], limit=9, seed=seed).rows["east"].inputs for seed in (1, 1, 2))
    assert one == again != other


def test_what_a_view_says_of_rows() -> None:
    made = view()
    assert made.size("east") == 40 and text_of(made.definition("east")) == "east. maybe, no, yes"
    classes, columns = made.classes("east"), made.columns("east")
    assert classes is not None and columns is not None
    assert np.array_equal(columns.argmax(1), classes) and (columns.sum(1) == 1).all()
    assert made.classes("amount") is None and made.classes("several") is None
    amount, several = made.columns("amount"), made.columns("several")
    assert amount is not None and amount.shape == (40, 1) and abs(amount.mean()) < 1e-12
    assert amount.std() == pytest.approx(1)
    assert several is not None and several.shape == (40, 3) and set(np.unique(several)) == {0.0, 1.0}
    assert made.described("east") is None, "the base reads no texts"
    assert made.probabilities("several", "east") is None and made.probabilities("amount", "east") is None
    found = made.probabilities("east", "north")
    assert found is not None and found.shape == (40, 3) and np.allclose(found.sum(1), 1, atol=1e-5)


def test_a_limit_keeps_the_size_and_each_class() -> None:
    made = TransferView.of(SUITE, BASE, limit=5, seed=1)
    assert made.size("east") == 40
    classes = made.classes("east")
    assert classes is not None and len(classes) == 5 and set(classes) == {0, 1, 2}


def test_specialists_without_rows_are_sources() -> None:
    made = TransferView.of(SUITE[:1], models={"north": MODELS["north"]}, sources=["north"])
    assert made.has == {"rows", "labels", "models", "heads"}
    found = estimate("logme", made)
    assert (found.sources, found.targets) == (("north",), ("east",)) and np.isfinite(found.values).all()
    left = estimates(made)
    assert "logme" in [one.name for one in left.matrices]
    assert left.left_out["text_embedding"] == "it needs features of a base"
    assert left.left_out["sizes"] == "it knows nothing of any pair of these tasks"


def test_what_a_view_cannot_do_is_said() -> None:
    with pytest.raises(AllroundError, match="it needs features of a base, and there are none"):
        estimate("text_embedding", TransferView.of(SUITE))
    with pytest.raises(AllroundError, match="no training rows of it"):
        TransferView.of(SUITE, BASE, targets=["easst"])
    two = MultiTaskModel(BASE, {one.name: one.definition for one in SUITE[:2]})
    with pytest.raises(AllroundError, match="has 2 tasks and cannot tell which one is meant"):
        TransferView.of(SUITE, BASE, models={"north": two})
    with pytest.raises(AllroundError, match="did you mean 'logme'"):
        estimates(view(), ["logm"])
    with pytest.raises(AllroundError, match="there is no such vector"):
        estimate("text_embedding:of=labels", view())


def test_tasks_that_the_base_cannot_read_stay_unknown() -> None:
    class Picky(Module):
        def check(self, definition: Any) -> None:
            if definition.name == "north":
                raise AllroundError("read", "it does not face north", "turn")

    made = TransferView.of(SUITE, Picky(Net(), dim=6))
    found = estimate("text_embedding", made)
    assert np.isnan(found.take(["north"]).values).all() and made.unread == {"north": "it does not face north"}
    assert np.isfinite(found.value("east", "afar"))


def test_an_encoder_runs_once_for_all_estimators() -> None:
    seen: list[str | None] = []

    class Counting(Module):
        def forward(self, batch: Batch) -> Features:
            seen.append(batch.task)
            return super().forward(batch)

    made = TransferView.of(SUITE[:3], Counting(Net(), dim=6))
    found = estimates(made, ["text_embedding", "logme", "text_embedding:of=rows"])
    assert sorted(map(str, seen)) == ["east", "easterly", "north"]
    first, _, again = found.matrices
    assert again.seconds > 0.2 * first.seconds, "the time of the features counts for each"


def test_time_is_counted_with_what_is_used() -> None:
    import time

    costs = Costs()

    def slowly(seconds: float) -> int:
        time.sleep(seconds)
        return 1

    def base() -> int:
        return costs.once("base", lambda: slowly(0.05))

    def head() -> int:
        return costs.once("head", lambda: slowly(0.02) + base())

    assert costs.timed(head)[1] == pytest.approx(0.07, abs=0.03)
    assert costs.timed(head)[1] == pytest.approx(0.07, abs=0.03), "made already, and counted all the same"
    assert costs.timed(base)[1] == pytest.approx(0.05, abs=0.03)
    assert costs.timed(lambda: 1)[1] < 0.01


# -- gradients and weights ---------------------------------------------------------------------------------------------


def test_gradients_are_those_of_the_loss() -> None:
    """The change of each loss by a small step is the inner product of two gradients."""
    base = view(SUITE[:3]).headed(30)
    one, other, before = base.gradient("east"), base.gradient("north"), base.loss("north")
    with base.moved(one, 1e-4):
        assert before - base.loss("north") == pytest.approx(1e-4 * product_of(one, other), rel=0.05)
        assert len(base.rows["north"].inputs) == 30
    assert base.loss("north") == before


def test_fewer_rows_are_the_same_in_any_order() -> None:
    rows, turned = (known(what, False).rows["several"] for what in ("plain", "turned"))
    one, other = rows.some(7), turned.some(7)
    assert one.inputs == other.inputs and np.array_equal(one.targets, other.targets) and len(one.inputs) == 7
    assert set(one.inputs) < set(rows.inputs) and rows.some(40) is rows and one.size == 40


def test_a_step_for_a_task_lowers_its_own_loss() -> None:
    found = called("tag_affinity")[0](known("plain", False))
    assert (found.diagonal() > 0).all()
    assert found[1, 0] > found[2, 0], "a step for `easterly` helps `east` more than one for `north`"


def test_the_base_stays_as_it_is() -> None:
    before = {name: value.clone() for name, value in BASE.state_dict().items()}
    estimates(view(models=True))
    assert all(torch.equal(value, before[name]) for name, value in BASE.state_dict().items())
    assert all(parameter.requires_grad for parameter in BASE.parameters())


def test_changes_are_compared_by_hand() -> None:
    """Specialists that moved the base's first layer by (1, 0), (1, 1) and not at all, and one of another base."""

    def moved(steps: list[float]) -> MultiTaskModel:
        network = Net()
        with torch.no_grad():
            for place, step in enumerate(steps):
                network.first.bias[place] += step
        return MultiTaskModel(Module(network, dim=6), {"t": SUITE[0].definition})

    other = MultiTaskModel(Module(nn.Linear(6, 6), dim=6), {"t": SUITE[0].definition})
    models = {"a": moved([1, 0]), "b": moved([1, 1]), "c": moved([0, 0]), "d": other}
    rows = {name: view().rows["east"] for name in models}
    made = TransferView(rows, BASE, models=models)
    found = estimate("delta_cosine", made)
    assert found.value("a", "b") == pytest.approx(np.sqrt(0.5), abs=1e-6)
    assert estimate("delta_overlap:keep=0.25", made).value("a", "b") == pytest.approx(np.sqrt(0.5), abs=1e-6)
    assert np.isnan(found.value("a", "c")) and np.isnan(found.value("a", "d"))
    with pytest.raises(AllroundError, match="the share must be above 0"):
        estimate("delta_overlap:keep=0", made)


def test_popularity_looks_at_nothing_measured_of_the_target() -> None:
    made, run = view(), called("popularity")[0]
    turned = TransferView(made.rows, runs=RUNS.mapped(lambda gains: np.where(np.arange(6) == 2, -9, gains)))
    assert np.array_equal(run(made)[:, 2], run(turned)[:, 2], equal_nan=True)
    new = TransferView({**made.rows, "new": made.rows["east"]}, runs=RUNS, targets=["new"])
    assert run(new)[0, 0] == pytest.approx(np.nanmean(GAINS[0])) and np.isnan(run(new)[-1, 0])


def test_a_suite_is_a_view_in_one_line(text_suite: Suite, bert_folder: Any) -> None:
    """Pairs and words too: the pairs' features are the mean of both texts, and each word counts."""
    from allround.models.base import load_encoder

    made = TransferView.of(text_suite, load_encoder(bert_folder), limit=12)
    alike, names = made.common("alike"), made.common("names")
    whole = made.features("alike")
    assert alike is not None and whole is not None and names is not None
    assert alike.shape == (12, 32) and whole.shape == (12, 128)
    words = sum(map(len, made.rows["names"].targets))
    classes = made.classes("names")
    assert names.shape == (words, 32) and classes is not None and classes.shape == (words,)
    for name in ("text_embedding", "text_embedding:of=description", "logme", "gradient_cosine", "tag_affinity",
                 "taskemb", "attribution", "experts_retrieval"):  # fmt: skip
        assert np.isfinite(estimate(name, made).values[~np.eye(5, dtype=bool)]).all(), name
    answered = [one for one in made.sources if made.classes(one) is not None]
    for name in ("fute", "data_map"):
        found = estimate(name, made).take(answered, answered).values
        assert np.isfinite(found[~np.eye(len(answered), dtype=bool)]).all(), name
    assert "names" in answered and "alike" in answered
    assert kind(made.definition("names").kind).per_token


def test_rows_of_which_only_numbers_are_known() -> None:
    rows = {"a": TaskRows(SUITE[0].definition, [], [], 10), "b": TaskRows(SUITE[0].definition, [], [], 20)}
    assert estimate("sizes", TransferView(rows)).best("a") == ["b"]
