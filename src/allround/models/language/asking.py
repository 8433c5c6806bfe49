"""What is asked of a language model about a row, by the head that answers the task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np

from allround.core.errors import AllroundError
from allround.models.language.rendering import Rendered, Renderer
from allround.models.language.rows import TokenRow, Tree, has_prefix, make_tree
from allround.tasks.definition import Definition
from allround.tasks.kind import Encoded, kind
from allround.tasks.prompt import plain_choices
from allround.tasks.prompt_text import prompt_of
from allround.tasks.values import Row

#: What a model says of each label where a row may have several.
YES_NO = ("yes", "no")
#: No answer is asked for: a vector is.
NOTHING = make_tree([])


@dataclass(frozen=True)
class Ending:
    """The token and the texts that end an answer, and the most tokens that it has.

    strip: whether white space around it is left out.
    """

    token: int | None
    stop: tuple[str, ...]
    most: int
    strip: bool = True


@dataclass(frozen=True)
class AskedRow:
    """A row as it is prepared.

    prompts: its prompt, or one for each label where a row may have several. texts: those as they are read. trees:
    the answers that are compared, one tree a prompt. letters: characters of each answer. plain: prompts without
    content, to compare with. taught: tokens of each right answer, where targets were given and are texts. cut:
    whether an input was cut. shortened: whether the right answer has more tokens than may be written. options: for
    each token of an answer, the places in the tree of those that it is compared with, itself among them.
    """

    prompts: tuple[tuple[int, ...], ...]
    texts: tuple[str, ...]
    trees: tuple[Tree, ...]
    letters: tuple[int, ...] = ()
    plain: tuple[tuple[int, ...], ...] = ()
    taught: tuple[int, ...] = ()
    cut: bool = False
    shortened: bool = False
    options: tuple[tuple[int, ...], ...] = ()

    @property
    def length(self) -> int:
        """Tokens that the network reads."""
        return sum(map(len, self.prompts)) + sum(len(tree.inner) for tree in self.trees) + len(self.taught)


@dataclass(frozen=True)
class AskedBatch:
    """Rows of tokens to read together, and what to make of them.

    rows: prompts with the tokens whose probability is asked for. lengths: of right answers, where those are asked for.
    choice: for each row of the task and each choice, the number of its path among all paths, -1 where there is none;
    against: what is subtracted from it. divide: of each path. options: for each token of all answers, the numbers of
    those that it is compared with among all tokens. ending: where answers are to be written, the number of
    the way they end.
    """

    rows: tuple[TokenRow, ...]
    lengths: tuple[int, ...] = ()
    choice: np.ndarray | None = None
    against: np.ndarray | None = None
    divide: np.ndarray | None = None
    options: np.ndarray | None = None
    ending: int | None = None


@dataclass
class Asker:
    """Makes rows of tokens from the rows of a task. endings: the ways to end an answer that batches name by number."""

    renderer: Renderer
    endings: list[Ending] = field(default_factory=list)

    def rows(
        self, definition: Definition, head: str, inputs: Sequence[Row], targets: Encoded | None = None
    ) -> list[AskedRow]:
        """Rows of a task as they are prepared for a head. targets: encoded, where they are to be taught."""
        if head == "choices":
            return [self._choices(definition, row) for row in inputs]
        if head != "generate":
            return [self._vector(definition, row) for row in inputs]
        answers: Sequence[str | None] = [None] * len(inputs)
        if targets is not None:
            rules = kind(definition.kind)
            answers = [rules.spoken(target) for target in rules.decode(targets, definition)]
        return [self._written(definition, row, answer) for row, answer in zip(inputs, answers, strict=True)]

    def _vector(self, definition: Definition, row: Row) -> AskedRow:
        made = self.renderer.render(definition, row)
        return AskedRow((tuple(made.ids),), (made.text,), (NOTHING,), cut=made.cut)

    def _written(self, definition: Definition, row: Row, answer: str | None) -> AskedRow:
        room = prompt_of(definition).max_new_tokens
        if room >= self.renderer.longest:
            raise AllroundError(
                f"write answers of up to {room} tokens to task '{definition.name}'",
                f"the base reads {self.renderer.longest} tokens, of prompt and answer together",
                "lower max_new_tokens, or allow longer rows: --max-length",
            )
        made = self.renderer.render(definition, row, room=0 if self.renderer.bare else room)
        taught: tuple[int, ...] = ()
        shortened = False
        if answer is not None:
            end, tokens = self.renderer.end(definition), self.renderer.answer(made.text, answer)
            taught, shortened = tokens[: room - 1] + (() if end is None else (end,)), len(tokens) > room - 1
        return AskedRow((tuple(made.ids),), (made.text,), (NOTHING,), taught=taught, cut=made.cut, shortened=shortened)

    def _choices(self, definition: Definition, row: Row) -> AskedRow:
        prompt, rules = prompt_of(definition), kind(definition.kind)
        if rules.indicators:
            spoken = prompt.choices or plain_choices(definition.labels)
            made = [self._with_room(definition, row, YES_NO, label) for label in spoken]
            trees = tuple(self._tree(definition, one.text, YES_NO) for one in made)
            texts, ids = tuple(one.text for one in made), tuple(tuple(one.ids) for one in made)
            return AskedRow(ids, texts, trees, (1, 1), cut=any(one.cut for one in made))
        answers = _answers(definition, row)
        one = self._with_room(definition, row, answers)
        plain: tuple[tuple[int, ...], ...] = ()
        if prompt.against == "content_free":
            plain = (tuple(self.renderer.render(definition, row, blank=True).ids),)
        elif prompt.against == "unconditional":
            plain = (self._nothing(),)
        tree = self._tree(definition, one.text, answers)
        return AskedRow((tuple(one.ids),), (one.text,), (tree,), tuple(map(len, answers)), plain, cut=one.cut)

    def _with_room(self, definition: Definition, row: Row, answers: Sequence[str], label: str = "") -> Rendered:
        return self.renderer.render(definition, row, room=self._room(answers), label=label)

    def _room(self, answers: Sequence[str]) -> int:
        return 0 if self.renderer.bare else 1 + max(len(self.renderer.answer("", answer)) for answer in answers)

    def fits(self, definition: Definition, head: str, row: Row) -> bool:
        """Whether the whole prompt of a row, with its worked examples, can be read beside an answer; of a task with one
        prompt a row."""
        written = 0 if self.renderer.bare else prompt_of(definition).max_new_tokens
        room = written if head == "generate" else self._room(_answers(definition, row))
        return self.renderer.fits(definition, row, room)

    def _nothing(self) -> tuple[int, ...]:
        """The shortest prompt: the mark of a text's beginning, or of an end."""
        tokenizer = self.renderer.tokenizer
        first = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
        return (int(first) if first is not None else 0,)

    def _tree(self, definition: Definition, text: str, answers: Sequence[str]) -> Tree:
        """The tree of the answers' tokens. Where one is the beginning of another, each ends with the mark of an end."""
        tokens = [self.renderer.answer(text, answer) for answer in answers]
        if has_prefix(tokens):
            end = self.renderer.end(definition)
            if end is None or len(set(tokens)) < len(tokens):
                one, other = _alike(tokens)
                raise AllroundError(
                    f"compare the choices of task '{definition.name}'",
                    f"the tokens of {answers[one]!r} begin those of {answers[other]!r}, and the tokenizer has no mark "
                    "of an end that would tell them apart"
                    if len(set(tokens)) == len(tokens)
                    else f"{answers[one]!r} and {answers[other]!r} are the same tokens",
                    "give them other words under `choices`",
                )
            tokens = [(*answer, end) for answer in tokens]
        return make_tree(tokens)

    # -- batches -----------------------------------------------------------------------------------------------------

    def taught(self, definition: Definition, head: str, row: AskedRow, target: Any) -> TokenRow | None:
        """A row with the right answer alone, for training; None where training compares the choices or has none."""
        prompt = prompt_of(definition)
        answer = row.taught
        if head == "choices":
            if prompt.loss == "choices" or kind(definition.kind).numeric or kind(definition.kind).indicators:
                return None
            tree = row.trees[0]
            path = [tree.tokens[place] for place in tree.paths[int(target)]]
            end = self.renderer.end(definition)
            answer = tuple(path) if end is None or path[-1] == end else (*path, end)
        elif head != "generate" or not answer:
            return None
        if prompt.loss == "all" and not self.renderer.bare:
            return TokenRow(row.prompts[0][:1], make_tree([(*row.prompts[0][1:], *answer)]))
        return TokenRow(row.prompts[0], make_tree([answer]))

    def batch(self, definition: Definition, head: str, rows: Sequence[AskedRow], targets: Encoded | None) -> AskedBatch:
        """Prepared rows as a batch. targets: of all rows, where losses are wanted."""
        if targets is not None:
            taught = [self.taught(definition, head, row, target) for row, target in zip(rows, targets, strict=True)]
            found = [one for one in taught if one is not None]
            if len(found) == len(rows):
                return AskedBatch(tuple(found), tuple(len(one.tree.tokens) for one in found))
        asked = [TokenRow(ids, tree) for row in rows for ids, tree in zip(row.prompts, row.trees, strict=True)]
        if rows and rows[0].options:
            return _optional(rows, asked)
        if head == "choices":
            return self._compared(definition, rows, asked)
        return AskedBatch(tuple(asked), ending=self._ending(definition) if head == "generate" else None)

    def _compared(self, definition: Definition, rows: Sequence[AskedRow], asked: list[TokenRow]) -> AskedBatch:
        several = kind(definition.kind).indicators
        width = len(rows[0].prompts) if several else max(len(row.trees[0].paths) for row in rows)
        if not kind(definition.kind).numeric:
            width = max(width, len(definition.labels))
        choice = np.full((len(rows), width), -1, dtype=np.int64)
        against = np.full((len(rows), width), -1, dtype=np.int64)
        plain: dict[TokenRow, int] = {}
        start = 0
        for number, row in enumerate(rows):
            if several:  # each prompt has two paths: yes, no
                choice[number, : len(row.prompts)] = start + 2 * np.arange(len(row.prompts))
                against[number, : len(row.prompts)] = start + 2 * np.arange(len(row.prompts)) + 1
            else:
                choice[number, : len(row.trees[0].paths)] = start + np.arange(len(row.trees[0].paths))
            start += sum(len(tree.paths) for tree in row.trees)
        letters = [n for row in rows for _ in row.trees for n in row.letters]
        for number, row in enumerate(rows):
            for ids in row.plain:
                one = TokenRow(ids, row.trees[0])
                if one not in plain:
                    plain[one] = start
                    start += len(one.tree.paths)
                    letters += row.letters
                against[number, : len(one.tree.paths)] = plain[one] + np.arange(len(one.tree.paths))
        every = (*asked, *plain)
        lengths = [len(path) for row in every for path in row.tree.paths]
        by = {"sum": [1.0] * len(lengths), "mean": lengths, "characters": letters}[prompt_of(definition).score]
        divide = np.asarray(by, dtype=np.float32)
        return AskedBatch(every, (), choice, against if (against >= 0).any() else None, divide)

    def _ending(self, definition: Definition) -> int:
        """The number of what ends an answer that is written to a task."""
        prompt = prompt_of(definition)
        ending = Ending(self.renderer.end(definition), prompt.stop, prompt.max_new_tokens)
        if ending not in self.endings:
            self.endings.append(ending)
        return self.endings.index(ending)


def _answers(definition: Definition, row: Row) -> tuple[str, ...]:
    """What is compared for a row: its own choices, or those of the task."""
    prompt = prompt_of(definition)
    if prompt.options:
        return tuple(str(one) for one in cast(list[str], row[definition.inputs.index(prompt.options)]))
    return prompt.choices or plain_choices(definition.labels)


def with_options(
    row: AskedRow, answer: Sequence[int], options: Sequence[Sequence[int]]
) -> tuple[AskedRow, tuple[int, ...]]:
    """A row that compares each token of an answer with others, and the number of each token among those.

    options: for each token of the answer, the others, the most probable first, and itself; it takes the place of the
    last one where it is not among them.
    """
    listed = [
        tuple(some) if token in some else (*some[:-1], token) for token, some in zip(answer, options, strict=True)
    ]
    paths = [(*answer[:at], token) for at, some in enumerate(listed) for token in some]
    tree = make_tree([tuple(answer), *paths])
    places = iter(path[-1] for path in tree.paths[1:])
    found = tuple(tuple(next(places) for _ in some) for some in listed)
    chosen = tuple(some.index(token) for token, some in zip(answer, listed, strict=True))
    return replace(row, trees=(replace(tree, paths=tree.paths[:1]),), taught=(), options=found), chosen


def _optional(rows: Sequence[AskedRow], asked: Sequence[TokenRow]) -> AskedBatch:
    """Rows whose tokens are compared with others, as a batch."""
    found, start = [], 0
    for row in rows:
        found.append(start + np.asarray(row.options, dtype=np.int64))
        start += len(row.trees[0].tokens)
    return AskedBatch(tuple(asked), tuple(len(row.options) for row in rows), options=np.concatenate(found))


def _alike(tokens: Sequence[tuple[int, ...]]) -> tuple[int, int]:
    """The places of two answers of which one begins the other."""
    return next(
        (one, other)
        for one, first in enumerate(tokens)
        for other, second in enumerate(tokens)
        if one != other and second[: len(first)] == first
    )
