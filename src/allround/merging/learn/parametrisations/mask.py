"""Mask: one mask over all weights, shared by the models, learned as Concrete variables."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from allround.core.registry import method
from allround.merging.learn.parametrisation import Coefficients


@method(source="Tang et al., 2023, arXiv:2312.06173 (Concrete subspace learning)")
class Mask(Coefficients):
    """B + m * (S - B + sum_t (c_t - scale) e_t), B the base, with m a mask of numbers in (0, 1) divided by its mean.

    While the mask is learned m is a sample of relaxed Bernoulli variables, sigmoid((l + logistic noise) / temperature),
    with a logit l for each weight; else, also while only coefficients are learned, sigmoid(l). The logits start at
    zero.
    level: of the coefficients, as in `Coefficients`; "none" keeps them. speed: of the logits, in rates of the
    coefficients.
    Differs: where the mask is not learned the authors' code takes one sample of it, or its binary form.

    >>> made = Mask({"w": torch.zeros(2)}, {"w": torch.ones(2)}, {"w": torch.ones(3, 2)})
    >>> made.eval()()["w"].tolist(), list(made.parts())
    ([1.0, 1.0], ['mask'])
    """

    def __init__(
        self,
        base: Mapping[str, Tensor],
        start: Mapping[str, Tensor],
        deltas: Mapping[str, Tensor],
        *,
        level: str = "none",
        scale: float = 0.3,
        bound: str = "none",
        temperature: float = 0.5,
        speed: float = 1.0,
    ) -> None:
        super().__init__(base, start, deltas, level=level, scale=scale, bound=bound)
        self.temperature, self.speed = temperature, speed
        self.names = list(deltas)
        self.logits = nn.ParameterList(
            nn.Parameter(torch.zeros(start[n].shape, dtype=self.raw.dtype, device=self.raw.device)) for n in self.names
        )

    def masks(self) -> dict[str, Tensor]:
        """The masks, each with the mean 1."""
        found = {}
        for name, logit in zip(self.names, self.logits, strict=True):
            if self.training and logit.requires_grad:
                noise = torch.rand_like(logit).clamp_(1e-6, 1 - 1e-6).logit_()
                drawn = ((logit + noise) / self.temperature).sigmoid()
            else:
                drawn = logit.sigmoid()
            found[name] = drawn / drawn.mean()
        return found

    def forward(self) -> dict[str, Tensor]:
        merged = super().forward() if self.learned else {n: self.start[n] for n in self.names}
        found = {}
        for name, mask in self.masks().items():
            base = self.base[name].to(mask.dtype)
            # As made the mask is 1, and this the start to the last bit.
            found[name] = merged[name] + (mask - 1) * (merged[name] - base)
        return found

    def parts(self) -> dict[str, list[nn.Parameter]]:
        return {**super().parts(), "mask": list(self.logits)}

    def rates(self) -> dict[str, float]:
        return {"mask": self.speed}

    def describe(self) -> dict[str, object]:
        below = [float((logit < 0).float().mean()) for logit in self.logits]
        return {**super().describe(), "masked": dict(zip(self.names, [round(b, 4) for b in below], strict=True))}
