"""What a task of the harness asks of a language model about one document, and the answers, as texts that files keep."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from allround.core.errors import AllroundError

#: The log-likelihood of a text behind a context; that of a whole text; a text that the model writes.
LIKELIHOOD, ROLLING, WRITING = "loglikelihood", "loglikelihood_rolling", "generate_until"
#: The one input of a task of the harness: what is asked about a document, as JSON.
INPUT = "requests"
SORTS = (LIKELIHOOD, ROLLING, WRITING)


@dataclass(frozen=True)
class Chat:
    """A context that is a chat. opened: whether the model's turn begins; else the last message goes on."""

    messages: tuple[tuple[str, str], ...]
    opened: bool = True


@dataclass(frozen=True)
class Asked:
    """The requests about one document.

    contexts: what stands before; each once. requests: the number of a context, and what is asked behind it: a text, or
    how to write one. A whole text has no context: its number is -1.
    """

    sort: str
    contexts: tuple[str | Chat, ...]
    requests: tuple[tuple[int, Any], ...]

    def to_text(self) -> str:
        contexts = [one if isinstance(one, str) else {"messages": one.messages, "opened": one.opened}
                    for one in self.contexts]  # fmt: skip
        return json.dumps({"sort": self.sort, "contexts": contexts, "requests": self.requests}, ensure_ascii=False)

    @classmethod
    def from_text(cls, text: str) -> Asked:
        """The inverse of `to_text`. Errors: another text.

        >>> one = Asked("loglikelihood", ("2 + 2 =",), ((0, " 4"), (0, " 5")))
        >>> Asked.from_text(one.to_text()) == one
        True
        """
        try:
            found = json.loads(text)
            contexts = tuple(
                one
                if isinstance(one, str)
                else Chat(tuple((str(role), str(said)) for role, said in one["messages"]), bool(one["opened"]))
                for one in found["contexts"]
            )
            requests = tuple((int(number), asked) for number, asked in found["requests"])
            if found["sort"] not in SORTS or any(not -1 <= number < len(contexts) for number, _ in requests):
                raise ValueError("it names a sort or a context that is not there")
            return cls(found["sort"], contexts, requests)
        except (ValueError, KeyError, TypeError) as error:
            raise AllroundError(
                "answer a row of a task of the lm-evaluation-harness",
                f"it is not what such a task asks: {text[:60]!r} ({type(error).__name__}: {error})",
                "score the task: allround evaluate MODEL --tasks lm-eval:NAME",
            ) from None

    @property
    def sizes(self) -> list[int]:
        """Bytes of each text whose likelihood is asked for; 0 for one that is to be written."""
        return [len(asked.encode()) if isinstance(asked, str) else 0 for _, asked in self.requests]


def right_of(target: str) -> str | int | None:
    """The right answer that goes with a document: the number of a request, or a text to write; None where it is not
    known. target: the document as a task keeps it, JSON."""
    found = json.loads(target).get("right")
    return found if isinstance(found, (str, int)) else None


def asked_of(sort: str, arguments: Sequence[Sequence[Any]], contexts: Mapping[str, Chat]) -> Asked:
    """The requests of one document. arguments: as the harness gives them. contexts: chats by the text that stands for
    them."""
    places: dict[str, int] = {}
    requests: list[tuple[int, Any]] = []
    for one in arguments:
        if sort == ROLLING:
            requests.append((-1, one[0]))
        else:
            requests.append((places.setdefault(one[0], len(places)), one[1]))
    return Asked(sort, tuple(contexts.get(text, text) for text in places), tuple(requests))
