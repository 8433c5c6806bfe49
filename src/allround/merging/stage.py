"""What the readers of recipe files share: stages, references to models, and errors that point at the key."""

from __future__ import annotations

import contextlib
import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from allround.checkpoints.header import WRITTEN
from allround.core.errors import AllroundError, suggestion
from allround.merging.recipe import Model, Recipe, Token, Tokenizer

if TYPE_CHECKING:
    from allround.merging.plan import Plan

#: Rows of an embedding are padded to a multiple of at most this: no processor gains by more, and memory is finite.
_MULTIPLE = 4096


@dataclass(frozen=True)
class Stage:
    """One merge of a recipe file. The output of the last stage is what the file is for.

    name: of the stage. notes: what the user should know before it runs. earlier: the stages whose outputs it takes as
    models, by name. layout: makes the plan where the tensors of the output are not simply those of the base.
    """

    name: str
    recipe: Recipe
    notes: tuple[str, ...] = ()
    earlier: tuple[str, ...] = ()
    layout: Callable[[Recipe], Plan] | None = None

    def plan(self, folders: Mapping[str, Path] | None = None) -> Plan:
        """The plan of this stage; headers and configurations are read. folders: of the earlier stages, by name."""
        from allround.merging.layout import make_plan

        recipe = self._placed(folders or {})
        plan = self.layout(recipe) if self.layout else make_plan(recipe)
        plan.notes[:0] = self.notes
        return plan

    def _placed(self, folders: Mapping[str, Path]) -> Recipe:
        missing = [name for name in self.earlier if name not in folders]
        if missing:
            raise AllroundError(
                f"plan the stage '{self.name}'",
                f"it takes the output of '{missing[0]}', and the folder of that stage was not given",
                "run the stages in their order",
            )

        def place(model: Model | None) -> Model | None:
            if model is None:
                return None
            path, *adapters = (
                str(folders[name]) if name in self.earlier else name for name in (model.path, *model.adapters)
            )
            return Model(path, tuple(adapters))

        recipe, tokenizer = self.recipe, self.recipe.tokenizer
        if tokenizer is not None:
            tokens = {text: replace(token, source=place(token.source)) for text, token in tokenizer.tokens.items()}
            source = place(tokenizer.source) if isinstance(tokenizer.source, Model) else tokenizer.source
            assert source is not None
            tokenizer = replace(tokenizer, source=source, tokens=tokens, prefer=place(tokenizer.prefer))
        models = tuple(placed for model in recipe.models if (placed := place(model)) is not None)
        return replace(recipe, base=place(recipe.base), models=models, tokenizer=tokenizer)


@dataclass
class Reading:
    """Checks the values of a recipe file, and names the place of what is wrong.

    stages: the names of all stages of the file. used: those that were named as models since it was emptied.
    """

    asked: str
    folder: Path
    stages: tuple[str, ...] = ()
    used: list[str] = field(default_factory=list)

    def wrong(self, where: str, found: str, do: str) -> AllroundError:
        return AllroundError(self.asked, f"{where or 'the file'}: {found}", do)

    @contextmanager
    def at(self, where: str) -> Iterator[None]:
        """Name this place in errors of what is called."""
        try:
            yield
        except AllroundError as error:
            if error.asked == self.asked:
                raise
            raise self.wrong(where, f"{error.found} ({error.asked})", error.do) from None

    def mapping(self, value: object, where: str, known: Iterable[str] | None = None) -> dict[str, object]:
        """A mapping with text as keys, all of them known."""
        if not isinstance(value, dict):
            raise self.wrong(where, f"{reprlib.repr(value)}, and it should be a mapping", self._expected(known))
        for key in value:
            if not isinstance(key, str):
                raise self.wrong(where, f"the key {key!r} should be text", "put the key in quotes")
            if known is not None and key not in known:
                path = f"{where}.{key}" if where else key
                raise self.wrong(path, "there is no such key", suggestion(key, known))
        return value

    @staticmethod
    def _expected(known: Iterable[str] | None) -> str:
        return f"write keys and values: {', '.join(known)}" if known else "write keys and values"

    def listing(self, value: object, where: str) -> list[object]:
        if not isinstance(value, list) or not value:
            raise self.wrong(where, f"{reprlib.repr(value)}, and it should be a list", "write `- ` before each entry")
        return value

    def text(self, value: object, where: str) -> str:
        if not isinstance(value, str) or not value.strip():
            do = "write some text" if isinstance(value, str) or value is None else "put the value in quotes"
            raise self.wrong(where, f"{reprlib.repr(value)}, and it should be text", do)
        return value

    def whole(self, value: object, where: str, least: int = 0, most: int | None = None) -> int:
        if type(value) is not int or value < least or (most is not None and value > most):
            end = "on" if most is None else f"to {most}"
            raise self.wrong(
                where,
                f"{reprlib.repr(value)}, and it should be a whole number from {least} {end}",
                "write such a number",
            )
        return value

    def truth(self, value: object, where: str) -> bool:
        if not isinstance(value, bool):
            raise self.wrong(where, f"{reprlib.repr(value)}, and it should be true or false", "write true or false")
        return value

    def one_of(self, value: object, where: str, known: Sequence[str]) -> str:
        text = self.text(value, where)
        if text not in known:
            raise self.wrong(where, f"there is no choice '{text}'", suggestion(text, known))
        return text

    def dtype(self, value: object, where: str) -> str:
        text = self.text(value, where).removeprefix("torch.")
        if text not in WRITTEN:
            known = "weights have floating-point dtypes" if text == "int64" else f"there is no choice '{text}'"
            raise self.wrong(where, known, suggestion(text, WRITTEN))
        return WRITTEN[text]

    def path(self, value: object, where: str) -> str:
        """A stage's name; else a path, from the recipe file's folder or the current one; else what may be a Hub id."""
        text = self.text(value, where)
        if text in self.stages:
            self.used.append(text)
            return text
        if "\0" in text:
            raise self.wrong(where, f"{text!r} is not a path", "write the path of a model")
        with contextlib.suppress(OSError, ValueError, RuntimeError):
            beside = self.folder / Path(text).expanduser()
            if beside.exists():
                return str(beside)
        close = get_close_matches(text, self.stages, n=1, cutoff=0.6)
        with contextlib.suppress(OSError, ValueError):
            if close and "/" not in text and not Path(text).exists():
                raise self.wrong(where, f"there is no stage '{text}'", suggestion(text, self.stages))
        return text

    def used_stages(self) -> tuple[str, ...]:
        """The stages that were named since the last call."""
        found = tuple(dict.fromkeys(self.used))
        self.used.clear()
        return found

    def tokenizer(self, value: object, where: str, model: Callable[[object, str], Model]) -> Tokenizer:
        """`union`, `base`, a model, or a mapping with the tokens' sources. model: reads a reference to a model."""
        if not isinstance(value, dict) or "model" in value:
            return Tokenizer(self._tokenizer_source(value, where, model))
        about = self.mapping(value, where, ("source", "tokens", "pad_to_multiple_of"))
        tokens = self.mapping(about.get("tokens") or {}, f"{where}.tokens")
        step = about.get("pad_to_multiple_of")
        return Tokenizer(
            self._tokenizer_source(about.get("source", "union"), f"{where}.source", model),
            {text: self._token(token, f"{where}.tokens.{text}", model) for text, token in tokens.items()},
            None if step is None else self.whole(step, f"{where}.pad_to_multiple_of", 1, _MULTIPLE),
        )

    @staticmethod
    def _tokenizer_source(value: object, where: str, model: Callable[[object, str], Model]) -> str | Model:
        return value if value in ("union", "base") else model(value, where)

    def _token(self, value: object, where: str, model: Callable[[object, str], Model]) -> Token:
        about = self.mapping(value, where, ("source", "force"))
        force = self.truth(about.get("force", False), f"{where}.force")
        source, where = about.get("source"), f"{where}.source"
        if source is None:
            return Token(force=force)
        if not isinstance(source, dict) or "kind" not in source:
            return Token(model(source, where), force=force)
        kind = self.one_of(source["kind"], f"{where}.kind", ("zero", "model_token"))
        if kind == "zero":
            self.mapping(source, where, ("kind",))
            return Token(zero=True, force=force)
        self.mapping(source, where, ("kind", "model", "token", "token_id"))
        given = [key for key in ("token", "token_id") if source.get(key) is not None]
        if len(given) != 1 or "model" not in source:
            raise self.wrong(where, "it names no model, or not exactly one token", "give `model`, and `token` or "
                             "`token_id`")  # fmt: skip
        token = source[given[0]]
        token = self.whole(token, f"{where}.token_id") if given[0] == "token_id" else self.text(token, f"{where}.token")
        return Token(model(source["model"], f"{where}.model"), token, force=force)


def in_order(stages: Sequence[Stage], asked: str) -> list[Stage]:
    """The stages such that each comes after those it takes models from; the last stays last. Errors: a circle."""
    by_name = {stage.name: stage for stage in stages}
    done: dict[str, Stage] = {}

    def visit(name: str, above: tuple[str, ...]) -> None:
        if name in above:
            circle = " -> ".join((*above[above.index(name) :], name))
            raise AllroundError(asked, f"the stages need one another: {circle}", "let a stage take earlier ones only")
        if name not in done:
            for other in by_name[name].earlier:
                visit(other, (*above, name))
            done[name] = by_name[name]

    *others, last = stages
    for stage in others:
        if last.name not in _all_earlier(stage.name, by_name):
            visit(stage.name, ())
    visit(last.name, ())
    needing = [stage.name for stage in others if stage.name not in done]
    if needing:
        raise AllroundError(
            asked,
            f"the stage '{needing[0]}' takes the output of the last stage, '{last.name}', which is the file's output",
            "put the stage that gives the output at the end",
        )
    return list(done.values())


def _all_earlier(name: str, stages: Mapping[str, Stage]) -> set[str]:
    found: set[str] = set()
    waiting = [name]
    while waiting:
        for other in stages[waiting.pop()].earlier:
            if other not in found:
                found.add(other)
                waiting.append(other)
    return found
