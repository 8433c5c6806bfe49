"""Values of a suite file as people write them, in the form that its keys have."""

from __future__ import annotations


def as_tuple(value: object) -> object:
    """One text, or a list, as a tuple."""
    return tuple(value) if isinstance(value, list) else (value,) if isinstance(value, str) else value


def listed(value: object) -> object:
    """A list as a tuple; anything else as it is."""
    return tuple(value) if isinstance(value, list) else value


def as_limit(value: object) -> object:
    """A bare number as a limit of train."""
    return {"train": value} if isinstance(value, int) and not isinstance(value, bool) else value


def as_delimiter(value: object) -> object:
    """A delimiter by its name or as it is. Errors: a ValueError in words, for more than one character."""
    named = {"tab": "\t", "comma": ",", "semicolon": ";", "pipe": "|"}
    value = named.get(value, value) if isinstance(value, str) else value
    if isinstance(value, str) and (len(value) != 1 or value in '"\r\n'):
        raise ValueError(f"a delimiter is one character, and this is {value!r}; give one such as ';', or tab")
    return value


def as_encoding(value: object) -> object:
    """An encoding that exists. Errors: a ValueError in words, for others."""
    if isinstance(value, str):
        try:
            "".encode(value)
        except LookupError:
            raise ValueError(f"there is no encoding {value!r}; give one such as utf-8, cp1252 or utf-16") from None
    return value


def as_settings(value: object) -> object:
    """true as settings at their defaults, and false as none.

    >>> as_settings(True), as_settings(False), as_settings({"negatives": 2})
    ({}, None, {'negatives': 2})
    """
    return ({} if value else None) if isinstance(value, bool) else value
