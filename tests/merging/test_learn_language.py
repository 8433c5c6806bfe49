"""Learned merges of language models: answers that are compared, and answers that are written, token by token."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.models.language import make_network, save_model

from allround.core import registry
from allround.core.errors import AllroundError
from allround.core.files import read_json
from allround.merging.learn.learning import Learning, preset
from allround.merging.learn.low_rank import gather_factors
from allround.merging.learn.material import Specialist, gather_rows
from allround.merging.learn.parametrisation import groups
from allround.merging.learn.run import LearnedMerge, learn
from allround.merging.learn.save import learn_models
from allround.models.adapted import write_adapted
from allround.models.base import load_encoder
from allround.models.encoder import Encoder
from allround.models.head import HeadState
from allround.models.system import load
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.make import make_task
from allround.tasks.suite import Suite

MESSAGES = ("Where is my parcel?", "It came too late, again.", "The parcel is lost.", "What is 12 + 7?",
            "nobody has seen it", "late, again", "Is it lost?", "yes, late")  # fmt: skip


@pytest.fixture(scope="module")
def suite() -> Suite:
    """A task whose answers are chosen, and one whose answers are written."""
    rows = [{"message": m, "topic": ("late", "lost")[n % 2], "said": f"no: {n}"} for n, m in enumerate(MESSAGES)]
    data = {"train": rows, "validation": rows[:6], "test": rows[6:]}
    topic = make_task("topic", kind="classification", inputs=["message"], target="topic", data=data,
                      prompt="{message} Topic:")  # fmt: skip
    said = make_task("said", kind="text", inputs=["message"], target="said", data=data, prompt="{message} Say:",
                     max_new_tokens=5)  # fmt: skip
    return Suite("two", [topic, said])


def change(folder: Path, seed: int, out: Path, suite: Suite, task: str) -> Path:
    """A model of one task whose linear layers are a little other than those of a base."""
    encoder = load_encoder(folder)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name in encoder.adapted_layers():
            weight = encoder.backbone.get_submodule(name).weight
            weight += 0.05 * torch.randn(weight.shape, generator=draw)
    MultiTaskModel(encoder, {task: suite.tasks[task].definition}).save(out)
    return out


@pytest.fixture(scope="module", params=["llama", "t5"])
def models(
    request: pytest.FixtureRequest, suite: Suite, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Path]]:
    folder = tmp_path_factory.mktemp(request.param)
    base = save_model(folder / "base", request.param)
    return base, {name: change(base, n, folder / name, suite, name) for n, name in enumerate(suite.tasks)}


@pytest.fixture(scope="module")
def llamas(suite: Suite, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Path]]:
    folder = tmp_path_factory.mktemp("llamas")
    base = save_model(folder / "base", "llama")
    return base, {name: change(base, n, folder / name, suite, name) for n, name in enumerate(suite.tasks)}


def specialists(models: tuple[Path, dict[str, Path]]) -> list[Specialist]:
    heads = {"topic": HeadState({}, "choices"), "said": HeadState({}, "generate")}
    return [Specialist(folder / "encoder", (name,), {name: heads[name]}) for name, folder in models[1].items()]


def fit(models: tuple[Path, dict[str, Path]], suite: Suite, learning: Learning, split: str = "train") -> LearnedMerge:
    return learn(models[0], specialists(models), suite.tasks, learning, split=split, device="cpu", precision="fp32")


def next_tokens(encoder: Encoder, prompt: str, answer: list[int]) -> torch.Tensor:
    """By the library: log-probabilities (tokens, vocabulary) of each of an answer's tokens."""
    before = encoder.tokenizer(prompt)["input_ids"]
    with torch.inference_mode():
        if encoder.net.two_parts:
            decoded = torch.tensor([[0, *answer[:-1]]])
            return encoder.backbone(torch.tensor([before]), decoder_input_ids=decoded).logits[0].log_softmax(-1)
        logits = encoder.backbone(torch.tensor([before + answer])).logits[0]
        return logits.log_softmax(-1)[len(before) - 1 : -1]


def test_each_token_of_a_written_answer_is_a_choice_among_the_16_most_probable_and_the_rest(models, suite):
    encoder, learning = load_encoder(models[0]), preset("layer", {"objective": "divergence"})
    found = gather_rows(encoder, specialists(models), suite.tasks, learning, split="train", seed=0,
                        device=torch.device("cpu"), precision="fp32")["said"]  # fmt: skip
    assert found.definition.labels == (*map(str, range(16)), "rest")
    model = load_encoder(models[1]["said"] / "encoder").eval()
    texts = MultiTaskModel(model, {"said": suite.tasks["said"].definition}).answers("said", [(m,) for m in MESSAGES])
    for row, prepared in enumerate(found.prepared):
        message = prepared.texts[0].removesuffix(" Say:")
        tree = prepared.trees[0]
        answer = [tree.tokens[place] for place in tree.paths[0]]
        said = model.tokenizer.decode(answer, skip_special_tokens=True).strip()
        assert (said,) == texts.predictions[MESSAGES.index(message)] and len(answer) <= 5
        wanted = next_tokens(model, prepared.texts[0], answer)
        best, places = wanted.topk(16)
        assert [[tree.tokens[p] for p in some] for some in prepared.options] == places.tolist()
        rest = (1 - best.exp().sum(-1, keepdim=True)).log()
        assert torch.allclose(found.logits[row], torch.cat([best, rest], -1), atol=1e-3)
        # The base is compared at the same tokens.
        batch, given, _ = found.batch(encoder, [row], torch.device("cpu"))
        with torch.inference_mode():
            mine = encoder(batch).values
        own = next_tokens(encoder, prepared.texts[0], answer).gather(-1, places)
        assert torch.allclose(mine[:, :16], own, atol=1e-4) and torch.equal(given.logits, found.logits[row])


@pytest.mark.parametrize("objective", ["label", "divergence", "entropy", "pseudo", "features"])
def test_every_objective_falls_and_the_tasks_keep_their_heads(llamas, suite, objective):
    made = fit(llamas, suite, preset("layer", {"objective": objective, "steps": 8, "rate": 0.1, "batch": 8}))
    assert min(made.record["losses"][1:]) < made.record["losses"][0]
    assert {name: (head.sort, dict(head)) for name, head in made.heads.items()} == {
        "topic": ("choices", {}), "said": ("generate", {})}  # fmt: skip


def test_labels_are_the_right_answers_tokens_by_their_cross_entropy(llamas, suite):
    encoder, learning = load_encoder(llamas[0]), preset("task", {"objective": "label"})
    found = gather_rows(encoder, specialists(llamas), suite.tasks, learning, split="train", seed=0,
                        device=torch.device("cpu"), precision="fp32")["said"]  # fmt: skip
    batch, _, targets = found.batch(encoder, [0], torch.device("cpu"))
    with torch.inference_mode():
        values = encoder(batch).values
    prompt = found.prepared[0].texts[0]
    number = MESSAGES.index(prompt.removesuffix(" Say:"))
    answer = [*encoder.tokenizer(f" no: {number}")["input_ids"], encoder.tokenizer.eos_token_id]
    wanted = -next_tokens(encoder, prompt, answer)[range(len(answer)), answer].mean()
    objective = registry.load("objective", "label")
    merged = type("R", (), {"features": values, "logits": values})()
    assert float(objective(merged, merged, targets, found.definition)) == pytest.approx(float(wanted), abs=1e-4)


def test_the_gradient_sees_the_merged_table_of_tokens(llamas, suite, tmp_path, monkeypatch):
    """The logits of many tokens are computed again in the backward pass, when the shell has the base's weights."""
    import allround.models.language.log_probabilities as module

    other = load(llamas[1]["said"])
    with torch.no_grad():
        other.encoder.backbone.get_output_embeddings().weight.mul_(1.5)
    other.save(tmp_path / "said")
    models = (llamas[0], {"topic": llamas[1]["topic"], "said": tmp_path / "said"})
    learning = preset("task", {"objective": "label", "steps": 1, "rate": 0.1}).with_(optimiser="sgd")
    whole = fit(models, suite, learning).found["raw"]
    monkeypatch.setattr(module, "CHUNK", 3)
    assert torch.allclose(fit(models, suite, learning).found["raw"], whole, atol=1e-6)


def test_layers_are_found_in_the_names_of_every_family():
    import transformers

    lists = {"llama": "model.layers.", "gpt2": "transformer.h.", "gpt_neox": "gpt_neox.layers."}
    for family, start in lists.items():
        titles = set(groups([n for n, _ in make_network(family).named_parameters()], "layer").values())
        assert {title for title in titles if title.startswith(start)} == {f"{start}0", f"{start}1"}
        assert len(titles) <= 6
    config = transformers.T5Config(vocab_size=9, d_model=8, d_kv=2, d_ff=8, num_layers=4, num_heads=2)
    network = transformers.T5ForConditionalGeneration(config)
    titles = set(groups([n for n, _ in network.named_parameters()], "layer").values())
    assert {f"{part}.block.{n}" for part in ("encoder", "decoder") for n in range(4)} <= titles and len(titles) <= 11


def test_plain_folders_are_merged_by_their_answers_into_a_plain_folder(llamas, suite, tmp_path):
    import transformers

    plain = [str(folder / "encoder") for folder in llamas[1].values()]
    learning = preset("layer", {"objective": "divergence", "steps": 2})
    learn_models(str(llamas[0]), plain, suite, tmp_path / "out", learning, device="cpu", split="train")
    assert read_json(tmp_path / "out" / "learned.json")["preset"] == "custom"
    assert transformers.AutoModelForCausalLM.from_pretrained(str(tmp_path / "out"))
    assert not (tmp_path / "out" / "allround.json").exists()


def test_objectives_of_labels_alone_refuse_texts(llamas, suite):
    with pytest.raises(AllroundError, match="of the kind text"):
        fit(llamas, suite, preset("layer", {"objective": "contrastive"}))


def adapt(base: Path, seed: int, place: Path, *, dora: bool = False) -> Path:
    """An adapter of a base with random factors, in a folder that says where the base is."""
    peft = pytest.importorskip("peft")
    encoder = load_encoder(base)
    config = peft.LoraConfig(r=2 + seed, lora_alpha=3, target_modules=encoder.adapted_layers(), use_dora=dora)
    torch.manual_seed(seed)
    made = peft.get_peft_model(encoder.backbone, config)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05)
    made.save_pretrained(str(place))
    write_adapted(place, base, place)
    return place


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing")
def test_low_rank_changes_are_learned_as_factors_and_give_the_same(
    suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tmp_path / "base" / "encoder"
    base.mkdir(parents=True)
    load_encoder(save_model(tmp_path / "plain", "llama")).save(base)
    heads = {"topic": HeadState({}, "choices"), "said": HeadState({}, "generate")}
    every = [
        Specialist(adapt(base, number, tmp_path / name / "encoder"), (name,), {name: heads[name]})
        for number, name in enumerate(suite.tasks)
    ]
    assert gather_factors(load_encoder(base), [one.encoder for one in every]) is not None
    learning = preset("divmerge", {"steps": 4, "rate": 0.1})

    def learned() -> LearnedMerge:
        return learn(base, every, suite.tasks, learning, split="train", device="cpu", precision="fp32")

    low = learned()
    monkeypatch.setattr("allround.merging.learn.fit.can_be_factored", lambda *given: False)
    whole = learned()
    assert (low.found["raw"] - 0.3).abs().max() > 0.1, "it has learned something"
    assert torch.allclose(low.found["raw"], whole.found["raw"], atol=1e-4)
    assert low.record["losses"] == pytest.approx(whole.record["losses"], abs=1e-5)
    for (name, one), (_, other) in zip(low.encoder.named_parameters(), whole.encoder.named_parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-5), name


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing")
def test_other_changes_are_not_taken_as_factors(suite: Suite, tmp_path: Path) -> None:
    base = tmp_path / "base" / "encoder"
    base.mkdir(parents=True)
    load_encoder(save_model(tmp_path / "plain", "llama")).save(base)
    shell = load_encoder(base)
    plain, dora = adapt(base, 1, tmp_path / "a" / "encoder"), adapt(base, 1, tmp_path / "b" / "encoder", dora=True)
    assert gather_factors(shell, [plain, dora]) is None
    assert gather_factors(shell, [plain, base]) is None
    with torch.no_grad():
        shell.backbone.get_submodule(shell.adapted_layers()[0]).weight.mul_(2)
    assert gather_factors(shell, [plain]) is None, "it changes another base"
