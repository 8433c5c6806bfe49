"""Model Zoo: a further model for each arrival, trained with a few past tasks; all that know a task answer it."""

from __future__ import annotations

from allround.continual.strategy import Strategy
from allround.core.registry import method


@method(
    source="Ramesh and Chaudhari, ICLR 2022, arXiv:2106.03027; checked against modelzoo.py of "
    "grasp-lyrl/modelzoo_continual",
    paper='Model Zoo: A Growing "Brain" That Learns Continually',
)
def model_zoo(*, others: int = 4, bytes: int = 50_000, memory: str = "balanced") -> Strategy:
    """A task has the mean of the probabilities of all models that were trained with it. A new model never changes an
    earlier one, so that no model forgets; tasks are known by name.

    others: see the way to grow `zoo`. bytes, memory: of the remembered rows, as for `er`; the authors keep all rows.
    """
    return Strategy(grow="zoo", grow_settings={"others": others}, memory=memory, bytes=bytes, scenarios=("task",))
