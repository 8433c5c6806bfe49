"""N-gram retrieval: a language model writes n-grams of the passages that answer a query, and these say which."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch

from allround.core.errors import AllroundError
from allround.core.registry import method
from allround.models.batch import Answers
from allround.models.cost import Cost
from allround.models.encoders.language_model import LanguageModel
from allround.models.language.ngram_search import write_ngrams
from allround.models.ngrams import MOST_TOKENS, NgramIndex, Tokens, rank_texts
from allround.models.system import System, check_rows, load, windows
from allround.models.systems.generative_retrieval import SPEAKER, check_search, passages_in
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.definition import Definition
from allround.tasks.kinds.retrieval import MOST
from allround.tasks.passages import Passages
from allround.tasks.values import Row


@method(
    source="Chen et al., A unified generative retriever for knowledge-intensive language tasks via prompt learning, "
    "SIGIR 2023, arXiv:2304.14856 (its abstract and the README of ict-bigdatalab/UGR, which has no code); Bevilacqua "
    "et al., Autoregressive search engines, NeurIPS 2022, arXiv:2204.10628, and facebookresearch/SEAL",
    paper="A Unified Generative Retriever for Knowledge-Intensive Language Tasks via Prompt Learning",
)
class NgramRetrieval(System):
    """Answers tasks of the kind retrieval by a language model that was taught to write n-grams of relevant passages.

    A beam search writes n-grams that occur in a row's passages and nothing else, of any length up to `length` tokens.
    `allround.models.ngrams.rank_texts` adds up their weights in each passage. One model serves searches whose passages
    are documents, paragraphs, sentences or names: each task has its own prompt, its instruction, and its own passages.
    An n-gram is found where it occurs, so that passages which were not there in training can be searched too.
    Differs: of the paper's three sorts of prompts it has the discrete ones; vectors that are learned in front of a
    query (`--share prompt_tuning`) cannot stand in the packed rows of a language model. A decoder alone is the usual
    base, not BART. Of SEAL it leaves out titles, and n-grams that are taken from the query; it keeps n-grams of all
    lengths that the search went through, which SEAL does for titles.

    definitions: of the tasks. speaker: has tasks of the same names, to which it writes texts. beams: of the search.
    length: the most tokens of an n-gram. An answer has up to 100 passages.
    Errors: passages without words, or with more than 2,000,000 tokens together.
    """

    sort = "ngram_retrieval"

    def __init__(
        self, definitions: Mapping[str, Definition], speaker: MultiTaskModel, beams: int = 10, length: int = 10
    ) -> None:
        check_search(definitions, speaker, beams)
        if length < 1:
            raise AllroundError(f"search with n-grams of up to {length} tokens", "they need 1 at least", "give 10")
        self.definitions, self.speaker, self.beams, self.length = dict(definitions), speaker, beams, length
        self.facts: dict[str, object] = {}

    def answer(
        self, task: str | None, rows: Iterable[Row], *, batch_size: int = 64, scores: bool = False
    ) -> Iterator[Answers]:
        task = self.only_task() if task is None else task
        definition, written = self.definition(task), self.speaker.definition(task)
        model = self.speaker.encoder.eval()
        assert isinstance(model, LanguageModel)
        render = model.asker.renderer.render
        indexes: dict[Passages, NgramIndex] = {}
        for some in windows(rows):
            check_rows(definition, some)
            own = [passages_in(row) for row in some]
            for passages in dict.fromkeys(own):
                if passages not in indexes:
                    indexes[passages] = self._index(model, passages, written)
            prompts = [tuple(render(written, row[:1], room=self.length).ids) for row in some]
            found = write_ngrams(model.net, prompts, [indexes[one] for one in own], self.beams, batch_size)
            yield Answers([
                tuple(passages.ids[text] for text, _ in rank_texts(indexes[passages], one.ngrams, one.tokens)[:MOST])
                for passages, one in zip(own, found, strict=True)
            ])  # fmt: skip

    def _index(self, model: LanguageModel, passages: Passages, written: Definition) -> NgramIndex:
        """The n-grams of passages, in tokens as they follow the prompt of a task."""
        renderer = model.asker.renderer
        before = renderer.render(written, ("",)).text
        texts: list[Tokens] = []
        for text in passages.texts():
            plain = " ".join(text.split())
            texts.append(renderer.answer(before, plain) if plain else ())
        try:
            return NgramIndex(texts, self.length)
        except ValueError as error:
            raise AllroundError(
                f"search the passages of '{written.name}' by their n-grams",
                f"{error}, and 1 to {MOST_TOKENS:,} can be searched",
                "search so many with vectors: `allround train`, then `allround index`" if any(texts) else
                "give passages with words",
            ) from None  # fmt: skip

    def to(self, device: torch.device | str) -> NgramRetrieval:
        self.speaker.to(device)
        return self

    def cost(self, tasks: Iterable[str] | None = None) -> Cost:
        return self.speaker.cost(tasks)

    def write(self, folder: Path) -> None:
        (folder / SPEAKER).mkdir()
        self.speaker.write(folder / SPEAKER)
        self.write_manifest(folder, beams=self.beams, length=self.length)

    @classmethod
    def read(cls, folder: Path, definitions: Mapping[str, Definition], facts: Mapping[str, object]) -> NgramRetrieval:
        sizes, speaker = [facts.get(name) for name in ("beams", "length")], load(folder / SPEAKER)
        whole = [one for one in sizes if isinstance(one, int) and not isinstance(one, bool)]
        if len(whole) < 2 or not isinstance(speaker, MultiTaskModel):
            raise AllroundError(f"load the model in {folder}", "its sizes or its language model are not what was "
                                "written", "copy the folder again, whole")  # fmt: skip
        made = cls(definitions, speaker, *whole)
        made.facts = {name: value for name, value in facts.items() if name not in ("beams", "length")}
        return made
