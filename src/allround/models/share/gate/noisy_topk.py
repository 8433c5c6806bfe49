"""A softmax of which the largest weights are kept, with noise in training and a penalty on what is left out."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from allround.core.registry import method
from allround.models.share.gate_base import Gate, uniform


@method(
    source="Shazeer et al., ICLR 2017, section 2.1 and appendix A; noise and softmax before the choice as in "
    "VITA-Group/M3ViT; the layers in front as in task_moe/gate.py of fundamentalvision/Uni-Perceiver"
)
class NoisyTopk(Gate):
    """The `k` largest entries of softmax(weight @ x + noise), and 0 for the others; noise in training alone.

    renormalise: whether what is kept is divided by its sum; with k=1 it never is, since nothing could be learned then.
    noise: its deviation; None for 1 / count. hidden: numbers of a linear layer and a layer normalisation in front; 0
    for none. load: weight of the penalty cv^2(importance) + cv^2(load), squared deviations over squared means of what
    modules weigh and of how often they are chosen. always: so many modules, the last ones, weigh 1 and take no part.

    >>> _ = torch.manual_seed(0)
    >>> gate = NoisyTopk(4, 3, k=2).eval()
    >>> (gate(torch.ones(5, 3)) > 0).sum(-1).tolist()
    [2, 2, 2, 2, 2]
    """

    def __init__(
        self,
        count: int,
        width: int,
        own: tuple[int, ...] = (),
        *,
        k: int = 2,
        renormalise: bool = True,
        noise: float | None = None,
        hidden: int = 0,
        load: float = 0.0,
        always: int = 0,
    ) -> None:
        super().__init__(count, width, own)
        self.among, self.always, self.load = count - always, always, load
        self.k = min(k, self.among)
        self.renormalise = renormalise and self.k > 1
        self.noise = 1 / self.among if noise is None else noise
        self.front = nn.Sequential(nn.Linear(width, hidden), nn.LayerNorm(hidden)) if hidden else None
        read = hidden or width
        self.weight = nn.Parameter(uniform((self.among, read), read**-0.5))
        #: What each module weighed on average before the choice: in the last batch, and in those before.
        self.usage: Tensor | None = None
        self.register_buffer("seen", torch.full((count,), 1 / count))
        self._penalty: Tensor | None = None

    def forward(self, values: Tensor) -> Tensor:
        clean = nn.functional.linear(values if self.front is None else self.front(values), self.weight)
        logits = clean + self.noise * torch.randn_like(clean) if self.training and self.noise else clean
        shares = logits.softmax(-1)
        kept = torch.zeros_like(shares).scatter(-1, shares.topk(self.k, -1).indices, 1.0)
        weights = shares * kept
        if self.renormalise:
            weights = weights / weights.sum(-1, keepdim=True)
        if self.training:
            self._look(clean, logits, shares, weights)
        ones = weights.new_ones(*weights.shape[:-1], self.always)
        return torch.cat([weights, ones], -1)

    def _look(self, clean: Tensor, logits: Tensor, shares: Tensor, weights: Tensor) -> None:
        """Remember what a batch says of the use of modules."""
        flat = [tensor.reshape(-1, self.among) for tensor in (clean, logits, shares, weights)]
        self.usage = torch.cat([flat[2].mean(0), flat[2].new_ones(self.always)])
        with torch.no_grad():
            self.get_buffer("seen").lerp_(self.usage, 0.1)
        if self.load:
            spread = _squared_variation(flat[3].sum(0))
            if self.noise and self.k < self.among:
                spread = spread + _squared_variation(self._chosen(flat[0], flat[1]).sum(0))
            self._penalty = self.load * spread

    def _chosen(self, clean: Tensor, logits: Tensor) -> Tensor:
        """The probability that each module is chosen, were its noise drawn again."""
        top = logits.topk(self.k + 1, -1).values
        inside = logits > top[:, -1:]
        # Without its own noise a module competes with the last that is chosen, or with the first that is not.
        rival = torch.where(inside, top[:, -1:], top[:, -2:-1])
        found: Tensor = torch.special.ndtr((clean - rival) / self.noise)
        return found

    def penalty(self) -> Tensor | None:
        found, self._penalty = self._penalty, None
        return found


def _squared_variation(values: Tensor) -> Tensor:
    """Variance over squared mean."""
    return values.var(unbiased=False) / values.mean().square().clamp_min(1e-10)
