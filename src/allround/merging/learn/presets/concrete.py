"""Concrete: one learned mask over all changes, with fixed or learned coefficients; needs no labels."""

from __future__ import annotations

from allround.core.errors import AllroundError, suggestion
from allround.core.registry import method
from allround.merging.learn.learning import Learning


@method(
    source="Tang et al., 2023, arXiv:2312.06173",
    paper="Concrete Subspace Learning based Interference Elimination for Multi-task Model Fusion",
)
def concrete(
    *,
    coefficients: str = "fixed",
    objective: str = "entropy",
    scale: float = 0.3,
    temperature: float = 0.5,
    steps: int = 60,
    rate: float = 0.01,
    speed: float = 10.0,
    guard: bool = True,
) -> Learning:
    """base + m * sum_t c_t d_t, m a mask of Concrete variables divided by its mean, by the entropy of predictions.

    coefficients: "fixed" is Concrete task arithmetic; "task" and "block" are Concrete AdaMerging: half of the steps
    for the mask, a draw each, then half for the coefficients under the mask as it is then, in [0, 1].
    speed: rate of the mask's logits in rates of the coefficients.
    guard: keep the best of the start and the states on the way by agreement with the specialists.
    Differs: the authors take 2,000 steps for the mask at 0.001, each after one step of coefficients that is undone,
    and 1,000 for the coefficients, and have no guard. For the coefficients and in the result they take one draw of the
    mask, here it is the mask without noise. Checked against their code: temperature, start, division by the mean.

    >>> concrete().parametrisation, concrete(coefficients="block").phases
    ('mask', (('mask', 30), ('coefficients', 30)))
    """
    levels = {"fixed": "none", "task": "task", "layer": "layer", "block": "block"}
    if coefficients not in levels:
        raise AllroundError(f"learn the coefficients as '{coefficients}'", "there is no such choice",
                            suggestion(coefficients, levels))  # fmt: skip
    settings = {
        "level": levels[coefficients],
        "bound": "unit",
        "temperature": temperature,
        "speed": speed,
    }
    phases = () if coefficients == "fixed" else (("mask", steps // 2), ("coefficients", steps - steps // 2))
    return Learning("mask", objective, settings, scale=scale, steps=steps, rate=rate, phases=phases, guard=guard)
