"""`queries`: training rows for a search that a language model writes, behind a few examples.

Source: Dai et al., Promptagator: Few-shot Dense Retrieval From 8 Examples, ICLR 2023, arXiv:2209.11755.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from allround.building.following import Following
from allround.building.opening import open_language_model
from allround.core.errors import AllroundError, suggestion
from allround.core.files import hash_folder, read_json, write_json
from allround.core.growing import remove_work
from allround.core.outputs import check_out, output_folder, work_folder
from allround.core.pieces import Pieces
from allround.core.progress import Progress
from allround.core.seeds import seed_everything, seed_of
from allround.core.words import plural
from allround.models.base import find_folder, open_encoder
from allround.models.device import pick_device
from allround.models.fitting import fit_head
from allround.models.language.query_writing import QueryWriter, one_line, query_task
from allround.models.manifest import MANIFEST
from allround.models.system import System, load
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.kind import kind
from allround.tasks.kinds.retrieval import MOST
from allround.tasks.passages import Passages
from allround.tasks.suite import Suite, as_suite
from allround.tasks.task import Split, Task
from allround.training import trainer
from allround.training.settings import Settings

#: The files of the output.
QUERIES, DROPPED, NOTES = "queries.jsonl", "dropped.jsonl", "notes.json"
#: Passages whose queries are one piece of work: what a kill costs at most.
BLOCK = 16
#: Why a query is dropped.
EMPTY, REPEATED, EXAMPLE, PASSAGE, FAR = (
    "empty", "written before for this passage", "an example's query", "the passage itself", "its passage ranks too low",
)  # fmt: skip


@dataclass(frozen=True)
class MadeQueries:
    """What `queries` made.

    relevant: query -> the ids of the passages that it was written for. dropped: (query, id of its passage, why).
    """

    relevant: Mapping[str, Sequence[str]]
    dropped: Sequence[tuple[str, str, str]] = field(default=())

    def __len__(self) -> int:
        return len(self.relevant)

    @property
    def reasons(self) -> dict[str, int]:
        """How many queries were dropped for each reason."""
        return dict(Counter(why for _, _, why in self.dropped))

    def rows(self) -> list[dict[str, object]]:
        """Rows as a task of the kind retrieval reads them."""
        return [{"query": query, "relevant": list(ids)} for query, ids in self.relevant.items()]


def queries(
    suite: Suite | str | Path,
    task: str | None = None,
    *,
    base: str | Path,
    out: Path | str,
    examples: int = 8,
    per_passage: int = 4,
    most: int | None = None,
    temperature: float = 0.7,
    words: tuple[str, str] = ("Passage", "Query"),
    retriever: str | Path | None = None,
    top: int = 1,
    train_retriever: bool = False,
    settings: Settings | None = None,
    seed: int = 0,
    encoder: Mapping[str, object] | None = None,
    progress: Progress | None = None,
    force: bool = False,
) -> MadeQueries:
    """Let a language model write queries for the passages of a task, and write them into the folder `out`.

    task: of the kind retrieval, whose rows share their passages; it need not be named where the suite has no other.
    base: a language model, which reads up to `examples` training rows, each a passage and its query, before each
    passage; the task's instruction stands before all. per_passage: how many queries are drawn for a passage, at
    `temperature`. most: for so many passages alone, drawn at random. words: what a passage and a query are called in
    the prompt.
    retriever: a base or the folder of a saved model: a query stays only if this ranks its passage among the first `top`
    of all. With `train_retriever` it is first trained on all queries, by `settings` and `encoder`, and chosen by the
    task's validation rows.
    Copies of an example's query or of the passage, and repeated queries, are dropped in any case.
    `out` holds queries.jsonl, whose rows a retrieval task takes as training rows; dropped.jsonl; and notes.json, which
    says what made them. Unfinished work is kept in `out`.unfinished, so that the same call after a kill goes on there.
    Source: Promptagator, whose retriever is trained on the queries before it filters them, and is then trained again.
    """
    suite = as_suite(suite)
    chosen = _task(suite, task)
    asked = f"write queries for '{chosen.name}'"
    passages = _passages(chosen, asked)
    _check(asked, examples, per_passage, most, temperature, top, retriever, train_retriever)
    settings, progress = settings or Settings(), progress or Progress()
    out = check_out(out, "queries", force=force, inputs=[base, retriever], data=suite.files)
    scratch = out.parent / f"{out.name}.unfinished"
    following = Following(progress)
    with ExitStack() as stack:
        stack.callback(following.close)
        stack.enter_context(progress.watch())
        stack.enter_context(work_folder(scratch, "queries", force=force))
        folder = stack.enter_context(output_folder(out, "queries", force=force))
        shown = examples_of(chosen, passages, examples, seed)
        about = query_task([(passages[one], query) for query, one in shown], words, chosen.definition.instruction)
        model = open_language_model(base, asked).to(pick_device(settings.device))
        writer = QueryWriter(model, about, temperature, seed).fitting()
        if writer.examples < len(shown):
            progress.say(f"{plural(writer.examples, 'example')} of {len(shown)} fit in half of what the base reads")
        pieces = Pieces(scratch / "pieces")
        drawn = _drawn(
            writer, passages, _some(passages, most, seed), per_passage, pieces, hash_folder(find_folder(base)), progress
        )
        made = cleaned(drawn, passages, [query for query, _ in shown])
        if retriever is not None and made.relevant:
            judge = _judge(retriever, chosen, made, passages, train_retriever, settings, seed, encoder or {}, scratch,
                           following)  # fmt: skip
            made = kept(made, judge, chosen.name, passages, top)
        if not made.relevant:
            raise AllroundError(
                asked,
                f"none of {len(made.dropped)} is left: {_listed(made)}",
                "take a larger base, or give a higher --top, more --examples or other --words",
            )
        prompt = writer.task.prompt
        notes = {
            "task": chosen.name, "base": str(base), "prompt": None if prompt is None else prompt.to_json(),
            "per_passage": per_passage, "most": most, "temperature": temperature, "seed": seed,
            "retriever": None if retriever is None else str(retriever), "top": top,
            "train_retriever": train_retriever, "settings": settings.to_json(), "passages": len(drawn),
            "drawn": sum(map(len, drawn.values())), "queries": len(made), "dropped": made.reasons,
        }  # fmt: skip
        _write(folder, made, notes)
        pieces.remove()
    remove_work(scratch)
    progress.say(f"{len(made):,} queries for {plural(len(drawn), 'passage')}"
                 + (f"; dropped: {_listed(made)}" if made.dropped else ""))  # fmt: skip
    return made


# -- what is asked -----------------------------------------------------------------------------------------------------


def _task(suite: Suite, name: str | None) -> Task:
    """The task that is named, or the suite's only one of the kind retrieval."""
    found = {task.name: task for task in suite if kind(task.definition.kind).ranked}
    if name is None and len(found) == 1:
        name = next(iter(found))
    if name not in found:
        raise AllroundError(
            f"write queries for {'a task' if name is None else repr(name)} of '{suite.name}'",
            f"it has {plural(len(found), 'task')} of the kind retrieval" + (f": {', '.join(found)}" if found else ""),
            "name one" if name is None and found else suggestion(name or "", found) if found else
            "give a suite with such a task",
        )  # fmt: skip
    return found[name]


def _passages(task: Task, asked: str) -> Passages:
    """The passages that all rows of a task share."""
    found = {id(row[-1]): row[-1] for split in task.splits.values() for row in split.inputs}
    if len(found) != 1:
        raise AllroundError(asked, "its rows have passages of their own", "give a task whose suite names `passages`")
    (passages,) = found.values()
    assert isinstance(passages, Passages)
    return passages


def _check(
    asked: str, examples: int, per_passage: int, most: int | None, temperature: float, top: int, retriever: object,
    train_retriever: bool,
) -> None:  # fmt: skip
    for wrong, found, do in (
        (examples < 0, f"examples is {examples}", "give 0 or more"),
        (per_passage < 1, f"per_passage is {per_passage}", "give 1 or more"),
        (most is not None and most < 1, f"most is {most}", "give 1 or more"),
        (not temperature > 0, f"the temperature is {temperature:g}", "give a number above 0, such as 0.7"),
        (not 1 <= top <= MOST, f"top is {top}", f"give 1 to {MOST}"),
        (train_retriever and retriever is None, "no retriever is given that could be trained", "give --retriever"),
    ):
        if wrong:
            raise AllroundError(asked, found, do)


def examples_of(task: Task, passages: Passages, count: int, seed: int) -> list[tuple[str, str]]:
    """Up to `count` training rows as (query, id of a relevant passage), drawn so that no passage comes twice."""
    train = task.splits["train"]
    found: dict[str, str] = {}
    for place in np.random.default_rng(seed_of(seed, "examples")).permutation(len(train)).tolist():
        if len(found) >= count:
            break
        relevant = [one for one, grade in train.targets[place].items() if grade > 0 and one in passages]
        one = next((one for one in relevant if one not in found), None)
        if one is not None:
            found[one] = str(train.inputs[place][0])
    return [(query, one) for one, query in found.items()]


def _some(passages: Passages, most: int | None, seed: int) -> list[str]:
    """The ids of the passages that queries are written for, in their order."""
    if most is None or most >= len(passages):
        return passages.ids
    places = np.random.default_rng(seed_of(seed, "passages")).permutation(len(passages))[:most]
    return [passages.ids[place] for place in sorted(places.tolist())]


# -- writing -----------------------------------------------------------------------------------------------------------


def _drawn(
    writer: QueryWriter, passages: Passages, ids: Sequence[str], count: int, pieces: Pieces, base: str,
    progress: Progress,
) -> dict[str, list[str]]:  # fmt: skip
    """What the model writes for each passage; blocks that are there already are read."""
    drawn: dict[str, list[str]] = {}
    with progress.stage("passages", len(ids)) as stage:
        for start in range(0, len(ids), BLOCK):
            block = {one: passages[one] for one in ids[start : start + BLOCK]}
            piece = pieces.piece("queries", base=base, task=writer.task.to_json(), temperature=writer.temperature,
                                 seed=writer.seed, count=count, passages=block)  # fmt: skip
            if not piece.done:
                with piece.make() as (folder, _):
                    write_json(folder / "drawn.json", {o: writer.write(o, text, count) for o, text in block.items()})
            drawn |= read_json(piece.folder / "drawn.json")
            stage.advance(len(block))
    return drawn


def cleaned(drawn: Mapping[str, Sequence[str]], passages: Passages, examples: Sequence[str]) -> MadeQueries:
    """Queries without empty and repeated ones, and without copies of an example's query or of the passage; case and
    white space do not count. A query that was written for several passages is relevant to all of them.

    drawn: id of a passage -> queries.
    """
    known = {_plain(query) for query in examples}
    spelled: dict[str, str] = {}
    relevant: dict[str, list[str]] = {}
    dropped: list[tuple[str, str, str]] = []
    for one, texts in drawn.items():
        for text in texts:
            plain = _plain(text)
            why = (EMPTY if not plain else EXAMPLE if plain in known else PASSAGE if plain == _plain(passages[one])
                   else REPEATED if one in relevant.get(spelled.get(plain, ""), ()) else None)  # fmt: skip
            if why is None:
                relevant.setdefault(spelled.setdefault(plain, text), []).append(one)
            else:
                dropped.append((text, one, why))
    return MadeQueries(relevant, dropped)


def _plain(text: str) -> str:
    return one_line(text).casefold()


def _write(folder: Path, made: MadeQueries, notes: Mapping[str, object]) -> None:
    dropped = [{"query": query, "passage": one, "why": why} for query, one, why in made.dropped]
    for name, rows in ((QUERIES, made.rows()), (DROPPED, dropped)):
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / name).write_text(text, encoding="utf-8")
    write_json(folder / NOTES, notes)


def _listed(made: MadeQueries) -> str:
    return ", ".join(f"{count} ({why})" for why, count in made.reasons.items()) or "nothing was written"


# -- the round trip ----------------------------------------------------------------------------------------------------


def kept(made: MadeQueries, judge: System, task: str, passages: Passages, top: int) -> MadeQueries:
    """The round trip: a query stays for those of its passages that the judge ranks among the first `top` of all."""
    found: Sequence[Sequence[str]] = list(judge.answers(task, [(q, passages) for q in made.relevant]).predictions)
    relevant: dict[str, list[str]] = {}
    dropped = list(made.dropped)
    for (query, ids), ranked in zip(made.relevant.items(), found, strict=True):
        for one in ids:
            if one in ranked[:top]:
                relevant.setdefault(query, []).append(one)
            else:
                dropped.append((query, one, FAR))
    return MadeQueries(relevant, dropped)


def _judge(
    retriever: str | Path, task: Task, made: MadeQueries, passages: Passages, train: bool, settings: Settings,
    seed: int, encoder: Mapping[str, object], scratch: Path, following: Following,
) -> System:  # fmt: skip
    """What ranks passages for the round trip."""
    if not train and (Path(retriever).expanduser() / MANIFEST).is_file():
        found = load(retriever)
        if task.name not in found.definitions or not kind(found.definition(task.name).kind).ranked:
            raise AllroundError(f"filter queries by {retriever}", f"it does not rank passages for '{task.name}'",
                                "give a model of this task, or a base")  # fmt: skip
        return found
    seed_everything(seed_of(seed, "base"))
    rows = Split([(query, passages) for query in made.relevant], [dict.fromkeys(ids, 1.0) for ids in
                                                                  made.relevant.values()])  # fmt: skip
    learned = replace(task, splits={**task.splits, "train": rows}, table=None)
    opened = open_encoder(str(retriever), [learned], seed_of(seed, "base"), encoder)
    judge = MultiTaskModel(opened, {})
    judge.add_task(learned.definition, fit_head(opened, learned).state)
    if train:
        trainer.train(judge, [learned], settings, seed=seed, scratch=scratch, callbacks=[following], name="retriever")
    return judge
