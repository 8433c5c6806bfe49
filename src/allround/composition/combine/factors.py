"""factors: the A and the B of low-rank changes are averaged each by itself."""

from __future__ import annotations

from allround.composition.combining import Combine
from allround.core.registry import method


@method(source="(sum_e w_e B_e) (sum_e w_e A_e) x, the default of mttl (lora_merge_after=False); PEFT never does it")
class Factors(Combine):
    """Averages A and B apart, which is NOT an average of the modules: B of one meets A of another.

    It costs a little less, and is here to be compared. Low-rank modules alone, whose ranks are filled up with zeros.
    """

    name = "factors"
    plain = True
    apart = True
