"""Trees of an encoder's stages: how they are found, what is computed and what is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from allround.core.errors import AllroundError
from allround.models.base import load_encoder
from allround.models.batch import Batch
from allround.models.encoder import Encoder
from allround.models.encoders.sharing import Sharing
from allround.models.encoders.small_table import SmallTable
from allround.models.share import trees
from allround.models.share.cka import debiased_cka
from allround.models.share.plan import Branching
from allround.models.share.tree import FoundTree
from allround.models.share.trees import ChosenTree, GrownTree, make_tree
from allround.training.sharing import plan_of

TASKS = ("a", "b", "c")


def scales(*numbers: float) -> list[nn.Module]:
    """Stages that multiply by a number."""
    made: list[nn.Module] = []
    for number in numbers:
        stage = nn.Linear(1, 1, bias=False)
        nn.init.constant_(stage.weight, number)
        made.append(stage)
    return made


def set_scale(stage: nn.Module, number: float) -> None:
    assert isinstance(stage, nn.Linear)
    nn.init.constant_(stage.weight, number)


def chosen() -> ChosenTree:
    """Two stages with two copies: 2 and 3, then 10 and 20."""
    tree = ChosenTree(Branching("choice", copies=2, shared=0.1, until=0.6), scales(2.0, 10.0), TASKS)
    tree.progressed(0.1)
    set_scale(tree.copy_of(0, 1), 3.0)
    set_scale(tree.copy_of(1, 1), 20.0)
    with torch.no_grad():
        tree.logits[0].copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))  # the first copy reads the first
        tree.logits[1].copy_(torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]))
    return tree


def through(tree: nn.Module, *tasks: str) -> list[float]:
    return [float(values.detach()) for values in tree(torch.ones(1, 1), tasks or TASKS).values()]


def test_tasks_go_through_the_most_probable_copies_in_evaluation_and_at_the_end_of_training() -> None:
    tree = chosen().eval()
    assert through(tree) == [60.0, 20.0, 60.0]
    assert tree.lines() == ["stage 1: {a, c}, {b}", "stage 2: {a, c}, {b}"]
    tree.train()
    tree.progressed(0.6)
    assert through(tree) == [60.0, 20.0, 60.0]
    tree(torch.ones(1, 1), TASKS)["a"].sum().backward()
    assert all(logits.grad is None for logits in tree.logits)


def test_at_first_all_share_one_copy_that_the_others_begin_as() -> None:
    tree = ChosenTree(Branching("choice", copies=2, shared=0.1), scales(2.0, 10.0), TASKS).train()
    tree.progressed(0.05)
    tree(torch.ones(1, 1), TASKS)["a"].sum().backward()
    assert all(p.grad is None for p in tree.parameters()), "the copies and the choices wait"
    set_scale(tree.copy_of(0, 0), 7.0)
    tree.progressed(0.1)
    assert [float(tree.copy_of(0, n).weight.detach()) for n in (0, 1)] == [7.0, 7.0]  # type: ignore[arg-type]
    assert through(tree) == pytest.approx([70.0] * 3)
    set_scale(tree.copy_of(0, 1), 3.0)
    tree.progressed(0.15)
    assert float(tree.copy_of(0, 1).weight.detach()) == 3.0, "it happens once"  # type: ignore[arg-type]


def test_choices_begin_with_a_prior_for_the_encoders_own_stages() -> None:
    tree = ChosenTree(Branching("choice", copies=3, prior=1.5), scales(2.0, 10.0), TASKS)
    assert [logits.tolist() for logits in tree.logits] == [[[1.5, 0.0, 0.0]] * 3] * 2


def test_then_choices_are_drawn_at_a_temperature_that_falls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is drawn in evaluation: LibMTL draws there too."""
    tree, seen = chosen().train(), []
    kept = F.gumbel_softmax

    def watch(logits: Tensor, tau: float) -> Tensor:
        seen.append((tau, kept(logits, tau=tau)))
        return seen[-1][1]

    monkeypatch.setattr(trees.F, "gumbel_softmax", watch)
    torch.manual_seed(0)
    tree.progressed(0.35)
    found = through(tree)
    assert [tau for tau, _ in seen] == [pytest.approx((2.0 * 0.5) ** 0.5)] * 2
    (_, copies), (_, tasks) = seen
    read = copies @ torch.tensor([2.0, 3.0])
    assert found == pytest.approx((tasks @ (read * torch.tensor([10.0, 20.0]))).tolist())
    tree.progressed(0.1)
    through(tree)
    assert seen[-1][0] == pytest.approx(2.0)
    (tree(torch.ones(1, 1), ["a"])["a"] ** 2).sum().backward()
    assert tree.logits[1].grad is not None and tree.logits[1].grad[0].any() and not tree.logits[1].grad[1:].any()
    assert all(tree.copy_of(1, n).weight.grad.any() for n in (0, 1)), "all copies learn"  # type: ignore[union-attr]
    seen.clear()
    assert through(tree.eval()) == [60.0, 20.0, 60.0] and not seen


def test_the_tree_that_is_found_has_the_copies_in_use_alone() -> None:
    tree = chosen().eval()
    with torch.no_grad():
        tree.logits[1][1] = torch.tensor([0.0, 1.0])  # now nobody goes through the first copies
    found = tree.found()
    assert [len(some) for some in found.copies] == [0, 0] and through(found) == [60.0] * 3
    assert found.lines() == ["stage 1: {a, b, c}", "stage 2: {a, b, c}"]
    two = chosen().eval().found()
    assert [len(some) for some in two.copies] == [1, 1] and through(two) == [60.0, 20.0, 60.0]
    two.add_tasks(["d"])
    assert through(two, "d", "b") == [60.0, 20.0]


def test_similarity_is_the_debiased_one() -> None:
    """By doubly centred products without their diagonal (Szekely and Rizzo, 2014), another form of the estimate."""
    generator = np.random.default_rng(0)
    a, b = generator.normal(size=(9, 4)), generator.normal(size=(9, 2))
    b[:, 0] += a[:, 0]

    def centred(values: np.ndarray) -> np.ndarray:
        n, k = len(values), values @ values.T
        np.fill_diagonal(k, 0)
        made = k - k.sum(0) / (n - 2) - k.sum(1)[:, None] / (n - 2) + k.sum() / ((n - 1) * (n - 2))
        np.fill_diagonal(made, 0)
        return made

    one, two = centred(a), centred(b)
    expected = (one * two).sum() / np.sqrt((one * one).sum() * (two * two).sum())
    assert float(debiased_cka(torch.tensor(a), torch.tensor(b))) == pytest.approx(expected)
    assert float(debiased_cka(torch.tensor(a), torch.ones(9, 2, dtype=torch.float64))) == 0.0


def grown(**settings: Any) -> tuple[GrownTree, Tensor]:
    """Copies of a and b give the same but for a scale, and those of c other things; at the second stage all agree."""
    torch.manual_seed(0)
    plan = Branching("similarity", until=0.6, threshold=0.9, rows=40, **{"align": 0.0, "distil": 0, **settings})
    tree = GrownTree(plan, [nn.Linear(6, 2), nn.Linear(2, 2)], TASKS)
    with torch.no_grad():
        for task, scale in enumerate((1.0, 3.0, 1.0)):
            weight = torch.zeros(2, 6)
            weight[:, 2 * (task == 2) : 2 * (task == 2) + 2] = scale * torch.eye(2)
            tree.copy_of(0, task).load_state_dict({"weight": weight, "bias": torch.full((2,), scale)})
    return tree.train(), torch.randn(64, 6)


def test_copies_that_give_the_same_become_their_mean() -> None:
    tree, rows = grown()
    tree(rows, TASKS)
    tree.progressed(0.14)
    assert tree.lines()[0] == "stage 1: {a}, {b}, {c}", "a stage is compared when its share of the training is over"
    tree.progressed(0.15)  # a quarter of 0.6: the first of two phases is the square of a half
    assert tree.lines() == ["stage 1: {a, b}, {c}", "stage 2: {a}, {b}, {c}"]
    mean = tree.copy_of(0, 0).state_dict()
    assert mean["bias"].tolist() == [2.0, 2.0] and mean["weight"][:, :2].tolist() == [[2.0, 0.0], [0.0, 2.0]]
    tree.progressed(0.59)
    assert tree.lines()[1] == "stage 2: {a}, {b}, {c}"
    # Each copy of the second stage reads what its own tasks gave: c is not joined, though its copy is the same.
    tree.progressed(0.6)
    assert tree.lines()[1] == "stage 2: {a, b}, {c}"
    assert [len(some) for some in tree.found().copies] == [1, 1]


def test_copies_are_drawn_together_before_they_are_compared() -> None:
    """What a task's copy gives is compared with its siblings' on the same rows: 1 - CKA, in the mean."""
    tree, rows = grown(align=0.5)
    given = [tree.copy_of(0, n)(rows).detach() for n in range(3)]
    alike = [float(debiased_cka(given[0], given[n])) for n in (1, 2)]
    tree(rows, ["a", "c"])
    apart = tree.penalty("a")
    assert apart is not None and float(apart.detach()) == pytest.approx(0.5 * (1 - sum(alike) / 2), abs=1e-6)
    assert alike[0] > 0.99 and alike[1] < 0.1
    apart.backward()
    moved = [tree.copy_of(0, n).weight.grad is not None for n in range(3)]
    assert moved == [True, False, False], "the others wait for rows of their own tasks"
    assert tree.penalty("a") is None and tree.penalty("b") is None
    tree.progressed(0.15)
    tree(rows, ["a", "b", "c"])
    found = [float(tree.penalty(task).detach()) for task in TASKS]  # type: ignore[union-attr]
    # In the second stage a and b have copies of their own, which are the same; c has no sibling there.
    assert found[:2] == pytest.approx([0.0, 0.0], abs=1e-6) and found[2] == 0.0
    tree(rows[:3], ["a"])
    assert tree.penalty("a") is None, "three rows have no similarity"
    tree.progressed(0.6)
    tree(rows, TASKS)
    assert tree.penalty("a") is None, "the tree is found"


def test_where_nothing_varies_similarity_has_no_gradient() -> None:
    values = torch.ones(6, 2, requires_grad=True)
    debiased_cka(values, torch.randn(6, 2)).backward()
    assert values.grad is not None and not values.grad.any()


def test_the_joint_copy_learns_what_its_members_gave() -> None:
    """The mean of two separately trained stages gives neither's values; by gates it may scale channels for each."""
    torch.manual_seed(0)
    rows, stages = torch.randn(64, 3, 4, 4), [nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU()) for _ in range(3)]
    stages[1].load_state_dict(stages[0].state_dict())
    with torch.no_grad():
        given = [stage(rows) for stage in stages[:2]]
    before = F.mse_loss(stages[2](rows), given[0]).item()
    seed = torch.get_rng_state()
    trees.distil(stages[2], rows, given, 0)
    assert F.mse_loss(stages[2](rows), given[0]).item() == before
    torch.set_rng_state(seed)
    trees.distil(stages[2], rows, given, 40)
    assert F.mse_loss(stages[2](rows), given[0]).item() < 0.6 * before
    assert all(p.grad is None for p in stages[2].parameters())


def test_a_group_needs_as_much_in_the_mean() -> None:
    similar = torch.tensor([[1.0, 0.95, 0.6], [0.95, 1.0, 0.9], [0.6, 0.9, 1.0]])
    assert trees.groups_of(similar, 0.8) == [[0, 1], [2]]  # the mean of c to the two is 0.75
    assert trees.groups_of(similar, 0.75) == [[0, 1, 2]]
    assert trees.groups_of(similar, 0.99) == [[0], [1], [2]]


@pytest.mark.parametrize(("name", "seed", "steps"), [("learning_to_branch", 3, 1250), ("mtsl", 4, 1000)])
def test_the_tree_of_planted_groups_is_found(name: str, seed: int, steps: int) -> None:
    """Two labels, each with its opposite: tasks of one label belong together.

    Of five seeds (2 to 6) two find it so with the first preset, which joins all tasks with one other and parts "b" from
    "not b" with two; of four (2 to 5) three with the second one, which leaves all tasks apart with the other.
    """
    plan = plan_of(name).tree
    assert plan is not None
    torch.manual_seed(seed)
    inputs = torch.randn(400, 6)
    labels = {"a": inputs[:, 0] * inputs[:, 1] > 0, "b": inputs[:, 2] * inputs[:, 3] > 0}
    labels |= {"not a": ~labels["a"], "not b": ~labels["b"]}
    stages = [nn.Sequential(nn.Linear(6, 16), nn.ReLU()), nn.Sequential(nn.Linear(16, 8), nn.ReLU())]
    tree = make_tree(plan, stages, list(labels))
    heads = nn.ModuleList([nn.Linear(8, 1) for _ in labels])
    known = {id(p) for p in tree.choices()}
    rest = [p for m in (tree, heads, *stages) for p in m.parameters() if id(p) not in known]
    groups = [{"params": rest, "lr": 1e-2}, *([{"params": tree.choices(), "lr": 0.1}] if known else [])]
    optimiser = torch.optim.Adam(groups)
    for step in range(151):  # until the tree is found
        tree.train()
        tree.progressed(step / steps)
        rows = torch.randint(400, (64,))
        found = tree(inputs[rows], list(labels))
        losses = [
            F.binary_cross_entropy_with_logits(head(found[task])[:, 0], labels[task][rows].float())
            for task, head in zip(labels, heads, strict=True)
        ]
        optimiser.zero_grad()
        torch.stack(losses).sum().backward()
        optimiser.step()
    last = tree.eval().found().lines()[-1]
    assert last == "stage 2: {a, not a}, {b, not b}"


# -- encoders ----------------------------------------------------------------------------------------------------------


def test_stages_make_the_features_of_an_encoder(small_image: Encoder) -> None:
    columns = [{"name": "x", "mean": 0.0, "scale": 1.0}, {"name": "y", "categories": ["u", "v"]}]
    table = SmallTable(columns=columns, width=8, dropout=0.3, depth=3).eval()
    images = Batch({"images": torch.rand(3, 1, 8, 8)}, 3)
    for encoder, batch, count in ((small_image, images, 3), (table, Batch({"rows": torch.randn(5, 4)}, 5), 3)):
        values, stages = encoder.entering(batch), encoder.stages()
        assert len(stages) == count
        for stage in stages:
            values = stage.eval()(values)
        with torch.inference_mode():
            assert torch.equal(encoder.leaving(batch, values).values, encoder(batch).values)
    dropped = [m.p for stage in table.stages() for m in stage.modules() if isinstance(m, nn.Dropout)]
    assert dropped == [0.3] * 3


def test_an_encoder_without_stages_is_an_error(bert_folder: Path) -> None:
    encoder = load_encoder(bert_folder)
    with pytest.raises(AllroundError, match="it is no sequence of stages"):
        Sharing(encoder, plan_of("mtsl"), [TASKS], [encoder.features])  # type: ignore[list-item]


def test_a_found_tree_is_saved_without_the_copies_that_nobody_uses(small_image: Encoder, tmp_path: Path) -> None:
    from copy import deepcopy

    encoder = Sharing(deepcopy(small_image), plan_of("learning_to_branch"), [TASKS], [128])
    assert isinstance(encoder.branches, ChosenTree)
    with torch.no_grad():
        for parameter in encoder.branches.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
        for logits, best in zip(encoder.branches.logits, ([1, 1, 2], [2, 2, 2], [0, 0, 1]), strict=True):
            logits.copy_(F.one_hot(torch.tensor(best), 3))
    batch = Batch({"images": torch.rand(2, 1, 8, 8)}, 2, rows=dict.fromkeys(TASKS, (0, 1)))
    with torch.inference_mode():
        before = encoder.eval()(batch).values
        encoder.progressed(1.0)
        encoder.save(tmp_path)
        back = load_encoder(tmp_path).eval()
        assert torch.equal(encoder(batch).values, before) and torch.equal(back(batch).values, before)
    assert isinstance(back, Sharing) and isinstance(back.branches, FoundTree)
    # All go through the third copy of the first two stages; then a and b through the first, c through the second.
    assert back.tree() == ["stage 1: {a, b, c}", "stage 2: {a, b, c}", "stage 3: {a, b}, {c}"]
    stored = sum(p.numel() for p in back.parameters())
    last = sum(p.numel() for p in small_image.stages()[-1].parameters())
    assert stored == sum(p.numel() for p in small_image.parameters()) + last
