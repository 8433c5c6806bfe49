"""Parts inside an encoder: values by hand, by PEFT, and the traps of the papers' code."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.models.language import save_model
from torch import nn
from torch.nn import functional as F
from typer.testing import CliRunner

from allround.cli.app import app
from allround.core.errors import AllroundError
from allround.models.base import load_encoder
from allround.models.encoders.sharing import Sharing
from allround.models.share.bank.bottleneck import Bottleneck
from allround.models.share.bank.delta import Delta
from allround.models.share.bank.film import Film
from allround.models.share.bank.lora import Lora
from allround.models.share.experts import First, Last, Seen
from allround.models.share.gate.attention import Attention
from allround.models.share.gate.gumbel import Gumbel
from allround.models.share.gate.noisy_topk import NoisyTopk
from allround.models.share.gate.scale import Scale
from allround.models.share.gate.skills import Skills
from allround.models.share.gate.threshold import Threshold
from allround.models.share.generator import FromFactors
from allround.models.share.insert import Route
from allround.models.share.inside import Inside
from allround.models.share.lifting import lift_out
from allround.models.share.plan import Choice, Generator, Mixing, Plan
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.suite import Suite
from allround.training.adapting import adapt
from allround.training.settings import Settings
from allround.training.sharing import plan_of, share
from allround.training.trainer import train


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def stir(module: nn.Module) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))


@pytest.mark.parametrize("splits", [1, 4])
def test_skills_are_those_of_peft(splits: int) -> None:
    """Polytropon and multi-head routing."""
    from peft import PolyConfig, get_peft_model

    config = PolyConfig(target_modules=["0"], r=2, n_tasks=2, n_skills=3, n_splits=splits)
    reference = get_peft_model(nn.Sequential(nn.Linear(8, 12)), config).eval()
    stir(reference)
    layer = reference.base_model.model[0]
    bank = Lora(3, 8, 12, rank=2, alpha=1.0, mix="factors", heads=splits)
    gate = Skills(3, 8, heads=splits).eval()
    with torch.no_grad():
        # PEFT: (splits, skills, in / splits, r) and (splits, skills, r, out / splits).
        bank.a.copy_(layer.poly_lora_A["default"].permute(1, 3, 0, 2).reshape(3, 2, 8))
        bank.b.copy_(layer.poly_lora_B["default"].permute(1, 0, 3, 2).reshape(3, 12, 2))
        gate.numbers.copy_(layer.poly_router["default"].module_logits[1].view(splits, 3))
        values = torch.randn(5, 1, 8)
        found = layer.base_layer(values) + bank.mixed(values, gate(values))
        wanted = layer(values, task_ids=torch.ones(5, dtype=torch.long))
    assert torch.allclose(found, wanted, atol=1e-5)
    assert (wanted - layer.base_layer(values)).abs().max() > 0.01


def test_experts_are_one_wide_part_with_weighted_blocks() -> None:
    first, last, base = nn.Linear(4, 6), nn.Linear(6, 4), torch.randn(7, 4)
    mixing = Mixing(Choice("delta", {"deviation": 0.3}), Choice("noisy_topk", {"k": 2}), shared=3)
    changes = Inside(Mixing(Choice("delta", {"deviation": 0.3}), shared=3), 4, 6)
    weighed = Inside(mixing, 6, 4, 4)
    route, seen = Route(), Seen()
    for one in (changes, weighed):
        one.add_tasks(["a", "b"])
        one.eval()
    stir(weighed)
    route.tasks = ("a", "b", "b", "a", "a", "b", "a")
    found = Last(last, weighed, seen, route)(F.gelu(First(first, changes, seen)(base)))
    bank_1, bank_2 = changes.bank("@shared"), weighed.bank("@shared")
    for row, task in enumerate(route.tasks):
        weights = weighed.gate(task)(base[row])
        assert (weights > 0).sum() == 2
        wanted = sum(
            weights[e]
            * (
                (last.weight + bank_2.weight[e])
                @ F.gelu((first.weight + bank_1.weight[e]) @ base[row] + first.bias + bank_1.bias[e])
                + last.bias
                + bank_2.bias[e]
            )
            for e in range(3)
        )
        assert torch.allclose(found[row], wanted, atol=1e-5)


def test_weights_averaged_first_are_outputs_averaged_after() -> None:
    bank, values, weights = Delta(3, 4, 5, deviation=1.0), torch.randn(6, 4), torch.tensor([0.2, 0.0, 0.8])
    stir(bank)
    assert torch.allclose(bank.mixed(values, weights), bank.mixed(values, weights.expand(6, 3)), atol=1e-5)


def test_the_largest_weights_are_kept_as_they_are_or_divided() -> None:
    """M3ViT keeps them as they are: they sum to less than 1."""
    plain, divided = NoisyTopk(4, 3, k=2, renormalise=False).eval(), NoisyTopk(4, 3, k=2).eval()
    divided.load_state_dict(plain.state_dict())
    values = torch.randn(5, 3)
    whole = F.linear(values, plain.weight).softmax(-1)
    top = whole.topk(2, -1)
    assert torch.allclose(plain(values), torch.zeros_like(whole).scatter(-1, top.indices, top.values))
    assert (plain(values).sum(-1) < 0.95).all() and torch.allclose(divided(values).sum(-1), torch.ones(5))
    one = NoisyTopk(4, 3, k=1).train()
    one(values).sum().backward()
    assert one.weight.grad.abs().max() > 1e-4, "the weight of a single module must not be 1 whatever its gate says"


def test_the_penalty_of_use_is_the_squared_variation() -> None:
    gate = NoisyTopk(3, 2, k=3, renormalise=False, noise=0.0, load=0.5).train()
    used = gate(torch.randn(6, 2)).sum(0)
    wanted = 0.5 * ((used - used.mean()).square().mean() / used.mean() ** 2)
    assert torch.allclose(gate.penalty(), wanted)


def test_an_expert_is_drawn_in_training_and_fixed_after_it() -> None:
    gate = Gumbel(4, 1).train()
    drawn = torch.stack([gate(torch.ones(1)) for _ in range(40)])
    assert torch.allclose(drawn.sum(-1), torch.ones(40)) and (drawn.argmax(-1).unique().numel() > 1)
    gate.eval()
    assert all(torch.equal(gate(torch.ones(1)), F.one_hot(gate.numbers.argmax(), 4).float()) for _ in range(3))
    gate.progressed(0.5)
    assert gate.temperature == pytest.approx((2.0 * 0.1) ** 0.5)


def test_a_score_counts_by_its_size_and_its_gradient_passes() -> None:
    gate = Threshold(4, 1, weight=0.1).train()
    gate.scores.data = torch.tensor([0.05, -0.3, 0.1, -0.02])
    found = gate(torch.ones(1))
    assert found.tolist() == pytest.approx([0.0, 1.0, 1.0, 0.0])
    (found @ torch.tensor([1.0, 2.0, 3.0, 4.0])).backward()
    assert gate.scores.grad.tolist() == [1.0, -2.0, 3.0, -4.0]
    assert gate.penalty().item() == pytest.approx(0.1 * 0.47 / 4)


def test_fusion_by_hand() -> None:
    gate, values, found = Attention(2, 3), torch.randn(3), torch.randn(2, 3)
    assert gate.penalty().item() == pytest.approx(0.01 * 9 * 1e-12, rel=0.1)
    stir(gate)
    scores = torch.stack([gate.key(one) @ gate.query(values) for one in found]).softmax(0)
    wanted = scores[0] * (gate.value @ found[0]) + scores[1] * (gate.value @ found[1])
    assert torch.allclose(gate.combine(values, found), wanted, atol=1e-5)


def test_scales_need_not_sum_to_one() -> None:
    gate = Scale(4, 3).eval()
    assert gate.scales.mean().item() == pytest.approx(0.5, abs=0.01)
    found = torch.randn(4, 3)
    assert torch.allclose(gate.combine(found[0], found), (gate.scales * found).sum(0))
    assert Scale(4, 3, uniform=True).scales.numel() == 4


def test_a_made_scale_is_one_plus_what_is_made() -> None:
    """HyperFormer's code makes the scale without the one, so that its adapters begin at nothing."""
    bank = Bottleneck(1, 6, 6, units=2, deviation=0.5, norm=True)
    found = bank(torch.randn(5, 1, 6))
    assert found.std(-1, unbiased=False).mean().item() > 0.3, "normalised, and not times almost 0"


def test_a_prompt_of_factors_by_hand() -> None:
    made = FromFactors(Generator("factors", ranks=2, deviation=0.1), {(0, 0): {"vectors": torch.Size((1, 3, 4))}})
    made.add_tasks(["a", "b"])
    own = made.tasks["a"]
    wanted = made.common["0-0"]["vectors"] * (own["0-0-vectors-u"] @ own["0-0-vectors-v"])
    assert torch.equal(made("a", (0, 0))["vectors"], wanted) and wanted.shape == (1, 3, 4)
    assert not torch.allclose(made("b", (0, 0))["vectors"], wanted)


# On a tiny BERT.


@pytest.fixture(scope="module")
def texts(bert_folder: Path, text_suite: Suite) -> Any:
    tasks = [text_suite.tasks[name] for name in ("mood", "warmth")]
    base = load_encoder(bert_folder)

    def make(preset: str, **settings: object) -> tuple[MultiTaskModel, list[Any]]:
        model = MultiTaskModel(copy.deepcopy(base), {task.name: task.definition for task in tasks})
        return share(model, plan_of(preset, settings)).eval(), tasks

    return make


def features(model: MultiTaskModel, task: str, rows: list[Any]) -> torch.Tensor:
    definition = model.definition(task)
    with torch.inference_mode():
        return model.encoder(model.encoder.batch(model.encoder.prepare(rows, definition), definition)).values


def bottleneck(values: Any, bank: Bottleneck, *, exact: bool = True) -> Any:
    """feedforward_adapter in modeling.py of google-research/adapter-bert; with `exact`, GELU by its definition."""
    down, down_bias, up, up_bias = (
        p[0].detach().double().numpy() for p in (bank.down, bank.down_bias, bank.up, bank.up_bias)
    )
    hidden = values @ down.T + down_bias
    if exact:
        shares = 0.5 * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2)))
    else:
        shares = 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (hidden + 0.044715 * hidden**3)))
    return hidden * shares @ up.T + up_bias + values


@pytest.mark.parametrize("form", ["houlsby", "pfeiffer"])
def test_adapters_of_a_block_are_those_of_adapter_bert(form: str, texts: Any) -> None:
    """transformer_model there: behind each output layer, before what came in is added and all is normalised."""
    model, tasks = texts("adapters", form=form, units=5)
    stir(model.encoder.parts)
    block = model.encoder.backbone.encoder.layer[1]
    attention, last = block.attention.output, block.output
    seen: dict[str, torch.Tensor] = {}

    def keep(name: str, part: int = 0) -> Any:
        return lambda _, read: seen.update({name: read[part]})

    hooks = [
        attention.dense.register_forward_pre_hook(keep("heads")),
        attention.register_forward_pre_hook(keep("stream", 1)),
        block.intermediate.dense.register_forward_pre_hook(keep("between")),
        last.dense.register_forward_pre_hook(keep("hidden")),
        last.register_forward_hook(lambda _, __, found: seen.update(made=found)),
    ]
    features(model, "mood", list(tasks[0].splits["test"].inputs[:3]))
    for hook in hooks:
        hook.remove()
    places = {layer: model.encoder.parts[name].bank("mood") for name, layer in model.encoder.sites}
    behind = [places.get(f"encoder.layer.1.{part}.dense") for part in ("attention.output", "output")]
    assert [bank is not None for bank in behind] == [form == "houlsby", True]
    values = {name: tensor.double().numpy() for name, tensor in seen.items()}
    for exact, most in ((True, 1e-5), (False, 5e-3)):
        for part, bank, read, stream, found in (
            (attention, behind[0], values["heads"], values["stream"], values["between"]),
            (last, behind[1], values["hidden"], values["between"], values["made"]),
        ):
            layer, norm = getattr(part.dense, "base", part.dense), part.LayerNorm
            out = read @ layer.weight.detach().double().numpy().T + layer.bias.detach().double().numpy()
            whole = (out if bank is None else bottleneck(out, bank, exact=exact)) + stream
            centred = whole - whole.mean(-1, keepdims=True)
            scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + norm.eps)
            wanted = scaled * norm.weight.detach().numpy() + norm.bias.detach().numpy()
            assert np.abs(found - wanted).max() < most
            assert bank is None or np.abs(whole - out - stream).max() > 0.1, "the adapter says something"


def test_a_scale_and_a_shift_stand_where_adapters_do(texts: Any) -> None:
    model, tasks = texts("adapters", form="film")
    rows = list(tasks[0].splits["test"].inputs[:3])
    assert torch.equal(features(model, "mood", rows), features(texts("hard")[0], "mood", rows)), "it begins as the base"
    encoder = model.encoder
    assert [layer.split(".", 3)[3] for _, layer in encoder.sites[:2]] == ["attention.output.dense", "output.dense"]
    stir(encoder.parts)
    name, layer = encoder.sites[0]
    bank, inserted = encoder.parts[name].bank("mood"), encoder.backbone.get_submodule(layer)
    values = torch.randn(2, 5, inserted.base.in_features)
    encoder.route.tasks = ("mood",)
    with torch.no_grad():
        plain = inserted.base(values)
        assert torch.allclose(inserted(values), (1 + bank.scale[0]) * plain + bank.shift[0], atol=1e-6)
    two, weights = Film(2, 4, 4), torch.tensor([0.3, 0.7])
    stir(two)
    read = torch.randn(6, 4)
    assert torch.allclose(two.mixed(read, weights), (two(read.unsqueeze(1)) * weights[:, None]).sum(1), atol=1e-6)
    assert torch.allclose(two.mixed(read, weights.expand(6, 2)), two.mixed(read, weights), atol=1e-6)


@pytest.fixture
def without_places(texts: Any) -> Any:
    """A BERT that knows no positions, so that it does not matter to it where vectors stand; ids and a mask."""

    def make(preset: str, length: int) -> tuple[Sharing, nn.Module, dict[str, torch.Tensor]]:
        model, _ = texts(preset, length=length)
        sharing = model.encoder
        with torch.no_grad():
            sharing.backbone.embeddings.position_embeddings.weight.zero_()
        stir(sharing.parts)
        sharing.route.tasks = ("warmth",)
        plain, _ = texts("hard")
        network = plain.encoder.backbone
        network.load_state_dict(sharing.backbone.state_dict())
        ids = torch.randint(5, 40, (3, 6))
        return (
            sharing,
            network,
            {"input_ids": ids, "attention_mask": (torch.arange(6) < torch.tensor([[6], [4], [5]])).long()},
        )

    return make


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`")
@torch.no_grad()
def test_prompts_are_those_of_peft(without_places: Any) -> None:
    from peft import PromptTuningConfig, get_peft_model

    sharing, network, batch = without_places("prompt_tuning", 4)
    config = PromptTuningConfig(task_type="FEATURE_EXTRACTION", num_virtual_tokens=4)
    reference = get_peft_model(network, config).eval()
    prompt = reference.prompt_encoder["default"].embedding.weight
    prompt.normal_()
    # PEFT's vectors pass what follows the words of the embedding; ours stand behind it.
    embedding = network.embeddings
    behind = embedding.LayerNorm(prompt + embedding.token_type_embeddings.weight[0])
    sharing.parts["insert0-0"].bank("warmth").vectors.copy_(behind[None])
    found = sharing.backbone(**batch).last_hidden_state
    wanted = reference(**batch).last_hidden_state[:, 4:]
    untouched = network(**batch).last_hidden_state
    there = batch["attention_mask"].bool()
    assert torch.allclose(found[there], wanted[there], atol=1e-5)
    assert (found - untouched)[there].abs().max() > 0.1


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`", "ignore:`past_key_values`")
@torch.no_grad()
def test_prefixes_are_those_of_peft(without_places: Any) -> None:
    from peft import PrefixTuningConfig, get_peft_model

    sharing, network, batch = without_places("prefix", 4)
    blocks = network.encoder.layer
    pairs = []
    for number, block in enumerate(blocks):
        (vectors,) = sharing.parts[f"insert0-{number}"].bank("warmth").vectors
        pairs += [block.attention.self.key(vectors), block.attention.self.value(vectors)]
    untouched = network(**batch).last_hidden_state
    config = PrefixTuningConfig(task_type="FEATURE_EXTRACTION", num_virtual_tokens=4)
    reference = get_peft_model(network, config).eval()
    reference.prompt_encoder["default"].embedding.weight.copy_(torch.cat(pairs, 1))
    found = sharing.backbone(**batch).last_hidden_state
    wanted = reference(**batch).last_hidden_state
    there = batch["attention_mask"].bool()
    assert torch.allclose(found[there], wanted[there], atol=1e-5)
    assert (found - untouched)[there].abs().max() > 0.1


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`")
@pytest.mark.parametrize("preset", ["poly", "mhr", "c_poly"])
def test_an_adapter_that_is_lifted_out_gives_the_same(
    preset: str, texts: Any, bert_folder: Path, tmp_path: Path
) -> None:
    from peft import PeftModel

    model, tasks = texts(preset)
    stir(model.encoder.parts)
    rows = list(tasks[1].splits["test"].inputs[:4])
    lift_out(model.encoder, "warmth", tmp_path / "adapter")
    plain = load_encoder(bert_folder)
    untouched = features(MultiTaskModel(plain, {"warmth": tasks[1].definition}), "warmth", rows)
    PeftModel.from_pretrained(plain.backbone, tmp_path / "adapter")
    found = features(MultiTaskModel(plain.eval(), {"warmth": tasks[1].definition}), "warmth", rows)
    wanted = features(model, "warmth", rows)
    assert torch.allclose(found, wanted, atol=1e-5 * float(wanted.abs().max()))
    assert (untouched - wanted).abs().max() > 0.1


def test_what_cannot_be_lifted_out(texts: Any, tmp_path: Path) -> None:
    model, _ = texts("adapters")
    with pytest.raises(AllroundError, match="no low-rank changes"):
        lift_out(model.encoder, "mood", tmp_path / "no")
    with pytest.raises(AllroundError, match="no room for it"):
        lift_out(model.encoder, "other", tmp_path / "no")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").touch()
    with pytest.raises(AllroundError, match="which allround did not write"):
        lift_out(texts("poly")[0].encoder, "mood", tmp_path / "mine")


def test_the_command_lifts_an_adapter_out(texts: Any, bert_folder: Path, tmp_path: Path) -> None:
    def cli(*words: object) -> str:
        found = CliRunner().invoke(app, ["extract-lora", *map(str, words)])
        if isinstance(found.exception, AllroundError):
            raise found.exception
        assert found.exit_code == 0, found.output
        return found.output

    model, _ = texts("poly", rank=2, skills=3)
    stir(model.encoder.parts)
    model.save(tmp_path / "model")
    said = cli(tmp_path / "model", "--task", "warmth", "-o", tmp_path / "one")
    assert f"adapter of {len(model.encoder.sites)} layers, rank 2" in said and "encoder/inner" in said
    lift_out(model.encoder, "warmth", tmp_path / "two")
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    plain, _ = texts("hard")
    plain.save(tmp_path / "plain")
    for words, match in (
        ((tmp_path / "model",), "it is not said what the model was tuned from"),
        ((tmp_path / "plain", "--task", "mood"), "it is not a model that shares by a plan"),
        ((tmp_path / "model", "--task", "mood", "--rank", 2), "its changes are written as they are"),
        ((tmp_path / "model", "--task", "moods"), "the encoder has no room for it"),
    ):
        with pytest.raises(AllroundError, match=match):
            cli(*words, "-o", tmp_path / "no")
    assert not (tmp_path / "no").exists()


def test_a_further_task_by_its_weights_or_from_the_mean(texts: Any, text_suite: Suite) -> None:
    model, _ = texts("mhr")
    stir(model.encoder.parts)
    task = text_suite.tasks["topics"]
    settings = Settings(epochs=1, device="cpu", precision="fp32", keep="last", batch_size=8, heads="frozen")
    by_weights = adapt(model, task, "z")
    before = {name: p.detach().clone() for name, p in by_weights.named_parameters()}
    train(by_weights, [task], settings, seed=0)
    moved = {name for name, p in by_weights.named_parameters() if not torch.equal(p, before[name])}
    assert moved and all(".gates.topics." in name for name in moved)

    from_mean = adapt(model, task, "mu")
    assert isinstance(from_mean.encoder, Sharing) and from_mean.encoder.tasks == ("topics",)
    name = next(iter(model.encoder.parts))
    own, skills = from_mean.encoder.parts[name].bank("topics"), model.encoder.parts[name].bank("@shared")
    assert torch.allclose(own.a[0], skills.a.mean(0)) and torch.allclose(own.b[0], skills.b.mean(0))
    values = torch.randn(3, own.width)
    assert torch.allclose(
        own.mixed(values, torch.ones(1)), skills.mixed(values, torch.full((4, 8), 1 / 8)), atol=1e-4
    ), "even weights of all skills"


def test_descriptions_and_marks_are_the_tasks_vectors(texts: Any) -> None:
    model, _ = texts("hypter")
    given = model.encoder.plan.vectors.given
    assert set(given) == {"mood", "warmth"} and len(given["mood"]) == 32 and given["mood"] != given["warmth"]
    assert not list(model.encoder.vectors.parameters())
    marks = texts("uni_perceiver_moe")[0].encoder.plan.vectors.given
    assert marks["mood"] == (1, 0, 0, 0, 0, 0, 0, 0) and marks["warmth"] == (1, 0, 0, 0, 0, 1, 0, 0)


def test_a_plan_with_vectors_is_read_as_it_was_written(texts: Any) -> None:
    plan = texts("hypter")[0].encoder.plan
    again = Plan.from_json(plan.to_json())
    assert again.inserts == plan.inserts and again.vectors.source == "description"


# On a tiny Llama, several of whose rows stand in one sequence.


def test_rows_of_a_language_model_stand_alone(tmp_path: Path, text_suite: Suite) -> None:
    tasks = [text_suite.tasks[name] for name in ("mood", "topics")]
    base = load_encoder(save_model(tmp_path / "llama", "llama"))
    definitions = {t.name: base.headed(t.definition, "linear") for t in tasks}
    rows = [tasks[n % 2].splits["test"].inputs[n] for n in range(4)]
    for preset in ("poly", "sparse_task_moe"):
        model = share(MultiTaskModel(copy.deepcopy(base), definitions), plan_of(preset)).eval()
        stir(model.encoder.parts)
        ready = [model.encoder.prepare([row], definitions[tasks[n % 2].name])[0] for n, row in enumerate(rows)]
        with torch.inference_mode():
            batch = model.collate(ready, {"mood": [0, 2], "topics": [1, 3]})
            mixed = model.features(batch)
        for task, places in (("mood", [0, 2]), ("topics", [1, 3])):
            found = mixed.take(places, 4).of(task).values
            alone = torch.cat([features(model, task, [rows[place]]) for place in places])
            assert torch.allclose(found, alone, atol=1e-4 * float(alone.abs().max()))
    with pytest.raises(AllroundError, match="reads several rows in one sequence"):
        share(MultiTaskModel(base, definitions), plan_of("prompt_tuning"))
