"""The network of a folder of transformers or sentence-transformers: compared with a base's, and put into its place."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from allround.checkpoints.adapted import Adapted
from allround.checkpoints.adapter import Adapter
from allround.checkpoints.adapter_config import CONFIG as ADAPTER
from allround.checkpoints.adapter_config import is_adapter
from allround.checkpoints.finite import check_finite
from allround.checkpoints.header import FLOATS
from allround.checkpoints.prefixes import find_prefix
from allround.checkpoints.source import Source
from allround.checkpoints.tokens import moved_tokens
from allround.checkpoints.weights import Weights
from allround.core.errors import AllroundError
from allround.core.files import is_inside, read_settings
from allround.core.words import plural
from allround.models.adapted import base_of
from allround.models.classifier import Classifier, read_config
from allround.models.encoder import Encoder
from allround.models.encoders.text import Text
from allround.models.pretrained import check_config, described, saved_names

#: Settings of a config.json under which the same weights compute something else.
_SETTINGS = (
    *("hidden_act", "activation", "num_attention_heads", "num_key_value_heads", "n_heads", "rope_theta"),
    *("position_embedding_type", "layer_norm_eps", "rms_norm_eps", "relative_attention", "norm_type"),
)
#: What PEFT calls the tasks of adapters that come with a classifier's head.
_ADAPTED = {"SEQ_CLS": "ForSequenceClassification", "TOKEN_CLS": "ForTokenClassification"}
#: The file that says how images are prepared, and how its settings that change images begin.
PREPARATION = "preprocessor_config.json"
_PREPARED = ("do_", "size", "crop", "image_", "resample", "rescale", "default_to_square", "pad")
#: Files of weights of a whole network, the one that is read first.
_FILES = ("model.safetensors", "pytorch_model.bin")


def network_folder(folder: Path) -> Path:
    """Where the network of a model folder lies: in the folder, or where modules.json says."""
    file = folder / "modules.json"
    modules = _modules(file)
    path = str(modules[0].get("path", "")) if modules else ""
    return folder / path if is_inside(path) else folder


def open_network(folder: Path, base: Path) -> Source:
    """The weights of a model folder, pickles among them (`weights_only=True`); of an adapter, those of the base with
    it. base: a folder."""
    if is_adapter(folder):
        return Adapted(_weights(network_folder(base_of(folder) or base)), Adapter(folder))
    return _weights(network_folder(folder))


def _weights(place: Path) -> Weights:
    file = next((place / name for name in _FILES if (place / name).is_file()), place)
    return Weights(file, pickles=True)


def classifier_in(folder: Path, base: Path) -> Classifier | None:
    """The classifier that a model folder holds; for an adapter, the base's with the adapter's head, whose labels are
    known where a config.json beside it names them."""
    config = read_config(network_folder(folder))
    if is_adapter(folder):
        adapter = read_settings(folder / ADAPTER)
        task = str(adapter.get("task_type")) if isinstance(adapter, Mapping) else ""
        alone = {"architectures": [_ADAPTED.get(task, "")], "id2label": None, "problem_type": None}
        config = {**read_config(network_folder(base)), **alone, **config}
    return Classifier.of_config(config)


def network_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """The weights of the network that a base's config.json describes, by their names in files. Reads nothing else."""
    place = network_folder(folder)
    check_config(place)
    network = described(place)
    saved = saved_names(network)
    return {saved[n]: tuple(t.shape) for n, t in network.state_dict().items() if t.is_floating_point()}


def network_problems(base: Path, shapes: Mapping[str, tuple[int, ...]], folder: Path, source: Source) -> list[str]:
    """What keeps the network of a folder from being one that was tuned from a base, in words. Reads headers alone.

    shapes: as `network_shapes` gives them. A pooler may be missing, or be there: no features come from it.
    """
    place, mine = network_folder(folder), read_config(network_folder(base))
    other = mine if is_adapter(folder) else read_config(place)
    kind, own = other.get("model_type"), mine.get("model_type")
    if kind != own:
        return [f"it is a network of the type '{kind}', and the base of '{own}'"]
    wrong = [f"{key} is {other[key]!r} in its config.json, and in the base {mine[key]!r}"
             for key in _SETTINGS if key in other and key in mine and other[key] != mine[key]]  # fmt: skip
    names = _names(shapes, source)
    missing = [name for name in shapes if name not in names and not _is_pooler(name)]
    differ = [n for n, there in names.items() if source.shape(there) != shapes[n]]
    odd = [n for n, there in names.items() if source.dtype(there) not in FLOATS]
    prefix, _ = find_prefix(shapes, set(source))
    parts, used = {name.split(".")[0] for name in shapes}, set(names.values())
    more = [name for name in source if name.startswith(prefix) and name not in used and source.dtype(name) in FLOATS
            and name.removeprefix(prefix).split(".")[0] in parts and not _is_pooler(name)]  # fmt: skip
    if differ:
        there = source.shape(names[differ[0]])
        wrong.append(f"{plural(len(differ), 'tensor')} of other shapes than in the base, such as {differ[0]}: {there}, "
                     f"in the base {shapes[differ[0]]}")  # fmt: skip
    if missing:
        wrong.append(f"{plural(len(missing), 'tensor')} of the base missing, such as {missing[0]}")
    if more:
        wrong.append(f"{plural(len(more), 'tensor')} that the base does not have, such as {more[0]}")
    if odd:
        wrong.append(f"{odd[0]} is stored as {source.dtype(names[odd[0]])}, not in floating point")
    if moved := moved_tokens(network_folder(base), place):
        wrong.append(f"{plural(moved, 'token')} with other numbers in its vocabulary than in the base's")
    return wrong


def other_preparation(base: Path, folder: Path) -> list[str]:
    """The settings by which a folder prepares images otherwise than a base; none where one of the two says nothing."""
    mine, other = (read_settings(place / PREPARATION) if (place / PREPARATION).is_file() else {}
                   for place in (base, folder))  # fmt: skip
    if not isinstance(mine, Mapping) or not isinstance(other, Mapping) or not mine or not other:
        return []
    names = [name for name in (*mine, *other) if name.startswith(_PREPARED)]
    return sorted({name for name in names if mine.get(name) != other.get(name)})


def load_network(encoder: Encoder, folder: Path, source: Source) -> None:
    """Put the weights of a network into the encoder of its base, in place; a pooler that it lacks stays the base's.

    Errors: weights that are not finite.
    """
    state = encoder.backbone.state_dict()
    saved = saved_names(encoder.backbone)
    names = _names(dict.fromkeys(saved.values()), source)
    found = {n: source.get(names[there]).to(state[n].dtype) for n, there in saved.items() if there in names}
    encoder.backbone.load_state_dict({**state, **found})
    check_finite(encoder.named_parameters(), f"use {folder}", folder, "tune it again, or copy it again")


def _modules(file: Path) -> list[Mapping[str, object]]:
    """What a modules.json lists; nothing where it is not there. Errors: it lists anything else."""
    listed = read_settings(file) if file.is_file() else []
    if not isinstance(listed, list) or not all(isinstance(module, Mapping) for module in listed):
        raise AllroundError(f"read {file}", "it is not a list of modules", "copy or download it again")
    return listed


def modules_of(folder: Path) -> list[str]:
    """What comes after the network in a folder, in words; the mean over tokens, where nothing is said."""
    file = folder / "modules.json"
    if not file.is_file():
        return ["Pooling (mean)"]
    found = []
    for module in _modules(file)[1:]:
        kind, path = str(module.get("type", "")).rpartition(".")[2], str(module.get("path", ""))
        config = read_config(folder / path) if path and is_inside(path) else {}
        if kind == "Pooling":
            modes = [key.removeprefix("pooling_mode_").removesuffix("_tokens").removesuffix("_token")
                     for key, value in config.items() if key.startswith("pooling_mode_") and value]  # fmt: skip
            found.append(f"Pooling ({config.get('pooling_mode') or '+'.join(sorted(modes))})")
        elif kind == "Dense":
            function = str(config.get("activation_function", "")).rpartition(".")[2]
            found.append(f"Dense ({config.get('in_features')} to {config.get('out_features')}, {function})")
        elif kind != "Dropout":
            found.append(kind)
    return found


def load_modules(encoder: Encoder, folder: Path) -> None:
    """Put the weights of what comes after the network into the encoder of a base with the same modules, in place."""
    file = folder / "modules.json"
    if not isinstance(encoder, Text) or not file.is_file():
        return
    paths = [str(module.get("path", "")) for module in _modules(file)[1:]]
    with_weights = [module for module in list(encoder.pipeline)[1:] if module.state_dict()]
    files = [folder / path / "model.safetensors" for path in paths if (folder / path / "model.safetensors").is_file()]
    if len(files) != len(with_weights):
        raise AllroundError(
            f"use {folder}",
            f"{len(with_weights)} of its modules have weights, and it holds {len(files)} files for them",
            "save it again as safetensors: SentenceTransformer(folder).save(new_folder)",
        )
    for module, one in zip(with_weights, files, strict=True):
        weights = Weights(one)
        module.load_state_dict({name: weights.get(name) for name in weights})


def _names(shapes: Mapping[str, object], source: Source) -> dict[str, str]:
    """What a source calls the weights of a network, of those that it has."""
    known = {name for name in source if "/" not in name}
    prefix, stripped = find_prefix(shapes, known)
    called = {name: prefix + name.removeprefix(stripped) for name in shapes}
    return {name: there for name, there in called.items() if there in known}


def _is_pooler(name: str) -> bool:
    return "pooler" in name.split(".")
