"""Vectors that stand in front of the embedded input of a transformer, and are taken out behind it.

They stand behind the first vector, so that a network which answers by its first vector (CLS) still does. They have no
position: the input keeps the positions that it has.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from allround.core.errors import AllroundError
from allround.models.share.insert import Route, routed
from allround.models.share.inside import Inside
from allround.models.share.sites import blocks_of

#: Where networks of transformers embed their input.
EMBEDDINGS = "embeddings"


class Framed:
    """What a network computes, with room in its attention mask for vectors that are put in, and without what it makes
    of these.

    It stands in the place of the network's `forward`, since libraries call that by name.
    """

    def __init__(self, forward: Callable[..., Any], length: int, route: Route) -> None:
        self.forward, self.length, self.route = forward, length, route
        #: The mask of the batch that is computed now, as it was given.
        self.mask: Tensor | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.route.off:
            return self.forward(*args, **kwargs)
        mask = self.mask = kwargs.get("attention_mask")
        if mask is not None:
            ones = mask.new_ones(len(mask), self.length)
            kwargs["attention_mask"] = torch.cat([mask[:, :1], ones, mask[:, 1:]], 1)
        output = self.forward(*args, **kwargs)
        found = output.last_hidden_state
        output.last_hidden_state = torch.cat([found[:, :1], found[:, 1 + self.length :]], 1)
        return output


class PutIn:
    """Behind the embedding: put the vectors of each row's task behind its first vector."""

    def __init__(self, mixture: Inside, route: Route, frame: Framed) -> None:
        self.mixture, self.route, self.frame = mixture, route, frame

    def __call__(self, module: nn.Module, args: Any, output: Tensor) -> Tensor:
        if self.route.off:
            return output
        made = self.made(output)
        return torch.cat([output[:, :1], made, output[:, 1:]], 1)

    def made(self, read: Tensor) -> Tensor:
        """(rows, n, d) -> (rows, length, d); gates read the mean of each row."""
        mask = self.frame.mask
        shares = read.new_ones(read.shape[:2]) if mask is None else mask.to(read.dtype)
        mean = (read * shares.unsqueeze(-1)).sum(1) / shares.sum(1, keepdim=True)
        made = routed(self.mixture, self.route, mean)
        return made.reshape(len(read), self.frame.length, read.shape[-1])


class PutAnew(PutIn):
    """In front of a block: put other vectors in the place of those that were put in."""

    def __call__(  # type: ignore[override]
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]]:
        if self.route.off:
            return args, kwargs
        hidden = args[0] if args else kwargs["hidden_states"]
        length = self.frame.length
        rest = torch.cat([hidden[:, :1], hidden[:, 1 + length :]], 1)
        anew = torch.cat([hidden[:, :1], self.made(rest), hidden[:, 1 + length :]], 1)
        return ((anew, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": anew})


def embedding_of(backbone: nn.Module, *, packed: bool) -> nn.Module:
    """The layer that embeds the input. packed: whether several rows may stand in one sequence."""
    found = getattr(backbone, EMBEDDINGS, None)
    width = getattr(getattr(backbone, "config", None), "hidden_size", None)
    if packed or not isinstance(found, nn.Module) or not isinstance(width, int):
        raise AllroundError(
            "put vectors in front of the embedded input",
            "a language model reads several rows in one sequence, which a row's own vectors have no room in"
            if packed
            else f"the network {type(backbone).__name__} has no part that embeds a sequence",
            "choose a preset with modules at the layers, such as adapters or poly"
            + ("" if packed else ", or use a text or vision transformer as the --base"),
        )
    return found


def put_in(backbone: nn.Module, mixtures: list[Inside], route: Route, length: int) -> None:
    """Let a network read vectors that mixtures make: the first behind the embedding, each further one at a block."""
    frame = Framed(backbone.forward, length, route)
    backbone.forward = frame
    getattr(backbone, EMBEDDINGS).register_forward_hook(PutIn(mixtures[0], route, frame))
    for block, mixture in zip(blocks_of(backbone)[1:], mixtures[1:], strict=False):
        place = backbone.get_submodule(block.name)
        place.register_forward_pre_hook(PutAnew(mixture, route, frame), with_kwargs=True)
