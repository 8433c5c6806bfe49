"""What a client cannot have, with the status of HTTP that says so."""

from __future__ import annotations

from collections.abc import Mapping

from allround.core.errors import AllroundError


class Refused(AllroundError):
    """An error in three parts, with a status of HTTP and headers of the response."""

    def __init__(self, status: int, asked: str, found: str, do: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(asked, found, do)
        self.status, self.headers = status, dict(headers or {})


def error_json(error: AllroundError) -> dict[str, object]:
    """An error as clients get it. `message` is what clients of OpenAI show.

    >>> error_json(AllroundError("a", "b", "c"))["error"]["message"]
    'b; c'
    """
    said = {"asked": error.asked, "found": error.found, "do": error.do}
    return {"error": {"message": f"{error.found}; {error.do}", "type": "invalid_request_error", **said}}
