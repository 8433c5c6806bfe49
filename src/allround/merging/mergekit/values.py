"""Settings of mergekit's that depend on the tensor: values, gradients over the layers, and filters by name."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Mapping

from pydantic import TypeAdapter, ValidationError

from allround.core.errors import AllroundError
from allround.merging.mergekit.methods import Parameter, Scalar
from allround.merging.stage import Reading

#: A value, a gradient (a list of values), or a list of {filter, value}; as read from the file.
Setting = object
Settings = Mapping[str, Setting]
#: Makes a value one of a parameter's type.
Check = Callable[[object], Scalar]


def _scalar(value: object) -> bool:
    return isinstance(value, (bool, int, float, str))


def evaluate(setting: Setting, name: str, t: float, check: Check) -> Scalar | None:
    """A parameter's value for one tensor; None where the setting says nothing of it.

    setting: a value, a gradient (a list of values, of which t in [0, 1] is the place), or a list of {filter, value}.
    check: makes a value one of the parameter's type.

    >>> evaluate([{"filter": "mlp", "value": [0, 1]}, {"value": 0.5}], "layers.1.mlp", 0.25, float)
    0.25
    """
    if isinstance(setting, dict):
        setting = [setting]
    if not isinstance(setting, list):
        return check(setting)
    if setting and isinstance(setting[0], dict):
        for one in setting:
            wanted = one.get("filter")
            if wanted in (None, "*") or wanted in name:
                return evaluate(one["value"], name, t, check)
        return None
    if not setting:
        return None
    values = [check(one) for one in setting]
    place = t * (len(values) - 1)
    numbers = [one for one in values if not isinstance(one, (bool, str))]
    if len(numbers) < len(values):
        return values[int(place)]
    low = int(place)
    high, share = min(low + 1, len(values) - 1), place - low
    return check((1 - share) * numbers[low] + share * numbers[high])


def check_setting(reading: Reading, setting: Setting, where: str, check: Check | None) -> None:
    """An error unless it is a value, a gradient, or a list of {filter, value}, of the right type."""
    if isinstance(setting, dict):
        setting = [setting]
    if isinstance(setting, list) and any(isinstance(one, dict) for one in setting):
        for number, one in enumerate(setting):
            here = f"{where}[{number}]"
            about = reading.mapping(one, here, ("filter", "value"))
            if about.get("filter") is not None:
                reading.text(about["filter"], f"{here}.filter")
            if isinstance(about.get("value"), dict) or "value" not in about:
                raise reading.wrong(f"{here}.value", "there is no value", "add `value`: a number, or a list of them")
            check_setting(reading, about["value"], f"{here}.value", check)
        return
    for number, one in enumerate(setting if isinstance(setting, list) else [setting]):
        here = f"{where}[{number}]" if isinstance(setting, list) else where
        if not _scalar(one):
            raise reading.wrong(here, f"{reprlib.repr(one)}, and it should be a value", "write a number, or true or "
                                "false")  # fmt: skip
        if check is not None:
            with reading.at(here):
                check(one)


def checker(name: str, parameter: Parameter) -> Check:
    """What makes a value one of the parameter's type; numbers in quotes are numbers, and `yes` is true."""
    adapter: TypeAdapter[Scalar] = TypeAdapter(parameter.kind)

    def check(value: object) -> Scalar:
        try:
            found = adapter.validate_python(value)
            if not isinstance(found, float) or math.isfinite(found):
                return found
            raise AllroundError(f"set '{name}'", f"{value} is not a finite number", "write a number")
        except ValidationError:
            wanted = {float: "a number", int: "a whole number", bool: "true or false"}[parameter.kind]
            raise AllroundError(
                f"set '{name}'", f"{reprlib.repr(value)}, and it should be {wanted}", f"write {wanted}"
            ) from None

    return check
