"""Which weights are trained: all of the encoder's or a LoRA adapter, and the heads or not."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from allround.core.errors import AllroundError
from allround.models.model import Model
from allround.training.settings import Settings

if TYPE_CHECKING:
    from peft import PeftModel


def add_adapter(model: Model, settings: Settings) -> PeftModel:
    """Put a LoRA adapter on all linear and convolution layers of the model's backbone, in place."""
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise AllroundError(
            "tune with LoRA", "the package peft is not installed", "pip install 'allround[lora]'"
        ) from error
    backbone = model.backbone
    rank = settings.lora_rank or model.lora_rank
    names = model.adapted_layers()
    # Layers of GPT-2 hold their weights as (in, out).
    flipped = bool(names) and all(type(backbone.get_submodule(name)).__name__ == "Conv1D" for name in names)
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=names, fan_in_fan_out=flipped)
    with warnings.catch_warnings():  # peft asks transformers for an attribute by its old name
        warnings.simplefilter("ignore", FutureWarning)
        made: PeftModel = get_peft_model(backbone, config)
    return made


def choose_trainable(model: Model, settings: Settings) -> None:
    """Set `requires_grad` of all weights as the settings `tune` and `heads` say."""
    frozen, added = model.frozen(), model.added()
    heads = {id(p) for task in model.definitions for p in model.of_head(task).values()}
    for name, parameter in model.named_parameters():
        if id(parameter) in heads:
            parameter.requires_grad_(settings.heads == "tuned")
        elif id(parameter) in added:
            parameter.requires_grad_(parameter.dtype.is_floating_point)
        elif settings.tune == "lora":
            parameter.requires_grad_("lora_" in name)
        else:
            parameter.requires_grad_(parameter.dtype.is_floating_point and id(parameter) not in frozen)
