"""regressed_loss: the module whose loss on a row is predicted to be the smallest, and cheap modules first if asked."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from allround.composition.gating import drawn, frozen, owned
from allround.composition.modules.bank import ModuleBank
from allround.composition.router import Router, RouteRows, Seen, base_vectors, taken_state
from allround.core.errors import AllroundError
from allround.core.registry import method
from allround.core.seeds import seed_of

#: Strengths of the penalty that are tried.
PENALTIES = (1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3, 1e4)


@method(
    source="Hari and Thomson, arXiv:2308.11601, section 2: argmin_i L_i(z) + sum_j lambda_j C_j(i)",
    paper="Tryage: Real-time, intelligent Routing of User Prompts to Large Language Models",
    needs=("rows", "labels"),
)
class RegressedLoss(Router):
    """Measures the loss of each module on training rows, regresses it on the base's vectors, and gives a row the module
    of the smallest predicted loss plus `size` times the module's share of the largest module's numbers.

    rows: of each task; the loss of each of them is measured with each module and the task's own head.
    Differs: a ridge regression in place of a small language model, its penalty chosen by leaving one row out; of the
    losses of a row their mean is taken away, which moves no choice between modules. Of the paper's flags there is size.
    """

    name = "regressed_loss"
    mixes = False

    def __init__(self, *, rows: int = 100, size: float = 0.0) -> None:
        super().__init__()
        if rows < 2 or size < 0:
            raise AllroundError(f"regress losses of {rows} rows with the weight {size} for size",
                                "rows must be at least 2, and the weight at least 0", "give such numbers")  # fmt: skip
        self.rows, self.size = rows, size
        self.tensors: dict[str, Tensor] = {}

    def fit(self, bank: ModuleBank, tasks: Mapping[str, RouteRows], seed: int) -> None:
        super().fit(bank, tasks, seed)
        owned(tasks, "fit the router 'regressed_loss'")
        vectors, losses = [], []
        for name, rows in tasks.items():
            generator = torch.Generator().manual_seed(seed_of(seed, "regressed_loss", name))
            chosen = drawn(rows, self.rows, generator)
            if chosen:
                vectors.append(base_vectors(bank, rows)[chosen])
                losses.append(self._measured(bank, rows, chosen))
        found, measured = torch.cat(vectors).double(), torch.cat(losses).double()
        measured = measured - measured.mean(1, keepdim=True)
        center, scale = found.mean(0), found.std(0, correction=0).clamp_min(1e-6)
        weight, bias = ridge((found - center) / scale, measured)
        sizes = torch.tensor([float(bank.numbers(module)) for module in range(self.count)])
        self.tensors = {
            "weight": (weight / scale).float().contiguous(),
            "bias": (bias - weight @ (center / scale)).float(),
            "sizes": sizes / sizes.max().clamp_min(1),
        }

    def _measured(self, bank: ModuleBank, rows: RouteRows, chosen: list[int]) -> Tensor:
        """The loss of each module on each of some rows: (n, modules)."""
        order = sorted(chosen, key=lambda row: -rows.model.size(rows.labelled[row]))
        columns = []
        with frozen(rows.model), torch.inference_mode():
            for column in torch.eye(self.count, device=rows.model.device):
                found: dict[int, Tensor] = {}
                with bank.using(column[None]):
                    for start in range(0, len(order), 32):
                        some = sorted(order[start : start + 32])
                        found.update(zip(some, rows.apart(some).cpu(), strict=True))
                columns.append(torch.stack([found[row] for row in chosen]))
        return torch.stack(columns, 1)

    def state(self) -> dict[str, Tensor]:
        return dict(self.tensors)

    def restore(self, bank: ModuleBank, state: Mapping[str, Tensor]) -> None:
        self.count = len(bank)
        shapes = {"weight": (self.count, None), "bias": (self.count,), "sizes": (self.count,)}
        self.tensors = dict(zip(shapes, taken_state(state, **shapes), strict=True))

    def weights(self, seen: Seen) -> Tensor:
        own = {name: tensor.to(seen.features.device) for name, tensor in self.tensors.items()}
        predicted = seen.features @ own["weight"].T + own["bias"] + self.size * own["sizes"]
        return torch.zeros_like(predicted).scatter_(1, predicted.argmin(1, keepdim=True), 1.0)


def ridge(vectors: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Linear functions of vectors (n, d) that are near to targets (n, k): their weights (k, d) and biases (k,).

    The penalty on the weights is the one of `PENALTIES` under which each row is best predicted by the others.
    """
    middle, mean = vectors.mean(0), targets.mean(0)
    left, values, right = torch.linalg.svd(vectors - middle, full_matrices=False)
    projected = left.T @ (targets - mean)
    best, kept = float("inf"), projected
    for penalty in PENALTIES:
        shrink = values**2 / (values**2 + penalty)
        residuals = targets - mean - left @ (shrink[:, None] * projected)
        leverage = (left**2 @ shrink) + 1 / len(vectors)
        error = float(((residuals / (1 - leverage).clamp_min(1e-6)[:, None]) ** 2).mean())
        if error < best:
            best, kept = error, (values / (values**2 + penalty))[:, None] * projected
    weight = (right.T @ kept).T
    return weight, mean - weight @ middle
