"""Singular: which singular components of each change take part, beside its coefficient."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from allround.core.errors import AllroundError
from allround.core.registry import method
from allround.merging.learn.parametrisation import Coefficients
from allround.merging.matrices import directions

_EMBEDDING = re.compile(r"embed|\bw[tp]e\b")


@method(source="Lee et al., 2025, arXiv:2503.22178 (AdaRank)")
class Singular(Coefficients):
    """S + sum_t (c_t U_t diag(m_t s_t) V_t - scale e_t) for matrices; other weights have their coefficients alone.

    m_t is 1 where sigmoid(l_t / temperature) > 1/2, else 0; its gradient is that of the sigmoid (straight through). The
    logits l_t start at `margin` for the first components, the share `rank` of them, which take part in the start, and
    at -`margin` for the others: S is then less by scale times these. Convolutions are matrices (out, in * kernel).
    Embeddings have coefficients alone, unless `embeddings`.
    level: of the coefficients, as in `Coefficients`. speed: of the logits, in rates of the coefficients.
    Differs: the authors' code takes components of attention and MLP weights only, by their names.

    >>> eye = torch.eye(2)
    >>> made = Singular({}, {"w": eye}, {"w": torch.stack([eye, 2 * eye])})
    >>> torch.equal(made()["w"], eye), [p.shape for p in made.parts()["components"]]
    (True, [torch.Size([2, 2])])
    """

    def __init__(
        self,
        base: Mapping[str, Tensor],
        start: Mapping[str, Tensor],
        deltas: Mapping[str, Tensor],
        *,
        level: str = "block",
        scale: float = 0.3,
        bound: str = "none",
        temperature: float = 10.0,
        margin: float = 0.1,
        rank: float = 1.0,
        embeddings: bool = False,
        speed: float = 1.0,
    ) -> None:
        super().__init__(base, start, deltas, level=level, scale=scale, bound=bound)
        if not 0 < rank <= 1:
            raise AllroundError(
                f"start with the share {rank} of the components", "it is not between 0 and 1", "give 0.16"
            )
        self.temperature, self.speed = temperature, speed
        self.start = dict(start)
        self.matrices = [n for n, d in deltas.items() if d.ndim > 2 and (embeddings or not _EMBEDDING.search(n))]
        self.factors: dict[str, tuple[Tensor, Tensor, Tensor]] = {}
        logits = []
        for name in self.matrices:
            found = [directions(d.flatten(1).to(self.raw.dtype)) for d in deltas[name]]
            left = torch.cat([u for u, _, _ in found], 1)
            values = torch.stack([s for _, s, _ in found])
            self.factors[name] = left, values, torch.cat([v for _, _, v in found])
            begun = torch.full_like(values, margin)
            begun[:, int(rank * values.shape[1]) :] = -margin
            logits.append(nn.Parameter(begun))
        self.logits = nn.ParameterList(logits)
        self.begun = [mask.detach() for mask in self._masks()]
        if rank < 1:
            left_out = [
                self._first[self.group[n]][:, None] * (m - 1) for n, m in zip(self.matrices, self.begun, strict=True)
            ]
            self.start.update(self._moved(left_out))

    def _masks(self) -> list[Tensor]:
        found = []
        for logit in self.logits:
            soft = (logit / self.temperature).sigmoid()
            found.append(soft + ((soft > 0.5).to(soft.dtype) - soft).detach())
        return found

    def _moved(self, weights: Sequence[Tensor]) -> dict[str, Tensor]:
        """S + sum_t U_t diag(w_t s_t) V_t of the matrices, for a weight (k, components) of each."""
        found = {}
        for name, weight in zip(self.matrices, weights, strict=True):
            left, values, right = self.factors[name]
            start = self.start[name].to(values.dtype)
            found[name] = start + ((left * (weight * values).flatten()) @ right).reshape(start.shape)
        return found

    def forward(self) -> dict[str, Tensor]:
        moved = self.moved()
        # c m - scale m0, in a form that is exactly zero as made.
        weights = [
            moved[self.group[name]][:, None] * mask + self._first[self.group[name]][:, None] * (mask - begun)
            for name, mask, begun in zip(self.matrices, self._masks(), self.begun, strict=True)
        ]
        merged = {**self.sums([n for n in self.deltas if n not in self.factors]), **self._moved(weights)}
        return {name: merged[name] for name in self.deltas}

    def parts(self) -> dict[str, list[nn.Parameter]]:
        return {**super().parts(), "components": list(self.logits)}

    def rates(self) -> dict[str, float]:
        return {"components": self.speed}

    def describe(self) -> dict[str, object]:
        kept = {n: (m > 0.5).sum(1).tolist() for n, m in zip(self.matrices, self._masks(), strict=True)}
        return {**super().describe(), "ranks": kept}
