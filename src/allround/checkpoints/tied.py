"""Output layers that are the embedding: which models have one, and how such a model reads with both by themselves."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from allround.checkpoints.source import Source
from allround.core.errors import AllroundError
from allround.core.files import read_settings

if TYPE_CHECKING:
    from torch import Tensor

EMBEDDING = re.compile(r"(^|[./])(embed_tokens|wte|word_embeddings|shared|embeddings|tok_embeddings|embed_in)\.weight$")
OUTPUT = re.compile(r"(^|[./])(lm_head|decoder|embed_out|output)\.(weight|bias)$")
#: What a configuration calls it.
TIE = "tie_word_embeddings"


def config_of(source: Source) -> dict[str, Any]:
    """The configuration of a model; of an adapter's model that of the model it is on. Empty where there is none."""
    inner = getattr(source, "inner", None)
    if inner is not None:
        return config_of(inner)
    path = source.path / "config.json"
    config = read_settings(path) if path.is_file() else None
    return config if isinstance(config, dict) else {}


def ties(source: Source) -> bool:
    """Whether a model's configuration says that its output layer is its embedding, and it is read so."""
    return bool(_said(config_of(source))) and not is_untied(source)


def is_untied(source: Source) -> bool:
    """Whether a model whose output layer is its embedding is read with each by itself."""
    return bool(twins_in(source))


def twins_in(source: Source) -> Mapping[str, str]:
    """The tensors that are read in the place of others, in a model that is read with its output layer by itself."""
    inner = getattr(source, "inner", None)
    return source.twins if isinstance(source, Untied) else twins_in(inner) if inner is not None else {}


def _said(config: Mapping[str, Any]) -> bool | None:
    """What a configuration says of it: None where it says nothing."""
    nested = config.get("text_config")
    said = [part[TIE] for part in (config, nested) if isinstance(part, dict) and TIE in part]
    return any(said) if said else None


class Untied(Source):
    """A model whose output layer is its embedding, read as if it stored both.

    twins: name -> the stored tensor that is read in its place.
    """

    def __init__(self, inner: Source, twins: Mapping[str, str]) -> None:
        self.inner = copy.copy(inner)
        self.path = inner.path
        self.twins = dict(twins)

    @property
    def metadata(self) -> dict[str, str]:
        return dict(getattr(self.inner, "metadata", None) or {})

    @property
    def files(self) -> list[Path]:
        return self.inner.files

    def __iter__(self) -> Iterator[str]:
        yield from self.inner
        yield from self.twins

    def __contains__(self, name: object) -> bool:
        return name in self.twins or name in self.inner

    def _stored(self, name: str) -> str:
        return self.twins.get(name, name)

    def shape(self, name: str) -> tuple[int, ...]:
        return self.inner.shape(self._stored(name))

    def dtype(self, name: str) -> str:
        return self.inner.dtype(self._stored(name))

    def announce(self, name: str) -> None:
        self.inner.announce(self._stored(name))

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        values = self.inner.read(self._stored(name), start, stop)
        if self.watch is not None:
            self.watch(name, start, values)
        return values


def twins_of(base: Source, asked: str) -> dict[str, str]:
    """The tensors that a model's class ties to stored ones, and those: empty where nothing is tied.

    Only the class of transformers that its configuration names says what its output layer is called.
    Errors: a configuration that says `tie_word_embeddings`, and a class that does not say of what.
    """
    config = config_of(base)
    said, names = _said(config), config.get("architectures")
    if said is False or is_untied(base) or not (said or names):
        return {}
    try:
        import transformers
    except ImportError as error:
        raise AllroundError(
            asked, f"its classes say what {base.path} ties to its embedding, and transformers is not installed",
            "pip install 'allround[text]'",
        ) from error  # fmt: skip
    classes = [getattr(transformers, name, None) for name in names or () if isinstance(name, str)]
    known = [one for one in classes if isinstance(one, type)]
    tied = getattr(known[0], "_tied_weights_keys", None) if known else None
    stored = set(base)
    twins = {}
    for name, origin in tied.items() if isinstance(tied, Mapping) else ():
        ours = next((one for one in stored if one == origin or one.endswith(f".{origin}")), None)
        if ours is not None and (name := ours.removesuffix(origin) + name) not in stored:
            twins[name] = ours
    if said and not twins and not (known and tied is None) and not any(OUTPUT.search(name) for name in stored):
        raise AllroundError(
            asked,
            f"the config.json of {base.path} says {TIE}, and its class ({names}) does not say which tensors these are",
            f"give a base that stores its output layer by itself ({TIE}: false)",
        )
    return twins
