"""Combinations of what modules answer each by itself: of scores, or of the logits of each token that is written."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from allround.composition.combining import Combine
from allround.composition.modules.bank import Gate, ModuleBank
from allround.composition.modules.layer import used
from allround.composition.router import RouteRows, taken_state
from allround.core import registry
from allround.core.errors import AllroundError
from allround.models.base import find_folder, load_encoder
from allround.models.batch import Answers, Batch, Features
from allround.models.encoder import Encoder
from allround.models.encoders.language_model import LanguageModel
from allround.models.heads.ranking import Ranking
from allround.models.language.voices import Voice, solo
from allround.models.late import Vectors, check_single
from allround.models.searching import VectorReader
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.models.text_rows import describe_tokenizer
from allround.tasks.kind import Kind, kind


class Fusion(Combine):
    """Lets the base and each module that a row uses answer by itself, a pass for each, and makes one of the outputs.

    larger: a language model (as for `--base`) whose outputs the modules' changes are added to, in place of their own
    base's. It has the base's tokenizer, and may be of any size.
    """

    levels = ("row",)
    by_module = True
    #: Whether the base's own outputs are needed even where the weights of a row sum to one.
    needs_base: ClassVar[bool] = False

    def __init__(self, larger: str | None = None) -> None:
        self.called = larger
        self.larger: LanguageModel | None = None

    @abstractmethod
    def fused(self, anchor: Tensor, base: Tensor, experts: Sequence[Tensor], shares: Tensor, sort: str) -> Tensor:
        """One output of several.

        Shapes: anchor (what is moved), base and each of the experts (n, outputs), shares (n, experts) -> (n, outputs).
        sort: what outputs are: `softmax` for logits of choices that exclude each other, `sigmoid` for logits of yes,
        `numbers` for anything else.
        """

    # -- a larger model ------------------------------------------------------------------------------------------------

    def fit(self, bank: ModuleBank, tasks: Mapping[str, RouteRows], seed: int) -> None:
        self._open(bank)
        if self.larger is not None:
            for rows in tasks.values():
                if registry.find("head", rows.model.head(rows.task).sort).facts["reads"] == "vectors":
                    raise AllroundError(f"move a larger model's answers to task '{rows.task}'",
                                        "its head reads vectors of the base, and the larger model has others",
                                        "use head: choices or generate")  # fmt: skip

    def restore(self, bank: ModuleBank, state: Mapping[str, Tensor]) -> None:
        taken_state(state)
        self._open(bank)

    def _open(self, bank: ModuleBank) -> None:
        if self.called and self.larger is None:
            self.take(load_encoder(find_folder(self.called, "larger model")), bank.encoder)

    def take(self, larger: Encoder, base: Encoder) -> None:
        """Use a larger model. Errors: one that does not read what the base reads."""
        wrong = "" if isinstance(larger, LanguageModel) and isinstance(base, LanguageModel) else "not both are such"
        if isinstance(larger, LanguageModel) and isinstance(base, LanguageModel):
            if describe_tokenizer(larger.tokenizer) != describe_tokenizer(base.tokenizer):
                wrong = "their tokenizers differ"
            elif larger.net.two_parts != base.net.two_parts:
                wrong = "one has an encoder and a decoder, the other a decoder alone"
            elif larger.max_length < base.max_length:
                wrong = f"it reads {larger.max_length} tokens, and the base {base.max_length}"
            self.larger = larger.eval()
        if wrong:
            raise AllroundError("add what modules of one language model change to another language model", wrong,
                                "give a larger model of the same family, with the same tokenizer")  # fmt: skip

    # -- answers -------------------------------------------------------------------------------------------------------

    def answer(
        self,
        model: MultiTaskModel,
        bank: ModuleBank,
        task: str,
        batch: Batch,
        weighing: Tensor | Gate,
        *,
        scores: bool = False,
    ) -> Answers:
        if not isinstance(weighing, Tensor):
            raise AllroundError("average the outputs of modules", "the router decides at each layer",
                                "use a router that decides once for a row, or combine by outputs")  # fmt: skip
        modules = [module for module, _ in used(weighing)]
        shares = weighing[:, modules]
        rest = bool(((1 - shares.sum(-1)).abs() > 1e-6).any())  # is the base's
        with_base = rest or self.needs_base or self.larger is not None
        uses = [partial(_alone, bank, module, weighing) for module in ([None] if with_base else []) + modules]
        encoder = bank.encoder

        def fuse(found: Sequence[Tensor], sort: str = "softmax", lengths: tuple[int, ...] = ()) -> Tensor:
            weights = shares.repeat_interleave(torch.tensor(lengths, device=shares.device), 0) if lengths else shares
            anchor, *others = found if with_base else [torch.zeros_like(found[0]), *found]
            base, *others = others if self.larger is not None else [anchor, *others]
            return self.fused(anchor, base, others, weights.expand(len(anchor), -1), sort) if others else anchor

        if "write" in batch.tensors and isinstance(encoder, LanguageModel):
            voices = [*([] if self.larger is None else [solo(self.larger.net)]), *(Voice(encoder.net, u) for u in uses)]
            return model.answered(task, encoder.written_by(voices, batch, fuse), scores=scores)
        head = model.output_head(task)
        by_scores = registry.find("head", head.sort).facts["reads"] == "scores"
        made: list[Features] = [] if self.larger is None else [self.larger(batch)]
        for use in uses:
            with use():
                made.append(model.features(batch))
        sort = _sort(kind(model.definition(task).kind), by_scores)
        outputs = [one.values.float() if by_scores else head(one.values).float() for one in made]
        together = fuse(outputs, sort, made[-1].lengths)
        together = head(together) if by_scores else together
        found = head.from_outputs(together, made[-1].lengths, scores=model.wants_scores(task, scores))
        return model.finished(task, found, scores)

    def rank(
        self,
        model: MultiTaskModel,
        bank: ModuleBank,
        task: str,
        rows: Sequence[Any],
        weighing: Tensor | Gate,
        *,
        batch_size: int = 64,
    ) -> Answers:
        """The scores of passages are averaged: those of each module, by its weight, and of the base with what is left
        of the weights."""
        assert isinstance(weighing, Tensor)
        head = model.head(task)
        assert isinstance(head, Ranking)
        check_single(head.definition, f"average the scores of modules for task '{task}'")
        modules: list[int | None] = [module for module, _ in used(weighing)]
        shares = weighing[:, modules]
        rest = 1 - shares.sum(1, keepdim=True)
        if bool((rest.abs() > 1e-6).any()):
            modules, shares = [None, *modules], torch.cat([rest, shares], 1)
        uses = [partial(_alone, bank, module, weighing[:1].to(model.device)) for module in modules]
        with model.searcher.keeping(("each", *modules)):
            return model.searcher.answers(FusedReader(bank.encoder, head, batch_size, uses, shares), rows)


@dataclass(frozen=True)
class FusedReader(VectorReader):
    """Vectors whose products are the mean of several products: those of each use of the encoder stand one after the
    other, and a query's are scaled by its share for that use.

    uses: let rows use the encoder in one way. shares: of the queries, (n, uses).
    """

    uses: Sequence[Callable[[], AbstractContextManager[None]]]
    shares: Tensor

    def queries(self, rows: Sequence[Any]) -> Vectors:
        made = super().queries(rows)
        assert isinstance(made, Tensor)
        return made * self.shares.repeat_interleave(made.shape[1] // self.shares.shape[1], 1)

    def vectors(self, ready: Sequence[Any]) -> Vectors:
        found = []
        for use in self.uses:
            with use():
                one = super().vectors(ready)
            assert isinstance(one, Tensor)
            found.append(one)
        return torch.cat(found, 1)


def averaged(anchor: Tensor, base: Tensor, experts: Sequence[Tensor], shares: Tensor) -> Tensor:
    """anchor + sum_e w_e (expert_e - base); shapes as in `Fusion.fused`.

    >>> averaged(torch.zeros(1, 2), torch.ones(1, 2), [torch.tensor([[3.0, 1.0]])], torch.tensor([[0.5]]))
    tensor([[1., 0.]])
    """
    found = anchor
    for share, one in zip(shares.T, experts, strict=True):
        found = found + share[:, None] * (one - base)
    return found


@contextmanager
def _alone(bank: ModuleBank, module: int | None, weighing: Tensor) -> Iterator[None]:
    """Let all rows use one module and no other; None for the base."""
    weights = torch.zeros_like(weighing)
    if module is not None:
        weights[:, module] = 1
    with bank.using(weights):
        yield


def _sort(rules: Kind, by_scores: bool) -> str:
    """What the outputs of a head are, as `Fusion.fused` names it."""
    if rules.indicators:
        return "sigmoid"
    return "softmax" if by_scores or (rules.fixed_labels and rules.exclusive and not rules.ordered) else "numbers"
