"""outputs: every module's change, times its weight, is added to what a layer gives."""

from __future__ import annotations

from allround.composition.combining import Combine
from allround.core.registry import method


@method(
    source="sum_e w_e B_e A_e x. For linear layers the same as weights that are merged for each row; the order that "
    "mttl calls lora_merge_after"
)
class Outputs(Combine):
    """Adds sum_e w_e d_e(x) at each layer: the same as a model whose weights are merged for this row alone."""

    name = "outputs"
    plain = True
