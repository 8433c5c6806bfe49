"""logits: each module answers by itself, and the outputs are averaged by the weights."""

from __future__ import annotations

import torch
from torch import Tensor

from allround.composition.combining import Combine
from allround.composition.modules.bank import Gate, ModuleBank
from allround.composition.modules.layer import used
from allround.core.errors import AllroundError
from allround.core.registry import method
from allround.models.batch import Answers, Batch
from allround.models.systems.multi_task_model import MultiTaskModel


@method(source="product of experts with fixed weights: sum_e w_e logits_e(x)")
class Logits(Combine):
    """Averages what a task's head gives on the features of each module, by the weights; a pass for each module that a
    row uses."""

    name = "logits"
    levels = ("row",)

    def answer(
        self,
        model: MultiTaskModel,
        bank: ModuleBank,
        task: str,
        batch: Batch,
        weighing: Tensor | Gate,
        *,
        scores: bool = False,
    ) -> Answers:
        if not isinstance(weighing, Tensor):
            raise AllroundError("average the outputs of modules", "the router decides at each layer",
                                "use a router that decides once for a row, or combine by outputs")  # fmt: skip
        head = model.output_head(task)
        total: Tensor | None = None
        lengths: tuple[int, ...] = ()
        eye = torch.eye(len(bank), device=weighing.device)
        left = 1 - weighing.sum(-1)  # the rest is the base's
        passes = [(None, torch.arange(len(weighing)))] if bool((left.abs() > 1e-6).any()) else []
        for module, _ in [*passes, *used(weighing)]:
            one = weighing.new_zeros(len(weighing), len(bank)) if module is None else eye[module].expand_as(weighing)
            with bank.using(one):
                features = model.features(batch)
            outputs = head(features.values).float()
            share = left if module is None else weighing[:, module]
            lengths = features.lengths
            if lengths:
                share = share.repeat_interleave(torch.tensor(lengths, device=share.device))
            part = share.view(-1, *[1] * (outputs.dim() - 1)) * outputs
            total = part if total is None else total + part
        assert total is not None
        return model.finished(task, head.from_outputs(total, lengths, scores=model.wants_scores(task, scores)), scores)
