"""Jinja that others wrote, rendered in a process of its own: sandboxed, and with limits of time, memory and length."""

from __future__ import annotations

import contextlib
import json
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, TypedDict

from allround.core.errors import AllroundError

if TYPE_CHECKING:
    from jinja2 import Environment

#: Seconds of processor time and of waiting for all rows of a template: so many, and so many more for each row.
SECONDS, SECONDS_A_ROW = 30, 0.02
#: Bytes that the process may take, beside twenty for each letter of the rows; and letters of what a row becomes.
MEMORY, LETTERS = 1 << 30, 200_000
#: What parts the prompt from the answer, and choices from each other.
BAR = "|||"
#: What stands for it in values of rows, until the parts are taken apart.
_BAR_IN_VALUES = "\ue000\ue001\ue000"


class Rendered(TypedDict):
    """A row as text: the parts of the template between bars, and the choices, where the template has some."""

    parts: list[str]
    choices: list[str] | None


def render(
    template: str, choices: str | Sequence[str] | None, rows: Sequence[Mapping[str, object]], asked: str
) -> list[Rendered]:
    """Each row as a template renders it.

    choices: a template of the choices, with bars between, or a list. Errors: what the sandbox refuses, a column that is
    not there, too much time, memory or text; the error says in which row.
    """
    job = {"template": template, "choices": choices, "rows": list(rows), "asked": asked}
    limit = SECONDS + SECONDS_A_ROW * len(rows)
    try:
        done = subprocess.run(
            [sys.executable, "-m", __spec__.name if __spec__ else __name__, str(int(limit))],
            input=json.dumps(job, default=str).encode(),
            capture_output=True,
            timeout=4 * limit,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise _too_long(asked, limit) from None
    if done.returncode == 0:
        answer = json.loads(done.stdout)
        if "error" not in answer:
            rendered: list[Rendered] = answer["rows"]
            return rendered
        raise AllroundError(asked, answer["error"], "correct the template, or leave it out")
    if done.returncode in (-9, -24):  # killed by the limit of processor time
        raise _too_long(asked, limit)
    last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
    raise AllroundError(asked, f"the process that rendered it ended: {last or done.returncode}", "correct the template")


def _too_long(asked: str, limit: float) -> AllroundError:
    return AllroundError(asked, f"it took more than {limit:.0f} seconds", "correct the template, or give fewer rows")


def environment() -> Environment:
    """A sandbox: no attribute that begins with an underscore, nothing that changes a value, no huge product."""
    from jinja2 import StrictUndefined
    from jinja2.exceptions import SecurityError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Sandbox(ImmutableSandboxedEnvironment):
        intercepted_binops = frozenset({"*", "**", "%"})

        def call_binop(self, context: object, operator: str, left: object, right: object) -> object:
            sizes = [len(side) for side in (left, right) if isinstance(side, str | list | tuple)]
            if operator == "%" and isinstance(left, str):
                raise SecurityError("a text is not formatted with %")
            if operator == "*" and sizes:
                times = next((side for side in (left, right) if isinstance(side, int)), 0)
                if sizes[0] * times > LETTERS:
                    raise SecurityError(f"a product of more than {LETTERS:,} letters")
            whole = isinstance(left, int) and isinstance(right, int)
            if operator == "**" and whole and abs(right) * left.bit_length() > 1024:  # type: ignore[attr-defined,arg-type]
                raise SecurityError("a power that is too large")
            return super().call_binop(context, operator, left, right)  # type: ignore[arg-type]

    made = Sandbox(undefined=StrictUndefined)
    made.globals = {"range": made.globals["range"], "dict": dict, "namespace": made.globals["namespace"], "zip": zip}
    made.filters["most_frequent"] = _most_frequent
    made.filters["highlight"] = str
    return made


def _most_frequent(items: Sequence[object]) -> list[object]:
    counts = Counter(items)
    most = max(counts.values(), default=0)
    return [item for item, count in counts.items() if count == most]


def rendered(
    template: str, choices: str | Sequence[str] | None, rows: Sequence[Mapping[str, object]]
) -> Iterator[Rendered]:
    """Render rows in this process; `render` does it in one that has limits."""
    sandbox = environment()
    generator = random.Random()
    sandbox.filters["choice"] = generator.choice
    whole = sandbox.from_string(template)
    listed = sandbox.from_string(choices) if isinstance(choices, str) else None
    for number, row in enumerate(rows):
        generator.seed(number)
        values = {name: _without_bars(value) for name, value in row.items()}
        found = [text.strip() for text in _split(listed.generate(**values))] if listed is not None else choices
        parts = _split(whole.generate(**{**values, "answer_choices": found}))
        known = None if found is None else [_with_bars(str(one)) for one in found]
        yield Rendered(parts=[_with_bars(part.strip()) for part in parts], choices=known)


def _split(pieces: Iterator[str]) -> list[str]:
    length, kept = 0, []
    for piece in pieces:
        length += len(piece)
        if length > LETTERS:
            raise ValueError(f"it gives more than {LETTERS:,} letters")
        kept.append(piece)
    return "".join(kept).split(BAR)


def _without_bars(value: object) -> object:
    return value.replace(BAR, _BAR_IN_VALUES) if isinstance(value, str) else value


def _with_bars(text: str) -> str:
    return text.replace(_BAR_IN_VALUES, BAR)


def _limit(seconds: int, memory: int) -> None:
    """Limits for this process, where the system has them."""
    with contextlib.suppress(ImportError):
        import resource

        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main(seconds: int, read: Callable[[], str], write: Callable[[str], object]) -> None:
    """Render what is read, and write the rows or what is wrong."""
    from jinja2 import TemplateError

    text = read()
    job = json.loads(text)
    done: list[Rendered] = []
    _limit(seconds, MEMORY + 20 * len(text))
    try:
        for one in rendered(job["template"], job["choices"], job["rows"]):
            done.append(one)
        write(json.dumps({"rows": done}))
    except MemoryError:
        write(json.dumps({"error": f"row {len(done)} takes too much memory"}))
    except RecursionError:
        write(json.dumps({"error": "it calls itself too deeply"}))
    except (TemplateError, ArithmeticError, LookupError, TypeError, ValueError, AttributeError) as error:
        write(json.dumps({"error": f"row {len(done)}: {error}"[:500]}))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.stdin.read, sys.stdout.write)
