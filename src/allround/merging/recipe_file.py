"""Recipe files: allround's own form, and mergekit's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from allround.core import registry
from allround.core.documents import read_documents
from allround.core.entry import Entry
from allround.core.errors import AllroundError, suggestion
from allround.core.files import check_name
from allround.merging.mergekit.read import is_mergekit, translate
from allround.merging.recipe import ON_MISMATCH, SCOPES, Model, Recipe, Rule
from allround.merging.stage import Reading, Stage, in_order
from allround.merging.templates import check_template

_KEYS = (
    *("base", "models", "method", "parameters", "rules", "scope", "dtype", "on_mismatch", "statistics"),
    *("tokenizer", "chat_template", "extra_from"),
)
COMPAT = ("mergekit", "none")


def read_recipe(path: Path | str, compat: str | None = None) -> list[Stage]:
    """The merges that a recipe file describes, in the order in which they are to be run; no weights are read.

    A file of mergekit's is known by its `merge_method`, and inputs and changes are rounded as mergekit does, so that
    the numbers are the same. compat: `none` does not round them, so that the result is more exact.
    Errors: whatever is not understood, by its key, such as `models[1].wieghts`.
    """
    path = Path(path)
    asked = f"read the recipe '{path}'"
    if compat is not None and compat not in COMPAT:
        raise AllroundError(
            f"read a recipe compatible with '{compat}'", "that is not known", suggestion(compat, COMPAT)
        )
    documents = read_documents(path, what="recipe")
    return read_recipe_documents(documents, name=path.stem, folder=path.parent, compat=compat, asked=asked)


def read_recipe_documents(
    documents: list[object], *, name: str, folder: Path, compat: str | None = None, asked: str = "read a recipe"
) -> list[Stage]:
    """The same from what stands in the file already. folder: where relative paths begin."""
    reading = Reading(asked, folder)
    if any(is_mergekit(document) for document in documents):
        return translate(documents, reading, name=name, rounded=compat != "none")
    if compat == "mergekit":
        raise AllroundError(
            asked, "it is not a mergekit recipe: it has no `merge_method`", "leave the compatibility out"
        )
    if len(documents) != 1:
        found = f"it holds {len(documents)} documents" if documents else "it is empty"
        raise AllroundError(asked, found, "write one recipe; several merges stand under `stages`")
    return _read_own(documents[0], reading, name)


def _read_own(document: object, reading: Reading, name: str) -> list[Stage]:
    if not isinstance(document, dict) or "stages" not in document:
        return [Stage(name, _Own(reading, "").read(document))]
    reading.mapping(document, "", ("stages",))
    written = reading.mapping(document["stages"], "stages")
    if not written:
        raise reading.wrong("stages", "it is empty", "write at least one stage: its name, and under it its recipe")
    for stage in written:
        with reading.at(f"stages.{stage}"):
            check_name(stage, "stage")
    reading.stages = tuple(written)
    stages = []
    for stage, about in written.items():
        recipe = _Own(reading, f"stages.{stage}").read(about)
        stages.append(Stage(stage, recipe, earlier=reading.used_stages()))
    return in_order(stages, reading.asked)


class _Own:
    """Reads one recipe of allround's own form."""

    def __init__(self, reading: Reading, where: str) -> None:
        self.reading, self.where = reading, where

    def place(self, key: str) -> str:
        return f"{self.where}.{key}" if self.where else key

    def read(self, document: object) -> Recipe:
        reading = self.reading
        about = reading.mapping(document, self.where, _KEYS)
        for key in ("method", "models"):
            if key not in about:
                raise reading.wrong(self.place(key), "it is missing", f"add `{key}`")
        method = reading.text(about["method"], self.place("method"))
        with reading.at(self.place("method")):
            entry = registry.find("merge", method)
        base = self.model(about["base"], self.place("base")) if about.get("base") is not None else None
        models, each = self.models(about["models"], entry)
        values = dict(reading.mapping(about.get("parameters") or {}, self.place("parameters")))
        with reading.at(self.place("parameters")):
            entry.resolve(values)
        for name, given in each.items():
            values[name] = self.per_model(entry, name, given, values.get(name, entry.defaults.get(name)))
        optional: dict[str, Any] = {}
        if "scope" in about:
            optional["scope"] = reading.one_of(about["scope"], self.place("scope"), SCOPES)
        if "on_mismatch" in about:
            optional["on_mismatch"] = reading.one_of(about["on_mismatch"], self.place("on_mismatch"), ON_MISMATCH)
        if about.get("extra_from") is not None:
            optional["extra_from"] = reading.path(about["extra_from"], self.place("extra_from"))
        if "dtype" in about:
            optional["dtype"] = reading.dtype(about["dtype"], self.place("dtype"))
        if "tokenizer" in about:
            optional["tokenizer"] = reading.tokenizer(about["tokenizer"], self.place("tokenizer"), self.model)
        if "chat_template" in about:
            optional["chat_template"] = self.template(about["chat_template"])
        rules = self.rules(about.get("rules") or [], entry)
        statistics = self.statistics(about.get("statistics") or {}, entry, len(models))
        with reading.at(self.where):
            return Recipe(method, tuple(models), base, values, rules, statistics=statistics, **optional)

    def model(self, value: object, where: str) -> Model:
        """A path or Hub id, or a mapping with `model` and `adapters`."""
        if isinstance(value, dict):
            about = self.reading.mapping(value, where, ("model", "adapters"))
            return self._model(about, where)
        return Model(self.reading.path(value, where))

    def _model(self, about: Mapping[str, object], where: str) -> Model:
        if "model" not in about:
            raise self.reading.wrong(f"{where}.model", "it is missing", "add `model`, a path or Hub id")
        adapters = about.get("adapters") or []
        adapters = [adapters] if isinstance(adapters, str) else adapters
        if not isinstance(adapters, list):
            adapters = self.reading.listing(adapters, f"{where}.adapters")
        return Model(
            self.reading.path(about["model"], f"{where}.model"),
            tuple(self.reading.path(one, f"{where}.adapters[{n}]") for n, one in enumerate(adapters)),
        )

    def models(self, value: object, entry: Entry) -> tuple[list[Model], dict[str, dict[int, object]]]:
        """The models, and what stands beside some of them: parameter -> number of the model -> value."""
        listed = self.reading.listing(value, self.place("models"))
        names = [parameter.name for parameter in entry.parameters if parameter.type == "Each"]
        models: list[Model] = []
        each: dict[str, dict[int, object]] = {}
        for number, one in enumerate(listed):
            where = f"{self.place('models')}[{number}]"
            if isinstance(one, dict):
                for key in one:
                    if key in {p.name for p in entry.parameters} and key not in names:
                        raise self.reading.wrong(
                            f"{where}.{key}",
                            f"'{key}' of '{entry.name}' is one value for all models",
                            "move it to `parameters`",
                        )
                self.reading.mapping(one, where, ("model", "adapters", *names))
                for key in names:
                    if key in one:
                        with self.reading.at(f"{where}.{key}"):
                            _check_one(entry, key, one[key])
                        each.setdefault(key, {})[number] = one[key]
                models.append(self._model(one, where))
            else:
                models.append(self.model(one, where))
        self.count = len(models)
        return models, each

    def per_model(self, entry: Entry, name: str, given: Mapping[int, object], default: object) -> list[object]:
        if isinstance(default, (list, tuple)):
            raise self.reading.wrong(
                self.place(f"parameters.{name}"),
                "it is a list for all models, and some models have a value of their own",
                "give it in one place",
            )
        if default is None and len(given) < self.count:
            raise self.reading.wrong(
                self.place(f"parameters.{name}"), f"'{entry.name}' has no default for it", "give it for every model"
            )
        return [given.get(number, default) for number in range(self.count)]

    def rules(self, value: object, entry: Entry) -> tuple[Rule, ...]:
        rules = []
        if not isinstance(value, list):
            value = self.reading.listing(value, self.place("rules"))
        for number, one in enumerate(value):
            where = f"{self.place('rules')}[{number}]"
            about = self.reading.mapping(one, where, ("match", *(p.name for p in entry.parameters)))
            if "match" not in about:
                raise self.reading.wrong(f"{where}.match", "it is missing", 'add `match`, such as "*.layers.3.*"')
            values = {key: what for key, what in about.items() if key != "match"}
            with self.reading.at(where):
                entry.resolve(values)
            for key, what in values.items():
                if isinstance(what, list) and len(what) != self.count:
                    raise self.reading.wrong(
                        f"{where}.{key}", f"there are {len(what)} values for {self.count} models", "give one for each"
                    )
            rules.append(Rule(self.reading.text(about["match"], f"{where}.match"), values))
        return tuple(rules)

    def statistics(self, value: object, entry: Entry, models: int) -> dict[str, tuple[str, ...]]:
        where = self.place("statistics")
        about = self.reading.mapping(value, where, entry.needs) if entry.needs else self.reading.mapping(value, where)
        if about and not entry.needs:
            raise self.reading.wrong(where, f"'{entry.name}' takes no statistics", "leave them out")
        found = {}
        for name, files in about.items():
            listed = self.reading.listing(files, f"{where}.{name}")
            if len(listed) != models:
                raise self.reading.wrong(
                    f"{where}.{name}", f"there are {len(listed)} files for {models} models", "give one for each model"
                )
            found[name] = tuple(self.reading.path(one, f"{where}.{name}[{n}]") for n, one in enumerate(listed))
        return found

    def template(self, value: object) -> str:
        text = self.reading.text(value, self.place("chat_template"))
        with self.reading.at(self.place("chat_template")):
            check_template(text, "the chat template")
        return text


def _check_one(entry: Entry, name: str, value: object) -> None:
    """An error unless it is a value for one model."""
    if isinstance(value, (list, tuple)):
        raise AllroundError(f"set '{name}' of one model", "that is a list", "give one number")
    entry.resolve({**{p.name: value for p in entry.parameters if p.required}, name: value})
