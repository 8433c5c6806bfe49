"""Where modules can sit inside an encoder: its blocks, and the linear layers in them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from allround.core.errors import AllroundError, suggestion

#: Parts of the names of layers that belong to attention.
_ATTENTION = ("attn", "attention")
#: What each site is.
SITES = {
    "linear": "each linear or convolution layer",
    "attention": "each linear layer of the attention",
    "feed_forward": "each linear layer of the feed-forward part",
    "sublayers": "the last linear layer of the attention and of the feed-forward part",
    "attention_output": "the last linear layer of the attention",
    "feed_forward_output": "the last linear layer of the feed-forward part",
}
#: Sites that are no single layers.
EXPERTS, INPUT, BLOCKS = "experts", "input", "blocks"


@dataclass(frozen=True)
class Block:
    """One of the blocks that a network repeats: its name, and its linear layers by their whole names."""

    name: str
    attention: tuple[str, ...]
    feed_forward: tuple[str, ...]


def blocks_of(backbone: nn.Module) -> list[Block]:
    """The blocks of a network: the members of its longest list of modules of one class; else the whole as one block."""
    found: tuple[str, nn.ModuleList] | None = None
    for name, module in backbone.named_modules():
        same = isinstance(module, nn.ModuleList) and len({type(one) for one in module}) == 1
        if same and (found is None or len(module) > len(found[1])):
            found = name, module
    if found is None or len(found[1]) < 2:
        return [_block("", backbone)]
    return [_block(f"{found[0]}.{number}", block) for number, block in enumerate(found[1])]


def _block(name: str, block: nn.Module) -> Block:
    inside = [f"{name}.{n}" if name else n for n, m in block.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    attention = [n for n in inside if any(word in n[len(name) :].lower() for word in _ATTENTION)]
    return Block(name, tuple(attention), tuple(n for n in inside if n not in attention))


def layers_at(backbone: nn.Module, site: str, every: int = 1) -> list[str]:
    """The names of the layers at a site. Errors: no such site; a network that has none there."""
    if site not in SITES:
        raise AllroundError(
            f"put modules at '{site}'", "there is no such site", suggestion(site, [*SITES, EXPERTS, INPUT, BLOCKS])
        )
    blocks = blocks_of(backbone)[every - 1 :: every]
    found: list[str] = []
    for block in blocks:
        if site in ("linear", "attention"):
            found += block.attention
        if site in ("linear", "feed_forward"):
            found += block.feed_forward
        if site in ("sublayers", "attention_output"):
            found += block.attention[-1:]
        if site in ("sublayers", "feed_forward_output"):
            found += block.feed_forward[-1:]
    if not found:
        raise AllroundError(
            f"put modules at {SITES[site]}",
            f"the network {type(backbone).__name__} has none"
            + (f" in each block numbered {every}" if every > 1 else ""),
            "choose another site, or a preset that adds a network behind the encoder, such as mmoe",
        )
    return found


def places_of(backbone: nn.Module, names: list[str]) -> list[tuple[int, int]]:
    """For each of some layers the number of its block, and its number among those layers in the block."""
    blocks = blocks_of(backbone)
    found: list[tuple[int, int]] = []
    for name in names:
        block = next(n for n, one in enumerate(blocks) if name in (*one.attention, *one.feed_forward))
        found.append((block, sum(other == block for other, _ in found)))
    return found
