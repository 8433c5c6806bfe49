"""A trie of the texts that a language model may write, and a beam search that never leaves it."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from allround.models.language.asking import AskedBatch
from allround.models.language.network import LanguageNetwork
from allround.models.language.rows import TokenRow, has_prefix, make_tree

#: A trie of so many tokens is read in one pass: all answers are compared.
AT_ONCE = 1024
#: Tokens of an answer, or of its beginning.
Tokens = tuple[int, ...]


class Trie:
    """Answers as tokens, none of which begins another.

    answers: each with one token at least; an answer's number is its place among them. Errors: a ValueError for answers
    of which one begins another, or is the same.

    >>> trie = Trie([(5, 6), (5, 7), (8,)])
    >>> trie.after(()), trie.after((5,)), trie.after((8,)), trie.numbers[(5, 7)]
    ([(5,), (8,)], [(5, 6), (5, 7)], [], 1)
    """

    def __init__(self, answers: Sequence[Tokens]) -> None:
        if not all(answers) or has_prefix(answers):
            raise ValueError("an answer has no tokens, or begins another")
        self.numbers = {answer: number for number, answer in enumerate(answers)}
        following: dict[Tokens, dict[Tokens, None]] = {}
        for answer in answers:
            for length in range(len(answer)):
                following.setdefault(answer[:length], {})[answer[: length + 1]] = None
        self.longest = max(map(len, answers), default=0)
        self.tokens = sum(map(len, following.values()))
        self._following = {start: list(longer) for start, longer in following.items()}

    def __len__(self) -> int:
        return len(self.numbers)

    def after(self, start: Tokens) -> list[Tokens]:
        """What the answers that begin so begin with, one token longer; nothing behind a whole answer."""
        return self._following.get(start, [])


@torch.inference_mode()
def likeliest(
    net: LanguageNetwork, prompts: Sequence[Tokens], tries: Sequence[Trie], beams: int, batch_size: int = 32
) -> list[list[tuple[int, float]]]:
    """For each prompt the most probable answers of its trie, as (number, log-probability), the highest first.

    A beam search: of all beginnings that have so many tokens, and all whole answers that are shorter, the `beams` most
    probable ones stay. With as many beams as answers it is exact, and so it is in a trie of up to `AT_ONCE` tokens,
    whose answers are all compared. Of equal ones the first answer stays. Probabilities are those of the whole
    vocabulary: what the trie does not allow is never written, and its probability is not given to the others.
    """
    found: list[list[tuple[int, float]]] = []
    for start in range(0, len(prompts), batch_size):
        some = slice(start, start + batch_size)
        found += _likeliest(net, prompts[some], tries[some], beams)
    return found


def _likeliest(
    net: LanguageNetwork, prompts: Sequence[Tokens], tries: Sequence[Trie], beams: int
) -> list[list[tuple[int, float]]]:
    kept: list[dict[Tokens, float]] = [{(): 0.0} for _ in prompts]
    while True:
        longer = [_longer(own, trie) for own, trie in zip(kept, tries, strict=True)]
        asked = [number for number, own in enumerate(longer) if own]
        if not asked:
            break
        scored = _scores(net, [TokenRow(prompts[number], make_tree(longer[number])) for number in asked])
        for number, scores in zip(asked, scored, strict=True):
            whole = {one: score for one, score in kept[number].items() if not tries[number].after(one)}
            every = whole | dict(zip(longer[number], scores, strict=True))
            best = sorted(every, key=every.__getitem__, reverse=True)[:beams]
            kept[number] = {one: every[one] for one in best}
    return [
        sorted(((trie.numbers[one], score) for one, score in own.items()), key=lambda pair: (-pair[1], pair[0]))
        for own, trie in zip(kept, tries, strict=True)
    ]


def _longer(kept: dict[Tokens, float], trie: Trie) -> list[Tokens]:
    """What is to be compared next: beginnings that are one token longer; all answers at once of a small trie."""
    if () in kept and trie.tokens <= AT_ONCE:
        return list(trie.numbers)
    return [one for start in kept for one in trie.after(start)]


def _scores(net: LanguageNetwork, rows: Sequence[TokenRow]) -> list[list[float]]:
    """The log-probability of each path of each row's tree: one pass for all."""
    device = next(net.parameters()).device
    tensors = {name: part.to(device) for name, part in net.collate(AskedBatch(tuple(rows))).items()}
    tokens = net.log_probabilities(tensors).double().tolist()
    found, at = [], 0
    for row in rows:
        own = tokens[at : at + len(row.tree.tokens)]
        at += len(own)
        found.append([sum(own[place] for place in path) for path in row.tree.paths])
    return found
