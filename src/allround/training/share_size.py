"""Ways to share with as many parameters as asked for: the size of their modules is chosen to fit."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

from allround.core import registry
from allround.core.errors import AllroundError
from allround.models.encoder import Encoder
from allround.models.encoders.sharing import Sharing
from allround.models.model import parameters_of
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.definition import Definition
from allround.training.sharing import plan_of, share

#: The parameters of presets that say how large a module is; the first one that a preset has is chosen.
SIZES = ("units", "rank", "length")
#: The largest size that is tried.
MOST = 4096


def fitted(
    name: str, values: Mapping[str, object], encoder: Encoder, definitions: Sequence[Definition], added: int
) -> dict[str, object]:
    """The parameters of a preset with the size of its modules chosen, so that it adds about so many numbers.

    values: parameters that were given; a size among them stays. Errors: a preset without a size, or whose size says
    nothing; one that adds more at its least size.
    """
    entry = registry.find("share", name)
    known = {parameter.name for parameter in entry.parameters}
    size = next((one for one in SIZES if one in known), None)
    asked = f"share by '{name}' with {added:,} added parameters"
    if size is None:
        raise AllroundError(
            asked, "none of its parameters says how large its modules are", "compare it without a number of parameters"
        )
    if size in values:
        return dict(values)
    skeleton = copy.deepcopy(encoder).to("meta")

    def count(number: int) -> int:
        return added_by(name, {**values, size: number}, skeleton, definitions)

    low, high = 1, 2
    if count(low) == count(high):
        raise AllroundError(
            asked, f"{size} does not change how many it adds", "compare it without a number of parameters"
        )
    if count(low) > added:
        raise AllroundError(
            asked, f"it adds {count(low):,} with {size}=1", "ask for more, or leave the number of parameters out"
        )
    while high < MOST and count(high) <= added:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if count(middle) <= added else (low, middle)
    return {**values, size: low}


def added_by(name: str, values: Mapping[str, object], encoder: Encoder, definitions: Sequence[Definition]) -> int:
    """How many parameters a preset adds to an encoder for some tasks, without their heads."""
    plan = plan_of(name, values)
    if plan.empty:
        return 0
    model = share(MultiTaskModel(copy.deepcopy(encoder), {d.name: d for d in definitions}), plan)
    assert isinstance(model.encoder, Sharing)
    return parameters_of(model.encoder) - parameters_of(encoder)
