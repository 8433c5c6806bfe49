"""API keys: read from a file or the environment, and compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from allround.core.errors import AllroundError
from allround.core.reading import read_text

#: The environment variable with keys, separated by commas.
VARIABLE = "ALLROUND_API_KEYS"
#: The environment variable with the key of those who may put another model in the place of one.
ADMIN = "ALLROUND_ADMIN_KEY"
#: Fewer characters can be guessed.
LEAST = 16


class Keys:
    """Keys that clients must show one of; none where anyone may ask.

    >>> keys = Keys(["a key of many letters"])
    >>> keys.allow("a key of many letters"), keys.allow("another"), keys.allow(None), Keys([]).allow(None)
    (True, False, False, True)
    """

    def __init__(self, keys: Iterable[str]) -> None:
        self._digests = [_digest(key) for key in keys]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def allow(self, shown: str | None) -> bool:
        """Whether a client that shows this may ask. Each key is compared, in a time that tells nothing of it."""
        if not self._digests:
            return True
        digest = _digest(shown or "")
        return sum([hmac.compare_digest(digest, one) for one in self._digests]) > 0

    @classmethod
    def read(cls, file: Path | None, environment: Mapping[str, str] = os.environ, *, variable: str = VARIABLE) -> Keys:
        """Keys of a file, one a line, and of an environment variable. Errors: a key that is too short."""
        lines = [] if file is None else read_text(file, what="file of API keys").splitlines()
        given = [line.strip() for line in [*lines, *environment.get(variable, "").split(",")]]
        found = [key for key in given if key and not key.startswith("#")]
        short = [key for key in found if len(key) < LEAST or not key.isascii()]
        asked = f"read the API keys of {variable if file is None else file}"
        if short:
            raise AllroundError(asked, f"{len(short)} of {len(found)} have fewer than {LEAST} characters, or other "
                                "characters than ASCII", "make keys with: openssl rand -hex 24")  # fmt: skip
        if file is not None and not found:
            raise AllroundError(asked, "it has no key", "write one key a line")
        return cls(found)


def _digest(key: str) -> bytes:
    """Of equal length for all keys, so that not even the length is told."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
