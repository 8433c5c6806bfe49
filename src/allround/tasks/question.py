"""What `make_task` is asked, and the checks of the question itself, before any row is read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from allround.core import registry
from allround.core.errors import AllroundError, suggestion
from allround.core.files import check_name
from allround.tasks.column_types import check_type
from allround.tasks.draws import SplitRule
from allround.tasks.kind import Kind
from allround.tasks.modality import modality
from allround.tasks.passages import PASSAGES
from allround.tasks.values import short

MISSING = ("error", "drop")
STRAY = ("error", "missing")

#: Kinds that users know by other names.
_PAIRS = ("pair_classification", "text_pair_classification", "pair_regression", "text_pair_regression")


@dataclass(frozen=True)
class Question:
    """The names of a task's parts.

    many: whether the target was given as a list of columns. slices: columns that go with the rows, beside inputs and
    targets. options: the input column of a row's own choices. prompted: whether the user said how the task is put to a
    language model. shared: whether all rows have the same passages. negatives: the column of passages that are known
    not to be relevant. The rest is as for `make_task`.
    """

    name: str
    kind: str
    rules: Kind
    inputs: tuple[str, ...]
    targets: tuple[str, ...]
    many: bool
    missing: str
    table: str | None
    slices: tuple[str, ...] = ()
    types: Mapping[str, str] = field(default_factory=dict)
    stray: str = "error"
    rule: SplitRule | None = None
    options: str = ""
    prompted: bool = False
    shared: bool = False
    negatives: str = ""

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns that are read, each once."""
        rule = (self.rule.column,) if self.rule is not None and self.rule.column else ()
        negatives = (self.negatives,) if self.negatives else ()
        return tuple(dict.fromkeys((*self.inputs, *self.targets, *self.slices, *rule, *negatives)))

    def fail(self, found: str, do: str) -> AllroundError:
        """An error that names the task."""
        return AllroundError(f"make the task '{self.name}'", found, do)

    def check(self, given: str | None, labels: Mapping[str | int | float | bool, str] | None) -> None:
        """An error where the question makes no sense. given: the modality, where one was given."""
        if not self.inputs:
            raise self.fail("it has no input column", "name at least one column in `inputs`")
        if not self.targets:
            raise self.fail("it has no target column", "name a column in `target`")
        for what, columns in (("inputs", self.inputs), ("target", self.targets), ("slices", self.slices)):
            twice = [c for c, n in Counter(columns).items() if n > 1]
            if twice:
                raise self.fail(f"`{what}` names the column '{twice[0]}' twice", "name each column once")
        both = [c for c in self.targets if c in self.inputs]
        if both:
            raise self.fail(
                f"the column '{both[0]}' is an input and the target",
                "take it out of `inputs`: it gives the answer away",
            )
        if self.many and not (self.rules.indicators or self.rules.written):
            raise self.fail(
                f"`target` is a list of {len(self.targets)} columns, and the kind is {self.kind}",
                "name one target column; or use kind: multilabel for 0/1 columns, kind: text for accepted answers",
            )
        if labels and (not self.rules.fixed_labels or self.many):
            raise self.fail(
                "`labels` is set, and this target has no values to name",
                "leave `labels` out"
                if not self.rules.fixed_labels
                else "leave `labels` out: the columns' names are the labels",
            )
        self._check_options()
        self._check_passages()
        if self.missing not in MISSING:
            raise self.fail(f"`missing` is {short(self.missing)}", suggestion(str(self.missing), MISSING))
        if self.rule is not None and (wrong := self.rule.problem()):
            raise self.fail(*wrong)
        if self.stray not in STRAY:
            raise self.fail(f"`stray` is {short(self.stray)}", suggestion(str(self.stray), STRAY))
        for name, type_ in self.types.items():
            if name not in self.inputs:
                raise self.fail(f"`types` names '{name}', which is no input", suggestion(name, self.inputs))
            if way_out := check_type(type_):
                raise self.fail(f"`types` gives '{name}' the type {short(type_)}", way_out)
        if self.table is not None:
            check_name(self.table, "table")
        known = registry.names("modality")
        if given is not None and given not in known:
            raise self.fail(f"there is no modality '{given}'", suggestion(given, known))
        if self.rules.for_language_models and given is not None and given not in self.in_prompts:
            raise self.fail(
                f"the modality is {given}, and only language models answer tasks of the kind {self.kind}",
                f"leave `modality` out, or use one of: {', '.join(self.in_prompts)}",
            )
        wordless = given is not None and modality(given).by_word is None
        if self.rules.per_token and (len(self.inputs) != 1 or wordless):
            raise self.fail(
                f"{self.kind} takes one column of words", "name one input column that holds a list of words a row"
            )

    @property
    def in_prompts(self) -> list[str]:
        """The modalities that a kind which only language models answer can have: texts, and where rows have choices of
        their own, fields alone."""
        texts = not self.rules.own_choices
        known = {name: modality(name) for name in registry.names("modality")}
        return [name for name, one in known.items() if one.for_prompts or (one.pairs and texts)]

    def _check_passages(self) -> None:
        """An error unless a kind that ranks passages is told which, and no other kind."""
        if not self.rules.ranked and (self.shared or self.negatives):
            name = "passages" if self.shared else "negatives"
            raise self.fail(f"`{name}` is set, and the kind is {self.kind}", "leave it out, or use kind: retrieval")
        if not self.rules.ranked:
            return
        if self.shared and len(self.inputs) != 1:
            raise self.fail(
                f"all rows have the same passages, and `inputs` names {len(self.inputs)} columns",
                "name the column of queries alone; or leave `passages` out, where rows have their own",
            )
        if not self.shared and len(self.inputs) != 2:
            raise self.fail(
                "nothing says which passages a query is answered from",
                "give `passages`, a file of them; or name two columns of inputs: queries, and lists of passages",
            )
        if PASSAGES in (*self.inputs[:1], *self.targets, self.negatives):
            raise self.fail(f"a column is called '{PASSAGES}'", "rename it: the passages of a row are called so")

    def _check_options(self) -> None:
        """An error unless a kind whose rows have choices of their own is told where they are, and no other kind."""
        if self.options and self.options not in self.inputs:
            raise self.fail(
                f"`choices` names the column '{self.options}', which is no input", suggestion(self.options, self.inputs)
            )
        if self.rules.own_choices and not self.options:
            raise self.fail(
                f"each row of a task of the kind {self.kind} has choices of its own, and nothing says where",
                "name the input column that holds a list of choices: `choices: COLUMN`",
            )
        if self.options and not self.rules.own_choices:
            raise self.fail(
                f"`choices` names the column '{self.options}', and the kind is {self.kind}",
                "use kind: multiple_choice; or give each label its words: choices: {label: words}",
            )


def check_kind(name: str) -> str:
    """The name of a kind that exists, or an error that suggests one.

    >>> check_kind("regression")
    'regression'
    """
    if name in _PAIRS:
        base = name.split("_")[-1]
        raise AllroundError(
            f"use the kind '{name}'",
            "a pair is not a separate kind",
            f"use kind: {base} with two input columns",
        )
    registry.find("kind", name)
    return name


def check_metric(name: str, kind: str) -> str:
    """The name of a metric that exists and can score this kind, or an error that suggests one."""
    found, _ = registry.spelled("metric", name)
    kinds = registry.find("metric", found).facts["kinds"]
    if kind not in kinds:
        fit = [entry.name for entry in registry.entries("metric") if kind in entry.facts["kinds"]]
        raise AllroundError(
            f"score a task of kind '{kind}' by '{name}'",
            f"'{found}' is for {', '.join(kinds)}",
            f"use one of: {', '.join(fit)}",
        )
    return name
