"""Adapters of language models: merged as PEFT merges them, and merges as one adapter that PEFT loads."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from tests.models.language import FAMILIES, save_model
from torch import Tensor, nn
from typer.testing import CliRunner

from allround.cli.app import app
from allround.core.errors import AllroundError
from allround.core.files import read_json
from allround.merging.as_lora import merge_as_lora
from allround.merging.layout import make_plan
from allround.merging.recipe import Model, Recipe
from allround.merging.run import merge_folders
from allround.models.base import load_encoder

#: Rank-stabilised; with ranks and alphas of its own in some layers, and DoRA.
ADAPTERS = (
    {"r": 4, "lora_alpha": 8, "use_rslora": True},
    {"r": 2, "lora_alpha": 6, "use_dora": True, "rank_pattern": {r".*1\..*": 3}, "alpha_pattern": {r".*1\..*": 5}},
)


def network(folder: Path) -> nn.Module:
    import transformers

    two = (folder / "config.json").read_text().find('"is_encoder_decoder": true') >= 0
    auto = transformers.AutoModelForSeq2SeqLM if two else transformers.AutoModelForCausalLM
    return auto.from_pretrained(str(folder)).eval()


def with_adapter(base: Path, adapter: Path) -> nn.Module:
    from peft import PeftModel

    with warnings.catch_warnings():  # peft asks transformers for an attribute by its old name
        warnings.simplefilter("ignore", FutureWarning)
        return PeftModel.from_pretrained(network(base), str(adapter)).merge_and_unload()


def make_adapter(base: Path, out: Path, seed: int, **settings: object) -> Path:
    from peft import LoraConfig, get_peft_model

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = get_peft_model(network(base), LoraConfig(target_modules=load_encoder(base).adapted_layers(), **settings))
        draw = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, weight in made.named_parameters():
                if "lora_B" in name:
                    weight.copy_(0.2 * torch.randn(weight.shape, generator=draw))
                elif "magnitude" in name:
                    weight.mul_(1.1)
        made.save_pretrained(str(out))
    return out


def written(model: nn.Module, prompt: Tensor) -> list[int]:
    return model.generate(prompt, max_new_tokens=8, do_sample=False, pad_token_id=0)[0].tolist()


@pytest.fixture(scope="module", params=FAMILIES)
def models(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path]]:
    folder = tmp_path_factory.mktemp(request.param)
    base = save_model(folder / "base", request.param)
    return base, [make_adapter(base, folder / str(n), n, **given) for n, given in enumerate(ADAPTERS)]


def test_a_merge_of_adapters_is_that_of_the_models_that_peft_makes_of_them(
    models: tuple[Path, list[Path]], tmp_path: Path
) -> None:
    base, adapters = models
    (tmp_path / "out").mkdir()
    merge_folders(base, adapters, tmp_path / "out", method="average")
    tuned = [with_adapter(base, adapter).state_dict() for adapter in adapters]
    found = network(tmp_path / "out")
    for name, weight in found.state_dict().items():
        wanted = torch.stack([one[name].float() for one in tuned]).mean(0)
        assert torch.allclose(weight.float(), wanted, atol=1e-5), name
    assert (tmp_path / "out" / "tokenizer.json").is_file() and (tmp_path / "out" / "generation_config.json").is_file()
    # As one adapter of a rank that holds all of it, it is the same model in PEFT, and writes the same.
    recipe = Recipe("average", tuple(Model(str(adapter)) for adapter in adapters), Model(str(base)))
    made = merge_as_lora(make_plan(recipe), tmp_path / "whole", 48)
    assert made.share == pytest.approx(1, abs=1e-6) and not made.left_out
    again = with_adapter(base, tmp_path / "whole")
    for name, weight in again.state_dict().items():
        assert torch.allclose(weight, found.state_dict()[name], atol=1e-4), name
    prompt = torch.tensor([[5, 6, 7, 8]])
    assert written(again, prompt) == written(found, prompt)


def test_the_share_that_an_adapter_of_a_low_rank_keeps_is_that_of_the_squared_change(tmp_path: Path) -> None:
    base = save_model(tmp_path / "base", "llama")
    adapters = [make_adapter(base, tmp_path / str(n), n, **given) for n, given in enumerate(ADAPTERS)]
    recipe = Recipe("task_arithmetic", tuple(Model(str(a)) for a in adapters), Model(str(base)), {"scale": 0.5})
    made = merge_as_lora(make_plan(recipe), tmp_path / "out", 3)
    start, found = network(base).state_dict(), with_adapter(base, tmp_path / "out").state_dict()
    tuned = [with_adapter(base, adapter).state_dict() for adapter in adapters]
    whole = lost = 0.0
    for name, weight in start.items():
        change = sum(0.5 * (one[name] - weight) for one in tuned)
        whole += float(change.square().sum())
        lost += float((found[name] - weight - change).square().sum())
    assert 0.3 < made.share < 0.99 and made.share == pytest.approx(1 - lost / whole, abs=1e-3)
    words = ["merge", base, *adapters, "-m", "task_arithmetic", "--scale", "0.5", "--as-lora", 3]
    words += ["-o", tmp_path / "cli"]
    said = CliRunner().invoke(app, [str(word) for word in words])
    assert said.exit_code == 0 and f"rank 3: it holds {100 * made.share:.1f}% of the squared change" in said.output
    same = "adapter_model.safetensors"
    assert (tmp_path / "cli" / same).read_bytes() == (tmp_path / "out" / same).read_bytes()
    about = read_json(tmp_path / "out" / "merge.json")
    assert (about["method"], about["rank"], about["kept"]) == ("task_arithmetic", 3, made.share)
    assert set(about["ranks"].values()) == {3}
    with pytest.raises(AllroundError, match="the merge has none"):
        merge_as_lora(make_plan(Recipe("average", (Model(str(base)), Model(str(base))))), tmp_path / "no", 3)
