"""Shrinking networks: scores by hand, removal that changes only what it must, and ways that keep to the share."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from allround.core import registry
from allround.core.errors import AllroundError
from allround.models.base import load_encoder
from allround.models.encoder import Encoder
from allround.models.encoders.small_image import SmallImage
from allround.models.encoders.small_table import SmallTable
from allround.models.fitting import fit_head
from allround.models.shrink.pagcp import order, within
from allround.models.shrinking.anatomy import LAYERS, Anatomy, Group, Kept, cut
from allround.models.shrinking.choosing import choose
from allround.models.shrinking.importance import combined, contributions, highest, taylor
from allround.models.shrinking.study import Study, norms_of, study
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.suite import Suite
from allround.tasks.task import Task


@pytest.fixture(scope="module")
def deep(hf_folder: Path) -> Encoder:
    """A BERT of four layers with more units than it is wide, and no two layers alike."""
    from transformers import BertConfig, BertModel

    encoder = load_encoder(hf_folder)
    width = int(encoder.backbone.config.hidden_size)  # type: ignore[union-attr, arg-type]
    torch.manual_seed(0)
    config = BertConfig(vocab_size=encoder.backbone.config.vocab_size, hidden_size=width, num_hidden_layers=4,  # type: ignore[union-attr]
                        num_attention_heads=2, intermediate_size=4 * width, max_position_embeddings=64)  # fmt: skip
    encoder.pipeline[0].model = BertModel(config)  # type: ignore[operator, union-attr, index]
    return encoder.eval()


@pytest.fixture(scope="module")
def text_tasks(text_suite: Suite) -> list[Task]:
    return [task for task in text_suite.tasks.values() if task.definition.kind == "classification"][:2]


@pytest.fixture(scope="module")
def text_model(deep: Encoder, text_tasks: list[Task]) -> MultiTaskModel:
    return model_of(deep, text_tasks)


@pytest.fixture(scope="module")
def image_tasks(digits_suite: Suite) -> list[Task]:
    return list(digits_suite.tasks.values())[:2]


@pytest.fixture(scope="module")
def image_model(small_image: SmallImage, image_tasks: list[Task]) -> MultiTaskModel:
    return model_of(small_image, image_tasks)


@pytest.fixture(scope="module")
def table_model(small_table: SmallTable, table_suite: Suite) -> MultiTaskModel:
    return model_of(small_table, list(table_suite.tasks.values()))


def model_of(encoder: Encoder, tasks: Sequence[Task]) -> MultiTaskModel:
    made = MultiTaskModel(copy.deepcopy(encoder), {})
    for task in tasks:
        made.add_task(task.definition, fit_head(made.encoder, task).state)
    return made.eval()


@pytest.fixture(scope="module")
def studies(
    text_model: MultiTaskModel, image_model: MultiTaskModel, table_model: MultiTaskModel, text_tasks: list[Task],
    image_tasks: list[Task], table_suite: Suite,
) -> dict[str, Study]:  # fmt: skip
    tables = list(table_suite.tasks.values())
    return {"text": study(text_model, text_tasks, rows=24), "image": study(image_model, image_tasks, rows=24),
            "table": study(table_model, tables, rows=24)}  # fmt: skip


def features(encoder: Encoder, task: Task, rows: int = 6) -> torch.Tensor:
    with torch.no_grad():
        prepared = encoder.prepare(task.splits["train"].inputs[:rows], task.definition)
        found: torch.Tensor = encoder(encoder.batch(prepared, task.definition)).values
    return found


# Scores, by hand.


def test_what_parts_contribute_by_hand() -> None:
    """Two rows, two positions, two parts of one entry: sums over positions of value * gradient."""
    values = torch.tensor([[[1.0, 2.0], [3.0, 0.0]], [[0.0, 1.0], [1.0, 1.0]]]).unsqueeze(-1)
    gradients = torch.tensor([[[2.0, -1.0], [1.0, 5.0]], [[9.0, 1.0], [-1.0, -3.0]]]).unsqueeze(-1)
    found = contributions(values, gradients)
    assert found.tolist() == [[5.0, -2.0], [-1.0, -2.0]]
    assert taylor(found).tolist() == [3.0, 2.0]


def test_every_task_counts_by_hand() -> None:
    """Lengths 5 and 10: shares (.6, .8, 0) and (0, .6, .8)."""
    scores = torch.tensor([[3.0, 4.0, 0.0], [0.0, 6.0, 8.0]])
    assert torch.allclose(combined(scores, "max"), torch.tensor([0.6, 0.8, 0.8]))
    assert torch.allclose(combined(scores, "mean"), torch.tensor([0.3, 0.7, 0.4]))
    assert torch.allclose(combined(scores * torch.tensor([[1000.0], [1.0]])), combined(scores)), "no task is louder"
    doubled = torch.cat([scores, scores[:1]])
    assert torch.equal(combined(doubled, "max"), combined(scores, "max")), "a task given twice changes nothing"
    assert torch.equal(combined(torch.zeros(2, 3)), torch.zeros(3))
    assert highest(combined(scores, "max"), 2) == (1, 2)


def test_taylor_is_the_derivative_of_the_loss_in_a_mask(text_model: MultiTaskModel, text_tasks: list[Task]) -> None:
    """The score of a unit is the mean over rows of |d loss / d mask| where a mask of ones multiplies the units, here
    computed by forward hooks with such a mask, one row at a time: another way than the study's."""
    task, found = text_tasks[0], study(text_model, text_tasks[:1], rows=5)
    group = found.anatomy.units()[1]
    layer = text_model.encoder.backbone.get_submodule(group.reads[0])
    total = torch.zeros(group.count)
    split = task.splits["train"].take(range(5))
    for number in range(5):
        mask = torch.ones(group.count, requires_grad=True)
        hook = layer.register_forward_pre_hook(lambda _, given, mask=mask: (given[0] * mask,))
        rows = text_model.prepare(task.name, split.inputs[number : number + 1])
        batch = text_model.collate(rows, {task.name: [0]}, {task.name: split.targets[number : number + 1]})
        total += torch.autograd.grad(text_model.losses(batch)[task.name].sum, mask)[0].abs()
        hook.remove()
    assert torch.allclose(found.scores[group.name][0], total / 5, rtol=1e-4, atol=1e-7)


def test_the_score_of_a_layer_is_what_it_adds_times_the_gradient(
    text_model: MultiTaskModel, text_tasks: list[Task]
) -> None:
    """By finite differences: the layer's own part is scaled by 1 - e."""
    task, found = text_tasks[0], study(text_model, text_tasks[:1], rows=1)
    split, small = task.splits["train"].take(range(1)), 1e-2
    assert found.anatomy.layers is not None
    batch = text_model.collate(
        text_model.prepare(task.name, split.inputs), {task.name: [0]}, {task.name: split.targets}
    )

    def loss(name: str, factor: float) -> float:
        def scaled(_: nn.Module, given: Any, gave: Any) -> Any:
            out = gave[0] if isinstance(gave, tuple) else gave
            made = given[0] + factor * (out - given[0])
            return (made, *gave[1:]) if isinstance(gave, tuple) else made

        hook = text_model.encoder.backbone.get_submodule(name).register_forward_hook(scaled)
        with torch.no_grad():
            value = float(text_model.losses(batch)[task.name].sum)
        hook.remove()
        return value

    for number, name in enumerate(found.anatomy.layers.reads):
        slope = (loss(name, 1 + small) - loss(name, 1 - small)) / (2 * small)
        assert float(found.scores[LAYERS][0, number]) == pytest.approx(abs(slope), rel=0.02, abs=1e-4)


def test_norms_by_hand() -> None:
    net = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[1.0, -1.0], [0.5, 0.0], [2.0, 2.0], [-3.0, 0.0]]))  # type: ignore[operator, union-attr]
    assert norms_of(net, Group("g", 4, ("2",), ("0",))).tolist() == [2.0, 0.5, 4.0, 3.0]
    assert norms_of(net, Group("g", 2, ("2",), ("0",))).tolist() == [2.5, 7.0], "two parts of two rows each"


# Removal.


@pytest.mark.parametrize("sort", ["text", "image"])
def test_units_that_nothing_reads_can_go(sort: str, request: pytest.FixtureRequest) -> None:
    """With their outgoing weights at zero the features stay; they score zero, and are the first to go."""
    model, tasks = request.getfixturevalue(f"{sort}_model"), request.getfixturevalue(f"{sort}_tasks")
    encoder = copy.deepcopy(model.encoder)
    groups, kept = encoder.anatomy(4.0).units(), {}
    for group in groups:
        dead = list(range(1, group.count, 2))
        for name in group.reads:
            weight = encoder.backbone.get_submodule(name).weight
            wide = weight.shape[1] // group.count
            with torch.no_grad():
                for part in dead:
                    weight[:, part * wide : (part + 1) * wide] = 0
        kept[group.name] = tuple(n for n in range(group.count) if n not in dead)
    smaller = encoder.smaller(kept)
    assert torch.allclose(features(smaller, tasks[0]), features(encoder, tasks[0]), atol=1e-5)
    assert smaller.numbers < encoder.numbers and encoder.numbers == model.encoder.numbers
    ready = MultiTaskModel(encoder, {})
    for task in tasks:
        ready.add_task(task.definition, model.head(task.name).stored())
    found = study(ready, tasks, rows=8)
    for group in groups:
        scores = combined(found.scores[group.name])
        assert highest(scores, len(kept[group.name])) == kept[group.name] and scores[1::2].max() == 0
    # A fault: without living units the features are others.
    counts = {group.name: group.count for group in groups}
    wrong = {name: tuple(n + 1 for n in parts if n + 1 < counts[name]) for name, parts in kept.items()}
    assert not torch.allclose(features(encoder.smaller(wrong), tasks[0]), features(encoder, tasks[0]), atol=1e-3)


def test_the_order_of_units_does_not_matter(text_model: MultiTaskModel, text_tasks: list[Task]) -> None:
    encoder = copy.deepcopy(text_model.encoder)
    group = encoder.anatomy(4.0).units()[0]
    turned = torch.randperm(group.count, generator=torch.Generator().manual_seed(0))
    cut(encoder.backbone, group, turned.tolist())
    assert torch.allclose(features(encoder, text_tasks[0]), features(text_model.encoder, text_tasks[0]), atol=1e-5)
    other = MultiTaskModel(encoder, {})
    for task in text_tasks:
        other.add_task(task.definition, text_model.head(task.name).stored())
    before, after = (study(one, text_tasks, rows=8).scores[group.name] for one in (text_model, other))
    assert torch.allclose(after, before[:, turned], rtol=1e-4, atol=1e-6)


def test_layers_that_are_left_compute_as_before(deep: Encoder, text_tasks: list[Task]) -> None:
    smaller = deep.smaller({LAYERS: (0, 2)})
    network: Any = copy.deepcopy(deep.backbone)
    network.encoder.layer = nn.ModuleList([network.encoder.layer[0], network.encoder.layer[2]])
    other: Any = copy.deepcopy(deep)
    other.pipeline[0].model = network
    assert torch.equal(features(smaller, text_tasks[0]), features(other, text_tasks[0]))
    assert not torch.equal(features(smaller, text_tasks[0]), features(deep.smaller({LAYERS: (0, 1)}), text_tasks[0]))


def test_the_folder_loads_in_transformers_and_sentence_transformers(
    deep: Encoder, text_tasks: list[Task], tmp_path: Path
) -> None:
    from sentence_transformers import SentenceTransformer
    from transformers import AutoModel

    count = deep.anatomy(4.0).units()[0].count
    units = tuple(range(0, count, 3))
    kept = {LAYERS: (1, 3), "units.1": units, "units.3": units}
    smaller = deep.smaller(kept)
    smaller.save(tmp_path)
    again = load_encoder(tmp_path)
    assert torch.equal(features(again, text_tasks[0]), features(smaller, text_tasks[0]))
    plain: Any = AutoModel.from_pretrained(str(tmp_path))
    assert plain.config.num_hidden_layers == 2 and plain.config.intermediate_size == len(units)
    assert sum(p.numel() for p in plain.parameters()) == smaller.numbers
    pipeline = SentenceTransformer(str(tmp_path), device="cpu")
    one = torch.tensor(pipeline.encode(["a b c"]))
    mine = smaller.pipeline(smaller.pipeline.preprocess(["a b c"]))  # type: ignore[operator, union-attr]
    assert torch.allclose(one, mine["sentence_embedding"].detach(), atol=1e-6)
    assert again.anatomy(4.0).layers == Group(LAYERS, 2, ("encoder.layer.0", "encoder.layer.1"))


@pytest.mark.parametrize("sort", ["image", "table"])
def test_other_encoders_are_saved_and_loaded(sort: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    encoder = request.getfixturevalue(f"{sort}_model").encoder
    tasks = list(request.getfixturevalue("digits_suite" if sort == "image" else "table_suite").tasks.values())
    kept = {group.name: tuple(range(0, group.count, 2)) for group in encoder.anatomy(1.0).groups}
    smaller = encoder.smaller(kept)
    smaller.save(tmp_path)
    again = load_encoder(tmp_path)
    assert torch.equal(features(again, tasks[0]), features(smaller, tasks[0]))
    assert again.features(tasks[0].definition) == encoder.features(tasks[0].definition)
    assert encoder.anatomy(1.0).share(kept) < 0.6 and again.numbers < encoder.numbers
    with pytest.raises(AllroundError, match=r"has no group 'layers'"):
        encoder.smaller({LAYERS: (0,)})


@pytest.mark.parametrize("sort", ["text", "image", "table"])
def test_the_work_is_what_torch_counts(sort: str, request: pytest.FixtureRequest) -> None:
    """Of a text without attention itself, which torch does not count on a CPU, and without the pooler."""
    encoder = request.getfixturevalue(f"{sort}_model").encoder
    name = {"text": "text_suite", "image": "digits_suite", "table": "table_suite"}[sort]
    task = next(t for t in request.getfixturevalue(name).tasks.values() if t.definition.kind == "classification")
    rows = encoder.prepare(task.splits["train"].inputs[:1], task.definition)
    batch = encoder.batch(rows, task.definition)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        encoder(batch)
    tokens = float(batch.tensors["input_ids"].shape[1]) if sort == "text" else 1.0
    work = encoder.anatomy(tokens).work({})
    if sort == "text":
        width = encoder.backbone.config.hidden_size
        work += width**2 - 4 * 2 * tokens**2 * width
    assert work == counter.get_total_flops() / 2


@pytest.mark.parametrize(
    ("kept", "found"),
    [
        ({"units.9": (0,)}, "has no group 'units.9'"), ({LAYERS: ()}, "0 parts of the 4"),
        ({LAYERS: (1, 0)}, "2 parts of the 4"), ({LAYERS: (4,)}, "1 parts of the 4"),
        ({"units.0": (0, 1)}, "groups that must be alike keep 2 to"),
    ],
)  # fmt: skip
def test_what_cannot_be_kept(deep: Encoder, kept: Kept, found: str) -> None:
    with pytest.raises(AllroundError, match=found):
        deep.smaller(kept)


# Ways.


@pytest.mark.parametrize("sort", ["text", "image", "table"])
@pytest.mark.parametrize("name", registry.names("shrink"))
def test_ways_keep_to_the_share(name: str, sort: str, studies: dict[str, Study]) -> None:
    found, way = studies[sort], registry.find("shrink", name)
    has = {"layers": found.anatomy.layers is not None, "units": bool(found.anatomy.units())}
    if not all(has[need] for need in way.needs) or (name == "pagcp" and sort != "image"):
        return
    assert way.load()(found, 1.0) == {}
    shares = []
    for share in (0.6, 0.7, 0.85):
        kept = way.load()(found, share)
        found.anatomy.check(kept)
        assert kept == way.load()(found, share), "the same again"
        assert found.anatomy.share(kept) <= share
        shares.append(found.anatomy.share(kept))
    assert shares == sorted(shares) and shares[-1] > 0.4
    with pytest.raises(AllroundError, match="ask for a larger share"):
        way.load()(found, 1e-6)


def toy(
    counts: Sequence[int],
    scores: dict[str, list[list[float]]],
    losses: Any = None,
    *,
    layers: int = 0,
    norms: dict[str, list[float]] | None = None,
) -> Study:
    """A network whose work is the sum of its units, in layers or not."""
    groups = [Group(f"units.{n}", c, ("",), (), n if layers else None, "units" if layers else None)
              for n, c in enumerate(counts)]  # fmt: skip
    every = [Group(LAYERS, layers, ("",) * layers), *groups] if layers else groups

    def work(kept: Kept) -> float:
        some = kept.get(LAYERS, range(len(counts)))
        return float(sum(len(kept.get(f"units.{n}", range(counts[n]))) for n in some))

    tensors = {name: torch.tensor(value) for name, value in scores.items()}
    every_norm = {n: torch.tensor(v) for n, v in (norms or {}).items()}
    return Study(Anatomy(tuple(every), work), tensors, every_norm, losses, ("one", "two"))


def test_units_that_a_single_task_needs_stay() -> None:
    """Task one needs unit 0, task two unit 3; on average unit 1 and 2 look better."""
    found = toy([4], {"units.0": [[9.0, 6.0, 6.0, 0.0], [0.0, 6.0, 6.0, 9.0]]})
    assert registry.load("shrink", "units")(found, 0.5) == {"units.0": (0, 3)}
    assert registry.load("shrink", "units")(found, 0.5, over="mean") == {"units.0": (1, 2)}


def test_tasks_count_as_much_as_they_weigh() -> None:
    """Shares of the lengths: task one (.73, .48, .48, 0), task two (0, .48, .48, .73)."""
    found = toy([4], {"units.0": [[9.0, 6.0, 6.0, 0.0], [0.0, 6.0, 6.0, 9.0]]})
    units = registry.load("shrink", "units")
    assert units(found, 0.5, weights={"one": 1}) == {"units.0": (0, 1)}
    assert units(found, 0.5, weights={"two": 1}) == {"units.0": (1, 3)}
    assert units(found, 0.25, weights={"one": 1, "two": 2}) == {"units.0": (3,)}
    assert units(found, 0.5, weights={"one": 1, "two": 1}) == units(found, 0.5) == {"units.0": (0, 3)}
    # Two thirds of the first and a third of the second: (.489, .485, .485, .245).
    assert units(found, 0.25, over="mean", weights={"one": 2, "two": 1}) == {"units.0": (0,)}
    assert units(found, 0.25, over="mean") == {"units.0": (1,)}
    for weights, words in (
        ({"three": 1}, "no task is called 'three'"),
        ({}, "no task has a weight"),
        ({"one": 0}, "the weight of 'one' is 0"),
        ({"one": "x"}, "the weight of 'one' is 'x'"),
    ):
        with pytest.raises(AllroundError, match=words):
            units(found, 0.5, weights=weights)


def test_layers_by_each_rule() -> None:
    scores = {LAYERS: [[1.0, 5.0, 2.0, 4.0]], **{f"units.{n}": [[1.0, 2.0]] for n in range(4)}}
    costs = {0: 0.1, 1: 3.0, 2: 0.2, 3: 0.3}

    def losses(kept: Kept) -> torch.Tensor:
        gone = set(range(4)) - set(kept.get(LAYERS, range(4)))
        return torch.tensor([1.0 + sum(costs[n] for n in gone), 1.0], dtype=torch.float64)

    found = toy([2, 2, 2, 2], scores, losses, layers=4)
    way = registry.load("shrink", "layers")
    assert way(found, 0.5) == {LAYERS: (0, 2)}
    assert way(found, 0.74, which="first") == {LAYERS: (0, 1)}, "three would be 75 %"
    assert way(found, 0.5, which="taylor") == {LAYERS: (1, 3)}
    assert way(found, 0.5, which="greedy") == {LAYERS: (1, 3)}
    with_two = lambda kept: torch.tensor([losses(kept)[0], 1.0 + (0 in kept.get(LAYERS, range(4)))])  # noqa: E731
    assert way(replace(found, losses=with_two), 0.5, which="greedy", weights={"one": 1}) == {LAYERS: (1, 3)}
    assert 0 not in way(replace(found, losses=with_two), 0.5, which="greedy", weights={"two": 1})[LAYERS]
    costs[3] = 0.15
    assert way(found, 0.5, which="greedy") == {LAYERS: (1, 2)}
    kept = registry.load("shrink", "both")(found, 0.5)
    assert kept == {LAYERS: (0, 1, 2), "units.0": (1,), "units.1": (1,), "units.2": (1,)}
    assert choose(found, 0.5, power=0.0)[f"units.{0}"] == (1,)


def test_pagcp_by_hand() -> None:
    """Two layers of ten units, of equal work. Without a unit of the first the first task's loss grows by .1, of the
    second the second's by .2 (a tenth of a layer at a time). With a threshold of .35 three units of the first may go,
    and one of the second: the second task's loss is 1 still. The least norms go first."""

    def losses(kept: Kept) -> torch.Tensor:
        gone = [10 - len(kept.get(f"units.{n}", range(10))) for n in range(2)]
        return torch.tensor([1 + 0.1 * gone[0], 1 + 0.2 * gone[1]], dtype=torch.float64)

    norms = {"units.0": [float(n) for n in range(10)], "units.1": [float(-n) for n in range(10)]}
    found = toy([10, 10], {}, losses, norms=norms)
    assert within(found, 0.35, 1.0) == {"units.0": tuple(range(3, 10)), "units.1": tuple(range(9))}
    # Half the threshold for the second: nothing may go there.
    assert within(found, 0.35, 0.5) == {"units.0": tuple(range(3, 10))}
    kept = registry.load("shrink", "pagcp")(found, 0.8)
    assert found.anatomy.share(kept) <= 0.8 and len(kept["units.0"]) == 7 and len(kept["units.1"]) == 9
    with pytest.raises(AllroundError, match="equally many units"):
        registry.load("shrink", "pagcp")(toy([4, 4], {}, losses, layers=2), 0.5)


def test_pagcp_begins_where_most_work_is_saved() -> None:
    found = toy([4, 20, 10], {})
    assert order(found.anatomy, 1.0) == ["units.1", "units.2", "units.0"]
    assert order(found.anatomy, 2.0) == ["units.0", "units.2", "units.1"]


def test_losses_are_those_of_the_smaller_model(image_model: MultiTaskModel, image_tasks: list[Task]) -> None:
    found = study(image_model, image_tasks, rows=20)
    kept = {"channels.1": (0, 3)}
    smaller = MultiTaskModel(image_model.encoder.smaller(kept), {})
    for task in image_tasks:
        smaller.add_task(task.definition, image_model.head(task.name).stored())
    few = [replace(t, splits={**t.splits, "train": t.splits["train"].take(range(20))}) for t in image_tasks]
    expected = []
    for task in few:
        rows = smaller.prepare(task.name, task.splits["train"].inputs)
        expected.append(smaller.validate(task.name, rows, task.splits["train"].targets)[1])
    assert found.losses(kept).tolist() == pytest.approx(expected, rel=1e-5)
    assert not torch.allclose(found.losses({}), found.losses(kept))
