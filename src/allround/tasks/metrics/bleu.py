"""BLEU: how many runs of one to four words of the answers stand in accepted ones, over all rows together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from allround.core.errors import AllroundError, suggestion
from allround.core.registry import method
from allround.tasks.definition import Definition
from allround.tasks.metrics._corpus import CorpusMetric
from allround.tasks.metrics._texts import need

if TYPE_CHECKING:
    from sacrebleu.metrics.base import Metric as Corpus

#: Those of sacrebleu that need no further file.
TOKENIZERS = ("13a", "char", "intl", "none", "zh")


@method(source="sacrebleu, corpus_bleu divided by 100; Papineni et al., ACL 2002", kinds=("text",), better="higher")
class Bleu(CorpusMetric):
    """BLEU of all rows together, 0 to 1; sacrebleu prints a hundred times as much.

    tokenize: how sacrebleu cuts texts into words: 13a, char (characters), intl, none (at white space) or zh. Where no
    answer has four words, the score is 0: use `chrf` for short answers.

    >>> d = Definition("t", "text", ("x",), "text", "bleu")
    >>> round(Bleu().score([("the cat sat on the mat",)], [("the cat sat on a mat",)], d), 4)
    0.5373
    """

    def __init__(self, *, tokenize: str = "13a") -> None:
        self.tokenize = tokenize

    def corpus(self) -> Corpus:
        from sacrebleu.metrics import BLEU

        return BLEU(tokenize=self.tokenize, force=True)

    def check(self, definition: Definition) -> None:
        need("sacrebleu", "bleu", definition)
        if self.tokenize not in TOKENIZERS:
            raise AllroundError(
                f"score the task '{definition.name}' by 'bleu:tokenize={self.tokenize}'",
                f"there is no tokenizer '{self.tokenize}'",
                suggestion(self.tokenize, TOKENIZERS),
            )
