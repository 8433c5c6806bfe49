"""Ways to share put onto models: what is trained, what stays, who uses what, and what a later task changes."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from allround.core.errors import AllroundError
from allround.evaluation.sharing import SharingFacts, draw_uses
from allround.models.encoder import Encoder
from allround.models.encoders.sharing import Sharing
from allround.models.share.further import FurtherTask, further_task
from allround.models.share.plan import Choice, Insert, Level, Mixing, Plan
from allround.models.share.usage import ModuleUse, dead_modules, module_uses, twin_modules
from allround.models.system import load
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.suite import Suite
from allround.training.settings import Settings
from allround.training.share_size import added_by, fitted
from allround.training.sharing import plan_of, share, shared_by, sharing_facts
from allround.training.trainer import train

TASKS = ("digit", "segments")


def model_of(encoder: Encoder, suite: Suite, tasks: tuple[str, ...] = TASKS) -> MultiTaskModel:
    return MultiTaskModel(copy.deepcopy(encoder), {name: suite[name].definition for name in tasks})


def logits(model: MultiTaskModel, task: str, suite: Suite) -> torch.Tensor:
    with torch.inference_mode():
        return model.outputs(task, suite[task].splits["test"].inputs[:12]).logits


def test_a_plan_is_plain_data_and_comes_back() -> None:
    for name, values in (("ple", {"experts": 3}), ("poly", {}), ("adapters", {"form": "pfeiffer"})):
        plan = plan_of(name, values)
        assert Plan.from_json(plan.to_json()) == plan


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"levels": [{"mixing": {"bank": {"name": "mlp"}}, "size": 3}]}, "unknown part 'size'"),
        ({"levels": [{"mixing": {"bank": {"name": "mlp"}, "owners": "nobody"}}]}, "'nobody' is not one of shared"),
        ({"inserts": ["here"]}, "'here' is not a mapping"),
    ],
)
def test_damaged_plans_are_errors(change: Mapping[str, object], words: str) -> None:
    with pytest.raises((TypeError, ValueError), match=words):
        Plan.from_json(change)


def test_an_empty_plan_leaves_the_model_as_it_is(small_image: Encoder, digits_suite: Suite) -> None:
    model = model_of(small_image, digits_suite)
    assert share(model, plan_of("hard")) is model


def test_a_task_may_be_called_like_the_owner_of_what_is_shared(small_image: Encoder, digits_suite: Suite) -> None:
    from dataclasses import replace

    definitions = [replace(digits_suite["digit"].definition, name=name) for name in ("shared", "type")]
    model = MultiTaskModel(copy.deepcopy(small_image), {d.name: d for d in definitions})
    made = share(model, plan_of("ple"))
    assert made.own("shared") and not made.own("shared").keys() & made.own("type").keys()


def test_modules_inside_keep_the_heads_and_a_network_begins_anew(small_image: Encoder, digits_suite: Suite) -> None:
    model = model_of(small_image, digits_suite)
    for head in model.heads.values():
        torch.nn.init.ones_(head.weight)
    before = logits(model, "digit", digits_suite)
    inside = share(copy.deepcopy(model), plan_of("poly"))
    assert torch.allclose(logits(inside, "digit", digits_suite), before, atol=1e-6)
    assert not inside.untrained("digit")
    assert share(model, plan_of("mmoe")).untrained("digit")


def test_heads_behind_a_network_are_fitted_and_tuned(small_image: Encoder, digits_suite: Suite) -> None:
    tasks = [digits_suite[name] for name in TASKS]
    model, settings = shared_by(model_of(small_image, digits_suite), Settings(share="mmoe"), tasks)
    assert settings.heads == "tuned"
    assert not model.untrained("digit")
    encoder = model.encoder
    assert isinstance(encoder, Sharing) and encoder.network is not None
    seen = torch.cat([encoder.inner(encoder.inner.batch(encoder.prepare(t.splits["train"].inputs, t.definition),
                                                        t.definition)).values for t in tasks])  # fmt: skip
    assert torch.allclose(encoder.network.get_buffer("mean128"), seen.mean(0), atol=1e-5)


def test_low_rank_tuning_does_not_go_with_modules_inside(small_image: Encoder, digits_suite: Suite) -> None:
    with pytest.raises(AllroundError, match="modules of its own inside the encoder"):
        shared_by(model_of(small_image, digits_suite), Settings(share="adapters", tune="lora"), [])


def test_a_second_way_to_share_is_refused(small_image: Encoder, digits_suite: Suite) -> None:
    made = share(model_of(small_image, digits_suite), plan_of("mmoe"))
    with pytest.raises(AllroundError, match="it shares in one way already"):
        share(made, plan_of("ple"))


def test_sites_that_a_network_lacks_are_named(small_image: Encoder, digits_suite: Suite) -> None:
    plan = Plan(inserts=(Insert("attention", Mixing(Choice("lora"))),))
    with pytest.raises(AllroundError, match="has none"):
        share(model_of(small_image, digits_suite), plan)
    with pytest.raises(AllroundError, match="there is no such site"):
        share(model_of(small_image, digits_suite), Plan(inserts=(Insert("atention", Mixing(Choice("lora"))),)))


def test_parts_learn_at_the_rate_of_the_plan(small_image: Encoder, digits_suite: Suite) -> None:
    made = share(model_of(small_image, digits_suite), plan_of("mmoe", {"rate": 4e-4}))
    assert set(made.added().values()) == {2.0}, "the encoder's rate is 2e-4"
    assert made.head_factor() == 2.0
    frozen = share(model_of(small_image, digits_suite), plan_of("adapters"))
    assert frozen.learning_rate == 1e-3 and set(frozen.added().values()) == {1.0}


def test_uses_of_modules_are_the_means_of_their_gates(small_image: Encoder, digits_suite: Suite) -> None:
    made = share(model_of(small_image, digits_suite), Plan(levels=(Level(Mixing(Choice("mlp"), shared=4), units=8),)))
    facts = sharing_facts(made, [digits_suite[name] for name in TASKS], "joint", Settings(share="hard"))
    assert facts is not None
    assert [(u.place, u.module, u.task, u.weight) for u in facts.uses] == [
        ("level 1", f"shared {n}", task, 0.25) for task in TASKS for n in (1, 2, 3, 4)
    ]
    assert facts.dead == () and facts.twins == ()
    assert facts.csv.splitlines()[1] == "level 1,shared 1,digit,0.25"


def test_dead_modules_and_twins_are_named(small_image: Encoder, digits_suite: Suite) -> None:
    made = share(model_of(small_image, digits_suite), plan_of("mmoe", {"experts": 3}))
    encoder = made.encoder
    assert isinstance(encoder, Sharing) and encoder.network is not None
    with torch.no_grad():
        for mixture in encoder.mixtures():
            bank = mixture.bank("@shared")
            for parameter in bank.parameters():
                parameter[2] = parameter[0]
            for gate in mixture.every_gate():
                gate.get_parameter("weight").zero_()
                gate.get_parameter("bias").copy_(torch.tensor([0.0, -9.0, 0.0]))
    rows = {n: encoder.prepare(digits_suite[n].splits["test"].inputs[:5], digits_suite[n].definition) for n in TASKS}
    assert dead_modules(module_uses(encoder, rows, made.definitions)) == ["shared 2 of level 1"]
    assert twin_modules(encoder) == ["shared 1 and 3 of level 1"]


@pytest.mark.parametrize(
    ("preset", "values", "numbers"),
    [
        ("hard", {}, 0),
        ("mmoe", {"experts": 3}, 3 * 129),  # a gate
        ("cgc", {"experts": 2, "shared": 1, "units": 10}, 2 * 129 * 10 + 3 * 129),  # two experts and a gate
    ],
)
def test_what_a_further_task_would_store(
    preset: str, values: dict[str, object], numbers: int, small_image: Encoder, digits_suite: Suite
) -> None:
    made = share(model_of(small_image, digits_suite), plan_of(preset, values))
    before, names = torch.get_rng_state(), list(made.state_dict())
    found = further_task(made)
    width = 10 if preset == "cgc" else 128
    assert found == FurtherTask(4 * numbers, 4 * (width + 1) * (10 + 7) // 2), "the heads have 10 and 7 labels"
    assert torch.equal(torch.get_rng_state(), before) and list(made.state_dict()) == names
    words = SharingFacts("joint", preset, (), further=FurtherTask(1500, 60)).words
    assert words == ["A further task would store 1.6 kB: 1.5 kB of modules and gates, and 60 B of its head."]


def test_the_picture_of_uses_names_tasks_and_places() -> None:
    uses = [ModuleUse("level 1", "", n, task, 0.5) for task in ("one task", "other") for n in (1, 2)]
    facts = SharingFacts("joint", "mmoe", tuple(uses), ("shared 2 of level 1",), ())
    assert "one task" in facts.svg and "level 1" in facts.svg
    assert facts.words == ["No task uses shared 2 of level 1."]
    assert draw_uses(facts, 344.0).get_size_inches()[0] * 72 == pytest.approx(344.0)


def test_a_later_task_changes_nothing_for_the_others(small_image: Encoder, digits_suite: Suite, tmp_path: Path) -> None:
    for name in ("adapters", "mmoe", "ple"):
        model, settings = shared_by(
            model_of(small_image, digits_suite),
            Settings(share=name, epochs=1, device="cpu", precision="fp32", heads="tuned"),
            [digits_suite[one] for one in TASKS],
        )
        train(model, [digits_suite[one] for one in TASKS], settings)
        before = logits(model, "digit", digits_suite)
        model.add_task(digits_suite["ink"].definition)
        assert torch.equal(logits(model, "digit", digits_suite), before), name
        model.save(tmp_path / name)
        again = load(tmp_path / name)
        assert isinstance(again, MultiTaskModel)
        assert torch.equal(logits(again, "digit", digits_suite), before), name
        assert torch.equal(logits(again, "ink", digits_suite), logits(model, "ink", digits_suite)), name


def test_the_size_of_modules_is_chosen_to_fit(small_image: Encoder, digits_suite: Suite) -> None:
    definitions = [digits_suite[name].definition for name in TASKS]
    # MMoE with one layer: experts * (128 + 1) * units, and a gate of 4 * (128 + 1) for each of two tasks.
    assert added_by("mmoe", {"experts": 4, "units": 10}, small_image, definitions) == 4 * 129 * 10 + 2 * 4 * 129
    found = fitted("mmoe", {"experts": 4}, small_image, definitions, 20_000)
    assert found == {"experts": 4, "units": (20_000 - 2 * 4 * 129) // (4 * 129)}
    assert fitted("mmoe", {"units": 3}, small_image, definitions, 20_000) == {"units": 3}
    with pytest.raises(AllroundError, match="with units=1"):
        fitted("mmoe", {}, small_image, definitions, 100)
    with pytest.raises(AllroundError, match="units does not change how many it adds"):
        fitted("adapters", {"form": "film"}, small_image, definitions, 20_000)
