"""Opening a language model that transformers saved: only whole, in float32, and without code of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from allround.core.errors import AllroundError
from allround.core.files import read_settings
from allround.models.pretrained import LOADING, check_config, check_size, check_tokenizer, whole

#: How the architectures of language models end; the second sort reads with an encoder and writes with a decoder.
CAUSAL, TWO_PARTS = ("ForCausalLM", "LMHeadModel"), ("ForConditionalGeneration",)


def is_language_model(folder: Path) -> bool:
    """Whether a folder's config.json names a language model. Reads no more than that."""
    file = folder / "config.json"
    config = read_settings(file) if file.is_file() else {}
    return isinstance(config, Mapping) and _auto(config) is not None


def _auto(config: Mapping[str, Any]) -> str | None:
    """The class of transformers that opens a language model; None for any other network."""
    named = config.get("architectures")
    named = [str(name) for name in named] if isinstance(named, list) else []
    vision = any(key in config for key in ("vision_config", "audio_config"))
    if any(name.endswith(CAUSAL) for name in named) and not vision:
        return "AutoModelForCausalLM"
    if any(name.endswith(TWO_PARTS) for name in named) and not vision and config.get("is_encoder_decoder"):
        return "AutoModelForSeq2SeqLM"
    return None


def load_language_model(folder: Path) -> tuple[Any, Any, Sequence[str]]:
    """The network and the tokenizer of a folder, and what a user should know of them."""
    from allround.core.jobs import quiet_libraries

    quiet_libraries()
    try:
        import transformers
    except ImportError as error:
        raise AllroundError(
            f"load the language model in {folder}",
            "the package transformers is not installed",
            "pip install 'allround[text]'",
        ) from error
    check_config(folder)
    check_tokenizer(folder)
    auto = _auto(read_settings(folder / "config.json"))
    if auto is None:
        raise AllroundError(
            f"load the language model in {folder}",
            "its config.json names no architecture that ends in ForCausalLM or ForConditionalGeneration",
            "give the folder of a language model that transformers saved",
        )
    check_size(folder, auto)
    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    network = getattr(transformers, auto).from_pretrained(str(folder), **LOADING, **options)
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder), **options)
    check_tokenizer(folder, tokenizer)
    network, notes = whole(folder, network)
    return network, tokenizer, notes
