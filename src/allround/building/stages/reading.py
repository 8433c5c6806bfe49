"""What a language model reads of each task: prompts, their lengths, rows that are cut, and tokens trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from allround.building.jobs.reading import read_tasks
from allround.building.stages.base import Base
from allround.building.stages.heads import of_sort
from allround.building.stages.plan import Scope
from allround.building.stages.tuning import SPECIALISTS, Tuned
from allround.building.workshop import Workshop
from allround.core.jobs import call
from allround.core.pieces import Piece
from allround.core.words import plural
from allround.evaluation.facts import PromptFacts, TrainedFacts


def read_prompts(shop: Workshop, scope: Scope, base: Base) -> Piece | None:
    """Read a prompt of each task and the lengths of all, and say where inputs are cut; None of a base that does not
    answer by its own words."""
    asked = [name for name, one in scope.every.definitions.items() if not one.harness]  # those have their own prompts
    if not base.speaks or not asked:
        return None
    data = scope.every.part(asked)
    piece = shop.pieces.piece("prompts", base=base.piece.key, tasks=data.content, **of_sort(scope.head))
    job = call(read_tasks, piece=piece, base=base.encoder, tasks=list(data.folders.values()), sort=scope.head)
    shop.do("prompts", [(piece, job)])
    for name, read in piece.facts["tasks"].items():
        cut, rows = (sum(one[what] for one in read["splits"].values()) for what in ("cut", "rows"))
        if cut:
            shop.say(f"{name}: an input is cut in {cut} of {plural(rows, 'row')}, to {piece.facts['longest']} tokens "
                     "with prompt and answer; allow longer rows: --max-length", style="yellow")  # fmt: skip
    return piece


def prompt_facts(piece: Piece, tuned: Tuned) -> list[PromptFacts]:
    """What the report says of prompts: those of the base, and what each training read of each task."""
    found = []
    for name, read in piece.facts["tasks"].items():
        splits = read["splits"]
        facts = PromptFacts(
            name,
            **read["prompt"],
            rows=sum(one["rows"] for one in splits.values()),
            cut_rows=sum(one["cut"] for one in splits.values()),
            mean=_mean(splits, "prompt"),
            longest=max(one["longest"] for one in splits.values()),
            answer_tokens=_mean(splits, "answer"),
            trained=_trained(name, splits["train"]["row"], tuned) if "train" in splits else (),
        )
        found.append(facts)
    return found


def _trained(task: str, tokens: float, tuned: Tuned) -> tuple[TrainedFacts, ...]:
    """Rows and tokens of a task that each training read. tokens: of one row, as a mean."""
    pieces = {SPECIALISTS: tuned.specialists.get(task), **{joint.name: joint.piece for joint in tuned.joints}}
    found = []
    for name, piece in pieces.items():
        examples = {} if piece is None else cast("Mapping[str, int]", piece.facts.get("examples", {}))
        if piece is not None and examples.get(task):
            rows = examples[task]
            found.append(TrainedFacts(name, rows, round(rows * tokens), float(piece.facts["seconds"])))
    return tuple(found)


def _mean(splits: Mapping[str, Mapping[str, float]], what: str) -> float:
    """The mean over the rows of all splits."""
    parts: Sequence[Mapping[str, float]] = list(splits.values())
    return sum(one[what] * one["rows"] for one in parts) / sum(one["rows"] for one in parts)
