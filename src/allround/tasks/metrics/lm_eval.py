"""A metric of the lm-evaluation-harness of which higher is better."""

from __future__ import annotations

from allround.core.registry import method
from allround.tasks.metrics._harness import HarnessMetric


@method(source="lm-evaluation-harness, lm_eval/api/metrics.py", kinds=("lm_eval",), better="higher")
class LmEval(HarnessMetric):
    """The score that the harness gives, over all rows by its own aggregation.

    metric: as the harness calls it, such as acc_norm. filter: what the answers went through, where the task has
    several. By default the first of each.
    """

    def __init__(self, *, metric: str | None = None, filter: str | None = None) -> None:
        super().__init__(metric, filter)
