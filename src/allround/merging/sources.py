"""A recipe's models as sources of weights: files, folders, Hub ids, adapters; output layers untied alike."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from allround.checkpoints.adapted import Adapted
from allround.checkpoints.adapter import Adapter
from allround.checkpoints.adapter_config import is_adapter
from allround.checkpoints.fingerprint import fingerprint
from allround.checkpoints.source import Source
from allround.checkpoints.tied import EMBEDDING, Untied, ties, twins_in
from allround.checkpoints.weights import Weights
from allround.core.errors import AllroundError
from allround.merging.names import Names, is_output
from allround.merging.recipe import Model


def open_model(model: Model, base: Source | None) -> Source:
    """A recipe's model as a source of weights; an adapter alone is one of `base` with it, or of its own."""
    from allround.models.adapted import base_of
    from allround.models.base import find_folder

    path = Path(model.path)
    path = path if path.is_file() else find_folder(model.path, "model")
    adapters = [Adapter(find_folder(adapter, "adapter")) for adapter in model.adapters]
    if not is_adapter(path):
        source = Weights(path, pickles=True)
        return Adapted(source, adapters) if adapters else source
    first = Adapter(path)
    own = base_of(path)
    if own is not None and (base is None or fingerprint(base) != fingerprint(Weights(own))):
        return Adapted(Weights(own), [first, *adapters])
    if base is None:
        raise AllroundError(
            f"open the model {model.path}",
            "it is an adapter: it holds changes of a base, not a whole model",
            "give the base it was tuned from" + (f", '{first.base_name}'" if first.base_name else "") + ", as the base",
        )
    return Adapted(base, [first, *adapters], same_base=True)


def untie(sources: Sequence[Source]) -> list[Source]:
    """The models; the first (the base) with its output layer by itself, where that of another is not the embedding."""
    first, *others = sources
    stored = set(first)
    embeddings = [name for name in stored if EMBEDDING.search(name)]
    tied = ties(first) and len(embeddings) == 1 and not any(map(is_output, stored))
    twins: dict[str, str] = {}
    for other in others:
        twins |= {name: origin for name, origin in twins_in(other).items() if name not in stored and origin in stored}
        names = Names(first, other)
        rows = names.find(embeddings[0]) if tied and not names.tied else None
        if rows is not None and not twins:
            own = (name for name in other if is_output(name) and other.shape(name) == other.shape(rows))
            twins |= {names.plain(name): embeddings[0] for name in own}
    return [Untied(first, twins), *others] if twins else [first, *others]
