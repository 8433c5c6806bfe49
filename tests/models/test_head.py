"""Heads fitted on frozen features: as good as scikit-learn's, better than the floor."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from allround.models import fitting as module
from allround.models.base import load_encoder
from allround.models.encoder import Encoder, hash_tensors
from allround.models.encoders.module import Module
from allround.models.fitting import PENALTIES, Fitted, fit_head
from allround.models.running import features_of
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.kind import kind
from allround.tasks.make import make_task
from allround.tasks.metric import metric
from allround.tasks.suite import Suite
from allround.tasks.task import Task

COLUMNS = ("a", "b", "c", "d", "e")


class Same(nn.Module):
    """Gives back what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Parameter(torch.ones(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.one


def encoder() -> Encoder:
    return Module(Same(), dim=len(COLUMNS)).eval()


def task(kind_: str, answer: Any, rows: int = 150, noise: float = 1.0, **options: Any) -> Task:
    """Rows of five numbers on very different scales, and what `answer` makes of them."""
    draw = np.random.default_rng(0)
    x = draw.normal(size=(rows, 5))
    scales = np.array([1.0, 100.0, 0.01, 5.0, 1.0])
    made = [
        {
            **{c: float(v) for c, v in zip(COLUMNS, row * scales + 3, strict=True)},
            "y": answer(row, noise * draw.normal()),
        }
        for row in x
    ]
    data = {"train": made[:90], "validation": made[90:120], "test": made[120:]}
    return make_task("t", kind=kind_, inputs=COLUMNS, target="y", data=data, modality="table", **options)


def three_classes(x: Any, noise: float) -> str:
    return "abc"[int(np.digitize(x[0] + 0.5 * x[1] - x[2] + noise, [-0.8, 0.8]))]


def two_classes(x: Any, noise: float) -> str:
    return "yes" if x[0] - x[3] + noise > 0 else "no"


def number(x: Any, noise: float) -> float:
    return float(10 + 3 * x[0] - 2 * x[1] + noise)


def labels(x: Any, noise: float) -> list[str]:
    return [name for i, name in enumerate("pqr") if x[i] + 0.5 * noise > 0]


def standardised(one: Task, split: str) -> Any:
    """Features as `fit_head` sees them: mean 0 and standard deviation 1 (over n - 1) on the training rows."""
    train = np.array(one.splits["train"].inputs)
    return (np.array(one.splits[split].inputs) - train.mean(0)) / train.std(0, ddof=1)


def logits(fitted: Fitted, one: Task, split: str) -> Any:
    x = torch.tensor(one.splits[split].inputs, dtype=torch.float64)
    return (x @ fitted.state["weight"].double().T + fitted.state["bias"].double()).numpy()


@pytest.fixture(params=PENALTIES)
def penalty(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> float:
    monkeypatch.setattr(module, "PENALTIES", (request.param,))
    return float(request.param)


def alike(ours: Any, theirs: Any) -> bool:
    """Equal to a thousandth of the largest number: L-BFGS stops a little earlier in float32."""
    return bool(np.abs(ours - theirs).max() < 1e-3 * max(1.0, np.abs(theirs).max()))


# The head minimises mean loss + penalty / 2 * |W|^2, with W on standardised features and the bias free.


def test_three_classes_equal_scikit_learn(penalty: float) -> None:
    """LogisticRegression minimises C * sum CE + |W|^2 / 2; divided by C n that is ours, with C = 1 / (n penalty)."""
    from sklearn.linear_model import LogisticRegression

    one = task("classification", three_classes)
    fitted = fit_head(encoder(), one)
    x, y = standardised(one, "train"), one.splits["train"].targets
    theirs = LogisticRegression(C=1 / (len(x) * penalty), tol=1e-8, max_iter=10_000).fit(x, y)
    expected = theirs.decision_function(standardised(one, "test"))
    ours = logits(fitted, one, "test")
    # Logits are alike up to a constant in each row, which softmax does not see.
    assert alike(ours - ours.mean(1, keepdims=True), expected - expected.mean(1, keepdims=True))


def test_two_classes_equal_scikit_learn(penalty: float) -> None:
    """With two classes scikit-learn has one row v = w1 - w0. Ours has w1 = -w0 = v / 2 at the optimum, so its penalty
    is penalty / 2 * |v|^2 / 2, and C = 2 / (n penalty)."""
    from sklearn.linear_model import LogisticRegression

    one = task("classification", two_classes)
    ours = logits(fit_head(encoder(), one), one, "test")
    x, y = standardised(one, "train"), one.splits["train"].targets
    theirs = LogisticRegression(C=2 / (len(x) * penalty), tol=1e-8, max_iter=10_000).fit(x, y)
    assert alike(ours[:, 1] - ours[:, 0], theirs.decision_function(standardised(one, "test")))


def test_labels_equal_scikit_learn(penalty: float) -> None:
    """The loss is the mean over n rows and k labels, so for each label alone C = 1 / (n k penalty)."""
    from sklearn.linear_model import LogisticRegression

    one = task("multilabel", labels)
    ours = logits(fit_head(encoder(), one), one, "test")
    x, y = standardised(one, "train"), one.splits["train"].targets
    for label in range(3):
        theirs = LogisticRegression(C=1 / (len(x) * 3 * penalty), tol=1e-8, max_iter=10_000).fit(x, y[:, label])
        assert alike(ours[:, label], theirs.decision_function(standardised(one, "test")))


def test_a_number_equals_ridge(penalty: float) -> None:
    """Ridge minimises sum e^2 + alpha |w|^2; ours is mean e^2 / 2 + penalty / 2 |w|^2, so alpha = n penalty."""
    from sklearn.linear_model import Ridge

    one = task("regression", number)
    ours = logits(fit_head(encoder(), one), one, "test")[:, 0]
    x, y = standardised(one, "train"), one.splits["train"].targets
    theirs = Ridge(alpha=len(x) * penalty).fit(x, y)
    assert alike(ours, theirs.predict(standardised(one, "test")))


def test_the_penalty_is_chosen_on_validation() -> None:
    one = task("classification", three_classes)
    fitted = fit_head(encoder(), one)
    assert set(fitted.tried) == set(PENALTIES)
    best = max(fitted.tried.values())
    assert fitted.tried[fitted.chosen] == best
    assert fitted.chosen == max(p for p, s in fitted.tried.items() if s == best), "the larger one on a tie"
    predicted = logits(fitted, one, "validation").argmax(1)
    assert (predicted == one.splits["validation"].targets).mean() == best, "and the head is that one"


def test_a_metric_that_is_better_when_lower() -> None:
    fitted = fit_head(encoder(), task("regression", number, metric="rmse"))
    assert fitted.tried[fitted.chosen] == min(fitted.tried.values())


def test_the_test_split_is_not_looked_at() -> None:
    one = task("classification", three_classes)
    other = Task(one.definition, {**one.splits, "test": one.splits["train"]})
    assert torch.equal(fit_head(encoder(), one).state["weight"], fit_head(encoder(), other).state["weight"])


def beats_the_floor(network: Encoder, one: Task, at_least: float) -> None:
    before = hash_tensors(network)
    fitted = fit_head(network, one)
    assert hash_tensors(network) == before, "the encoder is frozen"
    model = MultiTaskModel(network, {})
    model.add_task(one.definition, fitted.state)
    rules, targets = kind(one.definition.kind), one.splits["test"].targets
    predicted = model.answers(one.name, one.splits["test"].inputs).predictions
    lengths = [len(t) for t in targets] if rules.per_token else []
    floor = rules.floor(one.splits["train"].targets, len(targets), lengths)
    scorer = metric(one.definition.metric)
    ours, trivial = (scorer.score(targets, p, one.definition) for p in (predicted, floor))
    assert ours > trivial + 0.1 and ours >= at_least


@pytest.mark.parametrize(
    ("kind_", "answer"),
    [
        ("classification", three_classes),
        ("classification", two_classes),
        ("regression", number),
        ("multilabel", labels),
    ],
    ids=["three classes", "two classes", "regression", "multilabel"],
)
def test_separable_data_beat_the_floor(kind_: str, answer: Any) -> None:
    beats_the_floor(encoder(), task(kind_, answer, noise=0.0), 0.9)


def test_words_beat_the_floor(bert_folder: Path, text_suite: Suite) -> None:
    """Tags that follow from the word, on a network with random weights."""
    beats_the_floor(load_encoder(bert_folder), text_suite.tasks["names"], 0.5)


def test_images_beat_the_floor(small_image: Encoder, digits_suite: Suite) -> None:
    beats_the_floor(small_image, digits_suite.tasks["ink"], 0.8)


def test_features_come_in_the_order_of_rows(bert_folder: Path, text_suite: Suite) -> None:
    network = load_encoder(bert_folder)
    for name in ("mood", "names"):
        one = text_suite.tasks[name]
        prepared = network.prepare(one.splits["train"].inputs, one.definition)
        whole = features_of(network, prepared, one.definition, batch_size=5)
        alone = [features_of(network, [p], one.definition).values for p in prepared]
        assert torch.allclose(whole.values, torch.cat(alone), atol=1e-4)
        assert whole.lengths == (tuple(len(a) for a in alone) if name == "names" else ())


def test_the_fit_is_the_same_each_time() -> None:
    one = task("classification", three_classes)
    first = fit_head(encoder(), one)
    torch.rand(3)
    again = fit_head(encoder(), one)
    assert torch.equal(first.state["weight"], again.state["weight"]) and torch.equal(
        first.state["bias"], again.state["bias"]
    )


def test_columns_that_never_change_do_no_harm() -> None:
    one = task("classification", two_classes)
    splits = {
        s: type(split)([(*row[:4], 7.0) for row in split.inputs], split.targets) for s, split in one.splits.items()
    }
    fitted = fit_head(encoder(), Task(one.definition, splits))
    assert torch.isfinite(fitted.state["weight"]).all() and torch.isfinite(fitted.state["bias"]).all()
    assert fitted.tried[fitted.chosen] > 0.6


def test_very_few_rows() -> None:
    """Two training rows, or one row with labels: nothing to standardise by."""
    draw = random.Random(0)
    rows = [{**{c: draw.random() for c in COLUMNS}, "y": ["a"] if i % 2 else ["a", "b"]} for i in range(4)]
    data = {"train": rows[:1], "validation": rows[1:3], "test": rows[2:]}
    one = make_task("t", kind="multilabel", inputs=COLUMNS, target="y", data=data, modality="table")
    fitted = fit_head(encoder(), one)
    assert torch.isfinite(fitted.state["weight"]).all() and torch.isfinite(fitted.state["bias"]).all()
