"""Learning a merge from folders into a folder: losses fall, groups, heads, buffers, adapters, starts, bad numbers."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import allround
from allround.core import registry
from allround.core.errors import AllroundError
from allround.core.files import hash_folder, read_json
from allround.merging.learn import fit as fit_module
from allround.merging.learn import save as save_module
from allround.merging.learn.learning import Learning, preset
from allround.merging.learn.material import Changes, Specialist, gather_changes
from allround.merging.learn.run import LearnedMerge, learn
from allround.merging.learn.save import learn_models
from allround.merging.learn.steps import LearningSteps
from allround.models.base import load_encoder
from allround.models.encoders.module import Module
from allround.models.head_files import read_heads
from allround.tasks.suite import Suite
from allround.tasks.task import Split, Task

if TYPE_CHECKING:
    from conftest import Tuned  # type: ignore[attr-defined]


def fit(
    tuned: Tuned, learning: Learning, tasks: Sequence[str] = (), heads: bool = True, **options: Any
) -> LearnedMerge:
    given = {"device": "cpu", "precision": "fp32", "split": "train", **options}
    return learn(tuned.base, tuned.specialists(*tasks, heads=heads), tuned.suite.tasks, learning, **given)


def save(tuned: Tuned, out: Path, learning: Learning, tasks: Sequence[str] = (), **options: Any) -> dict[str, Any]:
    names = list(tasks) or list(tuned.folders)
    models = [str(tuned.folders[name]) for name in names]
    given = {"device": "cpu", "precision": "fp32", "split": "train", **options}
    return learn_models(str(tuned.base), models, tuned.suite, out, learning, **given)


def weights(made: LearnedMerge) -> dict[str, Tensor]:
    return {n: p.detach() for n, p in made.encoder.named_parameters()}


# What learning does


@pytest.mark.parametrize("parametrisation", registry.names("parametrisation"))
def test_labels_lower_their_loss(parametrisation: str, point_specialists: Tuned) -> None:
    learning = preset(parametrisation, {"objective": "label", "steps": 25, "rate": 0.05, "batch": 24})
    losses = fit(point_specialists, learning).record["losses"]
    assert len(losses) == 25 and losses[-1] < losses[0] - 0.02


def test_every_kind_of_task_at_once(bert_specialists: Tuned) -> None:
    for objective in ("label", "divergence", "features"):
        learning = preset("layer", {"objective": objective, "steps": 6, "rate": 0.05, "batch": 24})
        made = fit(bert_specialists, learning)
        assert min(made.record["losses"]) < made.record["losses"][0]
        assert list(made.heads) == list(bert_specialists.folders)


def test_a_smaller_number_of_rows_and_batches_is_what_was_asked_for(bert_specialists: Tuned) -> None:
    made = fit(bert_specialists, preset("task", {"rows": 7, "batch": 3, "steps": 4}), ("mood", "names"))
    assert made.record["rows"] == {"mood": 7, "names": 7}
    # 7 rows in batches of 3 are 3 + 3 + 1, in any order; of the pass after, one batch.
    assert 2 * 8 <= made.record["rows_seen"] <= 2 * 10


def test_the_sample_of_rows_looks_at_labels_only_where_they_are_used(point_specialists: Tuned) -> None:
    """With other labels the same rows are drawn, and the same merge comes out."""

    def turned(task: Task) -> Task:
        splits = {n: Split(s.inputs, (s.targets + 1) % len(task.definition.labels)) for n, s in task.splits.items()}
        return Task(task.definition, splits, task.notes)

    tasks = point_specialists.suite.tasks
    for name, same in {"entropy": True, "label": False}.items():
        learning = preset("task", {"objective": name, "rows": 5, "steps": 2})
        made = [
            learn(point_specialists.base, point_specialists.specialists(), t, learning, split="test", device="cpu")
            if name == "entropy"
            else learn(point_specialists.base, point_specialists.specialists(), t, learning, device="cpu")
            for t in (tasks, {n: turned(t) for n, t in tasks.items()})
        ]
        assert torch.equal(made[0].found["raw"], made[1].found["raw"]) == same


def test_without_heads_features_and_contrast_are_learned_by(point_specialists: Tuned) -> None:
    for objective in ("features", "contrastive"):
        made = fit(point_specialists, preset("layer", {"objective": objective, "steps": 3}), heads=False)
        assert made.heads == {} and len(made.record["losses"]) == 3
    with pytest.raises(AllroundError, match="--objective features"):
        fit(point_specialists, preset("layer"), heads=False)


def test_buffers_are_averaged_and_used(point_suite: Suite, tmp_path: Path) -> None:
    """Running means of a batch normalisation are no weights that are learned: the models' mean, in the loss too."""

    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Linear(4, 3)
            self.norm = nn.BatchNorm1d(3)
            self.register_buffer("third", torch.tensor(1 / 3))

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(self.one(x))

    network = Normed()
    specialists = []
    for number, name in enumerate(("base", "side", "largest", "far")):
        with torch.no_grad():
            network.norm.running_mean.fill_(float(number))
            network.norm.running_var.fill_(1.0 + number)
            network.norm.num_batches_tracked.fill_(number)
            if number:
                network.one.bias.add_(0.1 * number)
        (tmp_path / name).mkdir()
        Module(network, dim=3).save(tmp_path / name)
        if number:
            specialists.append(Specialist(tmp_path / name, (name,)))
    learning = preset("layer", {"objective": "features", "steps": 2})
    made = learn(
        tmp_path / "base", specialists, point_suite.tasks, learning, split="train", device="cpu", precision="fp32"
    )
    own = made.encoder.state_dict()
    assert (
        own["network.norm.running_mean"].tolist() == [2.0] * 3 and own["network.norm.running_var"].tolist() == [3.0] * 3
    )
    assert own["network.norm.num_batches_tracked"].item() == 0, "counts are the base's"
    assert own["network.third"].item() == torch.tensor(1 / 3).item(), "what no model changed stays to the last bit"
    none = learn(tmp_path / "base", specialists, point_suite.tasks, learning.with_(steps=0), device="cpu")
    rows = torch.tensor([list(r) for r in point_suite.tasks["side"].splits["train"].inputs])
    network.load_state_dict({n.removeprefix("network."): t for n, t in none.encoder.state_dict().items()})
    with torch.no_grad():
        merged = network.eval()(rows)
        losses = []
        for name in ("side", "largest", "far"):
            network.load_state_dict(load_file(tmp_path / name / "model.safetensors"))
            losses.append((merged - network(rows)).abs().mean().item())
    assert made.record["losses"][0] == pytest.approx(sum(losses) / 3, abs=0.2), "about: the batches are smaller"
    whole = learn(
        tmp_path / "base",
        specialists,
        point_suite.tasks,
        learning.with_(batch=24),
        split="train",
        device="cpu",
        precision="fp32",
    )
    assert whole.record["losses"][0] == pytest.approx(sum(losses) / 3, abs=1e-5)


def test_a_network_in_double_loses_nothing(point_suite: Suite, tmp_path: Path) -> None:
    network = nn.Linear(4, 3).double()
    specialists = []
    generator = torch.Generator().manual_seed(0)
    kept = []
    for name in ("base", "side", "far"):
        (tmp_path / name).mkdir()
        Module(network, dim=3, to_tensor=lambda row: torch.tensor(row, dtype=torch.float64)).save(tmp_path / name)
        kept.append(network.weight.detach().clone())
        if name != "base":
            specialists.append(Specialist(tmp_path / name, (name,)))
        with torch.no_grad():
            network.weight.add_(torch.randn(3, 4, generator=generator, dtype=torch.float64))
    learning = preset("task", {"objective": "features", "steps": 0, "scale": 0.5})
    made = learn(
        tmp_path / "base", specialists, point_suite.tasks, learning, split="train", device="cpu", precision="fp32"
    )
    expected = kept[0] + 0.5 * ((kept[1] - kept[0]) + (kept[2] - kept[0]))
    assert torch.allclose(made.encoder.state_dict()["network.weight"], expected, rtol=0, atol=1e-14)
    again = learn(tmp_path / "base", specialists, point_suite.tasks, learning.with_(steps=2), device="cpu")
    assert again.found["raw"].dtype == torch.float64


def test_models_in_bfloat16_give_one_in_bfloat16(
    bert_folder: Path, text_suite: Suite, tmp_path: Path, bert_specialists: Tuned
) -> None:
    specialists = []
    for name in ("base", "mood", "alike"):
        encoder = load_encoder(bert_folder if name == "base" else bert_specialists.folders[name] / "encoder").bfloat16()
        (tmp_path / name).mkdir()
        encoder.save(tmp_path / name)
        if name != "base":
            heads = read_heads(bert_specialists.folders[name] / "heads.safetensors")
            specialists.append(Specialist(tmp_path / name, (name,), heads))
    for name in ("layer", "concrete", "adarank"):
        learning = preset(name, {"steps": 2})
        made = learn(tmp_path / "base", specialists, text_suite.tasks, learning, device="cpu")
        assert {p.dtype for p in made.encoder.parameters()} == {torch.bfloat16}
        assert all(v.dtype == torch.float32 for v in made.found.values()) and made.record["skipped"] == 0


# Groups


@pytest.mark.parametrize("count", [4, 5])
def test_groups_of_two(count: int, bert_specialists: Tuned, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each task keeps its head, and never are the changes of more than two models held."""
    held: list[int] = []

    def watched(*given: Any, **options: Any) -> Changes:
        changes = gather_changes(*given, **options)
        held.extend(len(d) for d in changes.deltas.values())
        return changes

    monkeypatch.setattr(fit_module, "gather_changes", watched)
    tasks = list(bert_specialists.folders)[:count]
    made = fit(bert_specialists, preset("supermerge", {"group": 2, "steps": 2, "batch": 12}), tasks)
    assert set(held) == {2}
    listed = [stage["tasks"] for stage in made.record["stages"]]
    assert listed == [tasks[:2], tasks[2:4], tasks[:4], *([tasks] if count == 5 else [])]
    own = {s.tasks[0]: s.heads[s.tasks[0]] for s in bert_specialists.specialists(*tasks)}
    assert set(made.heads) == set(tasks)
    assert all(torch.equal(made.heads[t][k], own[t][k]) for t in tasks for k in own[t])
    assert {name.split(".")[0] for name in made.found} == {str(n) for n in range(len(listed))}, "of every stage"
    held.clear()
    fit(bert_specialists, preset("supermerge", {"steps": 1}), tasks)
    assert set(held) == {count}


def test_groups_are_merges_of_merges(point_specialists: Tuned) -> None:
    """Of three models: two, and then the outcome with the third; with no steps by numbers that are known."""
    made = fit(point_specialists, preset("supermerge", {"group": 2, "steps": 0}))
    deltas = point_specialists.deltas()
    for name, base in point_specialists.weights().items():
        one, two, three = deltas[name]
        assert torch.allclose(weights(made)[name], base + 0.3 * (0.3 * (one + two) + three), atol=1e-6)
    with pytest.raises(AllroundError, match="each group begins anew"):
        fit(point_specialists, preset("supermerge", {"group": 2}), start=point_specialists.base)
    whole = fit(point_specialists, preset("supermerge", {"group": 3, "steps": 1}))
    assert "stages" not in whole.record, "a group that holds all of them is none"


def test_heads_are_learned_in_groups_too(point_specialists: Tuned) -> None:
    learning = preset("layer", {"objective": "pseudo", "heads": "learned", "group": 2, "steps": 2})
    made = fit(point_specialists, learning)
    own = {s.tasks[0]: s.heads[s.tasks[0]] for s in point_specialists.specialists()}
    assert list(made.heads) == list(own)
    assert all(not torch.equal(made.heads[t]["weight"], own[t]["weight"]) for t in own)


def test_heads_fitted_anew_in_the_end(point_specialists: Tuned, tmp_path: Path) -> None:
    """On the merged encoder and all training rows, also where the models came without heads."""
    from allround.models.fitting import fit_head

    learning = preset("layer", {"objective": "features", "heads": "fitted", "steps": 2, "rows": 5})
    made = fit(point_specialists, learning, heads=False)
    for task, head in made.heads.items():
        expected = fit_head(made.encoder, point_specialists.suite.tasks[task])
        assert head.sort == expected.state.sort and head.keys() == expected.state.keys() == {"weight", "bias"}
        assert all(torch.equal(value, expected.state[part]) for part, value in head.items())
    models = [str(f / "encoder") for f in point_specialists.folders.values()]
    learn_models(
        str(point_specialists.base), models, point_specialists.suite, tmp_path / "out", learning,
        split="train", device="cpu", precision="fp32",
    )  # fmt: skip
    model = allround.load(tmp_path / "out")
    assert list(model.definitions) == list(made.heads)
    assert all(torch.equal(model.heads[t].weight, made.heads[t]["weight"]) for t in made.heads)
    assert model.predict("side", [(1.0, 0.0, 0.0, 0.0)])[0] in ("left", "right")


# Bad numbers


def test_a_loss_that_is_no_number_is_left_out_and_ten_in_a_row_are_an_error(
    point_specialists: Tuned, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    real = LearningSteps.loss
    bad: set[int] = set()
    calls = [0]

    def broken(self: Any, *given: Any) -> Tensor:
        calls[0] += 1
        loss = real(self, *given)
        return loss * float("nan") if (calls[0] - 1) // 3 in bad else loss

    monkeypatch.setattr(LearningSteps, "loss", broken)
    learning = preset("adamerging", {"steps": 12, "level": "task"})
    bad |= {0, 3}
    record = save(point_specialists, tmp_path / "out", learning)
    assert record["skipped"] == 2 and record["steps"] == 12 and len(record["losses"]) == 10
    assert read_json(tmp_path / "out" / "encoder" / "learned.json")["skipped"] == 2
    assert torch.isfinite(load_file(tmp_path / "out" / "encoder" / "learned.safetensors")["raw"]).all()
    bad |= set(range(9))
    calls[0] = 0
    assert fit(point_specialists, learning).record["skipped"] == 9, "nine are not ten"
    bad |= set(range(10))
    calls[0] = 0
    with pytest.raises(AllroundError, match="was not finite in 10 steps in a row"):
        save(point_specialists, tmp_path / "none", learning)
    calls[0] = 0
    with pytest.raises(AllroundError, match="was not finite in 4 steps in a row"):
        save(point_specialists, tmp_path / "none", learning.with_(steps=4))
    assert not (tmp_path / "none").exists() and not list(tmp_path.glob(".none*"))


def test_what_cannot_be_learned(point_specialists: Tuned, tmp_path: Path) -> None:
    tuned, one = point_specialists, preset("task", {"steps": 1})
    tasks = tuned.suite.tasks
    side, largest, far = tuned.specialists()
    with pytest.raises(AllroundError, match="1 model is given"):
        learn(tuned.base, [side], tasks, one)
    with pytest.raises(AllroundError, match="no rows for the task 'far'"):
        learn(tuned.base, [side, largest, far], {n: tasks[n] for n in ("side", "largest")}, one)
    with pytest.raises(AllroundError, match="'side' is given twice"):
        learn(tuned.base, [side, largest, side], tasks, one)
    for objective in ("label", "contrastive"):
        with pytest.raises(AllroundError, match="then the test measures nothing"):
            learn(tuned.base, [side, largest], tasks, preset("task", {"objective": objective}), split="test")
    phased = Learning("task", "entropy", phases=(("mask", 1),))
    with pytest.raises(AllroundError, match="'task' has: coefficients"):
        learn(tuned.base, [side, largest], tasks, phased)


# Starts


def test_a_start_is_where_learning_begins(bert_specialists: Tuned, tmp_path: Path) -> None:
    tasks = ("mood", "alike")
    learning = preset("layer", {"steps": 0, "rows": 4})
    save(bert_specialists, tmp_path / "named", learning, tasks, start="average")
    deltas, found = bert_specialists.deltas(*tasks), load_encoder(tmp_path / "named" / "encoder")
    mean = {n: w + deltas[n].mean(0) for n, w in bert_specialists.weights().items()}
    assert all(torch.allclose(p, mean[n], atol=1e-6) for n, p in found.named_parameters())
    folder = str(bert_specialists.folders["topics"])
    save(bert_specialists, tmp_path / "given", learning, tasks, start=folder)
    other = bert_specialists.weights("topics")
    found = load_encoder(tmp_path / "given" / "encoder")
    assert all(torch.equal(p, other[n]) for n, p in found.named_parameters())
    card = (tmp_path / "named" / "README.md").read_text()
    assert (
        "- start: `average`" in card
        and read_json(tmp_path / "named" / "encoder" / "learned.json")["start"] == "average"
    )
    with pytest.raises(AllroundError, match="averge"):
        save(bert_specialists, tmp_path / "wrong", learning, tasks, start="averge")
    with pytest.raises(AllroundError, match="needs statistics"):
        save(bert_specialists, tmp_path / "wrong", learning, tasks, start="regmean")
    assert not (tmp_path / "wrong").exists()


def test_a_start_of_another_shape_is_refused(point_specialists: Tuned, bert_specialists: Tuned) -> None:
    with pytest.raises(AllroundError, match="begin from the start that is given"):
        fit(point_specialists, preset("task", {"steps": 0}), start=bert_specialists.base)


# Folders


def test_models_that_are_the_base_give_the_base(point_specialists: Tuned) -> None:
    """A build's specialist is the base where tuning made nothing better."""
    tuned = point_specialists
    same = [Specialist(tuned.base, one.tasks, one.heads) for one in tuned.specialists()]
    made = learn(tuned.base, same, tuned.suite.tasks, preset("tint"), device="cpu")
    base = dict(load_encoder(tuned.base).named_parameters())
    assert all(torch.equal(p, base[n]) for n, p in weights(made).items())
    assert (made.record["steps"], made.record["losses"], list(made.heads)) == (0, [], list(tuned.folders))


def test_a_learned_merge_is_merged_as_any_model(bert_specialists: Tuned, tmp_path: Path) -> None:
    """The learned numbers beside its weights are no weights."""
    from allround.checkpoints.weights import Weights
    from allround.merging.run import merge_folders

    out, merged = tmp_path / "out", tmp_path / "merged"
    save(bert_specialists, out, preset("layer", {"steps": 1}), ("mood", "alike"))
    assert (out / "encoder" / "learned.safetensors").is_file()
    assert set(Weights(out / "encoder")) == set(Weights(bert_specialists.base))
    merged.mkdir()
    other = bert_specialists.folders["topics"] / "encoder"
    merge_folders(bert_specialists.base, [out / "encoder", other], merged, method="average")
    assert not list(merged.glob("learned.*")) and load_encoder(merged)


def test_labels_come_from_train_and_unlabelled_rows_from_validation(point_specialists: Tuned) -> None:
    """Where coefficients alone are learned; what is learned by the thousand would fit the rows that choices see."""
    cases = (
        ("task", {"objective": "label"}, "train"),
        ("block", {"objective": "divergence"}, "validation"),
        ("task", {"objective": "entropy"}, "validation"),
        ("mask", {"bound": "none"}, "train"),
        ("tint", {}, "train"),
    )
    for name, values, split in cases:
        learning = preset(name, {**values, "steps": 1})
        made = fit(point_specialists, learning, split=None)
        sizes = {n: len(t.splits[split]) for n, t in point_specialists.suite.tasks.items() if n in made.record["rows"]}
        assert (made.record["split"], made.record["rows"]) == (split, sizes)


def test_the_folder_is_whole(bert_specialists: Tuned, tmp_path: Path) -> None:
    tuned, out = bert_specialists, tmp_path / "out"
    record = save(tuned, out, preset("tint", {"steps": 3}), ("mood", "alike", "topics"), name="tint")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]
    model = allround.load(out)
    assert list(model.definitions) == ["mood", "alike", "topics"]
    assert model.predict("mood", ["the cat is warm", "the dog is grim"])[0] in ("good", "bad")
    assert len(model.predict("alike", [("the cat is warm", "the dog is grim")])) == 1
    about = read_json(out / "encoder" / "learned.json")
    assert about == json.loads(json.dumps(record)) and len(about["losses"]) == 3
    assert (about["preset"], about["split"], about["rows"]) == (
        "tint",
        "train",
        {"mood": 24, "alike": 24, "topics": 24},
    )
    facts = read_json(out / "allround.json")["made_by"]
    assert facts["preset"] == "tint" and "losses" not in facts and "coefficients" not in facts
    card = (out / "README.md").read_text()
    assert "learned: `block` by `pseudo`" in card and "do not show how good" not in card
    assert str(tuned.folders["mood"]) in card
    made = fit(tuned, preset("tint", {"steps": 3}), ("mood", "alike", "topics"))
    assert all(torch.equal(p, weights(made)[n]) for n, p in model.encoder.named_parameters()), "the same from Python"
    assert all(torch.equal(model.heads[t].weight, made.heads[t]["weight"]) for t in made.heads)


def test_same_inputs_and_seed_give_the_same_bytes(bert_specialists: Tuned, tmp_path: Path) -> None:
    for name in ("one", "two"):
        save(bert_specialists, tmp_path / name, preset("concrete", {"steps": 2, "rows": 8}), ("mood", "alike"))
    for file in ("heads.safetensors", "encoder/model.safetensors", "encoder/learned.safetensors"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes(), file


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("layer", {}),
        ("supermerge", {}),
        ("concrete", {"coefficients": "task"}),
        ("adarank", {}),
        ("self_positioning", {}),
        ("adamerging", {"plus": True}),
    ],
)
def test_the_learned_numbers_are_enough_to_make_the_merge_again(
    name: str, values: dict[str, Any], bert_specialists: Tuned, tmp_path: Path
) -> None:
    tasks = ("mood", "alike")
    save(bert_specialists, tmp_path / "out", preset(name, {"steps": 2, "rows": 8, **values}), tasks)
    folder = tmp_path / "out" / "encoder"

    told = read_json(folder / "learned.json")["learning"]
    encoders = [bert_specialists.folders[t] / "encoder" for t in tasks]
    changes = gather_changes(bert_specialists.encoder(), encoders, keep=told["keep"], elect=told["elect"])
    start = {n: changes.base[n] + told["scale"] * d.sum(0) for n, d in changes.deltas.items()}
    made = registry.load("parametrisation", told["parametrisation"])(
        changes.base, start, changes.deltas, **{**told["settings"], "scale": told["scale"]}
    )
    made.load_state_dict(load_file(folder / "learned.safetensors"))
    merged = made.eval()()

    found = dict(load_encoder(folder).named_parameters())
    assert all(torch.equal(found[n], w) for n, w in merged.items())
    assert all(torch.equal(found[n], w) for n, w in changes.base.items() if n not in merged)


def test_learning_on_test_inputs_is_said_everywhere(point_specialists: Tuned, tmp_path: Path) -> None:
    record = save(point_specialists, tmp_path / "out", preset("adamerging", {"steps": 1}), split="test")
    assert record["split"] == "test" and record["rows"] == {"side": 8, "largest": 8, "far": 8}
    assert (
        "adapted to the test inputs: scores on them do not show how good it is"
        in (tmp_path / "out" / "README.md").read_text()
    )
    assert read_json(tmp_path / "out" / "encoder" / "learned.json")["split"] == "test"
    assert read_json(tmp_path / "out" / "allround.json")["made_by"]["split"] == "test"
    with pytest.raises(AllroundError, match="then the test measures nothing"):
        save(point_specialists, tmp_path / "none", preset("atlas"), split="test")


def test_a_run_that_is_stopped_writes_nothing(
    point_specialists: Tuned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = LearningSteps.step

    def stopped(self: Any, optimiser: Any, batches: Any) -> float:
        if self.stopping:
            raise KeyboardInterrupt
        self.stopping = True
        return real(self, optimiser, batches)

    monkeypatch.setattr(LearningSteps, "stopping", False, raising=False)
    monkeypatch.setattr(LearningSteps, "step", stopped)
    with pytest.raises(KeyboardInterrupt):
        save(point_specialists, tmp_path / "out", preset("adamerging"))
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == []
    save(point_specialists, tmp_path / "out", preset("adamerging", {"steps": 1}))
    before = hash_folder(tmp_path / "out")
    monkeypatch.setattr(save_module, "write", lambda *given: (_ for _ in ()).throw(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        save(point_specialists, tmp_path / "out", preset("adamerging", {"steps": 2}))
    assert hash_folder(tmp_path / "out") == before and len(list(tmp_path.iterdir())) == 1
    monkeypatch.undo()
    save(point_specialists, tmp_path / "out", preset("adamerging", {"steps": 2}))
    assert hash_folder(tmp_path / "out") != before, "a merge that was there is replaced"


@pytest.mark.parametrize("where", ["model", "inside", "base", "around", "start"])
def test_what_is_merged_is_never_replaced(where: str, bert_specialists: Tuned, tmp_path: Path) -> None:
    import shutil

    for name in ("mood", "alike"):
        shutil.copytree(bert_specialists.folders[name], tmp_path / "all" / name)
    shutil.copytree(bert_specialists.base, tmp_path / "all" / "base" / "encoder")
    (tmp_path / "all" / "base" / "allround.json").write_text('{"format": 1, "tasks": []}')
    before = hash_folder(tmp_path)
    out = {"model": "mood", "inside": "mood/out", "base": "base", "around": ".", "start": "alike"}[where]
    models = [str(tmp_path / "all" / n) for n in ("mood", "alike")]
    options = {}
    if where == "start":
        options = {"start": models[1]}
        models[1] = str(bert_specialists.folders["alike"])
    if where == "around":
        (tmp_path / "all" / "allround.json").write_text("{}")
        before = hash_folder(tmp_path)
    with pytest.raises(AllroundError, match="one must not lie within the other"):
        learn_models(
            str(tmp_path / "all" / "base"), models, bert_specialists.suite, tmp_path / "all" / out,
            preset("layer", {"steps": 0, "rows": 2}), device="cpu", **options,
        )  # fmt: skip
    assert hash_folder(tmp_path) == before


# Other models


@pytest.mark.filterwarnings("ignore::FutureWarning:transformers")
def test_adapters_on_the_base(bert_folder: Path, hf_folder: Path, text_suite: Suite, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    from transformers import AutoModel

    merged = []
    for number in range(2):
        torch.manual_seed(number)
        network = AutoModel.from_pretrained(hf_folder)
        adapted = peft.get_peft_model(network, peft.LoraConfig(r=2, target_modules=["query", "value"]))
        for name, p in adapted.named_parameters():
            if "lora_" in name:
                p.data = 0.3 * torch.randn(p.shape)
        adapted.save_pretrained(tmp_path / f"adapter{number}")
        merged.append({n: p.detach().clone() for n, p in adapted.merge_and_unload().named_parameters()})
    before = hash_folder(tmp_path)
    suite = Suite("two", [text_suite.tasks["mood"], text_suite.tasks["alike"]])
    models = [str(tmp_path / f"adapter{n}") for n in range(2)]
    for number, base in enumerate((hf_folder, bert_folder)):
        out = tmp_path.parent / f"{tmp_path.name}-out{number}"
        learning = preset("layer", {"objective": "features", "steps": 0, "scale": 0.5, "rows": 4})
        record = learn_models(str(base), models, suite, out, learning, device="cpu", precision="fp32")
        assert record["rows"] == {"mood": 4, "alike": 4} and not (out / "heads.safetensors").exists()
        found = {n.removeprefix("pipeline.0.model."): p for n, p in load_encoder(out).named_parameters()}
        for name, p in found.items():
            assert torch.allclose(p, (merged[0][name] + merged[1][name]) / 2, atol=1e-6), name
        learning = learning.with_(steps=3, rate=0.05, batch=24)
        record = learn_models(str(base), models, suite, Path(f"{out}-more"), learning, device="cpu", precision="fp32")
        assert min(record["losses"]) < record["losses"][0]
    assert hash_folder(tmp_path) == before


def test_plain_encoders_take_the_tasks_in_order(bert_specialists: Tuned, tmp_path: Path) -> None:
    tuned = bert_specialists
    models = [str(tuned.folders[t] / "encoder") for t in ("mood", "topics")]
    suite = Suite("two", [tuned.suite.tasks["mood"], tuned.suite.tasks["topics"]])
    learning = preset("layer", {"objective": "features", "steps": 1, "rows": 4})
    learn_models(str(tuned.base), models, suite, tmp_path / "out", learning, device="cpu")
    assert load_encoder(tmp_path / "out") and (tmp_path / "out" / "learned.safetensors").is_file()
    with pytest.raises(AllroundError, match="--only mood,alike"):
        learn_models(str(tuned.base), models, tuned.suite, tmp_path / "none", learning, device="cpu")
    with pytest.raises(AllroundError, match="is a model that allround saved"):
        mixed = [models[0], str(tuned.folders["topics"])]
        learn_models(str(tuned.base), mixed, suite, tmp_path / "none", learning, device="cpu")
    with pytest.raises(AllroundError, match="--objective features"):
        learn_models(str(tuned.base), models, suite, tmp_path / "none", preset("layer"), device="cpu")


def test_a_suite_of_other_tasks_or_labels(bert_specialists: Tuned, tmp_path: Path) -> None:
    from dataclasses import replace

    tuned, learning = bert_specialists, preset("layer", {"steps": 1, "rows": 4})
    models = [str(tuned.folders[t]) for t in ("mood", "topics")]

    def merge(*tasks: Task) -> None:
        learn_models(str(tuned.base), models, Suite("s", list(tasks)), tmp_path / "none", learning, device="cpu")

    mood, topics, warmth = (tuned.suite.tasks[t] for t in ("mood", "topics", "warmth"))
    with pytest.raises(AllroundError, match="a head for 'topics', and the suite has no such task"):
        merge(mood, warmth)
    odd = Task(replace(mood.definition, labels=("bad", "great")), mood.splits)
    with pytest.raises(AllroundError, match="good, great differ"):
        merge(odd, topics)
    odd = Task(replace(warmth.definition, name="mood"), warmth.splits)
    with pytest.raises(AllroundError, match="the model's task is classification, and the suite's regression"):
        merge(odd, topics)


def test_targets_are_those_that_the_model_was_tuned_on(bert_specialists: Tuned, tmp_path: Path) -> None:
    """A suite with the labels in another order, or numbers on another scale, is the same suite."""
    from dataclasses import replace

    tuned, learning = bert_specialists, preset("layer", {"objective": "label", "steps": 2, "batch": 24})
    models = [str(tuned.folders[t]) for t in ("mood", "warmth")]
    mood, warmth = (tuned.suite.tasks[t] for t in ("mood", "warmth"))
    turned = Task(
        replace(mood.definition, labels=mood.definition.labels[::-1]),
        {n: Split(s.inputs, 1 - s.targets) for n, s in mood.splits.items()},
    )
    scaled = Task(
        replace(warmth.definition, center=0.0, scale=1.0),
        {
            n: Split(s.inputs, s.targets * warmth.definition.scale + warmth.definition.center)
            for n, s in warmth.splits.items()
        },
    )
    found = [
        learn_models(str(tuned.base), models, Suite("s", tasks), tmp_path / f"{n}", learning, device="cpu")["losses"]
        for n, tasks in enumerate([[mood, warmth], [turned, scaled]])
    ]
    assert found[0] == pytest.approx(found[1], abs=1e-5)


def test_models_of_another_shape(bert_specialists: Tuned, point_specialists: Tuned, tmp_path: Path) -> None:
    tuned, other = bert_specialists, point_specialists
    models = [str(tuned.folders["mood"] / "encoder"), str(other.base)]
    suite = Suite("two", [tuned.suite.tasks["mood"], tuned.suite.tasks["topics"]])
    with pytest.raises(AllroundError):
        learn_models(str(tuned.base), models, suite, tmp_path / "out", preset("layer", {"objective": "features"}))
    with pytest.raises(AllroundError, match=r"its weight '.*' is missing"):
        gather_changes(tuned.encoder(), [tuned.folders["mood"] / "encoder", other.base])
    assert not (tmp_path / "out").exists()


def test_settings_of_the_encoder_are_those_of_the_models(
    bert_folder: Path, text_suite: Suite, bert_specialists: Tuned, tmp_path: Path, tune_on: Callable[..., None]
) -> None:
    """Models that read pairs jointly, of a base whose folder does not say so."""
    joint = tmp_path / "joint"
    joint.mkdir()
    load_encoder(bert_folder, pairs="joint", max_length=32).save(joint)
    for name in ("mood", "alike"):
        tune_on(joint, text_suite.tasks[name], tmp_path / name, steps=2, rate=1e-3)
    with pytest.raises(AllroundError, match="read rows in different ways"):
        specialists = [Specialist(tmp_path / "mood" / "encoder", ("mood",)), *bert_specialists.specialists("alike")]
        learn(bert_folder, specialists, text_suite.tasks, preset("layer"))
    own = tmp_path / "own"
    own.mkdir()
    load_encoder(bert_folder).save(own)
    with pytest.raises(AllroundError, match="gives 32 features for the task 'alike', and the base 128"):
        specialists = [*bert_specialists.specialists("mood"), Specialist(tmp_path / "alike" / "encoder", ("alike",))]
        learn(own, specialists, text_suite.tasks, preset("divmerge"))
    models = [str(tmp_path / n) for n in ("mood", "alike")]
    learn_models(str(bert_folder), models, text_suite, tmp_path / "out", preset("layer", {"steps": 1}), device="cpu")
    model = allround.load(tmp_path / "out")
    assert model.encoder.pairs == "joint" and model.encoder.max_length == 32
    assert len(model.predict("alike", [("the cat is warm", "the dog is grim")])) == 1
