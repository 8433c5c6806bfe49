"""Generative retrieval: a language model writes the identifiers of the passages that answer a query."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch

from allround.core.errors import AllroundError
from allround.core.files import read_json, write_json
from allround.core.registry import method
from allround.models.batch import Answers
from allround.models.cost import Cost
from allround.models.encoders.language_model import LanguageModel
from allround.models.language.trie import Tokens, Trie, likeliest
from allround.models.system import System, check_rows, load, windows
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.definition import Definition
from allround.tasks.kind import kind
from allround.tasks.kinds.retrieval import MOST
from allround.tasks.passages import Passages
from allround.tasks.values import Row

#: The folder of the language model, and the file of identifiers.
SPEAKER, IDS = "speaker", "identifiers.json"


@method(
    source="Tay et al., Transformer memory as a differentiable search index, NeurIPS 2022, arXiv:2202.06991; Penha et "
    "al., RecSys 2025, arXiv:2508.10478",
    paper="Semantic IDs for Joint Generative Search and Recommendation",
)
class GenerativeRetrieval(System):
    """Answers tasks of the kind retrieval by a language model that was taught to write identifiers of passages.

    Each task has its own prompt, and all share the identifiers. `allround.generative` makes these from vectors of an
    embedder, best of one that was trained on all of the tasks (Penha et al.). A beam search over the trie of the
    identifiers of a row's passages gives their order, so that no other text is ever written; an answer has about
    `beams` passages.
    Differs: the papers train an encoder with a decoder, here the base is a decoder alone.

    definitions: of the tasks. speaker: has tasks of the same names, whose labels are identifiers. identifiers: text of
    a passage -> its identifier; passages of all tasks share them.
    Errors: passages that have no identifier.
    """

    sort = "generative_retrieval"

    def __init__(
        self,
        definitions: Mapping[str, Definition],
        speaker: MultiTaskModel,
        identifiers: Mapping[str, str],
        beams: int = 10,
    ) -> None:
        check_search(definitions, speaker, beams)
        if len(set(identifiers.values())) < len(identifiers):
            raise AllroundError("search with a language model", "two passages have the same identifier",
                                "give each text one of its own")  # fmt: skip
        self.definitions, self.speaker, self.identifiers, self.beams = dict(definitions), speaker, identifiers, beams
        self.facts: dict[str, object] = {}

    @property
    def _model(self) -> LanguageModel:
        assert isinstance(self.speaker.encoder, LanguageModel)
        return self.speaker.encoder

    def answer(
        self, task: str | None, rows: Iterable[Row], *, batch_size: int = 64, scores: bool = False
    ) -> Iterator[Answers]:
        task = self.only_task() if task is None else task
        definition, written = self.definition(task), self.speaker.definition(task)
        model = self._model.eval()
        render = model.asker.renderer.render
        tries: dict[Passages, tuple[Trie, list[list[str]]]] = {}
        for some in windows(rows):
            check_rows(definition, some)
            for passages in dict.fromkeys(map(passages_in, some)):
                if passages not in tries:
                    tries[passages] = self._trie(passages, written)
            own = [tries[passages_in(row)] for row in some]
            prompts = [
                tuple(render(written, row[:1], room=trie.longest).ids) for row, (trie, _) in zip(some, own, strict=True)
            ]
            found = likeliest(model.net, prompts, [trie for trie, _ in own], self.beams, batch_size)
            yield Answers([
                tuple(one for number, _ in best for one in ids[number])[:MOST]
                for best, (_, ids) in zip(found, own, strict=True)
            ])  # fmt: skip

    def _trie(self, passages: Passages, written: Definition) -> tuple[Trie, list[list[str]]]:
        """The trie of the identifiers of passages, and the ids of the passages with each."""
        ids: dict[str, list[str]] = {}
        lacking = []
        for one, text in zip(passages.ids, passages.texts(), strict=True):
            if text in self.identifiers:
                ids.setdefault(self.identifiers[text], []).append(one)
            else:
                lacking.append(one)
        if lacking:
            raise AllroundError(
                f"search the passages of '{written.name}'",
                f"{len(lacking)} of {len(passages)} have no identifier, first '{lacking[0]}'",
                "a model writes those alone that it was taught: make it anew with these passages",
            )
        try:
            return Trie(spoken(self._model, written, ids)), list(ids.values())
        except ValueError:
            raise AllroundError(
                f"search the passages of '{written.name}'",
                "the tokens of one identifier begin those of another, and the tokenizer has no mark of an end",
                "use a base whose tokenizer has one",
            ) from None

    def to(self, device: torch.device | str) -> GenerativeRetrieval:
        self.speaker.to(device)
        return self

    def cost(self, tasks: Iterable[str] | None = None) -> Cost:
        return self.speaker.cost(tasks)

    def write(self, folder: Path) -> None:
        (folder / SPEAKER).mkdir()
        self.speaker.write(folder / SPEAKER)
        write_json(folder / IDS, dict(self.identifiers))
        self.write_manifest(folder, beams=self.beams)

    @classmethod
    def read(
        cls, folder: Path, definitions: Mapping[str, Definition], facts: Mapping[str, object]
    ) -> GenerativeRetrieval:
        asked, beams, speaker = f"load the model in {folder}", facts.get("beams"), load(folder / SPEAKER)
        if not isinstance(beams, int) or isinstance(beams, bool) or not isinstance(speaker, MultiTaskModel):
            raise AllroundError(asked, "its beams or its language model are not what was written",
                                "copy the folder again, whole")  # fmt: skip
        made = cls(definitions, speaker, read_identifiers(folder), beams)
        made.facts = {name: value for name, value in facts.items() if name != "beams"}
        return made


def check_search(definitions: Mapping[str, Definition], speaker: MultiTaskModel, beams: int) -> None:
    """Errors: a model that is no language model or was not taught all tasks, tasks of other kinds, too many beams."""
    asked = "search with a language model"
    if not 1 <= beams <= MOST:
        raise AllroundError(f"{asked} and {beams} beams", f"an answer has 1 to {MOST} passages",
                            f"give 1 to {MOST}")  # fmt: skip
    if not isinstance(speaker.encoder, LanguageModel):
        raise AllroundError(asked, "the model is not a language model", "train one on the identifiers")
    for name, definition in definitions.items():
        if not kind(definition.kind).ranked or name not in speaker.definitions:
            raise AllroundError(asked, f"'{name}' is not a task of the kind retrieval that the model was taught",
                                "train a language model on identifiers under the name of the task")  # fmt: skip


def read_identifiers(folder: Path) -> dict[str, str]:
    """The identifiers of passages by their texts, as `GenerativeRetrieval.write` keeps them."""
    found = read_json(folder / IDS)
    if not isinstance(found, dict) or not all(isinstance(one, str) for one in found.values()):
        raise AllroundError(f"load the model in {folder}", f"{IDS} has no identifiers by text",
                            "copy the folder again, whole")  # fmt: skip
    return found


def passages_in(row: Row) -> Passages:
    """The passages of a row of a search."""
    passages = row[1]
    assert isinstance(passages, Passages)
    return passages


def spoken(model: LanguageModel, written: Definition, identifiers: Iterable[str]) -> list[Tokens]:
    """The tokens of identifiers as answers to a task, with the token that ends them: what training teaches.

    An identifier follows the same words in each prompt, so that its tokens are the same for all rows.
    """
    renderer = model.asker.renderer
    end, text = renderer.end(written), renderer.render(written, ("",)).text
    return [(*renderer.answer(text, one), *(() if end is None else (end,))) for one in identifiers]
