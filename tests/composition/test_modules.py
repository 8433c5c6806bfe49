"""Rows of one batch go through several modules as each would go through its own model."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel, GPT2Config, GPT2Model

from allround.checkpoints.weights import Weights
from allround.composition.modules import layer
from allround.composition.modules.bank import ModuleBank
from allround.composition.modules.changes import Changes
from allround.core.errors import AllroundError

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft's, of transformers


class Backbone(nn.Module):
    """What a bank needs of an encoder."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.backbone = network


def bert() -> BertModel:
    torch.manual_seed(0)
    config = BertConfig(vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
                        intermediate_size=24, max_position_embeddings=20)  # fmt: skip
    return BertModel(config, add_pooling_layer=False).eval()


def gpt2() -> GPT2Model:
    torch.manual_seed(0)
    return GPT2Model(GPT2Config(vocab_size=50, n_positions=20, n_embd=16, n_layer=2, n_head=2)).eval()


def adapter(network: nn.Module, folder: Path, seed: int, **settings: object) -> None:
    """Write an adapter of PEFT with random factors."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    made = get_peft_model(copy.deepcopy(network), LoraConfig(**{"init_lora_weights": False, **settings}))
    for name, parameter in made.named_parameters():
        if "lora_B" in name or "magnitude" in name or "modules_to_save" in name or name.endswith("lora_B.bias"):
            parameter.data.add_(0.3 * torch.randn_like(parameter))
    made.save_pretrained(str(folder))


def outputs_of(network: nn.Module, folder: Path, ids: Tensor) -> Tensor:
    """What PEFT gives with an adapter."""
    from peft import PeftModel

    with torch.inference_mode():
        return PeftModel.from_pretrained(copy.deepcopy(network), str(folder)).eval()(ids).last_hidden_state


KINDS = {
    "plain": {"r": 4, "lora_alpha": 8, "target_modules": ["query", "dense"]},
    "rslora": {"r": 2, "lora_alpha": 3, "use_rslora": True, "target_modules": ["value"]},
    "dora": {"r": 3, "lora_alpha": 3, "use_dora": True, "target_modules": ["query", "dense"]},
    "bias": {"r": 3, "lora_alpha": 3, "bias": "all", "target_modules": ["key"]},
    "embedding": {"r": 3, "lora_alpha": 6, "target_modules": ["word_embeddings"]},
    "saved": {"r": 2, "lora_alpha": 2, "target_modules": ["query"], "modules_to_save": ["LayerNorm"]},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("modules")
    network = bert()
    network.save_pretrained(made / "base")
    for seed, (name, settings) in enumerate(KINDS.items()):
        adapter(network, made / name, seed, **settings)
    tuned = bert()
    torch.manual_seed(9)
    for parameter in tuned.encoder.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    tuned.save_pretrained(made / "tuned")
    return made


def bank_of(folder: Path, network: nn.Module, names: list[str], **settings: object) -> ModuleBank:
    base = Weights(folder / "base")
    return ModuleBank(Backbone(network), [Changes(base, folder / name) for name in names], **settings)  # type: ignore[arg-type]


def test_every_row_of_a_batch_has_its_own_module(folder: Path) -> None:
    names = [*KINDS, "tuned"]
    network, ids = bert(), torch.randint(1, 50, (16, 9), generator=torch.Generator().manual_seed(1))
    order = torch.tensor([0, 6, 1, 2, 3, 4, 5, 6, 5, 0, 0, 1, 2, 3, 4, 6])
    bank = bank_of(folder, network, names)
    weights = nn.functional.one_hot(order, len(names)).float()
    with torch.inference_mode(), bank.using(weights):
        found = network(ids).last_hidden_state
    tuned = BertModel.from_pretrained(folder / "tuned", add_pooling_layer=False).eval()
    for number, name in enumerate(names):
        rows = order == number
        with torch.inference_mode():
            own = tuned(ids[rows]).last_hidden_state if name == "tuned" else None
        wanted = outputs_of(bert(), folder / name, ids[rows]) if own is None else own
        assert torch.allclose(found[rows], wanted, atol=1e-5), name
    with torch.inference_mode():
        assert torch.equal(network(ids).last_hidden_state, bert()(ids).last_hidden_state), "outside, the base alone"


def test_rows_mix_modules_as_merged_weights_do(folder: Path) -> None:
    names = ["plain", "rslora", "bias", "tuned"]
    network, ids = bert(), torch.randint(1, 50, (3, 7), generator=torch.Generator().manual_seed(2))
    weights = torch.tensor([[0.3, 0.7, 0.0, 0.0], [0.0, -0.2, 0.5, 0.4], [0.0, 0.0, 0.0, 0.0]])
    bank = bank_of(folder, network, names)
    with torch.inference_mode(), bank.using(weights):
        found = network(ids).last_hidden_state
    base = Weights(folder / "base")
    for row, weight in enumerate(weights):
        merged = bert()
        state = dict(merged.named_parameters())
        for share, name in zip(weight, names, strict=True):
            changes = Changes(base, folder / name)
            for tensor in changes:
                change = changes.get(tensor)
                if change is not None:
                    state[tensor].data.add_(share * change.whole(base.get(tensor)))
        with torch.inference_mode():
            assert torch.allclose(found[row], merged(ids[row : row + 1]).last_hidden_state[0], atol=1e-5), row


def test_many_modules_are_computed_in_groups(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["plain", "rslora", "plain", "embedding", "plain"]
    network, ids = bert(), torch.randint(1, 50, (3, 7), generator=torch.Generator().manual_seed(2))
    bank = bank_of(folder, network, names)
    weights = torch.rand(3, len(names), generator=torch.Generator().manual_seed(3))
    found = []
    for together in (64, 2, 1):
        monkeypatch.setattr(layer, "TOGETHER", together)
        with torch.inference_mode(), bank.using(weights):
            found.append(network(ids).last_hidden_state)
    assert torch.allclose(found[0], found[1], atol=1e-5) and torch.allclose(found[0], found[2], atol=1e-5)


def test_layers_that_hold_their_weight_the_other_way_round(tmp_path: Path) -> None:
    network = gpt2()
    network.save_pretrained(tmp_path / "base")
    settings = {"r": 3, "lora_alpha": 6, "target_modules": ["c_attn", "c_fc"], "fan_in_fan_out": True}
    for seed in (0, 1):
        adapter(network, tmp_path / str(seed), seed, **settings)
    ids = torch.randint(1, 50, (2, 6), generator=torch.Generator().manual_seed(3))
    bank = bank_of(tmp_path, gpt2(), ["0", "1"])
    for weights in (torch.eye(2), torch.eye(2)[[1, 1]]):
        with torch.inference_mode(), bank.using(weights):
            found = bank.encoder.backbone(ids).last_hidden_state
        for row, module in enumerate(weights.argmax(1).tolist()):
            wanted = outputs_of(network, tmp_path / str(module), ids)[row]
            assert torch.allclose(found[row], wanted, atol=1e-5)


def test_places_of_a_row_may_use_other_modules(folder: Path) -> None:
    names = ["plain", "rslora"]
    network, ids = bert(), torch.randint(1, 50, (2, 5), generator=torch.Generator().manual_seed(4))
    bank = bank_of(folder, network, names)

    def all_of_one(layer: str, values: Tensor) -> Tensor:
        return nn.functional.one_hot(torch.ones(values.shape[:-1], dtype=torch.long), 2).float()

    with torch.inference_mode(), bank.using(all_of_one):
        found = network(ids).last_hidden_state
    assert torch.allclose(found, outputs_of(bert(), folder / "rslora", ids), atol=1e-5)


def test_few_modules_are_held_at_once(folder: Path) -> None:
    names = ["plain", "rslora", "bias"]
    network, ids = bert(), torch.ones(1, 4, dtype=torch.long)
    bank = bank_of(folder, network, names, keep=1)
    for number, name in enumerate(names):
        with torch.inference_mode(), bank.using(torch.eye(3)[number : number + 1]):
            assert torch.allclose(network(ids).last_hidden_state, outputs_of(bert(), folder / name, ids), atol=1e-5)
        assert list(bank._held) == [number]
    bank.remove()
    assert isinstance(network.encoder.layer[0].attention.self.query, nn.Linear)
    assert type(network.encoder.layer[0].attention.self.query) is nn.Linear


def test_modules_of_another_base_are_refused_by_name(folder: Path, tmp_path: Path) -> None:
    gpt2().save_pretrained(tmp_path / "other")
    with pytest.raises(AllroundError, match="was not tuned from this base"):
        Changes(Weights(folder / "base"), tmp_path / "other")
    with pytest.raises(AllroundError, match="are not in the base"):
        Changes(Weights(tmp_path / "other"), folder / "plain")
