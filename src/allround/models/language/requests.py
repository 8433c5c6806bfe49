"""Requests of the lm-evaluation-harness as rows of tokens: cut into tokens, and to length, as its own models do it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor

from allround.core.errors import AllroundError
from allround.core.locks import Lock
from allround.models.language.asking import NOTHING, AskedBatch, Ending
from allround.models.language.network import LanguageNetwork
from allround.models.language.rows import TokenRow, make_tree
from allround.tasks.harness.requests import ROLLING, WRITING, Asked, Chat

#: The tokens of a context, and of what follows it.
Pair: TypeAlias = tuple[tuple[int, ...], tuple[int, ...]]
#: Tokens of a written answer where nobody says how many, as in the harness.
MOST_TOKENS = 256
#: Names of the most tokens of an answer, the first that is there counts.
_MOST = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
#: What else may be said of how an answer is written; greedy writing does not depend on it.
_GREEDY = ("until", "do_sample", "temperature", "top_p", "top_k", *_MOST)


@dataclass(frozen=True)
class RequestRow:
    """The requests about a document as they are prepared.

    rows: contexts with the texts behind them; requests with one context stand in one row. parts: of each request, the
    row and the number of the text in it, several where a long text was cut. ending: of a text that is to be written.
    taught: the right answer behind its context, where training is to teach it.
    """

    rows: tuple[TokenRow, ...]
    parts: tuple[tuple[tuple[int, int], ...], ...]
    ending: Ending | None = None
    cut: bool = False
    taught: TokenRow | None = None

    @property
    def length(self) -> int:
        """Tokens that the network reads."""
        return sum(row.length for row in self.rows)


@dataclass
class Requester:
    """Prepares requests with a tokenizer. longest: tokens that the network can read. bare: whether a decoder of its own
    writes the answers."""

    tokenizer: Any
    longest: int
    bare: bool = False
    _lock: Lock = field(default_factory=Lock)

    def prepare(self, asked: Asked) -> RequestRow:
        """The requests about one document."""
        contexts = [one if isinstance(one, str) else self.chat(one) for one in asked.contexts]
        if asked.sort == WRITING:
            return self._written(contexts, asked)
        pairs: list[tuple[int, Pair]] = []
        for number, (context, text) in enumerate(asked.requests):
            several = self._windows(text) if asked.sort == ROLLING else [self.pair(contexts[context], text)]
            pairs += [(number, one) for one in several]
        behind: dict[tuple[int, ...], dict[tuple[int, ...], int]] = {}
        parts: list[list[tuple[tuple[int, ...], int]]] = [[] for _ in asked.requests]
        cut = False
        for number, (before, text) in pairs:
            room = self.longest + (0 if self.bare else 1 - len(text))
            if len(text) > self.longest:
                raise AllroundError(
                    "answer a task of the lm-evaluation-harness",
                    f"a text whose likelihood is asked for has {len(text)} tokens, and the base reads {self.longest}",
                    "use a base with a longer context",
                )
            cut, before = cut or len(before) > room, before[-room:]
            known = behind.setdefault(before, {})
            parts[number].append((before, known.setdefault(text, len(known))))
        places = {before: place for place, before in enumerate(behind)}
        rows = tuple(TokenRow(before, make_tree(list(known))) for before, known in behind.items())
        rows = rows or (TokenRow((self.first,), NOTHING),)
        return RequestRow(rows, tuple(tuple((places[b], path) for b, path in one) for one in parts), cut=cut)

    def teach(self, asked: Asked, right: str | int) -> TokenRow:
        """The right answer behind its context. right: the number of a request, or the text to write."""
        number, how = asked.requests[right if isinstance(right, int) else 0]
        context = asked.contexts[number]
        context = context if isinstance(context, str) else self.chat(context)
        if isinstance(right, int):
            before, text = self.pair(context, str(how))
        else:
            most, end = _most(how), self.tokenizer.eos_token_id
            before = tuple(self.tokens(context)) or (self.first,)
            joined = self._plain(right) if self.bare else self.tokens(context + right)[len(before) :]
            text = tuple((joined or self._plain(right))[: most - 1]) + (() if end is None else (int(end),))
        room = self.longest + (0 if self.bare else 1 - len(text))
        if room < 1 or not text:
            raise AllroundError(
                "train on a task of the lm-evaluation-harness",
                f"a right answer has {len(text)} tokens, and the base reads {self.longest}",
                "use a base with a longer context, or another task",
            )
        return TokenRow(before[-room:], make_tree([text]))

    def chat(self, chat: Chat) -> str:
        """A chat as text, by the tokenizer's template; where that refuses a system message, without it."""
        messages = [{"role": role, "content": said} for role, said in chat.messages]
        try:
            return self._templated(messages, chat.opened)
        except Exception as first:  # a template raises whatever it likes
            plain = [one for one in messages if one["role"] != "system"]
            try:
                return self._templated(plain, chat.opened)
            except Exception:
                raise AllroundError(
                    "put a task of the lm-evaluation-harness as a chat",
                    f"the base's tokenizer has no chat template that takes it: {str(first)[:200]}",
                    "leave `chat: yes` out, or use a base that was trained to chat",
                ) from first

    def _templated(self, messages: list[dict[str, str]], opened: bool) -> str:
        with self._lock:
            made = self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=opened, continue_final_message=not opened
            )
        return str(made)

    # -- tokens --------------------------------------------------------------------------------------------------------

    @property
    def first(self) -> int:
        """The token that stands before a text without context."""
        found = self.tokenizer.bos_token_id
        found = found if found is not None else self.tokenizer.eos_token_id
        if found is None:
            raise AllroundError(
                "score a text without a context",
                "the base's tokenizer has no token that begins or ends a text",
                "use a task whose texts have contexts, or another base",
            )
        return int(found)

    def tokens(self, text: str) -> list[int]:
        """A text as tokens, with the marks that the tokenizer adds, unless it begins with one already."""
        mark = self.tokenizer.bos_token_id if self.tokenizer.bos_token_id is not None else self.tokenizer.eos_token_id
        marked = mark is not None and text.startswith(self.tokenizer.decode(mark))
        return self._plain(text, special=not marked)

    def _plain(self, text: str, *, special: bool = False) -> list[int]:
        with self._lock:
            return list(self.tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"])

    def pair(self, context: str, text: str) -> Pair:
        """A context and what follows it, cut where the context ends; its last spaces belong to what follows."""
        if not context:
            after = self._plain(text)
            start, after = ([self.first], after) if after[:1] != [self.first] else (after[:1], after[1:])
            return self._both(start, after, text)
        spaces = len(context) - len(context.rstrip())
        if spaces:
            context, text = context[:-spaces], context[-spaces:] + text
        if self.bare:
            return self._both(self.tokens(context), self._plain(text), text)
        before = self.tokens(context)
        return self._both(before, self.tokens(context + text)[len(before) :], text)

    def _both(self, before: list[int], after: list[int], text: str) -> Pair:
        if not before or not after:
            raise AllroundError(
                "answer a task of the lm-evaluation-harness",
                f"the text {text[:60]!r}, or its context, has no tokens of its own",
                "correct the task: its choices and prompts must not be empty",
            )
        return tuple(before), tuple(after)

    def _windows(self, text: str) -> list[Pair]:
        """A whole text, in pieces that the network can read, each behind as much of it as fits.

        Each token is read off once: the first piece behind the mark of a beginning, the others behind what precedes.
        """
        ids, longest = self.tokens(text), self.longest
        if not ids:
            return []
        pieces: list[Pair] = [((self.first,), tuple(ids[:longest]))]
        for start in range(longest, len(ids), longest):
            end = min(start + longest, len(ids))
            pieces.append((tuple(ids[end - longest - 1 : start]), tuple(ids[start:end])))
        return pieces

    def _written(self, contexts: Sequence[str], asked: Asked) -> RequestRow:
        rows, ending, cut = [], None, False
        for number, how in asked.requests:
            most = _most(how)
            room = self.longest - (0 if self.bare else most)
            odd = [name for name in how if name not in _GREEDY]
            if room <= 0 or odd or how.get("do_sample"):
                found = (
                    f"an answer of up to {most} tokens is asked for, and the base reads {self.longest}"
                    if room <= 0
                    else f"generation_kwargs has {odd[0] if odd else 'do_sample'}, and answers are written greedily"
                )
                raise AllroundError("write the answers of a task of the lm-evaluation-harness", found,
                                    "change generation_kwargs of the task")  # fmt: skip
            until = how.get("until") or []
            stop = tuple(text for text in ([until] if isinstance(until, str) else until) if text)
            end = self.tokenizer.eos_token_id
            ending = Ending(None if end is None else int(end), stop, most, strip=False)
            ids = self.tokens(contexts[number])
            rows.append(TokenRow(tuple(ids[-room:]) or (self.first,), NOTHING))
            cut = cut or len(ids) > room
        return RequestRow(tuple(rows), tuple(((place, 0),) for place in range(len(rows))), ending, cut)


def _most(how: Mapping[str, Any]) -> int:
    """The most tokens of an answer that is to be written."""
    return int(next((how[name] for name in _MOST if how.get(name) is not None), MOST_TOKENS))


def collate(net: LanguageNetwork, rows: Sequence[RequestRow], endings: list[Ending]) -> dict[str, Tensor]:
    """Prepared rows as tensors. endings: the ways to end an answer, by number; more are put there."""
    listed = tuple(one for row in rows for one in row.rows)
    ways = {row.ending for row in rows}
    if len(ways) > 1:
        raise AllroundError("answer rows of a task of the lm-evaluation-harness together",
                            "they are to be answered in different ways", "give them one by one")  # fmt: skip
    (ending,) = ways
    if ending is not None:
        if ending not in endings:
            endings.append(ending)
        return net.collate(AskedBatch(listed, ending=endings.index(ending)))
    made = net.collate(AskedBatch(listed))
    starts, start = [], 0
    for one in listed:
        starts.append(start)
        start += len(one.tree.tokens)
    edges: list[int] = []
    of: list[int] = []
    number, before = 0, 0
    for row in rows:
        for parts in row.parts:
            for place, path in parts:
                found = [starts[before + place] + token for token in row.rows[place].tree.paths[path]]
                edges += found
                of += [number] * len(found)
            number += 1
        before += len(row.rows)
    made |= {"edge": torch.tensor(edges, dtype=torch.long), "request": torch.tensor(of, dtype=torch.long),
             "requests": torch.tensor(number)}  # fmt: skip
    return made


def answered(ranked: Tensor, tensors: dict[str, Tensor]) -> Tensor:
    """The log-likelihood of each request, and 1 where each of its tokens is the most probable one: (requests, 2)."""
    count, of = int(tensors["requests"]), tensors["request"]
    each = ranked[tensors["edge"]].double()  # a whole text is a sum of many
    sums = each.new_zeros(count).index_add(0, of, each[:, 0])
    wrong = each.new_zeros(count).index_add(0, of, 1 - each[:, 1])
    return torch.stack([sums, (wrong == 0).to(sums.dtype)], 1)
