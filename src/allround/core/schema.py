"""Plain data read back as what it was written from: compared with its type before anything uses it."""

from __future__ import annotations

import json
from collections.abc import Hashable
from functools import cache
from typing import Any, TypeVar, cast

from allround.core.errors import AllroundError

T = TypeVar("T")

#: What dataclasses that are read back carry as `__pydantic_config__`: no other keys, no conversions, finite numbers.
STRICT: Any = {"strict": True, "extra": "forbid", "allow_inf_nan": False}


def fitted(kind: type[T], value: Any) -> T:
    """JSON data as a value of `kind`, a dataclass or a type of plain data; a ValueError in words for any other data.

    Lists become tuples where the type says so. Numbers must be finite, and whole ones fit into 64 bits.

    >>> fitted(dict[str, tuple[int, ...]], {"a": [1, 2]})
    {'a': (1, 2)}
    >>> fitted(dict[str, int], {"a": "1"})
    Traceback (most recent call last):
    ValueError: a: Input should be a valid integer
    """
    from pydantic import ValidationError

    try:
        _check_numbers(value)
        text = json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
        found: T = _adapter(cast(Hashable, kind)).validate_json(text, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])[:100]
        raise ValueError(f"{where}: {first['msg']}" if where else str(first["msg"])) from None
    except (TypeError, RecursionError) as error:
        raise ValueError(f"it is not plain data: {error}") from None
    return found


def checked(kind: type[T], value: Any, asked: str, do: str) -> T:
    """As `fitted`, with an error in three parts."""
    try:
        return fitted(kind, value)
    except ValueError as error:
        raise AllroundError(asked, f"it is damaged: {error}", do) from None


@cache
def _adapter(kind: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def _check_numbers(value: Any) -> None:
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValueError("a whole number in it does not fit into 64 bits")
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ():
        _check_numbers(part)
