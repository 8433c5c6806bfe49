"""The files that let sentence-transformers load a saved model of pairs as its `CrossEncoder`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from allround.core.files import read_settings, write_json
from allround.models.heads.linear import Linear
from allround.models.heads.mlp import Mlp
from allround.models.heads.mlp_relu import MlpRelu
from allround.models.heads.mlp_tanh import MlpTanh
from allround.models.heads.sigmoid import Sigmoid
from allround.models.perceptron import Perceptron
from allround.tasks.kind import kind

#: The folder of the layers that the head becomes, beside that of the encoder.
FOLDER = "cross_encoder"
_IDENTITY = "torch.nn.modules.linear.Identity"
_SIGMOID = "torch.nn.modules.activation.Sigmoid"
#: The activation of a hidden layer, as sentence-transformers names it, by the sort of the head.
_ACTIVATIONS: Mapping[type[nn.Module], str] = {
    Mlp: "torch.nn.modules.activation.GELU",
    MlpRelu: "torch.nn.modules.activation.ReLU",
    MlpTanh: "torch.nn.modules.activation.Tanh",
}


def can_write(head: nn.Module, dim: int) -> bool:
    """Whether a head can be written as layers: it reads a pair's vector of `dim` numbers, and no instruction is put
    before its texts."""
    if type(head) not in (Linear, Sigmoid) and type(head) not in _ACTIVATIONS:
        return False
    assert isinstance(head, Linear | Perceptron)
    definition = head.definition
    return definition.pair and not definition.instruction and head.width == dim


def write_cross_encoder(folder: Path, head: nn.Module, encoder: str, factor: float) -> None:
    """Write what makes a model's folder one of a `CrossEncoder`: it points to the encoder, and holds no copy of it.

    encoder: the name of the encoder's folder in it, which sentence-transformers loads. factor: on the encoder's vector,
    before the head reads it. The scores are logits of the labels in their order, or the number in the task's own units.
    """
    from sentence_transformers import __version__ as version

    assert isinstance(head, Linear | Perceptron)
    weight, bias, definition = head.weight.detach(), head.bias.detach(), head.definition
    bounded = isinstance(head, Sigmoid)  # whose answers are in the task's own units already
    if kind(definition.kind).numeric and not bounded:
        weight, bias = weight * definition.scale, bias * definition.scale + definition.center
    layers = [(weight, bias, _SIGMOID if bounded else _IDENTITY)]
    if isinstance(head, Perceptron):
        layers.insert(0, (head.hidden_weight.detach(), head.hidden_bias.detach(), _ACTIVATIONS[type(head)]))
    layers[0] = (layers[0][0] * factor, *layers[0][1:])
    modules = [{**one, "path": f"{encoder}/{one['path']}".rstrip("/")} for one in
               read_settings(folder / encoder / "modules.json")]  # fmt: skip
    for number, (matrix, shift, activation) in enumerate(layers):
        place = f"{FOLDER}/{number}_Dense"
        _write_dense(folder / place, matrix, shift, activation, last=number + 1 == len(layers))
        at = len(modules)
        modules.append({"idx": at, "name": str(at), "path": place, "type": "sentence_transformers.models.Dense"})
    (folder / "modules.json").write_text(json.dumps(modules, indent=2) + "\n", encoding="utf-8")
    about = {"__version__": {"sentence_transformers": version}, "activation_fn": _IDENTITY,
             "default_prompt_name": None, "model_type": "CrossEncoder", "prompts": {}}  # fmt: skip
    write_json(folder / "config_sentence_transformers.json", about)


def _write_dense(folder: Path, weight: Tensor, bias: Tensor, activation: str, *, last: bool) -> None:
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    out, given = weight.shape
    write_json(folder / "config.json", {
        "in_features": given, "out_features": out, "bias": True, "activation_function": activation,
        "module_input_name": "sentence_embedding", "module_output_name": "scores" if last else "sentence_embedding",
    })  # fmt: skip
    tensors = {"linear.weight": weight, "linear.bias": bias}
    save_file({name: value.to(torch.float32).cpu().contiguous() for name, value in tensors.items()},
              folder / "model.safetensors", {"format": "pt"})  # fmt: skip
