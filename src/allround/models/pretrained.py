"""Opening what transformers saved: only whole, only with the weights that its config.json describes, and in float32.

The library fills what a file lacks with random numbers. Here that is an error, and so are files from which it would
make something up, run code, or take far more memory than the weights need.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from allround.checkpoints.adapter_config import is_adapter
from allround.checkpoints.header import FLOATS
from allround.checkpoints.prefixes import find_prefix
from allround.checkpoints.quantised import UNPACK
from allround.checkpoints.weights import Weights
from allround.core.errors import AllroundError
from allround.core.files import read_settings

#: How transformers is to load a network. Tensors of another shape are found, and said, by `whole`.
LOADING: dict[str, Any] = {"dtype": torch.float32, "use_safetensors": True, "ignore_mismatched_sizes": True}
#: Files of which one must be there, so that texts can be cut into tokens, or images prepared.
_TOKENIZERS = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model")
_PROCESSORS = ("preprocessor_config.json", "processor_config.json")
#: Settings in a config.json under which the weights are not what they seem, or come from elsewhere.
_REFUSED = {
    "quantization_config": ("its weights are quantised", UNPACK),
    "compression_config": ("its weights are compressed", UNPACK),
    "transformers_weights": ("it names another file of weights", "call the file model.safetensors"),
}
#: Names of settings that count layers.
_LAYERS = re.compile(r"(layers?|depths?|blocks?)$")
#: How many times the numbers in its files a network may have: a part of it may be unused. More is an error before any
#: memory is taken for it.
_MOST = 10
_RESTORE = "restore the config.json that it was saved with"


def check_config(folder: Path) -> None:
    """Refuse a config.json that describes quantised weights, other files, code, or more layers than there are tensors.

    Reads no weights, and needs no library.
    """
    asked = f"load the encoder in {folder}"
    if is_adapter(folder):
        raise AllroundError(
            asked, "it is an adapter of PEFT, not a whole model", "merge it into its base: allround merge --help"
        )
    config = read_settings(folder / "config.json")
    if not isinstance(config, Mapping):
        raise AllroundError(asked, "its config.json holds no settings", "copy or download it again")
    for key, (found, do) in _REFUSED.items():
        if config.get(key):
            raise AllroundError(asked, f"config.json sets '{key}': {found}", do)
    kernel = config.get("attn_implementation") or config.get("_attn_implementation")
    if kernel and (not isinstance(kernel, str) or "/" in kernel):
        raise AllroundError(
            asked,
            f"config.json names code for its attention: {kernel!r}",
            "remove 'attn_implementation' from it; allround runs no code that comes with a model",
        )
    tensors = len(_own(_weights(folder)))
    for key, value in config.items():
        counts = value if isinstance(value, list) else [value]
        windows = "window" in key  # from which layer on attention has one; more than there are means none
        if _LAYERS.search(key) and not windows and any(type(n) is int and n > tensors for n in counts):
            raise AllroundError(asked, f"config.json sets '{key}' to {value}, and the folder holds {tensors} tensors",
                                _RESTORE)  # fmt: skip


def check_processor(folder: Path) -> None:
    """An error unless the folder says how images are prepared."""
    _check_any(folder, _PROCESSORS, "image processor", "processor.save_pretrained(folder)")


def check_tokenizer(folder: Path, tokenizer: Any = None) -> None:
    """An error unless the folder holds a tokenizer; the library would make an empty one.

    tokenizer: what was loaded; one of its own files must be there, unless it needs none (it reads bytes).
    """
    file = folder / "tokenizer_config.json"
    if tokenizer is not None:
        names = tuple(dict.fromkeys(tokenizer.vocab_files_names.values()))
    elif file.is_file() and _reads_bytes(read_settings(file)):
        names = ()
    else:
        names = _TOKENIZERS
    if names:
        _check_any(folder, names, "tokenizer", "tokenizer.save_pretrained(folder)")
    if tokenizer is not None and len(tokenizer) <= len(set(tokenizer.all_special_ids)):
        raise AllroundError(f"load the encoder in {folder}", "its tokenizer has no tokens but special ones",
                            f"copy its files again: {', '.join(names)}")  # fmt: skip


def _reads_bytes(config: Any) -> bool:
    """Whether the tokenizer that a tokenizer_config.json names needs no files of its own."""
    import transformers

    kind = getattr(transformers, str(config.get("tokenizer_class")), None) if isinstance(config, Mapping) else None
    return getattr(kind, "vocab_files_names", None) == {}


def _check_any(folder: Path, patterns: Sequence[str], what: str, call: str) -> None:
    if not any(path.is_file() for pattern in patterns for path in folder.glob(pattern)):
        raise AllroundError(
            f"load the encoder in {folder}",
            f"the folder holds no {what}: none of {', '.join(patterns)}",
            f"copy these files as well, or save them into it: {call}",
        )


def described(folder: Path, auto: str = "AutoModel") -> torch.nn.Module:
    """The network that config.json describes, without memory for its weights. Call `check_config` first.

    auto: the class of transformers that opens it.
    """
    import transformers
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    with torch.device("meta"):
        network: torch.nn.Module = getattr(transformers, auto).from_config(config, trust_remote_code=False)
    return network


def saved_names(network: torch.nn.Module) -> dict[str, str]:
    """What transformers calls each of a network's tensors in the files that it saves; some networks, of images most of
    all, have other names in memory."""
    from transformers.core_model_loading import revert_weight_conversion

    state: dict[str, torch.Tensor] = {
        name: torch.empty(tensor.shape, device="meta") for name, tensor in network.state_dict().items()
    }
    own = {id(tensor): name for name, tensor in state.items()}
    saved = {own[id(tensor)]: name for name, tensor in revert_weight_conversion(network, state).items()
             if id(tensor) in own}  # fmt: skip
    return {name: saved.get(name, name) for name in state}


def check_size(folder: Path, auto: str = "AutoModel") -> None:
    """An error where the network that config.json describes is far larger than the weights, before it is made.

    auto: the class of transformers that opens it.
    """
    network = described(folder, auto)
    needed = sum(tensor.numel() for tensor in (*network.parameters(), *network.buffers()))
    weights = _weights(folder)
    held = sum(weights.numel(name) for name in _own(weights))
    if needed > _MOST * held:
        raise AllroundError(
            f"load the encoder in {folder}",
            f"config.json describes a network of {needed:,} numbers, and its files hold {held:,}",
            _RESTORE,
        )


def whole(folder: Path, network: Any) -> tuple[Any, list[str]]:
    """A network that transformers loaded from a folder, with all of its weights from there; and notes on unused parts.

    network: as it was loaded with the options `LOADING`. Where all tensors in the files have a prefix (`module.`,
    `_orig_mod.` and so on), or no pooler, it is loaded again: under the names without the prefix, and without a pooler.
    A head in the files that the network lacks is not read.
    Errors: weights that are missing, left over, of another shape, or no floating point numbers.
    """
    weights = _weights(folder)
    stored, state = _own(weights), network.state_dict()
    prefix, stripped = find_prefix(state, stored)
    names = {stripped + name.removeprefix(prefix): name for name in stored}
    _check_floats(
        folder, weights, {name: names[name] for name, t in state.items() if t.is_floating_point() and name in names}
    )
    if {n: tuple(tensor.shape) for n, tensor in state.items()} == {n: weights.shape(n) for n in stored}:
        return network, []
    shapes = {name: torch.empty(weights.shape(old), device="meta") for name, old in names.items()}
    again = {"config": network.config, "dtype": torch.float32, "output_loading_info": True}
    _, said = type(network).from_pretrained(
        None, state_dict=shapes, device_map="meta", ignore_mismatched_sizes=True, **again
    )
    missing, left = sorted(said["missing_keys"]), sorted(said["unexpected_keys"])
    reshaped = [f"{name}: {tuple(here)}, in the network {tuple(own)}" for name, here, own in said["mismatched_keys"]]
    pooler = [name for name in missing if "pooler" in name.split(".")]
    missing = [name for name in missing if name not in pooler]
    parts = {name for name, _ in network.named_children()} | {name.split(".")[0] for name in state}
    unexpected = [n for n in left if n.removeprefix(f"{network.base_model_prefix}.").split(".")[0] in parts]
    heads = [name for name in left if name not in unexpected]
    if missing or unexpected or reshaped:
        wrong = ((missing, "missing"), (unexpected, "not of the network"), (sorted(reshaped), "of another shape"))
        raise AllroundError(
            f"load the encoder in {folder}",
            "its weights are not those of the network that config.json describes: "
            + "; ".join(f"{len(listed)} {what} ({_listed(listed)})" for listed, what in wrong if listed),
            f"give the folder of the whole model, or {_RESTORE}",
        )
    notes = [f"the base holds no pooler; it is left out ({_listed(pooler)})"] if pooler else []
    if heads:
        notes.append(f"the base holds more than an encoder; that is not used ({_listed(heads)})")
    if pooler or prefix or stripped:
        tensors = {name: weights.get(old) for name, old in names.items() if name not in heads}
        options = {"add_pooling_layer": False} if pooler else {}
        network, _ = type(network).from_pretrained(None, state_dict=tensors, **again, **options)
    return network, notes


def _weights(folder: Path) -> Weights:
    """The weights that the library reads from a folder: those of model.safetensors, or of all shards."""
    file = folder / "model.safetensors"
    weights = Weights(file if file.is_file() else folder)
    if not _own(weights):
        pickled = next(
            (f" but pickled ones ({path.name}), and a pickle can run code" for path in folder.glob("*.bin")), ""
        )
        raise AllroundError(
            f"load the encoder in {folder}",
            f"it holds no weights of the network as safetensors{pickled}",
            "save the model as safetensors where you trust it (transformers: model.save_pretrained(folder))",
        )
    return weights


def _own(weights: Weights) -> list[str]:
    """The tensors of the folder itself; those of further modules lie in folders of their own."""
    return [name for name in weights if "/" not in name]


def _check_floats(folder: Path, weights: Weights, names: Mapping[str, str]) -> None:
    odd = [(name, weights.dtype(old)) for name, old in names.items() if weights.dtype(old) not in FLOATS]
    if odd:
        raise AllroundError(
            f"load the encoder in {folder}",
            f"its weights are not floating-point numbers of 16 bits or more ({odd[0][0]}: {odd[0][1]})",
            UNPACK,
        )


def _listed(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
