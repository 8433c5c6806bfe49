"""likelihood_ratio: how much likelier a row is among the rows of a part than among the remembered rows of others."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from allround.continual.parts import PartHolder
from allround.continual.rows import Memory
from allround.continual.selecting import RowView, Select
from allround.core.errors import AllroundError
from allround.core.registry import method
from allround.tasks.task import Task


@method(
    source="TPL: Lin et al., ICLR 2024, arXiv:2309.15048, section 4; approaches/eval.py, utils/baseline.py and "
    "utils/utils.py of linhaowei1/TPL"
)
class LikelihoodRatio(Select):
    """The score of a part for a row combines its largest output with how near the row is to the part's labels and how
    far from remembered rows of other labels, in the part's own features.

    Formula: s = -log(exp(-(m / mean m + k)) + exp(-o / mean o)); m = max_c 20 / ((f - m_c)^T S^-1 (f - m_c)); k the
    squared distance of f / |f| from the `neighbours`-th nearest of the remembered rows of other labels; o the largest
    output for a label of the part; means over the part's rows when it arrived. Parts have the weights
    softmax((a_p s_p + b_p) / temperature); a and b are fitted on remembered rows, by 100 steps of gradient descent on
    the cross-entropy with the rate 0.01 and the momentum 0.8.
    Differs: the covariance gets a share `ridge` of its mean variance; scales and means are taken when a part arrives,
    where the authors read all past training rows again at test time; their features have the same values then.

    Errors: no row is remembered of any other label.
    """

    def __init__(self, *, neighbours: int = 50, temperature: float = 0.05, ridge: float = 0.1) -> None:
        super().__init__()
        self.neighbours, self.temperature, self.ridge = neighbours, temperature, ridge

    def arrived(self, system: PartHolder, arrived: Mapping[int, Task], memory: Memory, seed: int) -> None:
        for part, task in arrived.items():
            split, count = task.splits["train"], len(task.definition.labels)
            view = RowView(system, system.parts[part].task, split.inputs, (part,))
            x, groups = view.features(part).double(), torch.as_tensor(split.targets)
            means = torch.stack([x[groups == label].mean(0) for label in range(count)])
            within = torch.cov((x - means[groups]).T, correction=0)
            within += self.ridge * within.diagonal().mean().clamp_min(1e-12) * torch.eye(len(within)).double()
            self.state[f"means {part}"] = means.float()
            self.state[f"root {part}"] = torch.linalg.cholesky(torch.linalg.inv(within)).T.contiguous().float()
            scales = torch.stack([self.nearness(part, x).mean(), largest(view, part, count).mean()])
            self.state[f"scales {part}"] = scales
        for name in {system.parts[part].task for part in arrived}:
            self.calibrate(system, name, memory)

    def calibrate(self, system: PartHolder, name: str, memory: Memory) -> None:
        """Compare remembered rows, as each part sees them, with those of its own labels."""
        parts = [number for number, part in enumerate(system.parts) if part.task == name]
        if len(parts) < 2:
            return
        task = memory.tasks.get(name)
        if task is None:
            raise AllroundError(f"tell the arrivals of '{name}' apart", "no row of it is remembered",
                                "use a strategy with a memory, and give it more bytes")  # fmt: skip
        split = task.splits["train"]
        labels = [task.definition.labels[int(target)] for target in split.targets]
        view = RowView(system, name, split.inputs, parts)
        of = torch.zeros(len(split), dtype=torch.int64)
        for place, part in enumerate(parts):
            mine = torch.tensor([label in system.definition_of(part).labels for label in labels])
            of[mine] = place
            if bool(mine.all()):
                raise AllroundError(f"tell the arrivals of '{name}' apart", "remembered rows are of one of them alone",
                                    "give the memory more bytes")  # fmt: skip
            self.state[f"others {part}"] = F.normalize(view.features(part)[~mine].double(), dim=1).float()
        found = torch.stack([self.score(view, part) for part in parts], 1)
        with torch.inference_mode(False), torch.enable_grad():
            scores = found.clone()
            factors, shifts = (
                torch.full((len(parts),), value, dtype=torch.float64).requires_grad_() for value in (1, 0)
            )
            optimiser = torch.optim.SGD([factors, shifts], lr=0.01, momentum=0.8)
            for _ in range(100):
                optimiser.zero_grad()
                F.cross_entropy(scores * factors + shifts, of).backward()
                optimiser.step()
        for place, part in enumerate(parts):
            self.state[f"calibration {part}"] = torch.stack([factors[place], shifts[place]]).detach()

    def nearness(self, part: int, x: Tensor) -> Tensor:
        """(n,): 20 over the squared Mahalanobis distance from the nearest label."""
        root, means = self.state[f"root {part}"].double(), self.state[f"means {part}"].double()
        distances = torch.cdist(x.double() @ root.T, means @ root.T).square()
        return 20 / distances.amin(1).clamp_min(1e-12)

    def score(self, view: RowView, part: int) -> Tensor:
        """(n,): the score of a part before it is calibrated."""
        x, others = view.features(part), self.state[f"others {part}"].double()
        near, top = self.state[f"scales {part}"]
        gaps = torch.cdist(F.normalize(x.double(), dim=1), others).square()
        far = gaps.topk(min(self.neighbours, len(others)), 1, largest=False).values[:, -1]
        inside = self.nearness(part, x) / near + far
        output = largest(view, part, len(self.state[f"means {part}"])) / top
        return -torch.logaddexp(-inside, -output)

    def scores(self, view: RowView) -> Tensor:
        found = []
        for part in view.parts:
            factor, shift = self.state[f"calibration {part}"]
            found.append(factor * self.score(view, part) + shift)
        return torch.stack(found, 1) / self.temperature


def largest(view: RowView, part: int, labels: int) -> Tensor:
    """(n,): the largest output of a part among its own labels, the first so many."""
    return view.outputs(part)[:, :labels].double().amax(1)
