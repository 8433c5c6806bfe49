"""Systems that route rows between modules of one base."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from allround.composition.routing import fit_threshold, make_routed, own_module_found, sent_nowhere
from allround.composition.systems.routed import MODULES, ROUTER, Member, Routed
from allround.core.errors import AllroundError
from allround.core.files import read_json, write_json
from allround.models.base import load_encoder
from allround.models.head import HeadState
from allround.models.system import load
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.suite import Suite

TEXTS = ("mood", "warmth", "topics")


@pytest.fixture(scope="module")
def parts(hf_folder: Path, text_suite: Suite, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, and for each of three tasks an adapter with random factors."""
    made = tmp_path_factory.mktemp("routed")
    encoder = load_encoder(hf_folder)
    (made / "base").mkdir()
    encoder.save(made / "base")
    network = encoder.backbone
    layers = [name for name, module in network.named_modules() if name.endswith(("query", "dense"))]
    for seed, task in enumerate(TEXTS):
        torch.manual_seed(seed)
        tensors = {}
        for layer in layers:
            weight = network.get_submodule(layer).weight
            tensors[f"base_model.model.{layer}.lora_A.weight"] = torch.randn(2, weight.shape[1]) / 3
            tensors[f"base_model.model.{layer}.lora_B.weight"] = torch.randn(weight.shape[0], 2) / 3
        (made / task).mkdir()
        save_file(tensors, made / task / "adapter_model.safetensors", {"format": "pt"})
        about = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": layers, "bias": "none"}
        write_json(made / task / "adapter_config.json", about)
    return made


def members_of(parts: Path) -> list[Member]:
    return [Member(task, parts / task, (task,)) for task in TEXTS]


def heads_of(parts: Path, suite: Suite) -> Mapping[str, HeadState]:
    model = MultiTaskModel(load_encoder(parts / "base"), {})
    found = {}
    for seed, (name, task) in enumerate(suite.tasks.items()):
        model.add_task(task.definition)
        torch.manual_seed(seed)
        state = model.head(name).stored()
        found[name] = HeadState({key: 0.1 * torch.randn_like(value) for key, value in state.items()})
    return found


def routed(parts: Path, suite: Suite, router: str, combine: str = "outputs", **settings: object) -> Routed:
    return make_routed(parts / "base", members_of(parts), suite.tasks, heads_of(parts, suite), router=router,
                       combine=combine, router_settings=settings)  # fmt: skip


def specialist(parts: Path, suite: Suite, task: str) -> MultiTaskModel:
    """The base with one adapter merged into it."""
    from allround.checkpoints.adapted import Adapted
    from allround.checkpoints.adapter import Adapter
    from allround.checkpoints.weights import Weights
    from allround.models.pretrained import saved_names

    model = MultiTaskModel(load_encoder(parts / "base"), {})
    source = Adapted(Weights(parts / "base"), Adapter(parts / task))
    state = dict(model.encoder.backbone.named_parameters())
    for name, stored in saved_names(model.encoder.backbone).items():
        if stored in source.edits:
            state[name].data.copy_(source.get(stored))
    heads = heads_of(parts, suite)
    model.add_heads({name: one.definition for name, one in suite.tasks.items()}, heads)
    return model.eval()


def test_a_router_that_is_told_answers_as_the_specialists(parts: Path, text_suite: Suite) -> None:
    system = routed(parts, text_suite, "task_id")
    for task in TEXTS:
        rows = text_suite[task].splits["test"].inputs
        found = system.answers(task, rows, scores=task != "warmth")
        kept = specialist(parts, text_suite, task).answers(task, rows, scores=task != "warmth")
        assert np.allclose(found.predictions, kept.predictions, atol=1e-5)
        assert task == "warmth" or np.allclose(found.scores, kept.scores, atol=1e-5)
    rows = text_suite["names"].splits["test"].inputs
    base = MultiTaskModel(load_encoder(parts / "base"), {})
    base.add_heads({n: t.definition for n, t in text_suite.tasks.items()}, heads_of(parts, text_suite))
    alone = base.eval().answers("names", rows)
    assert all(np.array_equal(a, b) for a, b in zip(system.answers("names", rows).predictions, alone.predictions,
                                                    strict=True)), "a task without a module has the base"  # fmt: skip


@pytest.mark.parametrize("router, combine", [("classifier", "outputs"), ("arrow", "pick"), ("uniform", "logits")])
def test_saved_and_read_again_it_answers_the_same(
    parts: Path, text_suite: Suite, tmp_path: Path, router: str, combine: str
) -> None:
    system = routed(parts, text_suite, router, combine)
    rows = text_suite["mood"].splits["test"].inputs
    before = system.answers("mood", rows, scores=True)
    system.save(tmp_path / "saved")
    assert np.array_equal(before.scores, system.answers("mood", rows, scores=True).scores), "saving changes nothing"
    again = load(tmp_path / "saved")
    assert isinstance(again, Routed)
    assert np.array_equal(before.scores, again.answers("mood", rows, scores=True).scores)
    assert again.cost() == system.cost()
    assert sorted(path.name for path in (tmp_path / "saved" / MODULES).iterdir()) == sorted(TEXTS)


def test_combinations_against_merged_weights(parts: Path, text_suite: Suite) -> None:
    rows = text_suite["mood"].splits["test"].inputs
    even = routed(parts, text_suite, "uniform").answers("mood", rows, scores=True)
    model = specialist(parts, text_suite, "mood")
    others = [specialist(parts, text_suite, task) for task in TEXTS]
    for name, parameter in model.encoder.named_parameters():
        parameter.data.copy_(torch.stack([dict(o.encoder.named_parameters())[name] for o in others]).mean(0))
    assert np.allclose(even.scores, model.answers("mood", rows, scores=True).scores, atol=1e-5)
    logits = routed(parts, text_suite, "uniform", "logits").answers("mood", rows, scores=True)
    mean = torch.stack([other.outputs("mood", rows).logits for other in others]).mean(0)
    assert np.allclose(logits.scores, mean.softmax(-1).numpy(), atol=1e-5)
    apart = routed(parts, text_suite, "uniform", "factors").answers("mood", rows, scores=True)
    assert not np.allclose(apart.scores, even.scores, atol=1e-3), "factors apart are another model"


def test_rows_are_sent_to_tasks_that_read_them(parts: Path, text_suite: Suite) -> None:
    system = routed(parts, text_suite, "classifier", steps=200)
    rows = [row for task in TEXTS for row in text_suite[task].splits["train"].inputs]
    sent = system.find_tasks(rows)
    own = [task for task in TEXTS for _ in text_suite[task].splits["train"].inputs]
    right = np.mean([one.task == task for one, task in zip(sent, own, strict=True)])
    assert right > 0.8, "made-up sentences of three sorts are told apart on the rows that it was fitted on"
    assert all(abs(sum(one.shares.values()) - 1) < 1e-5 and one.confidence == max(one.shares.values()) for one in sent)
    assert set(sent[0].shares) == set(TEXTS), "a pair or a list of words is of no task that reads one text"
    found = own_module_found(system, text_suite["mood"], "train")
    assert found is not None and found.mean() == np.mean([one.task == "mood" for one in sent[:24]])
    system.threshold = 1.1
    assert {one.task for one in system.find_tasks(rows)} == {None}, "nothing is certain enough"
    with pytest.raises(AllroundError, match="has 3 columns"):
        system.find_tasks([("a", "b", "c")])


def test_a_threshold_keeps_the_share_that_is_asked_for(parts: Path, text_suite: Suite) -> None:
    system = routed(parts, text_suite, "classifier", steps=200)
    rows = [row for task in TEXTS for row in text_suite[task].splits["validation"].inputs]
    with pytest.raises(AllroundError, match="no threshold"):
        sent_nowhere(system, rows)
    before = sorted(one.confidence for one in system.find_tasks(rows))
    found = fit_threshold(system, text_suite.tasks, 0.9)
    assert found == pytest.approx(before[len(rows) // 10], abs=1e-4), "of 30 rows the three least certain are sent away"
    assert sent_nowhere(system, rows) == pytest.approx(0.1)
    assert fit_threshold(system, text_suite.tasks, 1.0) == pytest.approx(before[0], abs=1e-4)
    with pytest.raises(AllroundError, match="no share"):
        fit_threshold(system, text_suite.tasks, 0.0)


def test_damage_is_said(parts: Path, text_suite: Suite, tmp_path: Path) -> None:
    routed(parts, text_suite, "classifier", steps=1).save(tmp_path / "saved")
    about = read_json(tmp_path / "saved" / "allround.json")

    def changed(**values: object) -> None:
        shutil.rmtree(tmp_path / "bad", ignore_errors=True)
        shutil.copytree(tmp_path / "saved", tmp_path / "bad")
        write_json(tmp_path / "bad" / "allround.json", {**about, "routed": {**about["routed"], **values}})

    for values, words in (
        ({"router": "arow"}, "no router"),
        ({"modules": {"../x": ["mood"]}}, "not safe"),
        ({"combine": 3}, "damaged"),
        ({"router_settings": {"hidden": 7}}, f"{ROUTER} is damaged"),
    ):
        changed(**values)
        with pytest.raises(AllroundError) as caught:
            load(tmp_path / "bad")
        assert words in str(caught.value), values
    with pytest.raises(AllroundError, match="two of them were tuned on the task 'mood'"):
        twice = [*members_of(parts), Member("again", parts / "mood", ("mood",))]
        make_routed(parts / "base", twice, text_suite.tasks, heads_of(parts, text_suite), router="uniform")
    with pytest.raises(AllroundError, match="decides at each layer"):
        routed(parts, text_suite, "arrow", "logits")
