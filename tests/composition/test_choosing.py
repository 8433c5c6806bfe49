"""Groups of modules, and what they are merged into."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tests.composition.library import write_adapter as write_lora
from tests.models.language import save_model

from allround.checkpoints.weights import Weights
from allround.composition.choosing import few_rows, judging, mixing
from allround.composition.choosing.clusters import cosines, group_modules, merge_groups, write_adapter
from allround.composition.choosing.few_rows import choose_modules, gate_modules
from allround.composition.choosing.mixing import ModuleMix, mix_modules, search
from allround.composition.choosing.open_rows import nearest
from allround.composition.library.library import Library
from allround.composition.modules.changes import Changes, LowRankChange
from allround.composition.systems.routed import Member, bank_of
from allround.core.errors import AllroundError
from allround.models.base import load_encoder
from allround.models.system import load
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.make import make_task
from allround.tasks.suite import Suite
from allround.tasks.task import Task

NAMES = ("a.weight", "b.weight")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base of two matrices, and five modules of two sorts: three near one direction, two near another."""
    made = tmp_path_factory.mktemp("choosing")
    (made / "base").mkdir()
    draw = torch.Generator().manual_seed(0)
    shapes = {"a.weight": (5, 4), "b.weight": (3, 5)}
    save_file({name: torch.randn(shape, generator=draw) for name, shape in shapes.items()},
              made / "base" / "model.safetensors")  # fmt: skip

    def factors(rows: int, columns: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.randn(2, columns, generator=draw), torch.randn(rows, 2, generator=draw)

    sorts = [{name: factors(*shape) for name, shape in shapes.items()} for _ in range(2)]
    turn = torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
    for number, sort in enumerate((0, 1, 0, 0, 1)):
        changes = {}
        for name, (down, up) in sorts[sort].items():
            shake = 0.05 * torch.randn(up.shape, generator=draw)
            # Module 2 has the same change in other factors; cosines must not see that.
            changes[name] = LowRankChange(
                *((turn @ down, (up + shake) @ turn.T) if number == 2 else (down, up + shake))
            )
        write_adapter(made / f"m{number}", changes)
    return made


def modules(folder: Path) -> list[Changes]:
    return [Changes(Weights(folder / "base"), folder / f"m{number}") for number in range(5)]


def test_cosines_are_those_of_the_whole_changes(folder: Path) -> None:
    found = cosines(modules(folder))
    whole = []
    for module in modules(folder):
        parts = [module.get(name).whole(module.base.get(name)).flatten() for name in NAMES]  # type: ignore[union-attr]
        whole.append(torch.cat(parts).double())
    wanted = torch.stack([torch.stack([torch.cosine_similarity(a, b, dim=0) for b in whole]) for a in whole])
    assert torch.allclose(found, wanted, atol=1e-5)


def test_modules_that_change_alike_come_into_one_group(folder: Path) -> None:
    assert group_modules(modules(folder), 2) == [0, 1, 0, 0, 1]
    assert group_modules(modules(folder), 5) == [0, 1, 2, 3, 4]
    with pytest.raises(AllroundError, match="there cannot be so many"):
        group_modules(modules(folder), 6)


def test_a_group_is_merged_into_the_mean_of_its_changes(folder: Path, tmp_path: Path) -> None:
    members = [Member(f"m{number}", folder / f"m{number}", (f"t{number}",)) for number in range(5)]
    base = Weights(folder / "base")
    first, second = merge_groups(base, members, [0, 1, 0, 0, 1], tmp_path / "exact")
    assert first.tasks == ("t0", "t2", "t3") and second.tasks == ("t1", "t4")
    for name in NAMES:
        weight = base.get(name)
        wanted = torch.stack([modules(folder)[n].get(name).whole(weight) for n in (0, 2, 3)]).mean(0)  # type: ignore[union-attr]
        merged = Changes(base, first.folder).get(name)
        assert isinstance(merged, LowRankChange) and merged.rank == 6
        assert torch.allclose(merged.whole(weight), wanted, atol=1e-5)
        u, s, vh = torch.linalg.svd(wanted)
        small, _ = merge_groups(base, members, [0, 1, 0, 0, 1], tmp_path / f"cut-{name}", rank=1)
        lesser = Changes(base, small.folder).get(name)
        assert lesser is not None
        assert torch.allclose(lesser.whole(weight), s[0] * u[:, :1] @ vh[:1], atol=1e-5), "the best of rank one"


def test_modules_are_chosen_by_few_rows_and_unlikeness(
    text_suite: Suite, bert_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = Library.create(tmp_path / "lib", bert_folder)
    network = load_encoder(bert_folder).backbone
    for name, seed in (("a", 0), ("b", 0), ("c", 1), ("d", 2)):  # b changes what a does
        write_lora(network, tmp_path / name, rank=2, seed=seed)
        library.add(tmp_path / name, name)
    made = choose_modules(library, text_suite["mood"], 2, rows=16)
    assert set(made.losses) == {"a", "b", "c", "d"} and made.losses["a"] == pytest.approx(made.losses["b"], abs=1e-5)
    # By a stand-in for the losses: a is best, its twin is second, and c is taken in place of the twin.
    losses = {"a": 0.1, "b": 0.2, "c": 0.3, "d": 0.9}
    monkeypatch.setattr(few_rows, "_judged", lambda *_: (losses, {}, 1.0))
    assert choose_modules(library, text_suite["mood"], 2, rows=16).chosen[0] == "a"
    assert "b" not in choose_modules(library, text_suite["mood"], 2, rows=16).chosen
    assert choose_modules(library, text_suite["mood"], 1, rows=16).chosen == ("a",)
    with pytest.raises(AllroundError, match="the library has 4"):
        choose_modules(library, text_suite["mood"], 5)
    monkeypatch.undo()
    with pytest.raises(AllroundError, match="of the kind token_classification"):
        choose_modules(library, text_suite["names"], 1)


def test_a_mix_is_searched_without_gradients(
    text_suite: Suite, bert_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = Library.create(tmp_path / "lib", bert_folder)
    network = load_encoder(bert_folder).backbone
    for seed, name in enumerate("ab"):
        write_lora(network, tmp_path / name, rank=2, seed=seed)
        library.add(tmp_path / name, name)
    made = mix_modules(library, text_suite["mood"], rows=16, steps=6)
    assert set(made.weights) == {"a", "b"} and made.loss <= made.base
    assert made == mix_modules(library, text_suite["mood"], rows=16, steps=6), "the same rows and trials"
    weights = {"a": 0.5, "b": -1.25}
    ModuleMix(weights, 0.0, 0.0, 1).write(library, tmp_path / "mix")
    library.add(tmp_path / "mix", "mix")
    base = Weights(bert_folder)
    changes = {name: library.changes(name) for name in ("a", "b", "mix")}
    for name in changes["mix"]:
        one, other, mixed = (changes[n].get(name).whole(base.get(name)) for n in ("a", "b", "mix"))
        assert torch.allclose(mixed, 0.5 * one - 1.25 * other, atol=1e-5)
    monkeypatch.setattr(mixing, "_loss_of", lambda *_: lambda given: 1.0 + float(np.abs(given).sum()))
    kept = mix_modules(library, text_suite["mood"], rows=16, steps=20)
    assert kept.loss == kept.base == 1.0 and not any(kept.weights.values()), "the base was best"
    with pytest.raises(AllroundError, match="all weights are zero"):
        kept.write(library, tmp_path / "none")


def test_the_search_finds_the_least_of_a_bowl_within_its_bounds() -> None:
    """sum (w - t)^2 + 0.3 mean |w| is least at t - 0.05 sign(t) with 3 weights, worked by hand; outside the bounds at
    the bound."""
    target = np.array([0.8, -0.6, 4.0])
    best, value, first, tried = search(lambda w: float(((w - target) ** 2).sum()), 3, steps=120, bound=1.5, penalty=0.3)
    np.testing.assert_allclose(best, [0.75, -0.55, 1.5], atol=0.02)
    assert first == pytest.approx((target**2).sum()) and value < first and tried <= 121


def test_language_models_are_mixed_by_their_own_words(tmp_path: Path) -> None:
    base = save_model(tmp_path / "base", "llama")
    library = Library.create(tmp_path / "lib", base)
    network = load_encoder(base).backbone
    write_lora(network, tmp_path / "a", rank=2, seed=0, targets=("q_proj", "down_proj"))
    library.add(tmp_path / "a", "a")
    rows = [{"m": f"parcel {n}", "t": ["late", "lost"][n % 2]} for n in range(4)]
    task = make_task("say", data={"train": rows}, inputs="m", target="t", kind="text", prompt="{m} =")
    made = mix_modules(library, task, rows=4, steps=3)
    model = MultiTaskModel(load_encoder(base), {"say": task.definition}).eval()
    split = task.splits["train"]
    batch = model.collate(
        model.prepare("say", split.inputs, split.targets), {"say": range(len(split))}, {"say": split.targets}
    )
    assert made.base == pytest.approx(float(model.losses(batch)["say"].mean.detach()), abs=1e-4)


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Library:
    """A library of a tiny language model: one module that changes little, and two that change much."""
    place = tmp_path_factory.mktemp("spoken")
    library = Library.create(place / "lib", save_model(place / "base", "llama"))
    network = load_encoder(library.base_folder).backbone
    for seed, (name, scale) in enumerate((("a", 0.01), ("b", 0.5), ("c", 0.5))):
        write_lora(network, place / name, rank=2, seed=seed, scale=scale, targets=("q_proj", "down_proj"))
        library.add(place / name, name)
    return library


def worked_task(name: str = "say", count: int = 6) -> Task:
    rows = [{"m": f"{name} parcel {n}", "t": ["late", "lost"][n % 2], "why": f"parcel {n} came again"}
            for n in range(count)]  # fmt: skip
    return make_task(name, data={"train": rows, "validation": rows[:2], "test": rows[:2]}, inputs="m", target="t",
                     kind="classification", prompt="{m} =", choices={"late": "late", "lost": "lost"},
                     slices=["why"])  # fmt: skip


def test_language_models_are_judged_by_worked_reasons_and_answers(spoken: Library) -> None:
    task = worked_task()
    plain, made = (choose_modules(spoken, task, 1, rows=6, reasons=why) for why in ("", "why"))
    train = task.splits["train"]
    rows = [{"m": row[0], "t": why} for row, why in zip(train.inputs, train.slices["why"], strict=True)]
    told = make_task(
        "say",
        data={"train": rows, "validation": rows[:1], "test": rows[:1]},
        inputs="m",
        target="t",
        kind="text",
        prompt="{m} =",
    )
    split = told.splits["train"]
    encoder = load_encoder(spoken.base_folder)
    model = MultiTaskModel(encoder, {"say": told.definition}).eval()
    prepared = model.prepare("say", split.inputs, split.targets)
    batch = model.collate(prepared, {"say": range(6)}, {"say": split.targets})
    assert made.base == pytest.approx(float(model.losses(batch)["say"].mean.detach()), abs=1e-4), "of the reasons"
    assert plain.base != pytest.approx(made.base, abs=1e-2)
    answering = MultiTaskModel(encoder, {"say": task.definition}).eval()
    bank = bank_of(encoder, [spoken.member(name) for name in "abc"], spoken.base_folder)
    for place, name in enumerate("abc"):
        with bank.using(torch.eye(3)[place : place + 1]):
            said = answering.answers("say", train.inputs).predictions
        right = float(np.mean(np.asarray(said) == train.targets))
        assert made.scores[name] == plain.scores[name] == pytest.approx(right)
    assert made.chosen == (few_rows.ranked(made.losses, made.scores)[0],)
    with pytest.raises(AllroundError, match="keeps no column 'whi'"):
        choose_modules(spoken, task, 1, reasons="whi")


def test_a_gate_over_chosen_modules_learns_from_few_rows_and_open_ones(spoken: Library, tmp_path: Path) -> None:
    task, other = worked_task(), worked_task("other", 8)
    made = gate_modules(spoken, task, ("b", "a", "c"), rows=4, others=[other], open_rows=3,
                        router="learned_gate:per=layer;top=2;steps=4;batch=2")  # fmt: skip
    assert [member.name for member in made.members] == ["b", "a", "c"] and set(made.definitions) == {"say", "other"}
    layer = next(iter(made.router.tensors)).removeprefix("layer.")  # type: ignore[attr-defined]
    read = torch.randn(2, 5, made.bank.layers[layer].inputs, generator=torch.Generator().manual_seed(0))  # type: ignore[attr-defined]
    weights = made.router.gate(layer, read)
    assert (weights > 0).sum(-1).eq(2).all() and torch.allclose(weights.sum(-1), torch.ones(2, 5))
    assert any(bool(tensor.abs().sum(1).gt(0).all()) for tensor in made.router.tensors.values()), "all were tried"  # type: ignore[attr-defined]
    made.save(tmp_path / "made")
    rows = task.splits["test"].inputs
    saved = load(tmp_path / "made").answers("say", rows, scores=True).scores
    np.testing.assert_allclose(saved, made.answers("say", rows, scores=True).scores, atol=1e-5)
    with pytest.raises(AllroundError, match="module of its own"):
        gate_modules(spoken, task, ("a", "b"), router="classifier")


def test_open_rows_are_near_and_not_twice() -> None:
    """On a circle, where two vectors are the same within 0.318 (cos 0.318 = 0.95)."""
    angles = torch.tensor([0.0, 0.05, 0.5, 0.55, 1.2, 3.0])
    every = torch.stack([angles.cos(), angles.sin()], 1)
    wanted = torch.tensor([[1.0, 0.0]])
    assert nearest(wanted, every, 3) == [2, 4, 5] and nearest(wanted, every, 1) == [2]


def test_held_out_losses_tell_features_that_say_the_target() -> None:
    draw = np.random.default_rng(0)
    labels = np.arange(40) % 2
    told, noise = labels[:, None] + 0.1 * draw.normal(size=(40, 3)), draw.normal(size=(40, 3))
    assert judging.held_out_loss(told, labels, 5) < 0.2 < np.log(2) * 0.9 < judging.held_out_loss(noise, labels, 5)
    numbers = labels + 0.5
    assert judging.held_out_loss(told, numbers, 5) < 0.1 < 0.8 < judging.held_out_loss(noise, numbers, 5)
