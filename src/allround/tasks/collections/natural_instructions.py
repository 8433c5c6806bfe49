"""Natural instructions: a file of a task's definition, worked examples, and instances with their accepted answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from allround.core.errors import AllroundError
from allround.core.reading import parse_json, read_bytes
from allround.core.registry import method
from allround.core.words import plural
from allround.tasks.collection import ImportedRow, ImportedTask, task_name

#: Most tokens that an answer is given, as Tk-Instruct has it.
MOST_TOKENS = 128
#: Fewest tokens that an answer is given, whatever the longest accepted answer.
LEAST_TOKENS = 16
#: The fields of an instruction of the first edition, in the order in which its authors put them; and what stands where
#: there is none.
FIELDS = ("Definition", "Prompt", "Things to Avoid", "Emphasis & Caution")
NOT_GIVEN = ("", "-")


@method(
    source="Super-NaturalInstructions (Wang et al., EMNLP 2022, arXiv:2204.07705): its task files; how Tk-Instruct "
    "puts definition and positive examples. Natural Instructions (Mishra et al., ACL 2022, arXiv:2104.08773): its task "
    "files, and how its authors put their fields",
    paper=(
        "Super-NaturalInstructions: Generalization via Declarative Instructions on 1600+ NLP Tasks",
        "Cross-Task Generalization via Natural Language Crowdsourcing Instructions",
    ),
)
def natural_instructions(paths: Sequence[Path], *, shots: int = 0) -> list[ImportedTask]:
    """A task of the kind text for each file: the definition, positive examples, and the input are the prompt.

    paths: JSON files with the keys Definition, Positive Examples and Instances; or those of the first edition, with
    Definition, Prompt, Things to Avoid, Emphasis & Caution, Examples and Instances, which are put as their authors put
    them, the reasons of the examples included. shots: how many positive examples stand in the prompt. Every output of
    an instance is accepted; ROUGE-L is the metric.
    Differs: no full stop is added behind an input; negative examples are left out, and explanations but those reasons.
    """
    return [_task(path, shots) for path in paths]


def _task(path: Path, shots: int) -> ImportedTask:
    asked = f"read the task file '{path}'"
    do = "give a file of Super-NaturalInstructions, with Definition, Positive Examples and Instances"
    try:
        given = parse_json(read_bytes(path, what="task file").decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise AllroundError(asked, f"it is not JSON: {error}", do) from None
    if not isinstance(given, dict):
        raise AllroundError(asked, "it does not hold an object", do)
    definition = "\n".join(text.strip() for text in _texts(given.get("Definition"), "Definition", asked, do)).strip()
    if not definition:
        raise AllroundError(asked, "its Definition is empty", do)
    rows, notes = _rows(given.get("Instances"), asked, do)
    longest = max(len(text) for row in rows for text in _answers(row))
    categories = _texts(given.get("Categories", []), "Categories", asked, do)
    first_edition = isinstance(given.get("Examples"), Mapping)
    examples = given["Examples"].get("Positive Examples", []) if first_edition else given.get("Positive Examples", [])
    positive = _examples(examples, shots, asked, do)
    about: dict[str, object] = {
        "kind": "text",
        "inputs": "input",
        "target": "output",
        "metric": "rouge_l",
        "prompt": _first_prompt(given, positive) if first_edition else _prompt(definition, positive),
        "max_new_tokens": min(MOST_TOKENS, max(LEAST_TOKENS, longest)),
    }
    if categories and categories[0].strip():
        about["category"] = categories[0].strip()
    return ImportedTask(task_name(path.stem), about, {"train": rows}, tuple(notes))


def _rows(instances: object, asked: str, do: str) -> tuple[list[ImportedRow], list[str]]:
    """The instances that have an answer, each once; and notes of those that were left out."""
    if not isinstance(instances, list):
        raise AllroundError(asked, "its Instances are not a list", do)
    rows: list[ImportedRow] = []
    seen: dict[str, ImportedRow] = {}
    empty = twice = 0
    for number, one in enumerate(instances):
        if not isinstance(one, dict) or not isinstance(one.get("input"), str):
            raise AllroundError(asked, f"instance {number} has no text as its input", do)
        answers = [text for text in _texts(one.get("output"), f"the output of instance {number}", asked, do)
                   if text.strip()]  # fmt: skip
        row: ImportedRow = {"input": one["input"], "output": list(dict.fromkeys(answers))}
        known = seen.setdefault(one["id"], row) if isinstance(one.get("id"), str) else row
        if known is not row:
            if known != row:
                raise AllroundError(asked, f"two different instances have the id {one['id']!r}",
                                    "give each an id of its own, or leave the ids out")  # fmt: skip
            twice += 1
        elif not answers or not one["input"].strip():
            empty += 1
        else:
            rows.append(row)
    if not rows:
        raise AllroundError(asked, "no instance has an input and an answer", do)
    notes = [f"{plural(empty, 'instance')} without an input or an answer left out"] if empty else []
    return rows, [*notes, *([f"{plural(twice, 'instance')} with the id of an equal one left out"] if twice else [])]


def _answers(row: ImportedRow) -> list[str]:
    found = row["output"]
    return [str(text) for text in found] if isinstance(found, list) else []


def _examples(given: object, shots: int, asked: str, do: str) -> list[tuple[str, str, str]]:
    """The first positive examples: inputs, outputs and reasons."""
    if shots < 0:
        raise AllroundError(asked, f"shots is {shots}", "give a whole number of at least 0")
    listed = given if isinstance(given, list) else []
    if shots > len(listed):
        raise AllroundError(
            asked, f"it has {plural(len(listed), 'positive example')}, and {shots} were asked for", "give fewer shots"
        )
    found = []
    for one in listed[:shots]:
        if not isinstance(one, Mapping):
            raise AllroundError(asked, "a positive example is not an object", do)
        answers = _texts(one.get("output"), "the output of a positive example", asked, do)
        found.append((str(one.get("input", "")), answers[0] if answers else "", str(one.get("reason", ""))))
    return found


def _first_prompt(given: Mapping[str, object], examples: Sequence[tuple[str, str, str]]) -> str:
    """The template of a task of the first edition: its fields, each in a line, without those that are not given."""
    fields = {name: str(given.get(name, "")).strip() for name in FIELDS}
    lines = [f"{name}: {_escaped(text)}" for name, text in fields.items() if text not in NOT_GIVEN]
    for number, (question, answer, reason) in enumerate(examples, 1):
        lines += [f"Positive Example{number}- ", f"input: {_escaped(question)}", f"output: {_escaped(answer)}"]
        lines += [f"reason: {_escaped(reason)}"] if reason.strip() not in NOT_GIVEN else []
    return "\n".join([*lines, "input: {input}", "output:"])


def _prompt(definition: str, examples: Sequence[tuple[str, str, str]]) -> str:
    """The template of the task."""
    parts = [f"Definition: {_escaped(definition)}"]
    for number, (question, answer, _) in enumerate(examples, 1):
        parts.append(f"Positive Example {number} -\nInput: {_escaped(question)}\nOutput: {_escaped(answer)}")
    return "\n\n".join([*parts, "Now complete the following example -\nInput: {input}\nOutput:"])


def _escaped(text: str) -> str:
    """A text whose braces are braces in a template too."""
    return text.strip().replace("{", "{{").replace("}", "}}")


def _texts(value: object, what: str, asked: str, do: str) -> list[str]:
    """One text or a list of texts, as a list."""
    listed = [value] if isinstance(value, str) else value
    if not isinstance(listed, list) or any(not isinstance(text, str) for text in listed):
        raise AllroundError(asked, f"{what} is neither a text nor a list of texts", do)
    return [str(text) for text in listed]
