"""Recipes of mergekit's: its YAML, read as mergekit 0.1.5 reads it, but strictly."""

from __future__ import annotations

import contextlib
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from allround.core.errors import suggestion
from allround.core.files import check_name
from allround.merging.mergekit.layout import Layout
from allround.merging.mergekit.methods import ALL_PARAMETERS, ALONE, METHODS, NO_EFFECT, RESCALED_TIES
from allround.merging.mergekit.slices import Part, Slice
from allround.merging.mergekit.values import Settings, check_setting, checker
from allround.merging.recipe import Model, Recipe, Tokenizer
from allround.merging.stage import Reading, Stage, in_order
from allround.merging.templates import check_template

_KEYS = (
    *("merge_method", "models", "slices", "modules", "base_model", "parameters", "dtype", "out_dtype"),
    *("tokenizer_source", "tokenizer", "chat_template", "name"),
)
#: Parameters of earlier versions, which 0.1.5 passes over.
_OLD = ("embed_slerp", "residual_weight")


def is_mergekit(document: object) -> bool:
    """Whether a document of a YAML file is a recipe of mergekit's.

    >>> is_mergekit({"merge_method": "ties"}), is_mergekit({"method": "ties"})
    (True, False)
    """
    return isinstance(document, dict) and "merge_method" in document


class _File:
    """Reads one document."""

    def __init__(self, reading: Reading, document: object) -> None:
        self.reading = reading
        self.about = reading.mapping(document, "", _KEYS)
        self.about = {key: value for key, value in self.about.items() if value is not None}
        self.notes: list[str] = []
        self.overrides: dict[Model, str] = {}
        name = reading.text(self.about.get("merge_method"), "merge_method")
        if name not in METHODS:
            raise reading.wrong("merge_method", f"mergekit has no method '{name}'", suggestion(name, METHODS))
        self.name = name
        self.method = METHODS[name]
        self.unused: dict[str, None] = {}
        self.base = self.model(self.about["base_model"], "base_model") if "base_model" in self.about else None
        self.parameters = self.settings(self.about.get("parameters"), "parameters")
        self.module: Settings = {}
        self.sliced = False
        self.slices = self.read_slices()
        if name == "ties" and any("rescale" in scope for scope in self.all_scopes()):
            self.method = RESCALED_TIES
        for number, one in enumerate(self.slices):
            self.check(one, f"slices[{number}]" if self.sliced else "models")

    # References to models

    def model(self, value: object, where: str) -> Model:
        reading = self.reading
        override = None
        lora: object = None
        if isinstance(value, dict):
            about = reading.mapping(value, where, ("model", "lora", "override_architecture"))
            if "model" not in about:
                raise reading.wrong(f"{where}.model", "it is missing", "add `model`, a path or Hub id")
            if about.get("override_architecture") is not None:
                override = reading.text(about["override_architecture"], f"{where}.override_architecture")
            lora, value = about.get("lora"), about["model"]
            found = Model(self.path(value, f"{where}.model"), (self.path(lora, f"{where}.lora"),) if lora else ())
        else:
            text = reading.text(value, where)
            first, *adapters = [text] if self.is_there(text) else text.split("+")
            if len(adapters) > 1:
                raise reading.wrong(where, f"'{text}' has more than one '+'", "give one adapter; merge others before")
            found = Model(self.path(first, where), tuple(self.path(one, where) for one in adapters))
        if override is not None:
            self.overrides[found] = override
        return found

    def path(self, value: object, where: str) -> str:
        """A path or Hub id; a Hub id may have a revision, which stays with it: `id@revision`."""
        reading, revision = self.reading, None
        if isinstance(value, dict):
            about = reading.mapping(value, where, ("path", "revision"))
            text = reading.text(about.get("path"), f"{where}.path")
            if about.get("revision") is not None:
                revision = reading.text(about["revision"], f"{where}.revision")
        else:
            text = reading.text(value, where)
            if "@" in text and not self.is_there(text):
                text, *rest = text.split("@")
                if len(rest) > 1:
                    raise reading.wrong(where, f"'{value}' has more than one '@'", "write path@revision")
                revision = reading.text(rest[0], where)
        found = reading.path(text, where)
        if revision is None:
            return found
        if text in reading.stages or found != text or self.is_there(text) or text.startswith((".", "/", "~")):
            raise reading.wrong(
                where, f"the revision '{revision}' of the local folder '{text}'",
                "revisions are of Hub ids; leave it out here",
            )  # fmt: skip
        return f"{text}@{revision}"

    def is_there(self, text: str) -> bool:
        with contextlib.suppress(OSError, ValueError, RuntimeError):
            return (self.reading.folder / text).exists() or Path(text).exists()
        return False

    # Parameters

    def settings(self, value: object, where: str) -> Settings:
        if value is None:
            return {}
        about = self.reading.mapping(value, where)
        for name, setting in about.items():
            if name not in ALL_PARAMETERS and name not in _OLD:
                raise self.reading.wrong(f"{where}.{name}", "mergekit has no such parameter", suggestion(
                    name, self.method.parameters or ALL_PARAMETERS))  # fmt: skip
            parameter = self.method.parameters.get(name)
            if parameter is None or name in NO_EFFECT or (name == "density" and self.name == "task_arithmetic"):
                self.unused.setdefault(name)
            check = checker(name, parameter) if parameter is not None else None
            check_setting(self.reading, setting, f"{where}.{name}", check)
        return about

    def all_scopes(self) -> Iterator[Settings]:
        for one in self.slices:
            yield from (part.parameters for part in one.parts)
            yield one.parameters
        yield from (self.module, self.parameters)

    # Inputs

    def read_slices(self) -> tuple[Slice, ...]:
        given = [key for key in ("models", "slices", "modules") if self.about.get(key)]
        if len(given) != 1:
            found = f"{' and '.join(given)} together" if given else "no inputs"
            raise self.reading.wrong("", found, "give exactly one of `models`, `slices` and `modules`")
        if given == ["modules"]:
            return self.read_module(self.about["modules"])
        return self.read_inputs(self.about, "")

    def read_module(self, value: object) -> tuple[Slice, ...]:
        modules = self.reading.mapping(value, "modules")
        if len(modules) > 1:
            raise self.reading.wrong(
                "modules", f"there are {len(modules)} of them: {', '.join(modules)}",
                "merge models with several modules with `models`, or each by a recipe of its own",
            )  # fmt: skip
        (name, one) = next(iter(modules.items()))
        where = f"modules.{name}"
        about = self.reading.mapping(one, where, ("slices", "models", "parameters"))
        if bool(about.get("slices")) == bool(about.get("models")):
            raise self.reading.wrong(where, "it has no inputs, or both kinds", "give `models` or `slices`")
        self.module = self.settings(about.get("parameters"), f"{where}.parameters")
        return self.read_inputs(about, f"{where}.")

    def read_inputs(self, about: Mapping[str, object], where: str) -> tuple[Slice, ...]:
        if about.get("models"):
            listed = self.reading.listing(about["models"], f"{where}models")
            parts = [self.part(one, f"{where}models[{n}]", sliced=False) for n, one in enumerate(listed)]
            if self.base is not None and all(part.model != self.base for part in parts):
                parts.append(Part(self.base, {}))
            return (Slice(tuple(parts), self.base, {}),)
        self.sliced = True
        listed = self.reading.listing(about["slices"], f"{where}slices")
        return tuple(self.slice(one, f"{where}slices[{number}]") for number, one in enumerate(listed))

    def slice(self, value: object, where: str) -> Slice:
        about = self.reading.mapping(value, where, ("sources", "base_model", "parameters", "residual_weight"))
        if about.get("residual_weight") is not None:
            self.unused.setdefault("residual_weight")
        listed = self.reading.listing(about.get("sources"), f"{where}.sources")
        parts = tuple(self.part(one, f"{where}.sources[{n}]", sliced=True) for n, one in enumerate(listed))
        lengths = {part.layers[1] - part.layers[0] for part in parts if part.layers}
        if len(lengths) > 1:
            raise self.reading.wrong(
                f"{where}.sources", f"they have different numbers of layers: {', '.join(map(str, sorted(lengths)))}",
                "give ranges of one length",
            )  # fmt: skip
        base = about.get("base_model")
        return Slice(
            parts,
            self.base if base is None else self.model(base, f"{where}.base_model"),
            self.settings(about.get("parameters"), f"{where}.parameters"),
        )

    def part(self, value: object, where: str, *, sliced: bool) -> Part:
        known = ("model", "layer_range", "parameters") if sliced else ("model", "parameters")
        about = self.reading.mapping(value, where, known)
        if about.get("model") is None:
            raise self.reading.wrong(f"{where}.model", "it is missing", "add `model`, a path or Hub id")
        return Part(
            self.model(about["model"], f"{where}.model"),
            self.settings(about.get("parameters"), f"{where}.parameters"),
            self.layers(about.get("layer_range"), f"{where}.layer_range") if sliced else None,
        )

    def layers(self, value: object, where: str) -> tuple[int, int]:
        ends = self.reading.listing(value, where)
        if len(ends) != 2:
            raise self.reading.wrong(where, f"{reprlib.repr(value)}", "give two numbers: the first layer, and the one "
                                     "after the last")  # fmt: skip
        first, last = (self.reading.whole(one, where) for one in ends)
        if first >= last:
            raise self.reading.wrong(where, f"[{first}, {last}] holds no layer", "give the first layer, and the one "
                                     "after the last")  # fmt: skip
        return first, last

    # What fits together

    def check(self, one: Slice, where: str) -> None:
        reading, method, models = self.reading, self.method, [part.model for part in one.parts]
        twice = next((model for n, model in enumerate(models) if model in models[:n]), None)
        if twice is not None:
            raise reading.wrong(where, f"{twice} is in it twice", "list each model once")
        base = one.base if method.base != "ignored" else None
        if base is None and method.base == "required":
            raise reading.wrong("base_model", f"it is missing, and '{self.name}' needs it", "add `base_model`")
        if base is not None and base not in models:
            raise reading.wrong(where, f"the base model {base} is not among the sources", "add it to them")
        least = max(method.least, 3 if self.name == "nuslerp" and base is not None else 0)
        most = 2 if self.name == "nuslerp" and base is None else method.most
        if len(models) < least or (most is not None and len(models) > most):
            wanted = f"{least}" if least == most else f"at least {least}" if most is None else f"{least} to {most}"
            raise reading.wrong(
                where, f"there are {len(models)} models (the base among them), and '{self.name}' takes {wanted}",
                "list as many as it takes",
            )  # fmt: skip
        for name, parameter in method.parameters.items():
            if parameter.default is not ...:
                continue
            shared = [one.parameters, self.module, self.parameters]
            inputs = [part for part in one.parts if part.model != base] if parameter.each else []
            for scopes, who in [([part.parameters, *shared], f" for {part.model}") for part in inputs] or [
                (shared, "")
            ]:
                if not any(name in scope for scope in scopes) and (inputs or not parameter.each):
                    raise reading.wrong(
                        f"parameters.{name}", f"'{self.name}' needs it, and there is none{who}", f"add `{name}`"
                    )

    def stage(self, name: str, *, rounded: bool) -> Stage:
        reading, about = self.reading, self.about
        dtypes = {key: reading.dtype(about[key], key) for key in ("dtype", "out_dtype") if key in about}
        method = self.method
        bases = {one.base for one in self.slices} if method.base != "ignored" else {None}
        if len(bases) > 1 or (self.base is not None and method.base != "ignored" and bases != {self.base}):
            raise reading.wrong(
                "slices", "they have different base models", "give all slices one `base_model`, or merge in stages"
            )
        base = next(iter(bases))
        first = [self.base] if self.base is not None and base is None else []
        listed = [*first, *(part.model for one in self.slices for part in one.parts)]
        models = tuple(model for model in dict.fromkeys(listed) if model != base)
        if all(len(one.parts) == 1 for one in self.slices) and self.name != "linear":
            method = ALONE if self.name != "passthrough" else method
            models, base = (models or tuple(dict.fromkeys(listed))), None
        self.describe(base or models[0])
        tokenizer = self.tokenizer()
        if tokenizer is not None and base is None and self.base is not None:
            tokenizer = replace(tokenizer, prefer=self.base)
        donor = base or models[0]
        config = {"architectures": [self.overrides[donor]]} if donor in self.overrides else {}
        template = reading.text(about["chat_template"], "chat_template") if "chat_template" in about else None
        if template is not None:
            with reading.at("chat_template"):
                check_template(template, "the chat template")
        written = dtypes.get("out_dtype", dtypes.get("dtype"))
        inputs = (*([base] if base else []), *models)
        layout = Layout(
            method, self.slices, self.module, self.parameters, inputs, sliced=self.sliced, dtype=dtypes.get("dtype"),
            written=written, rounded=rounded, asked=reading.asked,
        )  # fmt: skip
        with reading.at(""):
            recipe = Recipe(
                method.to, models, base, dtype=written, tokenizer=tokenizer,
                chat_template=template, config=config, mixed=self.sliced,
            )  # fmt: skip
        return Stage(name, recipe, tuple(self.notes), reading.used_stages(), layout)

    def tokenizer(self) -> Tokenizer | None:
        reading, about = self.reading, self.about
        if "tokenizer" in about and "tokenizer_source" in about:
            raise reading.wrong("tokenizer", "`tokenizer_source` is there as well", "keep one of them")
        key = "tokenizer" if "tokenizer" in about else "tokenizer_source"
        return reading.tokenizer(about[key], key, self.model) if key in about else None

    def describe(self, donor: Model) -> None:
        """Note what the user should know."""
        self.notes.extend(f"{self.name}: {note}" for note in self.method.notes)
        for name in self.unused:
            kind = "" if name in self.method.parameters else " in mergekit, too"
            self.notes.append(f"{name}: it has no effect on the numbers of '{self.name}'{kind}")
        if self.base is None:
            self.notes.append(
                f"the configuration and the tokenizer are those of {donor}, which is listed first; mergekit takes any "
                "of the models"
            )


def translate(documents: Sequence[object], reading: Reading, *, name: str, rounded: bool) -> list[Stage]:
    """The stages that the documents of a file describe. rounded: round inputs and changes as mergekit does."""
    names: list[str] = []
    named: list[bool] = []
    for number, document in enumerate(documents):
        about = reading.mapping(document, f"document {number + 1}" if len(documents) > 1 else "")
        if "merge_method" not in about:
            raise reading.wrong(f"document {number + 1}", "it has no `merge_method`", "add it, or leave the document "
                                "out")  # fmt: skip
        given = about.get("name")
        named.append(given is not None)
        if given is not None and len(documents) > 1:
            with reading.at("name"):
                check_name(reading.text(given, "name"), "merge")
        names.append(given if isinstance(given, str) and len(documents) > 1 else name)
    if twice := next((one for n, one in enumerate(names) if one in names[:n]), None):
        raise reading.wrong("name", f"two of the merges are called '{twice}'", "give each `name` once")
    reading.stages = tuple(names) if len(documents) > 1 else ()
    stages = [_File(reading, one).stage(own, rounded=rounded) for one, own in zip(documents, names, strict=True)]
    unnamed = [stage for stage, has_name in zip(stages, named, strict=True) if not has_name]
    if len(stages) > 1 and unnamed:
        stages.sort(key=lambda stage: stage is unnamed[0])
    return in_order(stages, reading.asked)
