"""Prompts of four levels, the keys that tell arrivals, and the part for rows of none of them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from allround.continual.grow.hierarchy import Hierarchy, pool_loss
from allround.continual.learner import begin
from allround.continual.parts import UNSEEN
from allround.continual.select.boundaries import Boundaries, key_loss
from allround.continual.selecting import RowView
from allround.continual.strategy import strategy_of
from allround.continual.stream import Arrival, renamed
from allround.core.errors import AllroundError
from allround.models.base import load_encoder
from allround.models.encoders.prompted import Assembly, Levels, Prompted, chosen
from allround.models.running import features_of
from allround.tasks.suite import Suite
from allround.training.settings import Settings

QUICK = Settings(epochs=1, batch_size=16, learning_rate=1e-3, device="cpu", precision="fp32")
SMALL = {"general": 1, "format": 1, "task": 2, "meta": 1, "pool": 4, "chosen": 2}


def test_meta_prompts_are_near_the_query_and_unlike_each_other() -> None:
    """By hand: cosines with (1, 0) are 1, 0.96, 0.6, 0. After key 0, key 1 has 0.6 x 0.96 - 0.4 x 0.96 = 0.192, key 2
    0.6 x 0.6 - 0.4 x 0.6 = 0.12 and key 3 0; after key 1 too, key 2 has 0.36 - 0.4 x 0.8 = 0.04 and key 3
    -0.4 x 0.28 = -0.112. A query that is longer takes the same."""
    keys = torch.tensor([[1.0, 0.0], [0.96, 0.28], [0.6, 0.8], [0.0, 1.0]])
    assert chosen(torch.tensor([[1.0, 0.0], [5.0, 0.0]]), keys, 3).tolist() == [[0, 1, 2]] * 2
    twins = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.8, -0.6]])  # 0.6 - 0.4 and 0.48 - 0.32 beside key 0
    assert chosen(torch.tensor([[1.0, 0.0]]), twins, 2).tolist() == [[0, 1]]
    # Turned by 0.6, the twin has 0.48 - 0.4 = 0.08, and the key (0, 1) 0.36 - 0: the near one is not the next.
    turned = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    assert chosen(torch.tensor([[0.8, 0.6]]), turned, 2).tolist() == [[0, 2]]
    assert chosen(torch.tensor([[1.0, 0.0]]), twins, 9).shape == (1, 3)


def test_the_losses_of_keys_are_those_of_the_formulas() -> None:
    """By hand, for key (1, 0): queries at cosines 1 and 0.6; the nearest negative is at 0.8, the other at -1."""
    key, queries = torch.tensor([2.0, 0.0]), torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    negatives = torch.tensor([[0.8, 0.6], [-1.0, 0.0]])
    assert float(key_loss(queries, key, negatives)) == pytest.approx((np.exp(0.8) + np.exp(1.2)) / 2, rel=1e-6)
    assert float(key_loss(queries, key, negatives[1:])) == pytest.approx((1 + np.exp(0.4)) / 2, rel=1e-6)
    assert float(key_loss(queries, key, negatives[:0])) == pytest.approx((1 + np.exp(0.4)) / 2, rel=1e-6)
    # Two keys of three are 0.96 alike, 0.11 above the margin, and counted in both orders; cosines taken: 1 and 0.96.
    keys = torch.tensor([[1.0, 0.0], [0.96, 0.28], [0.0, -1.0]])
    assert float(pool_loss(queries[:1], keys, 2)) == pytest.approx(1 - 0.98 + 2 * 0.11 / 3, abs=1e-6)


def test_a_row_reads_four_prompts_one_behind_the_other() -> None:
    """Vectors of two numbers, all named by hand."""
    made = Assembly(Levels(general=1, format=1, task=2, meta=1, pool=3, chosen=2), 2)
    made.of |= {"a": ("classification", "a"), "b": ("regression", "b"), "c": ("classification", "one"),
                "d": ("classification", "one")}  # fmt: skip
    made.add_tasks(["a", "b", "c", "d"])
    with torch.no_grad():
        made.general.vectors.fill_(1)
        made.formats["classification"].vectors.fill_(2)  # type: ignore[operator, union-attr]
        made.formats["regression"].vectors.fill_(3)  # type: ignore[operator, union-attr]
        for number, name in enumerate(("a", "b", "one")):
            made.banks[name].vectors.fill_(4 + number)  # type: ignore[operator, union-attr]
        made.meta.vectors.copy_(torch.tensor([7.0, 8.0, 9.0])[:, None, None].expand(3, 1, 2))
        made.get_buffer("keys").copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]))
    queries = torch.tensor([[3.0, 1.0], [-1.0, 3.0]])
    wanted = {"a": [[1, 2, 4, 4, 7, 8], [1, 2, 4, 4, 8, 9]], "b": [[1, 3, 5, 5, 7, 8], [1, 3, 5, 5, 8, 9]],
              "d": [[1, 2, 6, 6, 7, 8], [1, 2, 6, 6, 8, 9]]}  # fmt: skip
    for task, rows in wanted.items():
        found = made.mixed(queries, task).reshape(2, 6, 2)
        assert torch.equal(found[..., 0], found[..., 1]) and found[..., 0].tolist() == rows, task
    assert list(made.own("a")) == ["banks.a.vectors"] and not made.own("c"), "two tasks share a prompt"


def test_queries_are_those_of_the_network_without_prompts(bert_folder: Path, text_suite: Suite) -> None:
    """Means of the last states, also while dropout is on; prompts are read behind them."""
    mood = text_suite["mood"]
    rows, plain = mood.splits["test"].inputs[:5], load_encoder(bert_folder)
    torch.manual_seed(0)
    encoder = Prompted(load_encoder(bert_folder), Levels(**SMALL)).eval()
    encoder.add_as("mood", "classification", "mood")
    batch = encoder.batch(encoder.prepare(rows, mood.definition), mood.definition)
    with torch.no_grad():
        wanted = plain.eval()(plain.batch(plain.prepare(rows, mood.definition), mood.definition)).values
        before = encoder(batch).values
        # The tiny encoder gives the mean over pieces.
        assert torch.allclose(F.normalize(encoder.frame.query), F.normalize(wanted), atol=1e-5)
        assert not torch.allclose(before, wanted, atol=1e-3)
        encoder.train()(batch)
        assert torch.allclose(F.normalize(encoder.frame.query), F.normalize(wanted), atol=1e-5)
        assert encoder.inner.backbone.training
        encoder.eval().assembly.formats["classification"].vectors.add_(1)  # type: ignore[operator, union-attr]
        assert not torch.allclose(encoder(batch).values, before, atol=1e-3)


def test_a_row_beyond_the_boundary_of_the_nearest_key_is_unseen() -> None:
    """By hand: distances to the nearest key are 0, 0.29 and 0.2; the keys' boundaries are 0.1 and 0.5."""
    select = Boundaries()
    select.state = {"key 0": torch.tensor([1.0, 0.0]), "boundary 0": torch.tensor(0.1),
                    "key 2": torch.tensor([0.0, 1.0]), "boundary 2": torch.tensor(0.5)}  # fmt: skip
    parts = [SimpleNamespace(arrival=0), SimpleNamespace(arrival=UNSEEN), SimpleNamespace(arrival=1)]
    view: Any = SimpleNamespace(parts=(0, 1, 2), system=SimpleNamespace(parts=parts),
                                base=torch.tensor([[2.0, 0.0], [1.0, 0.99], [0.6, 0.8]]))  # fmt: skip
    weights = select.scores(view).softmax(1)
    assert torch.allclose(weights, torch.eye(3)[[0, 1, 2]], atol=1e-6)


def test_keys_turn_away_from_rows_of_others_and_hold_their_own_inside() -> None:
    generator = torch.Generator().manual_seed(0)
    own, others = (F.normalize(torch.tensor(mean) + 0.1 * torch.randn(40, 3, generator=generator), dim=1)
                   for mean in ([1.0, 0.2, 0.0], [1.0, -0.6, 0.0]))  # fmt: skip
    select = Boundaries(inside=0.75)
    select.fit({0: own, 1: others})
    key, mean = select.state["key 0"], F.normalize(own.mean(0), dim=0)
    assert key_loss(own, key, others) < key_loss(own, mean, others) - 0.01
    assert (others @ key).max() < (others @ mean).max()
    assert ((1 - own @ key) <= select.state["boundary 0"]).float().mean() == pytest.approx(0.75)


def test_arrivals_learn_prompts_in_front_of_a_base_that_stays(bert_folder: Path, text_suite: Suite) -> None:
    mood, plain = text_suite["mood"], load_encoder(bert_folder)
    plan = strategy_of("diana", SMALL)
    learner = begin(load_encoder(bert_folder), plan)
    assert isinstance(learner, Hierarchy)
    first, second = (Arrival(name, (mood,)) for name in ("one", "two"))
    learner.learn(first, plan, QUICK)
    encoder = learner.grown.bodies[0].encoder
    assert isinstance(encoder, Prompted)
    before = {name: p.detach().clone() for name, p in encoder.assembly.named_parameters()}
    learner.learn(second, plan, QUICK)
    after = dict(encoder.assembly.named_parameters())
    assert {part.name: part.arrival for part in learner.grown.parts} == {
        "mood-0": 0,
        "mood-1": 1,
        "mood-unseen": UNSEEN,
    }
    for name in ("general", "formats.classification", "meta", "banks.mood-0", "banks.unseen classification"):
        assert not torch.equal(before[f"{name}.vectors"], after[f"{name}.vectors"]), name
    assert "banks.mood-1.vectors" in after and "banks.mood-1.vectors" not in before
    rows = mood.splits["test"].inputs
    wanted = features_of(plain, plain.prepare(rows, mood.definition), mood.definition).values
    view = RowView(learner.grown, "mood", rows, learner.grown.parts_of("mood"))
    assert torch.allclose(view.base, wanted, atol=1e-5), "the base is as it was"
    state = learner.grown.select.state
    assert set(state) == {f"{what} {part}" for part in (1, 2) for what in ("key", "boundary")}, "of arrivals alone"


def test_tasks_without_single_labels_have_no_part_for_the_unseen(bert_folder: Path, text_suite: Suite) -> None:
    plan = strategy_of("diana", SMALL)
    learner = begin(load_encoder(bert_folder), plan)
    learner.learn(Arrival("one", (text_suite["warmth"], renamed(text_suite["warmth"], "again"))), plan, QUICK)
    assert isinstance(learner, Hierarchy)
    assert [part.name for part in learner.grown.parts] == ["warmth-0", "again-0"]


def test_what_cannot_be_put_together_is_said(small_image: Any, digits_suite: Suite, bert_folder: Path) -> None:
    with pytest.raises(AllroundError, match="5 of 3 are chosen"):
        begin(load_encoder(bert_folder), strategy_of("diana", {"pool": 3}))
    with pytest.raises(AllroundError, match="inside is 0"):
        begin(load_encoder(bert_folder), strategy_of("diana", {"inside": 0.0}))
    plan = strategy_of("diana")
    with pytest.raises(AllroundError, match="no part that embeds a sequence"):
        begin(small_image, plan).learn(Arrival("one", (digits_suite["digit"],)), plan, QUICK)
