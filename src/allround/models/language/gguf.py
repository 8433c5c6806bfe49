"""GGUF files, dequantised once into a folder of transformers that is kept for the next time."""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path
from typing import Any

from allround.core.errors import AllroundError
from allround.core.files import disk_errors, hash_file
from allround.core.outputs import piece_folder
from allround.core.reading import open_file

#: How the name of a file ends.
GGUF = ".gguf"
_MAGIC = b"GGUF"


def unpacked_gguf(file: Path) -> Path:
    """The folder of the model in a GGUF file, made where it is not there yet: float32 weights and tokenizer.

    Folders are kept by content in the user's cache (`XDG_CACHE_HOME`, by default ~/.cache).
    Errors: a file of anything else; a kind of network that transformers cannot read from GGUF; no package gguf.
    """
    asked = f"open the model in {file}"
    with open_file(file, asked=asked) as opened:
        if opened.read(4) != _MAGIC:
            raise AllroundError(asked, "it is no GGUF file: it does not begin with 'GGUF'", "copy or download it again")
    place = _cache(asked) / hash_file(file)[:32]
    if not place.is_dir():
        place.parent.mkdir(parents=True, exist_ok=True)
        with disk_errors(str(place)), piece_folder(place) as new:
            _unpack(file, new, asked)
    return place


def _cache(asked: str) -> Path:
    folder = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(folder) if folder else Path.home() / ".cache") / "allround" / "gguf"
    except RuntimeError as error:
        raise AllroundError(asked, "there is no home folder to unpack it into", "set XDG_CACHE_HOME") from error


def _unpack(file: Path, folder: Path, asked: str) -> None:
    from allround.core.jobs import quiet_libraries

    quiet_libraries()
    try:
        import gguf  # noqa: F401
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer
    except ImportError as error:
        raise AllroundError(
            asked, f"the package {error.name} is not installed", "pip install 'allround[lm]'"
        ) from error
    options: dict[str, Any] = {"gguf_file": file.name, "local_files_only": True, "trust_remote_code": False}
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # it draws a bar, whatever its settings say
            network = AutoModelForCausalLM.from_pretrained(str(file.parent), dtype=torch.float32, **options)
            tokenizer = AutoTokenizer.from_pretrained(str(file.parent), **options)
    except Exception as error:  # the library raises whatever comes of a damaged file
        words = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        raise AllroundError(
            asked,
            f"transformers cannot read it: {words}",
            "give the folder of the model as transformers saves it",
        ) from error
    config = network.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with torch.device("meta"):
        plain = type(network)(config)
    plain.load_state_dict(network.state_dict(), assign=True)
    plain.tie_weights()
    plain.generation_config = network.generation_config
    plain.save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
