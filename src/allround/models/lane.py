"""A lane beside the blocks of a frozen transformer: a few tokens of a task's own that stand for all that it reads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from allround.core.errors import AllroundError
from allround.models.share.sites import blocks_of


class Lane(nn.Module):
    """What a task has of its own.

    Shapes: selectors (count, width); prompts (blocks, 2, length, width), the keys and values that each of the first
    blocks attends to as well.
    """

    def __init__(self, width: int, selectors: int, prompts: int, blocks: int) -> None:
        super().__init__()
        self.selectors = nn.Parameter(nn.init.orthogonal_(torch.empty(selectors, width)))
        drawn = [nn.init.orthogonal_(torch.empty(2, prompts, width)) for _ in range(blocks)]
        self.prompts = nn.Parameter(torch.stack(drawn) if drawn else torch.empty(0, 2, prompts, width))


@dataclass(frozen=True)
class LaneSite:
    """A block of a transformer, and the linear layers of its attention."""

    block: nn.Module
    query: nn.Module
    key: nn.Module
    value: nn.Module
    out: nn.Module


def lane_sites(backbone: nn.Module) -> list[LaneSite]:
    """The blocks of a network. Errors: no blocks, or such whose attention is not four linear layers."""
    found = []
    for block in blocks_of(backbone):
        # query, q_proj and q; key, k_proj and k; value, v_proj and v; what is left joins the heads.
        layers = {name.rpartition(".")[2][0]: backbone.get_submodule(name) for name in block.attention}
        out = [layer for letter, layer in layers.items() if letter not in "qkv"]
        if not block.name or len(block.attention) != 4 or len(out) != 1 or not {*"qkv"} < {*layers}:
            raise AllroundError(
                "lay lanes beside the blocks of an encoder",
                f"the network {type(backbone).__name__} is not two or more blocks whose attention is four layers: "
                "query, key, value and what joins the heads",
                "use a text or vision transformer such as BERT or ViT as the --base, or another strategy",
            )
        found.append(LaneSite(backbone.get_submodule(block.name), *(layers[letter] for letter in "qkv"), *out))
    return found


class LanePass:
    """One way of a batch through a network, and then through the same blocks in a lane.

    The lane begins with the first vector of the embedded input, the class token, and the selectors. In each block a
    selector is replaced by the mean of what the network reads there, weighed by how alike the two are: attention is
    between the class token and these summaries, beside prompts. Then the summaries are dropped, and the selectors go
    on. What the last block gives is the class token of the lane, in all places.

    Formula: summary = softmax(s X^T / sqrt(width)) X for a selector s and vectors X, both as attention reads them
    mask: (rows, vectors), 0 for padding.
    """

    def __init__(self, sites: list[LaneSite], lane: Lane, mask: Tensor | None) -> None:
        self.sites, self.lane, self.mask = sites, lane, mask
        self.count = 1 + len(lane.selectors)
        self.start: Tensor | None = None
        #: What attention of each block read of the network.
        self.read: list[Tensor] = []
        #: The number of the block that the lane goes through; None while the network is read.
        self.at: int | None = None
        #: What attention reads in the lane: selectors as they are there, and the tokens with summaries in their place.
        self.selectors, self.tokens = torch.empty(0), torch.empty(0)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Let the network be read, and its last block answer for the lane."""
        first, last = self.sites[0].block, self.sites[-1].block
        handles = [first.register_forward_pre_hook(self._begin, with_kwargs=True)]
        for number, site in enumerate(self.sites):
            handles += [layer.register_forward_pre_hook(partial(self._reading, number))
                        for layer in (site.query, site.key, site.value)]  # fmt: skip
            handles += [layer.register_forward_hook(partial(self._prompted, which))
                        for which, layer in enumerate((site.key, site.value))]  # fmt: skip
            handles.append(site.out.register_forward_hook(self._kept))
        handles.append(last.register_forward_hook(self._end))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _begin(self, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self.at is None:
            hidden = args[0] if args else kwargs["hidden_states"]
            self.start = hidden[:, :1].detach()

    def _reading(self, number: int, layer: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        """Keep what attention reads of the network; in the lane, give it summaries in the place of selectors."""
        if self.at is None:
            if len(self.read) == number:
                self.read.append(args[0].detach())
            return None
        if not len(self.tokens):
            self.selectors = args[0][:, 1 : self.count]
            made = summaries(self.selectors, self.read[number].to(self.selectors.dtype), self.mask)
            self.tokens = torch.cat([args[0][:, :1], made, args[0][:, self.count :]], 1)
        return (self.tokens, *args[1:])

    def _prompted(self, which: int, layer: nn.Module, args: Any, output: Tensor) -> Tensor | None:
        """Put a prompt in the place of keys or values behind the tokens."""
        if self.at is None or output.shape[1] == self.count:
            return None
        own = self.lane.prompts[self.at, which].to(output.dtype)
        return torch.cat([output[:, : self.count], own.expand(len(output), -1, -1)], 1)

    def _kept(self, layer: nn.Module, args: Any, output: Tensor) -> Tensor | None:
        """Drop summaries, and go on with selectors."""
        if self.at is None:
            return None
        return torch.cat([output[:, :1], self.selectors.to(output.dtype), output[:, self.count :]], 1)

    def _end(self, block: nn.Module, args: Any, output: Any) -> Any:
        if self.at is not None:
            return None
        found = output[0] if isinstance(output, tuple) else output
        made = self.through()[:, :1].to(found.dtype).expand_as(found)
        return (made, *output[1:]) if isinstance(output, tuple) else made

    def through(self) -> Tensor:
        """The tokens of the lane behind the last block, (rows, 1 + selectors, width)."""
        assert self.start is not None
        rows, prompts = len(self.start), self.lane.prompts
        tokens = torch.cat([self.start, self.lane.selectors.to(self.start.dtype).expand(rows, -1, -1)], 1)
        for number, site in enumerate(self.sites):
            self.at, self.tokens = number, torch.empty(0)
            room = tokens.new_zeros(rows, prompts.shape[2] if number < len(prompts) else 0, tokens.shape[2])
            output = site.block(torch.cat([tokens, room], 1))
            tokens = (output[0] if isinstance(output, tuple) else output)[:, : self.count]
        self.at = None
        return tokens


def summaries(selectors: Tensor, read: Tensor, mask: Tensor | None = None) -> Tensor:
    """The mean of vectors for each selector, weighed by how alike they are.

    Shapes: selectors (rows, count, width), read (rows, n, width), mask (rows, n) -> (rows, count, width)

    >>> summaries(torch.zeros(1, 1, 2), torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])).tolist()
    [[[2.0, 3.0]]]
    """
    alike = selectors @ read.transpose(1, 2) / read.shape[-1] ** 0.5
    if mask is not None:
        alike = alike.masked_fill(mask[:, None] == 0, float("-inf"))
    made: Tensor = alike.softmax(-1) @ read
    return made
