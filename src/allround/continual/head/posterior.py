"""posterior: distributions of heads, one after another, of which any trade-off between arrivals is a mix."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from allround.continual.features import row_features
from allround.continual.heads import HeadPolicy, columns_of, labels_of
from allround.continual.rows import Memory
from allround.core.errors import AllroundError
from allround.core.registry import method
from allround.core.seeds import seed_of
from allround.models.head import HeadState
from allround.models.model import Model
from allround.tasks.task import Task

#: Deviations of the priors before the first arrival.
PRIORS = (0.2, 0.25, 0.3)


@method(source="IBCL: Lu et al., 2023, arXiv:2310.02995")
class Posterior(HeadPolicy):
    """A linear head has a Gaussian for each of its numbers, from variational inference on the features of the encoder
    as it is; the posterior of one arrival is the prior of the next, in three chains that begin with `PRIORS`. All
    posteriors are kept, so that a head for any preference among arrivals follows without training: its numbers are the
    means of the convex combination of the posteriors.

    Formula: q_t = argmin E_q[-log p(y | x)] + KL(q || q_{t-1}); head = sum_t w_t mean over chains of the mean of q_t
    Differs: the paper draws numbers from the region of highest density of the combination, of which this is the middle;
    features are moved and scaled by one number, so that those of the first arrival have a mean of 0 and a mean square
    of 1, and a constant stands beside them.

    preference: how much each arrival counts, in their order; None: all the same. distance: a posterior that lies no
    further from one that is kept (root mean square of the gaps of means, and of deviations) is not kept itself; the
    authors divide the norm of all gaps by their number, by which large heads are all alike. steps, rate: of Adam.
    """

    def __init__(
        self, *, preference: Sequence[float] | None = None, distance: float = 0.01, steps: int = 300, rate: float = 0.05
    ) -> None:
        super().__init__()
        if preference is not None and (min(preference, default=-1) < 0 or not sum(preference) > 0):
            raise AllroundError("weigh arrivals", f"the preference is {list(preference)}",
                                "give numbers of 0 and above, one for each arrival")  # fmt: skip
        self.preference = None if preference is None else [float(one) for one in preference]
        self.distance, self.steps, self.rate = distance, steps, rate

    def make(self, model: Model, task: Task, memory: Memory) -> HeadState:
        labels_of(task)
        x = torch.from_numpy(row_features(model, task.name, task.splits["train"].inputs)).float()
        kept = self.state.setdefault(task.name, {})
        centre = kept.setdefault("centre", x.mean(0))
        scale = kept.setdefault("scale", 1 / (x - centre).square().mean().sqrt().clamp_min(1e-12))
        x = torch.cat([scale * (x - centre), torch.ones(len(x), 1)], 1)
        y = torch.from_numpy(columns_of(task)).float()
        number = len(kept["of"]) if "of" in kept else 0
        shape = (y.shape[1], x.shape[1])
        found = []
        for chain, deviation in enumerate(PRIORS):
            before = self._latest(kept, chain, shape, deviation)
            found.append(posterior(x, y, *before, steps=self.steps, rate=self.rate,
                                   seed=seed_of(0, "posterior", task.name, number, chain)))  # fmt: skip
        means, deviations = (torch.stack(parts) for parts in zip(*found, strict=True))
        self._keep(kept, means, deviations)
        weight = self._mixed(kept)
        inner = scale * weight[:, :-1]
        return HeadState({"weight": inner, "bias": weight[:, -1] - inner @ centre})

    def _latest(
        self, kept: dict[str, Tensor], chain: int, shape: tuple[int, int], deviation: float
    ) -> tuple[Tensor, Tensor]:
        """The posterior of the last arrival, as the prior of the next; labels that came since have the first prior."""
        mean, spread = torch.zeros(shape), torch.full(shape, deviation)
        if "of" in kept:
            last = int(kept["of"][-1])
            rows = kept["means"].shape[2]
            mean[:rows], spread[:rows] = kept["means"][last, chain], kept["deviations"][last, chain]
        return mean, spread

    def _keep(self, kept: dict[str, Tensor], means: Tensor, deviations: Tensor) -> None:
        """Keep a posterior, unless one like it is kept already."""
        one = torch.zeros(1, dtype=torch.int64)
        if "of" not in kept:
            kept.update({"means": means[None], "deviations": deviations[None], "of": one})
            return
        pair = {"means": means, "deviations": deviations}
        for name, new in pair.items():
            old = kept[name]
            wider = torch.zeros(len(old), *new.shape) if name == "means" else new.expand(len(old), *new.shape).clone()
            wider[:, :, : old.shape[2]] = old
            kept[name] = wider
        gaps = torch.stack(
            [(kept[name] - new).flatten(1).norm(dim=1) / new.numel() ** 0.5 for name, new in pair.items()]
        )
        gaps = gaps.sum(0)
        place = int(gaps.argmin())
        if float(gaps[place]) > self.distance:
            place = len(kept["means"])
            kept.update({name: torch.cat([kept[name], new[None]]) for name, new in pair.items()})
        kept["of"] = torch.cat([kept["of"], one + place])

    def _mixed(self, kept: dict[str, Tensor]) -> Tensor:
        """The head for the preference, (labels, features + 1). Of a preference for more arrivals than came, the first
        numbers count."""
        count = len(kept["of"])
        shares = torch.ones(count)
        if self.preference is not None:
            if len(self.preference) < count:
                raise AllroundError("weigh arrivals", f"the preference has {len(self.preference)} numbers, and arrival "
                                    f"{count} came", "give one number for each arrival")  # fmt: skip
            shares = torch.tensor(self.preference[:count])
        shares = shares / shares.sum().clamp_min(1e-12)
        found: Tensor = torch.einsum("t,tkd->kd", shares, kept["means"].mean(1)[kept["of"]])
        return found


def posterior(
    x: Tensor, y: Tensor, mean: Tensor, deviation: Tensor, *, steps: int, rate: float, seed: int
) -> tuple[Tensor, Tensor]:
    """The Gaussian of each number of a linear head that is nearest to its posterior given rows, and a Gaussian prior.

    Shapes: x (n, d), y (n, k) with a 1 for the label, mean and deviation (k, d) of the prior. Outputs are drawn, not
    numbers (Kingma et al., 2015): they are Gaussian too.
    """
    generator = torch.Generator().manual_seed(seed % 2**63)
    centre = mean.clone().requires_grad_()
    log_spread = deviation.log().clone().requires_grad_()
    optimiser = torch.optim.Adam([centre, log_spread], lr=rate)
    targets = y.argmax(1)
    for _ in range(steps):
        optimiser.zero_grad()
        spread = log_spread.exp()
        middle, wide = x @ centre.T, (x.square() @ spread.square().T).clamp_min(1e-12).sqrt()
        outputs = middle + wide * torch.randn(middle.shape, generator=generator)
        lost = F.cross_entropy(outputs, targets, reduction="sum") + divergence(centre, spread, mean, deviation)
        (lost / len(x)).backward()
        optimiser.step()
    return centre.detach(), log_spread.detach().exp()


def divergence(mean: Tensor, deviation: Tensor, prior_mean: Tensor, prior_deviation: Tensor) -> Tensor:
    """KL(q || p) of two sets of Gaussians, summed.

    >>> one = torch.ones(1)
    >>> round(float(divergence(one, one, 0 * one, 2 * one)), 4)  # ln 2 + (1 + 1) / 8 - 1 / 2
    0.4431
    """
    ratio = (deviation / prior_deviation).square()
    return 0.5 * (ratio + ((mean - prior_mean) / prior_deviation).square() - 1 - ratio.log()).sum()
