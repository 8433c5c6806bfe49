"""Weights that mean something only with scales beside them: told by their names, dtypes and configuration."""

from __future__ import annotations

import re

from allround.checkpoints.header import FLOATS
from allround.checkpoints.source import Source
from allround.checkpoints.tied import config_of
from allround.core.errors import AllroundError

#: What bitsandbytes, GPTQ, AWQ, compressed-tensors and torch call the scales, beside a layer's weight or under it.
_SCALE = re.compile(r"(^|.*[._])(scales?|scale_inv|SCB|absmax|qzeros|zero_points?)")
#: What they call the packed weights.
_PACKED = re.compile(r"q?weight|weight_packed")
#: The dtypes of positions, counters and masks, which quantised models hold as any other does.
_PLAIN = ("I64", "BOOL")
UNPACK = (
    "give it in float32, float16 or bfloat16: the model before it was quantised, or with transformers "
    "model.dequantize().save_pretrained(folder)"
)


def check_not_quantised(source: Source, asked: str) -> None:
    """An error when weights of a model are stored as numbers that are not the weights themselves."""
    packed = [name for name in source if source.dtype(name) not in FLOATS]
    scales = {}
    for name in source if packed else ():
        layer, _, end = name.rpartition(".")
        if _SCALE.fullmatch(end):
            scales[layer.removesuffix(".weight")] = name
    said = bool(config_of(source).get("quantization_config"))
    for name in packed:
        layer, _, end = name.rpartition(".")
        scale = scales.get(layer) if _PACKED.fullmatch(end) else None
        if scale or (said and source.dtype(name) not in _PLAIN):
            why = f"beside '{scale}'" if scale else "and its config.json has a quantization_config"
            raise AllroundError(
                asked, f"the weights of {source.path} are quantised: '{name}' is {source.dtype(name)}, {why}", UNPACK
            )
