"""What a user says of a task that ranks passages: where they are, and how the head that ranks them learns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from allround.core.errors import suggestion
from allround.core.schema import fitted
from allround.tasks.contrast import Contrast
from allround.tasks.passages import Passages, passages_of
from allround.tasks.question import Question
from allround.tasks.values import short


def given_passages(question: Question, given: Passages | Mapping[str, str] | Sequence[str] | str | Path) -> Passages:
    """The passages of all rows, from a file or from plain values."""
    if isinstance(given, str | Path):
        from allround.tasks.sources.passages import read_passages

        return read_passages(Path(given))
    try:
        found = passages_of(given)
    except ValueError as error:
        raise question.fail(f"`passages` cannot be read: {error}", "give texts by their ids") from None
    if found is None:
        raise question.fail(f"`passages` is {short(given)}", "give a file, or texts by their ids")
    return found


def check_contrast(question: Question, given: str | Mapping[str, object] | None) -> Contrast | None:
    """How the head `ranking` learns; None for its defaults."""
    if given is None:
        return None
    if not question.rules.ranked:
        found = f"`contrast` is set, and the kind is {question.kind}"
        raise question.fail(found, "leave it out, or use kind: retrieval")
    values = {"loss": given} if isinstance(given, str) else dict(given)
    known = list(Contrast.__dataclass_fields__)
    if odd := [name for name in values if name not in known]:
        raise question.fail(f"`contrast` has no '{odd[0]}'", suggestion(str(odd[0]), known))
    try:
        made = fitted(Contrast, values)
    except ValueError as error:
        raise question.fail(f"`contrast` cannot be read: {error}", f"give {', '.join(known)}") from None
    if wrong := made.problem():
        raise question.fail(*wrong)
    return made if made != Contrast() else None
