"""Log-probabilities of tokens from hidden states, without the logits of a whole vocabulary in memory at once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

#: States whose logits are computed at once.
CHUNK = 256


def log_probabilities(states: Tensor, tokens: Tensor, output: Callable[[Tensor], Tensor]) -> Tensor:
    """log p(token) after each state: (n,), float32.

    Shapes: states (n, d), tokens (n,); output maps states to logits (n, vocabulary). Where gradients are wanted, the
    logits of a chunk are computed again in the backward pass.
    """
    parts = []
    for start in range(0, len(states), CHUNK):
        some, wanted = states[start : start + CHUNK], tokens[start : start + CHUNK]
        if torch.is_grad_enabled() and some.requires_grad and len(states) > CHUNK:
            parts.append(checkpoint(_chunk, some, wanted, output, use_reentrant=False))
        else:
            parts.append(_chunk(some, wanted, output))
    return torch.cat(parts) if parts else states.new_zeros(0)


def _chunk(states: Tensor, tokens: Tensor, output: Callable[[Tensor], Tensor]) -> Tensor:
    return _of(output(states).float(), tokens)


def ranked(states: Tensor, tokens: Tensor, output: Callable[[Tensor], Tensor]) -> Tensor:
    """log p(token) after each state, and whether no other token is more probable: (n, 2), float32. Without gradients.

    >>> ranked(torch.eye(2), torch.tensor([0, 0]), lambda states: 2 * states)[:, 1].tolist()
    [1.0, 0.0]
    """
    parts = [torch.zeros(0, 2, device=states.device)]
    for start in range(0, len(states), CHUNK):
        wanted = tokens[start : start + CHUNK]
        logits = output(states[start : start + CHUNK]).float()
        parts.append(torch.stack([_of(logits, wanted), (logits.argmax(-1) == wanted).float()], 1))
    return torch.cat(parts)


def _of(logits: Tensor, tokens: Tensor) -> Tensor:
    return logits.gather(-1, tokens.unsqueeze(-1)).squeeze(-1) - logits.logsumexp(-1)
