"""A beam search that writes n-grams of some texts, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from allround.models.language.asking import AskedBatch
from allround.models.language.network import LanguageNetwork
from allround.models.language.rows import TokenRow, make_tree
from allround.models.ngrams import NgramIndex, Span, Tokens


@dataclass
class Written:
    """What was written behind a prompt: log-probabilities of n-grams, and of each token that may come first."""

    ngrams: dict[Tokens, float] = field(default_factory=dict)
    tokens: dict[int, float] = field(default_factory=dict)


@torch.inference_mode()
def write_ngrams(
    net: LanguageNetwork,
    prompts: Sequence[Tokens],
    indexes: Sequence[NgramIndex],
    beams: int,
    batch_size: int = 32,
) -> list[Written]:
    """What a model writes behind each prompt, of the n-grams of its index alone.

    A beam search: of all n-grams that are one token longer than those before, the `beams` most probable ones stay, up
    to the index's longest. All that stayed at any length are n-grams of the answer. Probabilities are those of the
    whole vocabulary: what does not occur is never written, and its probability is not given to the others.
    """
    found: list[Written] = []
    for start in range(0, len(prompts), batch_size):
        some = slice(start, start + batch_size)
        found += _write(net, prompts[some], indexes[some], beams)
    return found


def _write(net: LanguageNetwork, prompts: Sequence[Tokens], indexes: Sequence[NgramIndex], beams: int) -> list[Written]:
    written = [Written() for _ in prompts]
    kept: list[dict[Tokens, tuple[float, Span]]] = [{(): (0.0, index.everywhere)} for index in indexes]
    for length in range(max(index.longest for index in indexes)):
        longer = [
            {ngram: index.after(span, length) for ngram, (_, span) in own.items()}
            for own, index in zip(kept, indexes, strict=True)
        ]
        longer = [{ngram: one for ngram, one in own.items() if one[1]} for own in longer]
        asked = [number for number, own in enumerate(longer) if own]
        if not asked:
            break
        wanted = [{ngram: tokens for ngram, (tokens, _) in longer[number].items()} for number in asked]
        scored = _scores(net, [prompts[number] for number in asked], wanted)
        for number, scores in zip(asked, scored, strict=True):
            every = np.concatenate([kept[number][ngram][0] + scores[ngram] for ngram in longer[number]])
            reached = [
                ((*ngram, token), span)
                for ngram, (tokens, spans) in longer[number].items()
                for token, span in zip(tokens.tolist(), spans, strict=True)
            ]
            best = np.argsort(-every, kind="stable")[:beams]
            kept[number] = {reached[place][0]: (float(every[place]), reached[place][1]) for place in best}
            written[number].ngrams |= {ngram: score for ngram, (score, _) in kept[number].items()}
            if length == 0:
                written[number].tokens = {
                    ngram[0]: float(score) for (ngram, _), score in zip(reached, every, strict=True)
                }
        kept = [own if number in asked else {} for number, own in enumerate(kept)]
    return written


def _scores(
    net: LanguageNetwork, prompts: Sequence[Tokens], wanted: Sequence[dict[Tokens, np.ndarray]]
) -> list[dict[Tokens, np.ndarray]]:
    """log p of tokens behind each n-gram behind each prompt, in one pass. wanted: n-gram -> the tokens, in order."""
    rows, ends, tokens, start = [], [], [], 0
    for prompt, own in zip(prompts, wanted, strict=True):
        tree = make_tree([(*ngram, int(some[0])) for ngram, some in own.items()])
        rows.append(TokenRow(prompt, tree))
        ends += [start + path[-1] for path in tree.paths]
        tokens += list(own.values())
        start += len(tree.tokens)
    device = next(net.parameters()).device
    tensors = {name: part.to(device) for name, part in net.collate(AskedBatch(tuple(rows))).items()}
    found = iter(net.following(tensors, ends, tokens))
    return [{ngram: next(found) for ngram in own} for own in wanted]
