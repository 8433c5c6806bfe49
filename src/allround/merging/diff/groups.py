"""What belongs together: the groups that tensors are summed up in, by their names."""

from __future__ import annotations

import re

from allround.checkpoints.tied import EMBEDDING, OUTPUT

EMBEDDINGS, OTHER = "embeddings", "head and other"
#: What of a name counts layers: all before the first number, and that number.
LAYER = re.compile(r"^((?:.*?[./])??)(\d+)(?=[./]|$)")


def group_of(name: str) -> str:
    """The group that a tensor is summed up in, from its name.

    >>> group_of("model.layers.12.mlp.up_proj.weight"), group_of("model.embed_tokens.weight"), group_of("lm_head.bias")
    ('layer 12', 'embeddings', 'head and other')
    """
    if (found := LAYER.search(name)) is not None:
        return f"layer {int(found[2])}"
    if OUTPUT.search(name):
        return OTHER
    return EMBEDDINGS if EMBEDDING.search(name) or re.search(r"embed|\bw[tp]e\b", name) else OTHER


def group_order(group: str) -> tuple[int, int]:
    return (1, int(group[6:])) if group.startswith("layer ") else (0 if group == EMBEDDINGS else 2, 0)
