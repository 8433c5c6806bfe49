"""What to merge and how: the one description that the command line, recipe files and Python all come down to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from allround.core import registry
from allround.core.entry import Entry
from allround.core.errors import AllroundError, suggestion
from allround.merging.named_base import base_hint

ON_MISMATCH = ("error", "keep-base", "skip")
SCOPES = ("tensor", "model")


@dataclass(frozen=True)
class Model:
    """A checkpoint: a folder, a file or a Hub id, with adapters on it; or an adapter alone, for the recipe's base.

    >>> str(Model("tuned", ("lora",)))
    'tuned+lora'
    """

    path: str
    adapters: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "+".join((self.path, *self.adapters))


@dataclass(frozen=True)
class Rule:
    """Values of parameters for some tensors only: those whose names match a pattern such as `*.layer.3.*`."""

    match: str
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Token:
    """Where a token's row of the embeddings comes from, for models without that token.

    source: a model, by its own row of the token or of another one (`token`: its text or number); None: zeros where
    `zero` says so, else as for any token. force: the models with the token take that row as well.
    """

    source: Model | None = None
    token: str | int | None = None
    zero: bool = False
    force: bool = False


@dataclass(frozen=True)
class Tokenizer:
    """The tokenizer of the output, by which the models' vocabularies are aligned.

    source: `union` of all models' tokens, the `base`'s (the first model's, without a base), or a model's. A token that
    a model lacks takes its rows of the only model that has it, else of the base (or of the model that `prefer` names),
    else the mean of those that have it.
    multiple_of: rows are added (the mean of all others) until their number is a multiple of this.
    """

    source: str | Model = "union"
    tokens: Mapping[str, Token] = field(default_factory=dict)
    multiple_of: int | None = None
    prefer: Model | None = None


@dataclass(frozen=True)
class Recipe:
    """One merge.

    base: what the models were tuned from; None for methods that average weights as they are. values: parameters of
    the method; where it says `Each`, one number or one per model. scope: over what a method takes its norms and
    thresholds, a tensor or the whole model; None: as the method does by default. dtype: of the output (F32, BF16, ...);
    None: as the base. round_to: round every input and every change to this dtype first, as mergekit does.
    tokenizer: of the output, where the vocabularies differ; None: the base's. chat_template: of the output: the
    template itself, the name of one, or `auto` for the one that most models have. config: values to set in the
    output's config.json. mixed: a tensor takes some of the models only, as where layers of several models are stacked.
    extra_from: the path of the model from which the merged model takes what the base lacks, such as a classifier, as it
    is; None: from none.
    """

    method: str
    models: tuple[Model, ...]
    base: Model | None = None
    values: Mapping[str, Any] = field(default_factory=dict)
    rules: tuple[Rule, ...] = ()
    scope: str | None = None
    dtype: str | None = None
    round_to: str | None = None
    on_mismatch: str = "error"
    statistics: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    tokenizer: Tokenizer | None = None
    chat_template: str | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    mixed: bool = False
    extra_from: str | None = None

    def __post_init__(self) -> None:
        entry = registry.find("merge", self.method)
        entry.resolve(self.values)
        for rule in self.rules:
            entry.resolve({**self.values, **rule.values})
        for value, known, what in (
            (self.on_mismatch, ON_MISMATCH, "on_mismatch"),
            (self.scope or "tensor", SCOPES, "scope"),
        ):
            if value not in known:
                raise AllroundError(f"set {what} to {value!r}", "there is no such choice", suggestion(value, known))
        if not self.models:
            raise AllroundError(
                f"merge by '{self.method}'", "no specialist was given", "give at least one beside the base"
            )
        self._check_models(entry)
        paths = [model.path for model in self.models]
        if self.extra_from is not None and (self.base is None or paths.count(self.extra_from) != 1):
            raise AllroundError(
                f"take what the base lacks from {self.extra_from}",
                "there is no base" if self.base is None else "it is not one of the models",
                "leave it out; --on-mismatch says what is done where models differ" if self.base is None
                else f"give one of them: {', '.join(paths)}",
            )  # fmt: skip

    def _check_models(self, entry: Entry) -> None:
        asked = f"merge {len(self.models)} model{'s' * (len(self.models) != 1)} by '{self.method}'"
        if self.base is None and entry.facts["base"] == "required":
            raise AllroundError(
                asked,
                f"no base is given, and the method works on changes{base_hint(model.path for model in self.models)}",
                "give what the models were tuned from, before them, or average the weights themselves: method average",
            )
        least, most = entry.facts["models"]
        too_many = most is not None and len(self.models) > most and not self.mixed
        if len(self.models) < least or too_many:
            wanted = f"{least}" if least == most else f"{least} or more" if most is None else f"{least} to {most}"
            raise AllroundError(
                asked,
                f"the method takes {wanted}{' beside the base' if self.base else ''}",
                "give as many, or use a method for several: average, task_arithmetic or ties",
            )
        for name, value in self.values.items():
            if isinstance(value, (list, tuple)) and len(value) != len(self.models):
                raise AllroundError(
                    f"set '{name}' of '{self.method}' for each of {len(self.models)} models",
                    f"there are {len(value)} values",
                    "give one number for all, or one for each model in their order",
                )
